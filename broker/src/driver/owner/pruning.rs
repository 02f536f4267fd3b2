//! Rows of producers, runs and messages that have no retained record any more: found and removed after trims, a page at a time.
//!
//! A row may only go while it says what the store knows. It is stale as soon as what it is of is resident, and may be
//! replaced by any snapshot; so a page counts only when no snapshot was taken since it was asked for.

use std::task::{Context, Poll};

use bytes::Bytes;
use longwire_core::state::State;

use crate::driver::Loaded;
use crate::driver::owner::Owner;
use crate::store::{Snapshot, StoreError, StoreFuture};

/// Rows looked at in one step: a page of the store.
const ROWS: usize = 256;

/// Rows as they are stored.
pub(super) type Rows = Vec<(Bytes, Bytes)>;

/// Pruning at work.
pub(super) struct Pruning {
    stage: Stage,
    /// The key after which the next page begins.
    after: Option<Bytes>,
    /// Rows of this round that stay.
    kept: u64,
}

enum Stage {
    /// A page is being read; the last durable snapshot when it was asked for.
    Scanning(StoreFuture<Rows>, u64),
    /// Rows are being removed.
    Removing(StoreFuture<()>),
}

/// What a step came to.
pub(super) enum Step {
    /// A page was read.
    Scanned(Result<Rows, StoreError>),
    /// Rows were removed.
    Removed(Result<(), StoreError>),
}

/// What became of the step at work.
pub(super) fn poll_step(pruning: &mut Option<Pruning>, context: &mut Context<'_>) -> Poll<Step> {
    match pruning.as_mut().map(|pruning| &mut pruning.stage) {
        Some(Stage::Scanning(rows, _)) => rows.as_mut().poll(context).map(Step::Scanned),
        Some(Stage::Removing(done)) => done.as_mut().poll(context).map(Step::Removed),
        None => Poll::Pending,
    }
}

impl Owner {
    /// Begins a round, when enough was trimmed since the last one to be worth it: as many records as it kept rows.
    pub(super) fn prune(&mut self) {
        let state = self.loaded.machine.state();
        if self.pruning.is_none() && state.has_cold_rows() && state.start() >= self.prune_from {
            self.scan(None, 0);
        }
    }

    fn scan(&mut self, after: Option<Bytes>, kept: u64) {
        let rows = self.store.scan_rows(self.loaded.log, Bytes::new(), after.clone(), ROWS);
        let stage = Stage::Scanning(rows, self.loaded.machine.snapshot_through());
        self.pruning = Some(Pruning { stage, after, kept });
    }

    pub(super) fn pruned(&mut self, step: Step) {
        let Some(Pruning { stage, after, kept }) = self.pruning.take() else { return };
        match (stage, step) {
            (Stage::Scanning(_, through), Step::Scanned(Ok(rows))) => {
                let changed = through != self.loaded.machine.snapshot_through();
                if changed || !self.snapshots.is_empty() {
                    return self.scan(after, kept);
                }
                self.remove(&rows, kept);
            }
            (Stage::Removing(_), Step::Removed(Ok(()))) => self.scan(after, kept),
            (_, Step::Scanned(Err(error)) | Step::Removed(Err(error))) => {
                tracing::debug!(session = %self.session, %error, "rows stay until the next trim");
            }
            (Stage::Scanning(..), Step::Removed(_)) | (Stage::Removing(_), Step::Scanned(_)) => {}
        }
    }

    fn remove(&mut self, rows: &Rows, kept: u64) {
        let (state, through) = (self.loaded.machine.state(), self.loaded.machine.snapshot_through());
        let Some((last, _)) = rows.last() else {
            self.prune_from = state.start().saturating_add(kept.max(1));
            return;
        };
        let past = |(key, row): &&(Bytes, Bytes)| state.is_past(key, row);
        let gone: Vec<_> = rows.iter().filter(past).map(|(key, _)| (key.clone(), None)).collect();
        // The head is no row of anybody.
        let heads = rows.iter().filter(|(key, _)| *key == State::head_key()).count();
        let (after, kept) = (Some(last.clone()), kept + (rows.len() - heads - gone.len()) as u64);
        if gone.is_empty() {
            return self.scan(after, kept);
        }
        metrics::counter!("longwire_rows_pruned_total").increment(gone.len() as u64);
        let Loaded { log, term, .. } = self.loaded;
        let removed = self.store.put_snapshot(log, term, Snapshot { through, rows: gone });
        self.pruning = Some(Pruning { stage: Stage::Removing(removed), after, kept });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use longwire_core::command::{Command, Reply};
    use longwire_core::producer::ProducerKey;
    use longwire_proto::error::{Error, ErrorCode};
    use longwire_proto::position::Position;
    use longwire_proto::record::{ProducerRef, Sender};
    use longwire_proto::session_id::SessionId;

    use super::*;
    use crate::ageing::Ageing;
    use crate::clock::Clock;
    use crate::hub::Hub;
    use crate::request::Operation;
    use crate::store::memory::MemoryStore;
    use crate::store::{ListQuery, Store};

    /// More than two pages of rows.
    const PRODUCERS: u64 = 2 * ROWS as u64 + 88;

    async fn publish(hub: &Arc<Hub>, producer: &str, sequence: u64) -> Result<(u64, bool), Error> {
        let command = Command::Publish {
            sender: Sender { principal: "ada".into(), ..Sender::default() },
            producer: Some(ProducerRef { id: producer.into(), epoch: 0, sequence }),
            if_end: None,
            may_create: true,
            records: vec![Bytes::new()],
            meant: None,
        };
        match hub.ask(&SessionId::parse("a").unwrap(), Operation::Command(command)).await? {
            Some(Reply::Published { from, duplicate, .. }) => Ok((from, duplicate)),
            other => panic!("{other:?}"),
        }
    }

    async fn trim(hub: &Arc<Hub>, offset: u64) {
        let before = Operation::Trim(Position { epoch: 0, offset });
        hub.ask(&SessionId::parse("a").unwrap(), before).await.unwrap();
    }

    #[tokio::test]
    async fn producers_without_records_are_forgotten_and_others_are_not() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let live =
            || Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), Duration::from_secs(60));
        let hub = live();
        for producer in 0..PRODUCERS {
            publish(&hub, &format!("p{producer}"), 0).await.unwrap();
        }
        publish(&hub, "p1", 1).await.unwrap();
        trim(&hub, PRODUCERS - 1).await;
        let log = store.list(ListQuery { limit: 1, ..ListQuery::default() }).await.unwrap().sessions[0].log;
        let left = async || {
            let rows = store.scan_rows(log, Bytes::new(), None, 9999).await.unwrap();
            rows.iter().filter_map(|(key, _)| ProducerKey::of_row(key)).map(|key| key.id).collect::<Vec<_>>()
        };
        let last = format!("p{}", PRODUCERS - 1);
        while left().await.iter().any(|id| *id != last && id != "p1") {
            tokio::task::yield_now().await;
        }
        assert_eq!(publish(&hub, "p1", 0).await.unwrap(), (1, true), "one record of it is there");
        assert_eq!(publish(&hub, "p1", 1).await.unwrap(), (PRODUCERS, true));
        assert_eq!(publish(&hub, &last, 0).await.unwrap(), (PRODUCERS - 1, true));
        // None of them is in memory now.
        hub.drain().await;
        let hub = live();
        trim(&hub, PRODUCERS).await;
        while left().await.contains(&last) {
            tokio::task::yield_now().await;
        }
        assert_eq!(publish(&hub, "p1", 1).await.unwrap(), (PRODUCERS, true), "its record is the first");
        let unknown = publish(&hub, "p0", 1).await.unwrap_err();
        assert_eq!(unknown.code, ErrorCode::ProducerUnknown);
        assert_eq!(publish(&hub, "p0", 0).await.unwrap(), (PRODUCERS + 1, false));
        // It has a record again, and the next round keeps it.
        trim(&hub, PRODUCERS + 1).await;
        while !left().await.iter().all(|id| id == "p0") {
            tokio::task::yield_now().await;
        }
        assert_eq!(publish(&hub, "p0", 0).await.unwrap(), (PRODUCERS + 1, true));
        hub.drain().await;
    }
}
