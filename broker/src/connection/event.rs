//! What a connection does next: everything that it waits for, in one place.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};

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
    /// What is next. None when there is nothing yet, and something waits to be flushed before it is waited for.
    pub(super) async fn event(&mut self) -> Option<Event> {
        poll_fn(|context| {
            if !std::mem::take(&mut self.is_quiet)
                && let Poll::Ready(event) = self.poll_event(context)
            {
                return Poll::Ready(Some(event));
            }
            if self.fed_bytes > 0 {
                self.is_quiet = true;
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// What is next. What comes and goes is looked at by turns, so that nothing keeps anything else from being heard; changes of rights and
    /// times are compared, and what comes rarely is asked when it has rung.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let open = self.asked.len() + self.lookups.len() + self.subscriptions.opening();
        let reads = self.passing.is_none() && open < REQUESTS_MAX;
        let idle_at = self.received_at + self.context.times.idle_timeout;
        let now = Instant::now();
        self.looked_at = now;
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
        self.subscriptions.end_rests(now);
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
                Turn::Others => self.poll_others(context, reads.then_some(idle_at)),
            };
            if event.is_ready() {
                return event;
            }
        }
        // One may have begun to rest after the alarm was looked at.
        match self.subscriptions.rest_until() {
            Some(at) if self.alarm.is_later_than(at) => self.poll_others(context, reads.then_some(idle_at)),
            _ => Poll::Pending,
        }
    }

    /// What comes rarely; none when it is to be looked at the times again.
    fn poll_rare(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<Option<Event>> {
        if self.drained.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Event::Drain));
        }
        if self.access.poll_changed(context).is_ready() {
            return Poll::Ready(Some(Event::AccessDue));
        }
        self.alarm.poll(context, at).map(|()| None)
    }

    fn poll_others(&mut self, context: &mut Context<'_>, idle_at: Option<Instant>) -> Poll<Event> {
        if let Some(passing) = &mut self.passing
            && let Poll::Ready(outcome) = passing.as_mut().poll(context)
        {
            return Poll::Ready(Event::Passed(outcome));
        }
        if !self.lookups.is_empty()
            && let Poll::Ready(Some(frame)) = self.lookups.poll_next_unpin(context)
        {
            return Poll::Ready(Event::LookedUp(frame));
        }
        if let Poll::Ready(driven) = pin!(self.sink.drive()).poll(context) {
            return Poll::Ready(Event::Driven(driven));
        }
        let at = self.heartbeat_at.min(self.access.look_at());
        let at = idle_at.map_or(at, |idle_at| at.min(idle_at));
        let at = self.subscriptions.rest_until().map_or(at, |rest_until| at.min(rest_until));
        if self.alarm.is_later_than(at) {
            self.bell.ring();
        }
        let Some(waker) = self.bell.answer(context) else { return Poll::Pending };
        let rare = self.poll_rare(&mut Context::from_waker(&waker), at);
        if rare.is_ready() {
            // Those behind it were not asked.
            self.bell.ring();
        }
        match ready!(rare) {
            Some(event) => Poll::Ready(event),
            None => self.poll_event(context),
        }
    }
}
