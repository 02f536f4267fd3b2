//! Putting exported records into a new session.

use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::client::Client;
use crate::error::RequestError;
use crate::machine::calls::{Answer, Call};
use crate::session_info::SessionInfo;

/// An import under way: steps are sent one after the other, and with the last one the session is there. Nothing of it is
/// seen before. Dropped half-way, it goes on later under the same name.
#[derive(Clone, Debug)]
pub struct Import {
    client: Client,
    step: wire::ImportRecords,
}

/// What one step came to.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportStep {
    /// Everything below was taken: the offset to go on at.
    pub next: u64,
    /// The session, after the last step.
    pub session: Option<SessionInfo>,
}

impl Import {
    pub(crate) fn new(client: Client, session: &SessionId, import: &str, begin: wire::ImportBegin) -> Self {
        let (session, import) = (session.to_string(), import.to_owned());
        let step = wire::ImportRecords { session, import, begin: Some(begin), ..Default::default() };
        Self { client, step }
    }

    /// Sends the records from an offset on, as they were exported; `finish` with the last ones.
    ///
    /// # Errors
    /// [`RequestError::Exists`] when there is a session of the name, [`RequestError::Refused`] when the records do not
    /// fit.
    pub async fn step(
        &self,
        from: u64,
        records: Vec<wire::Record>,
        finish: bool,
    ) -> Result<ImportStep, RequestError> {
        let step = wire::ImportRecords { from, records, finish, ..self.step.clone() };
        match self.client.handle().call(Call::Import(Box::new(step))).await? {
            Answer::Imported(imported) => {
                Ok(ImportStep { next: imported.next, session: imported.session.map(SessionInfo::new) })
            }
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}
