//! Watching the sessions of a pattern.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use longwire_proto::pattern::Pattern;
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::driver::{Command, Feedback};
use crate::error::SubscriptionError;
use crate::machine::event::Event;
use crate::machine::subscriptions::Wanted;
use crate::machine::watches::Sought;

/// A watch to be begun: set options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is watched until it is awaited"]
pub struct StartWatch {
    client: Client,
    sought: Sought,
}

impl StartWatch {
    pub(crate) fn new(client: Client, pattern: Pattern) -> Self {
        Self { client, sought: Sought { pattern, kinds: Vec::new() } }
    }

    /// A session is told again only for records of these kinds; 0 is a message. At most 32.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = u32>) -> Self {
        self.sought.kinds = kinds.into_iter().collect();
        self
    }

    async fn start(self) -> Result<Watch, SubscriptionError> {
        let handle = self.client.handle();
        let number = handle.next_subscription.fetch_add(1, Ordering::Relaxed);
        let (events, events_in) = mpsc::unbounded_channel();
        // From here on a drop of this future ends it.
        let mut watch = Watch { client: self.client.clone(), number, events: events_in };
        handle.command(Command::Subscribe { number, wanted: Wanted::Changes(self.sought), events }).await?;
        match watch.events.recv().await {
            Some(Event::Watching) => Ok(watch),
            Some(Event::Failed(error)) => Err(error),
            _ => Err(handle.closed().into()),
        }
    }
}

impl IntoFuture for StartWatch {
    type Output = Result<Watch, SubscriptionError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

/// The sessions whose ids match a pattern: each when it is found, and again when something of it may have changed. Every session
/// is told again when the connection was made anew, so what happened meanwhile is seen by whoever looks at each session it is told. Dropping
/// it ends it.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    number: u32,
    /// Bounded: the machine tells a session only when there is room.
    events: mpsc::UnboundedReceiver<Event>,
}

impl Watch {
    /// The next session to look at. `None` after an error, which ends it.
    pub async fn next(&mut self) -> Option<Result<SessionId, SubscriptionError>> {
        loop {
            match self.events.recv().await? {
                Event::Touched(session) => {
                    let (number, through) = (self.number, Position::default());
                    // A driver that is gone has nothing more to tell.
                    drop(self.client.handle().feedback.send(Feedback::Consumed {
                        number,
                        through,
                        bytes: 0,
                    }));
                    return Some(Ok(session));
                }
                Event::Failed(error) => return Some(Err(error)),
                Event::Ended => return None,
                Event::Began(_) | Event::Delivery(_) | Event::Watching => {}
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.client.handle().feedback.send(Feedback::Dropped { number: self.number }));
    }
}
