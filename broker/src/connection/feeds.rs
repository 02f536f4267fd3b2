//! What the subscriptions of one connection have for it, by turns.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Abortable;
use futures_util::stream::{BoxStream, SelectAll, Stream, StreamExt};

use crate::subscription::{Event, Subscription};
use crate::transport::lanes::{LaneId, WithRoom};

/// What one registration has for the connection, with its number and lane. Small: it is moved at every step.
pub(super) struct Feed {
    pub(super) number: u32,
    pub(super) lane: LaneId,
    pub(super) source: FeedSource,
}

/// Where it comes from.
pub(super) enum FeedSource {
    /// One session.
    Session(Box<Subscription>),
    /// Those that a pattern matches.
    Pattern(BoxStream<'static, Event>),
}

impl Stream for Feed {
    type Item = (u32, LaneId, Event);

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { number, lane, source } = self.get_mut();
        let event = match source {
            FeedSource::Session(subscription) => subscription.poll_next(context),
            FeedSource::Pattern(events) => events.poll_next_unpin(context),
        };
        event.map(|event| event.map(|event| (*number, *lane, event)))
    }
}

/// What is read, and by whom it may be ended.
pub(super) type Reading = Abortable<WithRoom<Feed>>;

/// What is read by turns. Most connections read one session: that needs no turns, and nobody who knows whose it is.
pub(super) enum Feeds {
    /// One, or none.
    One(Option<Reading>),
    /// Any number.
    Many(SelectAll<Reading>),
}

impl Default for Feeds {
    fn default() -> Self {
        Self::One(None)
    }
}

impl Feeds {
    /// Takes one more.
    pub(super) fn push(&mut self, feed: Reading) {
        match self {
            Self::One(one @ None) => *one = Some(feed),
            Self::One(one) => *self = Self::Many(one.take().into_iter().chain([feed]).collect()),
            Self::Many(many) => many.push(feed),
        }
    }

    /// What one of them has next; none when there is none of them.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(u32, LaneId, Event)>> {
        match self {
            Self::One(one) => {
                let Some(feed) = one else { return Poll::Ready(None) };
                let next = feed.poll_next_unpin(context);
                if let Poll::Ready(None) = next {
                    *one = None;
                }
                next
            }
            Self::Many(many) => {
                let next = many.poll_next_unpin(context);
                if let Poll::Ready(None) = next {
                    *self = Self::default();
                }
                next
            }
        }
    }
}
