//! What a call is sent: messages, each behind its length, and the status at the end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use longwire_proto::framing::grpc_prefix;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::DropGuard;
use tonic::Status;

use crate::patience::UnderWay;
use crate::transport::LinkEnd;
use crate::transport::grpc::status::{broken, deadline};
use crate::transport::grpc::watch::{Seen, Watch};
use crate::transport::memory::{Feeder, Outlet};

/// Bytes of messages that are gathered before they are passed on: one piece of a stream carries many small deliveries.
const GATHERED_BYTES: usize = 32 << 10;
/// A message of so many bytes is passed on as it is: to copy it would cost more than a piece of its own.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// What it is that is sent.
enum Messages {
    /// One message.
    One(Option<Bytes>),
    /// The frames of a connection.
    Frames { outlet: Outlet, watch: Watch, _feeder: Option<Feeder> },
    /// Nothing more.
    None,
}

/// How a call that is under way ends.
pub(super) struct Ending {
    pub(super) deadline: Option<Instant>,
    /// Tells the call's task that nothing of it is left here.
    pub(super) gone: DropGuard,
    pub(super) under_way: UnderWay,
}

/// The body of the answer.
pub(super) struct Reply {
    messages: Messages,
    /// Pieces that are ready.
    ready: VecDeque<Bytes>,
    status: Option<Status>,
    over: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    _gone: DropGuard,
    _under_way: UnderWay,
}

impl Reply {
    /// One message, and that all went well.
    pub(super) fn one(message: Bytes, ending: Ending) -> Self {
        Self::new(Messages::One(Some(message)), ending)
    }

    /// The frames of a connection, until it ends.
    pub(super) fn frames(outlet: Outlet, feeder: Option<Feeder>, watch: Watch, ending: Ending) -> Self {
        Self::new(Messages::Frames { outlet, watch, _feeder: feeder }, ending)
    }

    fn new(messages: Messages, ending: Ending) -> Self {
        let Ending { deadline, gone, under_way } = ending;
        let deadline = deadline.map(|due| Box::pin(sleep_until(due)));
        Self {
            messages,
            ready: VecDeque::new(),
            status: None,
            over: false,
            deadline,
            _gone: gone,
            _under_way: under_way,
        }
    }

    fn end(&mut self, status: Status) {
        self.status = Some(status);
        self.messages = Messages::None;
    }

    /// Makes ready what there is, up to a piece.
    fn gather(&mut self, context: &mut Context<'_>) {
        let mut gathered = BytesMut::new();
        while self.ready.is_empty() && gathered.len() < GATHERED_BYTES {
            let message = match &mut self.messages {
                Messages::One(message) => message.take(),
                Messages::Frames { outlet, watch, .. } => match outlet.poll_next(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(frame)) => match watch.see(&frame) {
                        Seen::Pass => Some(frame),
                        Seen::Drop => continue,
                        Seen::Last(status) => {
                            push(&mut gathered, &mut self.ready, frame);
                            self.end(status);
                            break;
                        }
                        Seen::End(status) => {
                            self.end(status);
                            break;
                        }
                    },
                    Poll::Ready(Err(end)) => {
                        let status = watch.ended(match end {
                            LinkEnd::Gone => None,
                            LinkEnd::Refused(error) => Some(error),
                        });
                        self.end(status);
                        break;
                    }
                },
                Messages::None => break,
            };
            match message {
                Some(message) => {
                    if !push(&mut gathered, &mut self.ready, message) {
                        self.end(broken());
                    }
                }
                None => self.end(Status::ok("")),
            }
        }
        if !gathered.is_empty() {
            self.ready.push_front(gathered.freeze());
        }
    }
}

/// Adds a message; false for one that is longer than any can be.
fn push(gathered: &mut BytesMut, ready: &mut VecDeque<Bytes>, message: Bytes) -> bool {
    let Some(prefix) = grpc_prefix(&message) else { return false };
    gathered.put_slice(&prefix);
    if message.len() <= COPIED_BYTES_MAX {
        gathered.put_slice(&message);
    } else {
        ready.push_back(message);
    }
    true
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let is_late = this.deadline.as_mut().is_some_and(|due| due.as_mut().poll(context).is_ready());
        if is_late && this.status.is_none() {
            this.ready.clear();
            this.end(deadline());
        }
        if this.ready.is_empty() && this.status.is_none() {
            this.gather(context);
        }
        if let Some(piece) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(status) = this.status.take() else { return Poll::Pending };
        this.over = true;
        let mut trailers = HeaderMap::new();
        // What cannot be written in a header is left out, and is in no status of ours.
        drop(status.add_header(&mut trailers));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
