//! Listing sessions, page by page.

use longwire_proto::wire;

use crate::client::Client;
use crate::error::RequestError;
use crate::machine::calls::{Answer, Call};
use crate::session_info::SessionInfo;

/// The sessions whose ids begin with a prefix and that fulfil every other condition.
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

    /// Only sessions whose ids match, such as `acme/*/build` or `acme/**`.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.list.pattern = pattern.into();
        self
    }

    /// Only sessions with this label; may be repeated.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.list.labels.insert(name.into(), value.into());
        self
    }

    /// Only sessions that take publishes, or only those that do not any more.
    #[must_use]
    pub fn closed(mut self, closed: bool) -> Self {
        self.list.status = if closed { "closed" } else { "open" }.to_owned();
        self
    }

    /// Only sessions that take publishes and do this: `working` or `input_required`.
    #[must_use]
    pub fn status(mut self, status: impl Into<String>) -> Self {
        self.list.status = status.into();
        self
    }

    /// Only sessions that belong to this one.
    #[must_use]
    pub fn parent(mut self, id: impl Into<String>) -> Self {
        self.list.parent = id.into();
        self
    }

    /// Sessions on a page: at most 1,000; 100 when not set.
    #[must_use]
    pub fn page_size(mut self, sessions: u32) -> Self {
        self.list.limit = sessions;
        self
    }

    /// The next page, which may be empty; `None` after the last.
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
        self.finished = page.next_page.is_empty();
        self.list.page = page.next_page;
        Ok(Some(page.sessions.into_iter().map(SessionInfo::new).collect()))
    }
}
