//! QUIC: a stream for control and one for each subscription, merged as docs/protocol.md has it.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use longwire_proto::framing::prefix;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use longwire_proto::wire::{self};
use prost::Message;
use quinn::{Connection, ConnectionError, Endpoint, ReadError, SendStream, VarInt};

use crate::every_transport::links::{Close, Link};
use crate::support::quic_client::{self, Frames, QuicClient};

/// The code of who leaves.
const LEFT: VarInt = VarInt::from_u32(0);
/// The code of who is gone: any other one.
const ABORTED: VarInt = VarInt::from_u32(77);

/// Which stream of the broker it is: a later one has a higher number.
type Index = u64;

/// What a stream is for, as its first frame says.
#[derive(Clone, Copy)]
struct Registration {
    subscription: u32,
    request: u64,
}

/// A stream that is read; that for control has no index.
struct Stream {
    index: Option<Index>,
    registration: Option<Registration>,
    frames: Frames,
}

type Read = (Stream, Result<Option<ServerFrame>, ReadError>);

fn read(mut stream: Stream) -> BoxFuture<'static, Read> {
    let reading = async move {
        let frame = stream.frames.read().await;
        (stream, frame)
    };
    reading.boxed()
}

pub(in crate::every_transport) struct QuicLink {
    /// Lives as long as the connection.
    endpoint: Endpoint,
    connection: Connection,
    control: SendStream,
    reading: FuturesUnordered<BoxFuture<'static, Read>>,
    is_welcome: bool,
    /// The newest stream of each subscription.
    newest: HashMap<u32, Index>,
    /// Subscriptions of `unsubscribe` requests without an answer, by request.
    leaving: HashMap<u64, u32>,
    /// The request of the last `unsubscribe` that was answered, by subscription.
    left: HashMap<u32, u64>,
}

impl QuicLink {
    /// Opens a connection and its control stream, and says nothing.
    pub(in crate::every_transport) async fn open(address: SocketAddr) -> Result<Box<dyn Link>, String> {
        let connected = quic_client::connect(address, "longwire/1").await;
        let (endpoint, connection) = connected.map_err(|error| error.to_string())?;
        let QuicClient { endpoint, connection, send, control } = QuicClient::over(endpoint, connection).await;
        let reading = FuturesUnordered::new();
        reading.push(read(Stream { index: None, registration: None, frames: control }));
        Ok(Box::new(Self {
            endpoint,
            connection,
            control: send,
            reading,
            is_welcome: false,
            newest: HashMap::new(),
            leaving: HashMap::new(),
            left: HashMap::new(),
        }))
    }

    /// Whether a frame of the stream of a subscription is for anybody.
    fn is_wanted(&mut self, index: Index, registration: Registration) -> bool {
        let Registration { subscription, request } = registration;
        let newest = self.newest.entry(subscription).or_insert(index);
        *newest = index.max(*newest);
        *newest == index && self.left.get(&subscription).is_none_or(|left| request > *left)
    }

    async fn next(&mut self) -> Option<ServerFrame> {
        loop {
            let (mut stream, frame) = tokio::select! {
                accepted = self.connection.accept_uni(), if self.is_welcome => {
                    // When the connection has ended, the control stream says so, behind what is left on it.
                    let Ok(accepted) = accepted else {
                        self.is_welcome = false;
                        continue;
                    };
                    let index = Some(accepted.id().index());
                    self.reading.push(read(Stream { index, registration: None, frames: Frames::new(accepted) }));
                    continue;
                }
                Some(read) = self.reading.next() => read,
            };
            let Some(index) = stream.index else {
                let frame = frame.ok().flatten()?;
                self.is_welcome |= matches!(frame, ServerFrame::Welcome(_));
                if let ServerFrame::Done(done) = &frame
                    && let Some(subscription) = self.leaving.remove(&done.request)
                {
                    self.left.insert(subscription, done.request);
                }
                self.reading.push(read(stream));
                return Some(frame);
            };
            // A stream that was reset is one that nobody wants.
            let Ok(Some(frame)) = frame else { continue };
            let registration = *stream.registration.get_or_insert_with(|| match &frame {
                ServerFrame::Subscribed(wire::Subscribed { subscription, request, .. }) => {
                    Registration { subscription: *subscription, request: *request }
                }
                other => panic!("{other:?} begins a stream"),
            });
            self.reading.push(read(stream));
            if self.is_wanted(index, registration) {
                return Some(frame);
            }
        }
    }
}

impl Link for QuicLink {
    fn send(&mut self, frame: Bytes) -> BoxFuture<'_, ()> {
        if let Ok(wire::ClientFrame { frame: Some(ClientFrame::Unsubscribe(unsubscribe)) }) =
            wire::ClientFrame::decode(frame.clone())
        {
            self.leaving.insert(unsubscribe.request, unsubscribe.subscription);
        }
        let sending = async move {
            drop(self.control.write_all_chunks(&mut [prefix(frame.len()).unwrap(), frame]).await);
        };
        sending.boxed()
    }

    fn begin(&mut self) -> BoxFuture<'_, ()> {
        // A length, and nothing of what is so long.
        let sending = async { drop(self.control.write_all(&[0, 0, 0, 9, 0x0a]).await) };
        sending.boxed()
    }

    fn receive(&mut self) -> BoxFuture<'_, Option<ServerFrame>> {
        self.next().boxed()
    }

    fn closed(&mut self) -> BoxFuture<'_, Close> {
        let ending = async {
            match self.connection.closed().await {
                ConnectionError::ApplicationClosed(close) => Close {
                    code: close.error_code.into_inner().try_into().unwrap(),
                    reason: String::from_utf8(close.reason.to_vec()).unwrap(),
                    is_status: false,
                },
                other => Close { reason: other.to_string(), ..Close::default() },
            }
        };
        ending.boxed()
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.connection.close(LEFT, &[]);
        async move { self.endpoint.wait_idle().await }.boxed()
    }

    fn abort(self: Box<Self>) {
        self.connection.close(ABORTED, &[]);
    }
}
