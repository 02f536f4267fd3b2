//! Which worker groups there are: in the store's table, with their cursors.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::WORKER_GROUPS_MAX;
use longwire_proto::record::Sender;
use longwire_proto::wire;
use longwire_proto::worker_group::GroupName;
use tokio::sync::Notify;

use crate::auth::authorise::authorise;
use crate::auth::operation::Operation as Asks;
use crate::auth::principal::Principal;
use crate::hub::Hub;
use crate::request::Operation;
use crate::store::reconcile::{self, retry_read};
use crate::store::{Cas, StoreError};
use crate::store_error::to_error;
use crate::worker_groups::definition::Definition;
use crate::worker_groups::history;
use crate::worker_groups::webhook::Webhooks;

/// Where the keys of groups begin; the name follows.
const FAMILY: &[u8] = b"workers\0";
/// Where the keys of their cursors begin.
const CURSORS: &[u8] = b"workers-cursor\0";
/// Worker groups of all tenants: each is tried for every change of the store, and all are listed in one frame.
pub const GROUPS_MAX: usize = 1000;
/// Values looked at together.
const SCANNED: usize = 1000;

/// See the top of this file.
pub struct Groups {
    pub(super) hub: Arc<Hub>,
    pub(super) webhooks: Webhooks,
    /// Rung when there is another set of them.
    pub(super) changed: Notify,
}

fn key(family: &[u8], name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(family.len() + name.len());
    key.put_slice(family);
    key.put_slice(name.as_bytes());
    key.freeze()
}

/// How far a group has come, of one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// [`Definition::id`].
    pub(super) id: u64,
    /// Up to this commit nothing is left to be done.
    pub(super) commit: u64,
}

impl Cursor {
    fn encode(self) -> Bytes {
        let mut value = BytesMut::with_capacity(16);
        value.put_u64_le(self.id);
        value.put_u64_le(self.commit);
        value.freeze()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (id, commit) = value.split_first_chunk::<8>()?;
        Some(Self { id: u64::from_le_bytes(*id), commit: u64::from_le_bytes(commit.try_into().ok()?) })
    }
}

/// Groups, and how far they have come, by their names.
pub(super) type Loaded = (BTreeMap<GroupName, Definition>, BTreeMap<String, Cursor>);

impl Groups {
    /// Those of the hub's store.
    #[must_use]
    pub fn new(hub: Arc<Hub>, webhooks: Webhooks) -> Arc<Self> {
        Arc::new(Self { hub, webhooks, changed: Notify::new() })
    }

    /// Makes a group, or tells it something else. Whether somebody may was looked at.
    ///
    /// # Errors
    /// Those of [`Definition::new`], [`ErrorCode::TooManyWorkerGroups`], and those of sessions and the store.
    pub async fn set(&self, by: Sender, name: GroupName, wish: wire::SetWorkerGroup) -> Result<(), Error> {
        let random = getrandom::u64()
            .map_err(|error| Error::new(ErrorCode::Internal, format!("no random number: {error}")))?;
        let mut definition = Definition::new(name, random, wish, &self.webhooks)?;
        let row = key(FAMILY, definition.name.as_str());
        let store = self.hub.store();
        loop {
            let expected = retry_read(|| store.get(row.clone())).await.map_err(|error| to_error(&error))?;
            let known =
                expected.as_deref().and_then(|known| Definition::decode(definition.name.as_str(), known));
            match known {
                Some(known) => definition.id = known.id,
                None => self.check_room(&definition.name).await?,
            }
            // First, so that nothing is done by a group that it does not tell of.
            history::begin(&self.hub, &definition.name).await?;
            history::tell_defined(&self.hub, by.clone(), &definition).await?;
            let write = Cas { key: row.clone(), expected, value: Some(definition.encode()?) };
            match reconcile::cas(&**store, vec![write]).await {
                Ok(()) => break,
                Err(StoreError::VersionConflict) => {}
                Err(error) => return Err(to_error(&error)),
            }
        }
        self.changed.notify_one();
        Ok(())
    }

    async fn check_room(&self, name: &GroupName) -> Result<(), Error> {
        let tenant = key(FAMILY, &format!("{}/", name.tenant()));
        for (prefix, limit) in [(tenant, WORKER_GROUPS_MAX), (Bytes::from_static(FAMILY), GROUPS_MAX)] {
            if self.scan(&prefix, limit).await.map_err(|error| to_error(&error))?.len() >= limit {
                let message =
                    format!("there are {limit} worker groups; remove one, or give one a wider pattern");
                return Err(Error::new(ErrorCode::TooManyWorkerGroups, message).field("group").limit(limit));
            }
        }
        Ok(())
    }

    /// Removes a group, its history and its dead letters. Whether somebody may was looked at.
    ///
    /// # Errors
    /// [`ErrorCode::WorkerGroupNotFound`], and those of sessions and the store.
    pub async fn remove(&self, name: &GroupName) -> Result<(), Error> {
        let (row, store) = (key(FAMILY, name.as_str()), self.hub.store());
        loop {
            let expected = retry_read(|| store.get(row.clone())).await.map_err(|error| to_error(&error))?;
            if expected.is_none() {
                let message = format!("there is no worker group `{name}`");
                return Err(Error::new(ErrorCode::WorkerGroupNotFound, message).field("group"));
            }
            // First, so that whoever is told that it failed finds the group to be removed again.
            for session in [name.history(), name.dead_letters()] {
                match self.hub.ask(session, Operation::Delete).await {
                    Err(error) if error.code != ErrorCode::SessionNotFound => return Err(error),
                    _ => {}
                }
            }
            match reconcile::cas(&**store, vec![Cas { key: row.clone(), expected, value: None }]).await {
                Ok(()) => break,
                Err(StoreError::VersionConflict) => {}
                Err(error) => return Err(to_error(&error)),
            }
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Those that a principal manages, in order of their names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, principal: &Principal) -> Result<Vec<wire::WorkerGroup>, Error> {
        let all = self.all().await.map_err(|error| to_error(&error))?;
        let may = |definition: &Definition| {
            authorise(principal, Asks::WorkerGroup, definition.name.history()).is_ok()
        };
        Ok(all.values().filter(|definition| may(definition)).map(Definition::to_wire).collect())
    }

    /// All of them, by their names.
    async fn all(&self) -> Result<BTreeMap<GroupName, Definition>, StoreError> {
        let mut all = BTreeMap::new();
        for (name, value) in self.scan(FAMILY, GROUPS_MAX).await? {
            match Definition::decode(&name, &value) {
                Some(definition) => drop(all.insert(definition.name.clone(), definition)),
                None => tracing::error!(
                    group = name,
                    "a worker group cannot be read, and is left alone; set it again"
                ),
            }
        }
        Ok(all)
    }

    /// All of them, and how far they have come.
    pub(super) async fn load(&self) -> Result<Loaded, StoreError> {
        Ok((self.all().await?, self.cursors().await?))
    }

    /// How far they have come, by their names.
    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, StoreError> {
        let found = self.scan(CURSORS, usize::MAX).await?;
        Ok(found.into_iter().filter_map(|(name, value)| Some((name, Cursor::decode(&value)?))).collect())
    }

    /// Writes how far one has come; `None` when it is not there any more.
    pub(super) async fn save(&self, name: &str, cursor: Option<Cursor>) -> Result<(), StoreError> {
        let (key, store) = (key(CURSORS, name), self.hub.store());
        let expected = retry_read(|| store.get(key.clone())).await?;
        let value = cursor.map(Cursor::encode);
        if expected == value {
            return Ok(());
        }
        reconcile::cas(&**store, vec![Cas { key, expected, value }]).await
    }

    async fn scan(&self, prefix: &[u8], limit: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        let (prefix, store) = (Bytes::copy_from_slice(prefix), self.hub.store());
        let family = if prefix.starts_with(CURSORS) { CURSORS.len() } else { FAMILY.len() };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let values = retry_read(|| store.scan(prefix.clone(), after.clone(), SCANNED)).await?;
            let is_last = values.len() < SCANNED;
            after = values.last().map(|(key, _)| key.clone());
            for (key, value) in values {
                if let Some(name) = key.get(family..).and_then(|name| std::str::from_utf8(name).ok()) {
                    found.push((name.to_owned(), value));
                }
            }
            if is_last || found.len() >= limit {
                return Ok(found);
            }
        }
    }
}
