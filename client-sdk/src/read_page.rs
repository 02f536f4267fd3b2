//! Reading pages of a session, in both directions.

use std::future::IntoFuture;
use std::pin::Pin;

use longwire_proto::outcome::Outcome;
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::client::Client;
use crate::error::RequestError;
use crate::machine::calls::{Answer, Call};
use crate::record::Record;

/// A page to be read: set options, then await it. Without [`Self::after`] and [`Self::before`] it has the newest records.
#[derive(Clone, Debug)]
#[must_use = "nothing is read until it is awaited"]
pub struct ReadPage {
    client: Client,
    read: wire::Read,
}

/// One page of a session's records.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records that pass the filter, in their order.
    pub records: Vec<Record>,
    /// Where the range that the page covers begins: the `before` of the page before.
    pub from: Position,
    /// Where it ends: the `after` of the page after.
    pub next: Position,
    /// The session's first retained record.
    pub start: Position,
    /// The session's end.
    pub end: Position,
    /// What became of the position that was asked for: [`Outcome::Gap`] and [`Outcome::EpochChanged`] say that the page
    /// begins elsewhere.
    pub outcome: Outcome,
}

impl Page {
    /// Whether nothing is before this page.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.from <= self.start
    }

    /// Whether nothing was after this page when it was read.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.next >= self.end
    }
}

impl ReadPage {
    pub(crate) fn new(client: Client, session: &SessionId) -> Self {
        Self { client, read: wire::Read { session: session.to_string(), ..Default::default() } }
    }

    /// The records from this position on.
    pub fn after(mut self, position: Position) -> Self {
        self.read.place = Some(wire::read::Place::After(position.to_string()));
        self
    }

    /// The last records below this position.
    pub fn before(mut self, position: Position) -> Self {
        self.read.place = Some(wire::read::Place::Before(position.to_string()));
        self
    }

    /// Records on the page: at most 1,000; 100 when not set. Fewer when they are long, or when few pass the filter.
    pub fn limit(mut self, records: u32) -> Self {
        self.read.limit = records;
        self
    }

    /// The limit counts messages; records of other kinds in between are on the page as well.
    pub fn by_messages(mut self) -> Self {
        self.read.unit = "messages".to_owned();
        self
    }

    /// Only records of these kinds; 0 is a message. At most 32.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = u32>) -> Self {
        self.read.filter.get_or_insert_default().kinds = kinds.into_iter().collect();
        self
    }

    /// Only records about something of one of these ids: what it is, the pieces of a message, what belongs to a run, what answers it
    /// or replaces it. At most 32.
    pub fn about<T: Into<String>>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.read.filter.get_or_insert_default().ids = ids.into_iter().map(Into::into).collect();
        self
    }

    /// Only records of these application types. At most 32.
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.read.filter.get_or_insert_default().types = types.into_iter().map(Into::into).collect();
        self
    }

    /// Deltas of one message that follow each other are one record; the limit counts what is on the page.
    pub fn folded(mut self) -> Self {
        self.read.view = "folded".to_owned();
        self
    }

    /// Reads the page as the broker sends it: records with every field, for an export.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn as_sent(self) -> Result<wire::Page, RequestError> {
        match self.client.handle().call(Call::Read(self.read)).await? {
            Answer::Page(page) => Ok(*page),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    async fn read(self) -> Result<Page, RequestError> {
        match self.client.handle().call(Call::Read(self.read)).await? {
            Answer::Page(page) => from_wire(*page).ok_or(RequestError::UnexpectedAnswer),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}

/// `None` when the page does not say which offsets its records have, or how it came about.
fn from_wire(page: wire::Page) -> Option<Page> {
    let wire::Page { request: _, epoch, start, end, outcome, from, next, records, offsets } = page;
    let offsets = if offsets.is_empty() { (from..next).collect() } else { offsets };
    if !records.is_empty() && offsets.len() != records.len() {
        return None;
    }
    let at = |offset| Position { epoch, offset };
    let records = offsets.into_iter().zip(records).map(|(offset, record)| Record::new(epoch, offset, record));
    Some(Page {
        records: records.collect(),
        from: at(from),
        next: at(next),
        start: at(start),
        end: at(end),
        outcome: Outcome::parse(&outcome)?,
    })
}

impl IntoFuture for ReadPage {
    type Output = Result<Page, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}
