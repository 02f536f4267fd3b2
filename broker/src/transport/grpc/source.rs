//! What a call sends, as the source of a connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::framing::Deframer;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::sockets::CallPlace;
use crate::transport::door::{Door, poll_through};
use crate::transport::grpc::caller::Caller;
use crate::transport::{FrameSource, LinkEnd};

/// The messages of a request.
pub(super) struct Messages {
    body: Body,
    deframer: Deframer,
}

impl Messages {
    /// Messages of at most `message_bytes_max` bytes.
    pub(super) fn new(body: Body, message_bytes_max: usize) -> Self {
        Self { body, deframer: Deframer::grpc(message_bytes_max) }
    }

    /// The next one; `None` when there are no more. Dropping the future loses nothing.
    async fn take(&mut self) -> Result<Option<Bytes>, LinkEnd> {
        poll_fn(|context| self.poll_take(context)).await
    }

    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkEnd>> {
        loop {
            if let Some(message) = self.deframer.pop().map_err(LinkEnd::Refused)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        self.deframer.push(piece);
                    }
                }
                Some(Err(_)) => return Poll::Ready(Err(LinkEnd::Gone)),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// The one message of a call that has one.
    pub(super) async fn only(mut self) -> Result<Bytes, LinkEnd> {
        let refuse = |message: &str| Err(LinkEnd::Refused(Error::new(ErrorCode::InvalidFrame, message)));
        let Some(message) = self.take().await? else {
            return refuse("the call ended before its message was whole");
        };
        match self.take().await? {
            None if self.deframer.is_between_frames() => Ok(message),
            _ => refuse("the call has more than one message"),
        }
    }
}

/// The frames of an `Attach`: of few bytes until the peer was let in.
pub(super) struct Frames(Messages);

impl Frames {
    pub(super) fn new(body: Body) -> Self {
        Self(Messages::new(body, HELLO_BYTES_MAX))
    }
}

impl FrameSource for Frames {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        self.0.poll_take(context).map(|message| message?.ok_or(LinkEnd::Gone))
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.0.deframer.set_frame_bytes_max(FRAME_BYTES_MAX);
        Ok(())
    }
}

/// Pings in the name of a client that has no frames to ping with. That it is there is seen by those of HTTP/2.
pub(super) struct Pings {
    every: Duration,
    due: Instant,
    alarm: Alarm,
}

impl Pings {
    /// Often enough for a connection that ends after so long a silence.
    pub(super) fn within(idle_timeout: Duration) -> Self {
        let every = idle_timeout / 2;
        let due = Instant::now() + every;
        Self { every, due, alarm: Alarm::new(due) }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.alarm.poll(context, self.due));
        self.due = Instant::now() + self.every;
        Poll::Ready(encode_client(Encoding::Proto, Frame::Ping(wire::Ping::default())))
    }
}

/// The source of a call, behind the door of its socket.
pub(super) struct CallSource<S> {
    source: S,
    pings: Option<Pings>,
    door: Option<Door>,
    caller: Caller,
    /// Until the peer was let in.
    strange: Option<OwnedSemaphorePermit>,
    /// From there on.
    place: Option<CallPlace>,
}

impl<S: FrameSource> CallSource<S> {
    pub(super) fn new(
        source: S,
        caller: Caller,
        strange: Option<OwnedSemaphorePermit>,
        pings: Option<Pings>,
    ) -> Self {
        let door = Some(Door::new(Some(Arc::clone(caller.place()))));
        Self { source, pings, door, caller, strange, place: None }
    }
}

impl<S: FrameSource> FrameSource for CallSource<S> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let Self { source, pings, door, .. } = self;
        poll_through(door, context, |context| match (source.poll_next(context), pings) {
            (Poll::Pending, Some(pings)) => pings.poll_next(context).map(Ok),
            (frame, _) => frame,
        })
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.place = Some(self.caller.admit().map_err(LinkEnd::Refused)?);
        self.strange = None;
        self.source.admit()
    }
}
