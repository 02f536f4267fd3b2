//! A client that is the same over every transport. Frames of different subscriptions, and those of none, may come in any order
//! among each other, so it waits for the one that is wanted and keeps what else comes.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::time::timeout;

use crate::every_transport::links::{Close, Link};
use crate::support::requests::{answered, request_mut};
use crate::support::wire_client::{delivery, published, record, refusal, subscribed};

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Fails when it takes too long.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: it has not come to that"))
}

pub(super) struct Client {
    link: Box<dyn Link>,
    encoding: Encoding,
    requests: u64,
    /// What came while something else was waited for.
    kept: VecDeque<ServerFrame>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    /// What the goodbye said; absent when there was none.
    pub(super) goodbye: Option<wire::Goodbye>,
    /// What the link said.
    pub(super) close: Close,
}

impl Ended {
    pub(super) fn error(&self) -> wire::Error {
        self.goodbye.clone().and_then(|goodbye| goodbye.error).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// It ended as every link does for this reason.
    #[track_caller]
    pub(super) fn assert_is(&self, error: &Error) {
        assert_told(&self.error(), error);
        self.close.assert_is(error);
    }
}

/// An error about a field. What would have been taken is 0 where nothing would.
pub(super) fn about(field: &'static str, code: ErrorCode, expected: u64, message: &str) -> Error {
    Error::new(code, message).field(field).expected(expected)
}

/// An error has all that it should have, and nothing else.
#[track_caller]
pub(super) fn assert_told(found: &wire::Error, wanted: &Error) {
    assert_eq!(*found, wanted.to_wire());
}

/// The subscription that a frame is about.
pub(super) fn subscription_of(frame: &ServerFrame) -> Option<u32> {
    match frame {
        ServerFrame::Subscribed(frame) => Some(frame.subscription),
        ServerFrame::Delivery(frame) => Some(frame.subscription),
        ServerFrame::SubscriptionEnded(frame) => Some(frame.subscription),
        _ => None,
    }
}

/// The request that a frame answers.
fn request_of(frame: &ServerFrame) -> Option<u64> {
    match frame {
        ServerFrame::Refused(refused) => Some(refused.request),
        ServerFrame::Subscribed(subscribed) => Some(subscribed.request),
        frame => answered(frame),
    }
}

impl Client {
    pub(super) fn new(link: Box<dyn Link>, encoding: Encoding) -> Self {
        Self { link, encoding, requests: 0, kept: VecDeque::new() }
    }

    pub(super) async fn send(&mut self, frame: ClientFrame) {
        self.send_bytes(encode_client(self.encoding, frame)).await;
    }

    /// Sends what may not be a frame.
    pub(super) async fn send_bytes(&mut self, bytes: Bytes) {
        soon("it is sent", self.link.send(bytes)).await;
    }

    /// Sends the beginning of a frame, as far as the link has such.
    pub(super) async fn begin(&mut self) {
        soon("it is sent", self.link.begin()).await;
    }

    /// Sends a request under a number of its own, and answers the number.
    pub(super) async fn request(&mut self, mut frame: ClientFrame) -> u64 {
        self.requests += 1;
        *request_mut(&mut frame).expect("it is a request") = self.requests;
        self.send(frame).await;
        self.requests
    }

    /// The next frame of all, heartbeats included; `None` when the link has ended.
    pub(super) async fn receive(&mut self) -> Option<ServerFrame> {
        match self.kept.pop_front() {
            Some(frame) => Some(frame),
            None => soon("a frame comes", self.link.receive()).await,
        }
    }

    /// The first frame that is wanted.
    pub(super) async fn next(&mut self, what: &str, wanted: impl Fn(&ServerFrame) -> bool) -> ServerFrame {
        if let Some(place) = self.kept.iter().position(&wanted) {
            return self.kept.remove(place).unwrap();
        }
        loop {
            match soon(what, self.link.receive()).await {
                Some(frame) if wanted(&frame) => return frame,
                Some(ServerFrame::Goodbye(goodbye)) => panic!("{goodbye:?} came while waiting: {what}"),
                Some(ServerFrame::Heartbeat(_)) => {}
                Some(frame) => self.kept.push_back(frame),
                None => panic!("the connection ended while waiting: {what}"),
            }
        }
    }

    /// The answer to a request.
    pub(super) async fn answer(&mut self, request: u64) -> ServerFrame {
        self.next("an answer comes", |frame| request_of(frame) == Some(request)).await
    }

    /// Asks, and answers what came back.
    pub(super) async fn ask(&mut self, frame: ClientFrame) -> ServerFrame {
        let request = self.request(frame).await;
        self.answer(request).await
    }

    /// Asks for what is refused.
    pub(super) async fn refused(&mut self, frame: ClientFrame) -> wire::Error {
        refusal(self.ask(frame).await)
    }

    /// The next frame of a subscription.
    pub(super) async fn of(&mut self, subscription: u32) -> ServerFrame {
        self.next("a subscription goes on", |frame| subscription_of(frame) == Some(subscription)).await
    }

    /// The next delivery of a subscription.
    pub(super) async fn delivery(&mut self, subscription: u32) -> wire::Delivery {
        delivery(self.of(subscription).await)
    }

    /// The records of a range, in however many deliveries they come.
    pub(super) async fn take(&mut self, subscription: u32, from: u64, until: u64) -> Vec<wire::Record> {
        let (mut next, mut records) = (from, Vec::new());
        while next < until {
            let delivery = self.delivery(subscription).await;
            assert_eq!((delivery.from, delivery.next), (next, next + delivery.records.len() as u64));
            next = delivery.next;
            records.extend(delivery.records);
        }
        assert_eq!(next, until);
        records
    }

    /// The end of a subscription.
    pub(super) async fn subscription_ended(&mut self, subscription: u32) -> wire::SubscriptionEnded {
        match self.of(subscription).await {
            ServerFrame::SubscriptionEnded(ended) => ended,
            other => panic!("{other:?} came instead of the end"),
        }
    }

    /// Subscribes to one thing, which is not refused.
    pub(super) async fn subscribe(&mut self, wish: wire::Subscription) -> wire::Subscribed {
        subscribed(self.ask(subscribe([wish])).await)
    }

    pub(super) async fn unsubscribe(&mut self, subscription: u32) {
        let frame = ClientFrame::Unsubscribe(wire::Unsubscribe { request: 0, subscription });
        let answer = self.ask(frame).await;
        assert!(matches!(answer, ServerFrame::Done(_)), "{answer:?}");
        self.kept.retain(|frame| subscription_of(frame) != Some(subscription));
    }

    /// Publishes texts, which is not refused.
    pub(super) async fn publish(&mut self, session: &str, texts: &[&str]) -> wire::Published {
        published(self.ask(publish(session, texts)).await)
    }

    /// Sends a ping and waits for its pong: the time of the broker.
    pub(super) async fn ping(&mut self, token: u64) -> u64 {
        self.send(ClientFrame::Ping(wire::Ping { token })).await;
        let is_it = |frame: &ServerFrame| matches!(frame, ServerFrame::Pong(pong) if pong.token == token);
        match self.next("a pong comes", is_it).await {
            ServerFrame::Pong(pong) => pong.time_ms,
            other => panic!("{other:?} is no pong"),
        }
    }

    pub(super) async fn credit(&mut self, subscription: u32, consumed_through: u64) {
        self.send(ClientFrame::Credit(wire::Credit { subscription, consumed_through })).await;
    }

    /// Nothing has come that was not waited for.
    pub(super) fn assert_nothing_else(&self) {
        assert!(self.kept.is_empty(), "{:?}", self.kept);
    }

    /// Waits until the broker has ended the connection.
    pub(super) async fn ended(self) -> Ended {
        self.ended_after(|_| {}).await
    }

    /// The same, and what came before.
    pub(super) async fn ended_after(mut self, mut before: impl FnMut(ServerFrame)) -> Ended {
        let mut goodbye = None;
        while let Some(frame) = self.receive().await {
            assert_eq!(goodbye, None, "{frame:?} came after the goodbye");
            match frame {
                ServerFrame::Goodbye(said) => goodbye = Some(said),
                frame => before(frame),
            }
        }
        let close = soon("the link ends", self.link.closed()).await;
        Ended { goodbye, close }
    }

    /// Leaves as a client should.
    pub(super) async fn leave(self) {
        soon("it leaves", self.link.leave()).await;
    }

    /// Is gone without a word.
    pub(super) fn abort(self) {
        self.link.abort();
    }
}

/// Texts to be published.
pub(super) fn publish(session: &str, texts: &[&str]) -> ClientFrame {
    let records = texts.iter().map(|text| record(text)).collect();
    ClientFrame::Publish(wire::Publish { session: session.into(), records, ..Default::default() })
}

pub(super) fn subscribe(subscriptions: impl IntoIterator<Item = wire::Subscription>) -> ClientFrame {
    let subscriptions = subscriptions.into_iter().collect();
    ClientFrame::Subscribe(wire::Subscribe { request: 0, subscriptions })
}

/// A wish to read a session.
pub(super) fn wish(subscription: u32, session: &str, from: From) -> wire::Subscription {
    let from = Some(wire::From { from: Some(from) });
    wire::Subscription { subscription, session: session.into(), from, ..Default::default() }
}

pub(super) fn position(epoch: u64, offset: u64) -> String {
    format!("{epoch:016}_{offset:016}")
}
