//! The session's keyed state: small things that whoever comes finds, whatever else was said since.

use std::future::IntoFuture;
use std::pin::Pin;

use longwire_proto::kind;
use longwire_proto::state_set::Value;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;
use longwire_proto::wire::state_change::Value as WireValue;

use crate::error::{PublishError, RequestError};
use crate::publication::Publication;
use crate::published::Published;
use crate::session::Session;

/// A change of one key to be made: set options, then await it. The offset that it is published at is the key's new revision.
#[derive(Clone, Debug)]
#[must_use = "nothing is set until it is awaited"]
pub struct SetState {
    session: Session,
    change: wire::StateChange,
}

impl SetState {
    fn new(session: Session, key: impl Into<String>, value: Option<Value>) -> Self {
        let value = value.map(|value| match value {
            Value::Text(text) => WireValue::Text(text.to_string()),
            Value::Data(data) => WireValue::Data(data),
        });
        Self { session, change: wire::StateChange { key: key.into(), value, if_revision: None } }
    }

    /// Only when this is the key's revision, 0 when it is not there; else it is refused with
    /// [`longwire_proto::error::ErrorCode::RevisionMismatch`], and nothing is changed.
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.change.if_revision = Some(revision);
        self
    }

    async fn set(self) -> Result<Published, PublishError> {
        self.session.publish(Publication::entity(kind::STATE, WireBody::StateChange(self.change))).await
    }
}

impl IntoFuture for SetState {
    type Output = Result<Published, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.set())
    }
}

impl Session {
    /// Sets a key of the session's state: `session.set("branch", "main").await?`. It takes the right `state`. A key has at most 128 bytes and
    /// its value 4,096; the state 256 keys and 128 KiB.
    ///
    /// What it is survives trimming, and is gone when the record that set it is erased.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Value>) -> SetState {
        SetState::new(self.clone(), key, Some(value.into()))
    }

    /// Removes a key of the session's state.
    pub fn remove(&self, key: impl Into<String>) -> SetState {
        SetState::new(self.clone(), key, None)
    }

    /// What a key of the session's state is, and who set it when; `None` when it is not there. It reflects what was acknowledged before.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn get(&self, key: &str) -> Result<Option<wire::StateEntry>, RequestError> {
        Ok(self.describe().await?.entries.into_iter().find(|entry| entry.key == key))
    }
}
