//! Listing sessions, page by page.

use longwire_proto::wire;

use crate::client::Client;
use crate::error::RequestError;
use crate::machine::calls::{Answer, Call};
use crate::session_info::SessionInfo;

/// The sessions whose ids begin with a prefix.
#[derive(Debug)]
pub struct SessionList {
    client: Client,
    list: wire::ListSessions,
    finished: bool,
}

impl SessionList {
    pub(crate) fn new(client: Client, list: wire::ListSessions) -> Self {
        Self { client, list, finished: false }
    }

    /// Begins behind this id.
    #[must_use]
    pub fn after(mut self, id: impl Into<String>) -> Self {
        self.list.after = id.into();
        self
    }

    /// Sessions on a page: at most 1,000; 100 when not set.
    #[must_use]
    pub fn page_size(mut self, sessions: u32) -> Self {
        self.list.limit = sessions;
        self
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`RequestError`]; the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<SessionInfo>>, RequestError> {
        if self.finished {
            return Ok(None);
        }
        let Answer::List(page) = self.client.handle().call(Call::List(self.list.clone())).await? else {
            return Err(RequestError::UnexpectedAnswer);
        };
        self.finished = page.next_after.is_empty();
        self.list.after = page.next_after;
        Ok(Some(page.sessions.into_iter().map(SessionInfo::new).collect()))
    }
}
