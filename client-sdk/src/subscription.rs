//! Reading a session.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use longwire_proto::position::Position;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::delivered::Delivered;
use crate::driver::Feedback;
use crate::error::SubscriptionError;
use crate::from::From;
use crate::machine::event::{Began, Event};
use crate::record::Record;

/// Bytes of unread records that a subscription holds unless it says otherwise: 10 MB/s at a round trip of 100 ms.
pub const WINDOW_BYTES_DEFAULT: u64 = 1 << 20;

/// A reading of a session: a stream of its records, each once and in order, however often the connection breaks.
///
/// An error that [goes on](SubscriptionError::goes_on) says that exactly this is impossible from here on (records were
/// trimmed, the session has another history) and that records follow. After any other error, and after the last record
/// of a closed session, the stream ends. Dropping the subscription ends it.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    number: u32,
    events: mpsc::UnboundedReceiver<Event>,
    began: Option<Began>,
    /// The delivery that is being read.
    records: Delivered,
    delivery: Option<Reading>,
    position: Option<Position>,
    /// Ends the stream at the end that the session has when it begins.
    until_end: bool,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    epoch: u64,
    next: u64,
    bytes: u64,
}

impl Subscription {
    pub(crate) fn new(
        client: Client,
        number: u32,
        from: From,
        until_end: bool,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        let position = match from {
            From::Position(position) => Some(position),
            _ => None,
        };
        Self {
            client,
            number,
            events,
            began: None,
            records: Delivered::default(),
            delivery: None,
            position,
            until_end,
            ended: false,
        }
    }

    pub(crate) async fn first_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(crate) fn begin(&mut self, began: Began) {
        if began.exists && began.outcome.is_subscribed() {
            self.position.get_or_insert(Position { epoch: began.epoch, offset: began.from });
        }
        self.began = Some(began);
    }

    /// The next record. `None` after the end: the session is closed and read, or an error ended the stream.
    pub async fn next(&mut self) -> Option<Result<Record, SubscriptionError>> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    /// The next record if it is here already.
    pub fn try_next(&mut self) -> Option<Result<Record, SubscriptionError>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match self.poll_record(&mut context) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }

    /// The position to resume from after what was yielded: save it with your own state, and subscribe from it later to
    /// see each record once. (Folds of different messages overlap: between them it is where the first begins that was not yielded.)
    /// `None` while nothing is known, such as before the session exists.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// How the subscription began: the outcome, and the session's start and end at that moment.
    #[must_use]
    pub fn outcome(&self) -> Option<Began> {
        self.began
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Record, SubscriptionError>>> {
        loop {
            if let Some(reading) = self.delivery.filter(|_| !self.ended) {
                let taken = self.records.take(reading.epoch);
                match &taken {
                    Some(Ok(record)) => {
                        let offset = self.records.place_after(record.offset);
                        self.position = Some(Position { epoch: reading.epoch, offset });
                        if self.records.is_empty() {
                            self.consumed(reading);
                        }
                        return Poll::Ready(taken);
                    }
                    Some(Err(_)) => {
                        self.ended = true;
                        return Poll::Ready(taken);
                    }
                    None => {}
                }
                self.consumed(reading);
            }
            if self.ended || self.end_reached() {
                return Poll::Ready(None);
            }
            match ready!(self.events.poll_recv(context)) {
                Some(Event::Began(began)) => self.begin(began),
                Some(Event::Delivery(delivery)) => {
                    self.records = delivery.records;
                    let (epoch, next, bytes) = (delivery.epoch, delivery.next, delivery.bytes);
                    self.delivery = Some(Reading { epoch, next, bytes });
                }
                Some(Event::Failed(error)) => {
                    match &error {
                        SubscriptionError::EpochChanged { resume } => self.position = Some(*resume),
                        SubscriptionError::Gap { next, .. } => {
                            let epoch = self.position.map_or(0, |position| position.epoch);
                            self.position = Some(Position { epoch, offset: *next });
                        }
                        _ => {}
                    }
                    self.ended = !error.goes_on();
                    return Poll::Ready(Some(Err(error)));
                }
                // A pattern's only.
                Some(Event::Watching | Event::Touched(_)) => {}
                Some(Event::Ended) => self.ended = true,
                None => {
                    self.ended = true;
                    let closed = self.client.handle().closed();
                    return Poll::Ready(Some(Err(closed.into())));
                }
            }
        }
    }

    fn end_reached(&self) -> bool {
        let Some((began, position)) = self.began.zip(self.position) else { return false };
        self.until_end && position.offset >= began.end
    }

    /// The delivery was read to its end: the broker may send more.
    fn consumed(&mut self, reading: Reading) {
        self.delivery = None;
        let through = Position { epoch: reading.epoch, offset: reading.next };
        self.position = Some(through);
        let consumed = Feedback::Consumed { number: self.number, through, bytes: reading.bytes };
        // A driver that is gone needs no credit.
        drop(self.client.handle().feedback.send(consumed));
    }
}

impl Stream for Subscription {
    type Item = Result<Record, SubscriptionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.client.handle().feedback.send(Feedback::Dropped { number: self.number }));
    }
}
