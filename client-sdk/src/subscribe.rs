//! Asking for a subscription.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use longwire_proto::session_id::SessionId;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::driver::Command;
use crate::error::SubscriptionError;
use crate::from::From;
use crate::machine::event::Event;
use crate::machine::subscriptions::{Wanted, Wish};
use crate::subscription::Subscription;

/// A subscription to be made: set options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is subscribed until it is awaited"]
pub struct Subscribe {
    client: Client,
    wish: Wish,
    until_end: bool,
}

impl Subscribe {
    pub(crate) fn new(client: Client, session: SessionId, from: From) -> Self {
        let window_bytes = client.handle().window_bytes;
        Self { client, until_end: false, wish: Wish::new(session, from, window_bytes) }
    }

    /// Begins where the cursor of this name is, see [`crate::Session::commit_cursor`]; at the start when nothing was
    /// committed.
    pub fn from_cursor(mut self, cursor: impl Into<String>) -> Self {
        self.wish.cursor = Some(cursor.into());
        self
    }

    /// Waits for a session that does not exist yet, instead of failing: all its records come from its creation on.
    pub fn wait_for_session(mut self) -> Self {
        self.wish.wait = true;
        self
    }

    /// Bytes of unread records that the subscription may hold; above that the broker waits.
    pub fn window_bytes(mut self, window_bytes: u64) -> Self {
        self.wish.window_bytes = window_bytes.max(1);
        self
    }

    /// Ends the stream at the end that the session has when the subscription begins, instead of following it.
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// Only records of these kinds; 0 is a message. At most 32.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = u32>) -> Self {
        self.wish.filter.get_or_insert_default().kinds = kinds.into_iter().collect();
        self
    }

    /// Only records about something of one of these ids: what it is, the pieces of a message, what belongs to a run, what answers it
    /// or replaces it. At most 32.
    pub fn about<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.wish.filter.get_or_insert_default().ids = ids.into_iter().map(Into::into).collect();
        self
    }

    /// Only records of these application types. At most 32.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.wish.filter.get_or_insert_default().types = types.into_iter().map(Into::into).collect();
        self
    }

    /// Deltas of one message that follow each other come as one record, which says so ([`crate::Record::folded_from`]): whoever comes
    /// late to a long message gets it in a few pieces.
    pub fn folded(mut self) -> Self {
        self.wish.folded = true;
        self
    }

    /// Gathers deltas for this long, at most 500 ms, before they are delivered [folded](Self::folded): 200 ms are five updates a second.
    /// Whatever else is published comes at once.
    pub fn rollup(mut self, rollup: Duration) -> Self {
        self.wish.folded = true;
        self.wish.rollup_ms = u32::try_from(rollup.as_millis()).unwrap_or(u32::MAX);
        self
    }

    async fn subscribe(self) -> Result<Subscription, SubscriptionError> {
        let handle = self.client.handle();
        let number = handle.next_subscription.fetch_add(1, Ordering::Relaxed);
        let (events, events_in) = mpsc::unbounded_channel();
        let from = self.wish.from;
        // From here on a drop of this future unsubscribes.
        let mut subscription =
            Subscription::new(self.client.clone(), number, from, self.until_end, events_in);
        handle.command(Command::Subscribe { number, wanted: Wanted::Records(self.wish), events }).await?;
        match subscription.first_event().await {
            Some(Event::Began(began)) => {
                subscription.begin(began);
                Ok(subscription)
            }
            Some(Event::Failed(error)) => Err(error),
            _ => Err(handle.closed().into()),
        }
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, SubscriptionError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.subscribe())
    }
}
