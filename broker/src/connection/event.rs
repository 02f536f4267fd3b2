//! What a connection does next: everything that it waits for, in one place.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::StreamExt;
use longwire_proto::error::Error;
use longwire_proto::limits::REQUESTS_MAX;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connection::subscriptions::SubscriptionEvent;
use crate::request::{Answer, ReplyTo};
use crate::transport::lanes::LaneId;
use crate::transport::{FrameSink, FrameSource, Gone, LinkEnd};

/// What a connection has to do next.
pub(super) enum Event {
    Drain,
    Frame(Result<Bytes, LinkEnd>),
    Answer(Answer),
    Passed(Result<(), (Error, ReplyTo)>),
    LookedUp(Bytes),
    Subscription(SubscriptionEvent),
    Driven(Result<LaneId, Gone>),
    Heartbeat,
    AccessDue,
    Idle,
}

/// What is looked at first.
#[derive(Clone, Copy)]
pub(super) enum Turn {
    Frames,
    Answers,
    Subscriptions,
    Others,
}

impl Turn {
    const ALL: [Self; 4] = [Self::Frames, Self::Answers, Self::Subscriptions, Self::Others];

    fn next(self) -> Self {
        match self {
            Self::Frames => Self::Answers,
            Self::Answers => Self::Subscriptions,
            Self::Subscriptions => Self::Others,
            Self::Others => Self::Frames,
        }
    }
}

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    pub(super) async fn event(&mut self) -> Event {
        poll_fn(|context| self.poll_event(context)).await
    }

    /// What is next. What comes and goes is looked at by turns, so that nothing keeps anything else from being heard; changes of rights and
    /// times are compared, and waited for only when there is nothing.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let open = self.asked.len() + self.lookups.len() + self.subscriptions.opening();
        let reads = self.passing.is_none() && open < REQUESTS_MAX;
        let idle_at = self.received_at + self.context.times.idle_timeout;
        let now = Instant::now();
        // Nothing is read or sent any more for whom it must not be.
        if self.access.is_due_by(now) {
            return Poll::Ready(Event::AccessDue);
        }
        if now >= self.heartbeat_at {
            return Poll::Ready(Event::Heartbeat);
        }
        if reads && now >= idle_at {
            return Poll::Ready(Event::Idle);
        }
        for _ in 0..Turn::ALL.len() {
            self.turn = self.turn.next();
            let event = match self.turn {
                Turn::Frames if !reads => Poll::Pending,
                Turn::Frames => self.source.poll_next(context).map(Event::Frame),
                Turn::Answers => match self.answered.poll_recv(context) {
                    Poll::Ready(Some(answer)) => Poll::Ready(Event::Answer(answer)),
                    // The connection has a sender itself, so they do not end.
                    Poll::Ready(None) | Poll::Pending => Poll::Pending,
                },
                Turn::Subscriptions => self.subscriptions.poll_next(context).map(Event::Subscription),
                Turn::Others => self.poll_others(context),
            };
            if event.is_ready() {
                return event;
            }
        }
        if self.access.poll_changed(context).is_ready() {
            return Poll::Ready(Event::AccessDue);
        }
        let mut at = self.heartbeat_at.min(self.access.look_at());
        if reads {
            at = at.min(idle_at);
        }
        match self.alarm.poll(context, at) {
            Poll::Ready(()) => self.poll_event(context),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(passing) = &mut self.passing
            && let Poll::Ready(outcome) = passing.as_mut().poll(context)
        {
            return Poll::Ready(Event::Passed(outcome));
        }
        if let Poll::Ready(Some(frame)) = self.lookups.poll_next_unpin(context) {
            return Poll::Ready(Event::LookedUp(frame));
        }
        if let Poll::Ready(driven) = pin!(self.sink.drive()).poll(context) {
            return Poll::Ready(Event::Driven(driven));
        }
        self.drained.as_mut().poll(context).map(|()| Event::Drain)
    }
}
