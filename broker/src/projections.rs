//! Making anew what sessions are found by, from their records: the row in the list, the terms, the deadline.
//!
//! The engine keeps these as it is given them and cannot tell whether they are right; `store/local/rebuild.rs` makes its
//! tables agree with them. Here the state of every session is folded, as its owner would, and what differs is replaced.

use std::sync::Arc;

use longwire_core::state::State;
use longwire_core::summary;
use longwire_proto::record::Sealed;
use longwire_proto::session_id::SessionId;

use crate::driver::replay;
use crate::store::list::is_hidden;
use crate::store::local::LocalStore;
use crate::store::{Batch, BatchId, Opened, Projection, ReadLimit, Reservation, Store, StoreError};

/// Logs looked at together.
const LOGS_AT_A_TIME: usize = 256;

/// What was found and put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reprojected {
    /// Sessions whose records were folded.
    pub sessions: u64,
    /// Those that were found by something else than their records say.
    pub wrong: u64,
    /// Sessions that cannot be read: they stay as they are.
    pub damaged: Vec<(SessionId, StoreError)>,
}

/// Compares every session with its records. Nobody else may use the store.
///
/// # Errors
/// Those of the database; damage of one session is part of the answer.
pub async fn reproject(store: &Arc<LocalStore>) -> Result<Reprojected, StoreError> {
    let (mut report, mut after) = (Reprojected::default(), None);
    loop {
        let found = store.projections(after, LOGS_AT_A_TIME).await?;
        let looked = found.len();
        after = found.last().map(|found| found.log);
        for found in found {
            let Some(session) = found.session.filter(|session| !is_hidden(session)) else { continue };
            match reproject_one(&**store, &session, &found.projection).await {
                Ok(None) => {}
                Ok(Some(wrong)) => {
                    report.sessions += 1;
                    report.wrong += u64::from(wrong);
                }
                Err(error @ StoreError::Corrupt { .. }) => report.damaged.push((session, error)),
                Err(error) => return Err(error),
            }
        }
        if looked < LOGS_AT_A_TIME {
            return Ok(report);
        }
    }
}

/// Whether what a session was found by is wrong, and was replaced; `None` when there is no such session.
async fn reproject_one(
    store: &dyn Store,
    session: &SessionId,
    known: &Projection,
) -> Result<Option<bool>, StoreError> {
    let opened = store.open(session).await?;
    if !opened.exists {
        return Ok(None);
    }
    let (state, _) = replay(store, &opened).await?;
    let wake_ms = match state.summary().meta.retention.age_ms {
        Some(age_ms) => oldest_ms(store, &opened).await?.map(|oldest_ms| wake_ms(oldest_ms, age_ms)),
        None => None,
    };
    let right = right(&state, wake_ms, known.deadline_ms);
    if fits(known, &right) {
        return Ok(Some(false));
    }
    // Nothing else is in the batch, so its name has only to differ from that of the batch before it.
    let nonce = getrandom::u64().map_err(|error| StoreError::Read(error.to_string()))?;
    let batch = Batch {
        id: BatchId(u128::from(nonce)),
        base: opened.end,
        records: Vec::new(),
        last_time_ms: state.last_time_ms(),
        projection: Some(right),
        origin: None,
        erase: Vec::new(),
        reservation: Reservation::none(),
    };
    store.append(opened.log, opened.term, opened.version, batch).await?;
    Ok(Some(true))
}

fn right(state: &State, wake_ms: Option<u64>, known_ms: Option<u64>) -> Projection {
    let entities = state.entities();
    // When a holder was heard is not in the log: a lease may well last longer than its claim alone would.
    let lapses_ms = entities.first_lapse_ms().map(|first_ms| known_ms.unwrap_or(first_ms).max(first_ms));
    let wake_ms = [wake_ms, entities.deadline_ms(), lapses_ms].into_iter().flatten().min();
    let summary::Projection { row, terms, deadline_ms } =
        state.summary().projection(state.last_time_ms(), wake_ms);
    Projection { row, terms, deadline_ms }
}

/// A deadline that is too early is right: the owner looks, and gives another one.
fn fits(known: &Projection, right: &Projection) -> bool {
    let in_time = match (known.deadline_ms, right.deadline_ms) {
        (Some(known), Some(right)) => known <= right,
        (known, right) => known == right,
    };
    in_time && known.row == right.row && known.terms == right.terms
}

/// When a record of this time is older than it may become.
fn wake_ms(oldest_ms: u64, age_ms: u64) -> u64 {
    oldest_ms.saturating_add(age_ms).saturating_add(1)
}

/// The time of the first record that a log retains.
async fn oldest_ms(store: &dyn Store, opened: &Opened) -> Result<Option<u64>, StoreError> {
    if opened.start >= opened.end {
        return Ok(None);
    }
    let one = ReadLimit { records: 1, bytes: usize::MAX };
    let chunk = store.read(opened.log, opened.start, one).await?;
    Ok(chunk.records.first().map(|record| Sealed::parse(record).map_or(0, |sealed| sealed.time_ms)))
}

#[cfg(test)]
mod tests {
    use longwire_core::command::{Command, Meant};
    use longwire_core::entity::standing::Standing;
    use longwire_proto::kind;
    use longwire_proto::lease::Terms;
    use longwire_proto::meta::Meta;
    use longwire_proto::record::{Sender, check};
    use longwire_proto::retention::{Expiry, Retention};
    use longwire_proto::wire;
    use prost::Message;

    use super::*;
    use crate::ageing::Ageing;
    use crate::clock::Clock;
    use crate::hub::Hub;
    use crate::request::Operation;
    use crate::store::local::LocalConfig;
    use crate::store::{ListQuery, LogId};

    const HOUR_MS: u64 = 3_600_000;

    async fn opened(folder: &std::path::Path) -> Arc<LocalStore> {
        Arc::new(LocalStore::open(LocalConfig::new(folder)).unwrap())
    }

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    /// Everything that sessions are found by.
    async fn found(store: &LocalStore) -> Vec<(LogId, Projection)> {
        store.settle().await.unwrap();
        let found = store.projections(None, 99).await.unwrap();
        found.into_iter().map(|found| (found.log, found.projection)).collect()
    }

    /// Asks something that nobody will answer.
    fn asks() -> Command {
        let options = vec![wire::AskOption { id: "yes".into(), label: String::new() }];
        let expires_at_ms = Clock::start().now_ms() + HOUR_MS;
        let ask = wire::Ask { title: "?".into(), options, expires_at_ms, ..Default::default() };
        let body = Some(wire::record::Body::Ask(ask));
        let record = wire::Record { kind: kind::ASK, id: "q".into(), body, ..Default::default() };
        let records = vec![bytes::Bytes::from(record.encode_to_vec())];
        let meanings = vec![check(&records[0]).unwrap()];
        let meant = Some(Box::new(Meant { meanings, standing: Standing::default() }));
        let (sender, producer) = (Sender::default(), None);
        Command::Publish { sender, producer, if_end: None, may_create: false, records, meant }
    }

    /// Sessions of every kind, made by their owners, whose list is what they say.
    async fn filled(folder: &std::path::Path) {
        let store = opened(folder).await;
        let shared: Arc<dyn Store> = Arc::clone(&store) as _;
        let hub = Hub::new(shared, Clock::start(), Ageing::default(), std::time::Duration::from_secs(1));
        let labels = [("k".to_owned(), "v".to_owned())].into();
        let plain = Meta { title: "One".into(), labels, ..Meta::default() };
        let expiring = Meta { expiry: Expiry { idle_ms: Some(HOUR_MS), at_ms: None }, ..Meta::default() };
        let ageing = Meta {
            retention: Retention { age_ms: Some(HOUR_MS), ..Retention::default() },
            ..Meta::default()
        };
        let (asking, leased) = (Meta::default(), Meta::default());
        for (name, meta) in [("a", plain), ("b", expiring), ("c", ageing), ("d", asking), ("e", leased)] {
            let create = Command::Create { sender: Sender::default(), meta: Box::new(meta), update: false };
            hub.ask(&id(name), Operation::Command(create)).await.unwrap();
        }
        hub.ask(&id("d"), Operation::Command(asks())).await.unwrap();
        let (sender, agent, terms) = (Sender::default(), "coder".to_owned(), Terms::new(0, 0).unwrap());
        let claim = Command::Claim { sender, agent, terms, take_over: false, going_on: None };
        hub.ask(&id("e"), Operation::Command(claim)).await.unwrap();
        let close = Command::Close { sender: Sender::default(), reason: "done".into() };
        hub.ask(&id("a"), Operation::Command(close)).await.unwrap();
        hub.drain().await;
        store.shutdown().await.unwrap();
    }

    /// Gives a session something else to be found by.
    async fn damage(store: &LocalStore, name: &str, projection: Projection) {
        let opened = store.open(&id(name)).await.unwrap();
        let batch = Batch {
            id: BatchId(7),
            base: opened.end,
            records: Vec::new(),
            last_time_ms: 7,
            projection: Some(projection),
            origin: None,
            erase: Vec::new(),
            reservation: Reservation::none(),
        };
        store.append(opened.log, opened.term, opened.version, batch).await.unwrap();
    }

    #[tokio::test]
    async fn what_sessions_are_found_by_is_what_their_records_say() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path()).await;
        let store = opened(folder.path()).await;
        let right = found(&store).await;
        let nothing = Reprojected { sessions: 5, ..Reprojected::default() };
        assert_eq!(reproject(&store).await.unwrap(), nothing);
        assert_eq!(found(&store).await, right, "nothing is written where nothing is wrong");
        let of = |index: usize| right[index].1.clone();
        let too_late = |projection: Projection| Projection {
            deadline_ms: projection.deadline_ms.map(|deadline_ms| deadline_ms + 1),
            ..projection
        };
        assert!(of(1).deadline_ms.is_some() && of(2).deadline_ms.is_some());
        let early = Projection { deadline_ms: Some(5), ..of(1) };
        for (name, wrong, count) in [
            ("a", Projection { row: "another".into(), ..of(0) }, 1),
            ("a", Projection { terms: vec!["another".into()], ..of(0) }, 1),
            ("a", Projection { deadline_ms: Some(5), ..of(0) }, 1),
            ("a", Projection::default(), 1),
            ("b", too_late(of(1)), 1),
            ("b", Projection { deadline_ms: None, ..of(1) }, 1),
            ("c", too_late(of(2)), 1),
            ("d", too_late(of(3)), 1),
            ("d", Projection { deadline_ms: None, ..of(3) }, 1),
            ("e", Projection { deadline_ms: None, ..of(4) }, 1),
            // Somebody was heard.
            ("e", too_late(of(4)), 0),
            // Its owner looks and finds that it is not time.
            ("b", early, 0),
        ] {
            damage(&store, name, wrong.clone()).await;
            let after = found(&store).await;
            assert_ne!(after, right);
            let reprojected = reproject(&store).await.unwrap();
            assert_eq!(reprojected, Reprojected { sessions: 5, wrong: count, ..Reprojected::default() });
            assert_eq!(found(&store).await == right, count == 1, "{name} {wrong:?}");
        }
        let terms = vec![right[0].1.terms[0].clone()];
        let page = store.list(ListQuery { terms, limit: 9, ..ListQuery::default() }).await.unwrap();
        let listed: Vec<_> = page.sessions.iter().map(|listed| listed.session.as_str()).collect();
        assert!(listed.contains(&"a"), "{listed:?}");
    }
}
