//! Importing: records that were exported elsewhere become a session here, all of them or none.
//!
//! They gather in a log under a name that nobody else can have, which is given the session's name at the end. So nobody
//! sees half an import, and an interrupted one goes on where it was.

use std::sync::Arc;

use bytes::Bytes;
use longwire_core::command::{Command, Description, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, LINEAGE_ENTRIES_MAX, SESSION_ID_BYTES_MAX};
use longwire_proto::meta::{Meta, check_length};
use longwire_proto::position::{COUNTER_MAX, Lineage, LineageEntry};
use longwire_proto::record::{self, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::short_id::check_short_id;
use longwire_proto::{raw, wire};
use xxhash_rust::xxh3::xxh3_128;

use crate::driver::UNFINISHED_MS;
use crate::hub::Hub;
use crate::life::describe;
use crate::request::{Begin, Operation};
use crate::store::list::UNFINISHED;

/// What one step of an import came to.
#[derive(Clone, Debug)]
pub struct Step {
    /// Everything below was taken.
    pub next: u64,
    /// The session, once it is there.
    pub finished: Option<Description>,
}

/// Takes one step. The one that begins an import is told to `begins`, which may refuse it.
///
/// # Errors
/// [`ErrorCode::SessionExists`], [`ErrorCode::ImportOutOfOrder`], [`ErrorCode::InvalidArgument`], those of records
/// and sessions, and those of `begins`.
pub async fn step(
    hub: &Arc<Hub>,
    sender: Sender,
    session: &SessionId,
    request: raw::ImportRecords,
    begins: impl FnOnce() -> Result<(), Error>,
) -> Result<Step, Error> {
    let raw::ImportRecords { request: _, session: _, import, begin, from, records, finish } = request;
    check_short_id(ErrorCode::InvalidArgument, "import", import.as_bytes())?;
    let begin = begin
        .ok_or_else(|| refuse("begin", "every step of an import carries `begin`, the head of the export"))?;
    let lineage = check_begin(&begin)?;
    let meta = Box::new(Meta::from_wire(begin.meta.clone().unwrap_or_default())?);
    check_batch(&records)?;
    let Some(vacant) = vacant(hub, session).await? else {
        let message = "there is a session of this name already; import under another one";
        return Err(Error::new(ErrorCode::SessionExists, message).field("session"));
    };
    let staging = SessionId::reserved(&format!("{UNFINISHED}{}/{import}", segment(&sender, session, &begin)))
        .map_err(|error| refuse("import", &error.to_string()))?;
    let origin = begin.session.as_str();
    let records = records.iter().map(|one| record::import(one, origin)).collect::<Result<Vec<_>, _>>()?;
    if from < begin.start || from + records.len() as u64 > begin.end {
        let message = format!("the export has the offsets {} to {}", begin.start, begin.end);
        return Err(Error::new(ErrorCode::OutOfRange, message).field("from"));
    }
    // Every step has the head of the export, so what it asks for does not tell which one is the first.
    if self::vacant(hub, &staging).await?.is_some() {
        begins()?;
    }
    let first = Begin {
        lineage,
        start: begin.start,
        base: begin.start,
        epoch_from: begin.end,
        vacant,
        shares: None,
        sender: sender.clone(),
        records: Vec::new(),
        last_time_ms: 0,
        wake_after_ms: Some(UNFINISHED_MS),
    };
    match hub.ask(&staging, Operation::Begin(Box::new(first))).await {
        Ok(_) => {}
        // An earlier step, or this one before its answer was lost.
        Err(error) if error.code == ErrorCode::SessionExists => {}
        // The log exists and has no record to describe yet.
        Err(error) if error.code == ErrorCode::SessionNotFound => {}
        Err(error) => return Err(error),
    }
    let command = Command::Import { sender: sender.clone(), from, records };
    let next = match hub.ask(&staging, Operation::Command(command)).await? {
        // The record that ends an import is not one of its own.
        Some(Reply::Imported { next }) => next.min(begin.end),
        _ => return Err(Error::new(ErrorCode::Internal, "the import did not say where it is")),
    };
    if !finish {
        return Ok(Step { next, finished: None });
    }
    let adopt = Command::Adopt { sender, end: begin.end, session: begin.session, meta };
    hub.ask(&staging, Operation::Command(adopt)).await?;
    hub.ask(&staging, Operation::Rename(session.clone())).await?;
    // Whoever waits for a session of this name learns that it is there.
    hub.ask(session, Operation::Reload).await?;
    Ok(Step { next, finished: Some(describe(hub, session).await?) })
}

/// The first epoch that a name has free; none when there is a session of the name.
async fn vacant(hub: &Arc<Hub>, session: &SessionId) -> Result<Option<u64>, Error> {
    hub.flush(session).await;
    let progress = hub.attach(session).await?.loaded().await?;
    Ok((!progress.exists()).then(|| progress.epoch()))
}

/// Who imports what, as a segment of a name: imports of others, into other sessions, and of other offsets do not meet.
fn segment(sender: &Sender, session: &SessionId, begin: &wire::ImportBegin) -> String {
    let offsets = [begin.start.to_le_bytes(), begin.end.to_le_bytes()].concat();
    let names = [sender.principal.as_bytes(), b"\0", session.as_str().as_bytes(), b"\0", &offsets].concat();
    format!("p{:032x}", xxh3_128(&names))
}

fn check_begin(begin: &wire::ImportBegin) -> Result<Vec<LineageEntry>, Error> {
    check_length("begin", &begin.session, SESSION_ID_BYTES_MAX)?;
    if begin.start > begin.end || begin.end > COUNTER_MAX {
        return Err(refuse("begin", "`start` must not be above `end`"));
    }
    if begin.lineage.len() >= LINEAGE_ENTRIES_MAX {
        return Err(refuse("begin", "the export has too many epochs").limit(LINEAGE_ENTRIES_MAX));
    }
    let entry =
        |entry: &wire::LineageEntry| LineageEntry { epoch: entry.epoch, from_offset: entry.from_offset };
    let entries: Vec<LineageEntry> = begin.lineage.iter().map(entry).collect();
    let last = entries.last().copied().unwrap_or_default();
    if Lineage::from_entries(entries.clone()).is_none()
        || last.from_offset > begin.end
        || last.epoch >= COUNTER_MAX
    {
        return Err(refuse(
            "begin",
            "epochs and offsets of `lineage` must rise, from offset 0 to at most `end`",
        ));
    }
    Ok(entries)
}

fn check_batch(records: &[Bytes]) -> Result<(), Error> {
    let bytes: usize = records.iter().map(Bytes::len).sum();
    if records.len() > BATCH_RECORDS_MAX || bytes > BATCH_BYTES_MAX {
        let message = format!(
            "a step of an import has at most {BATCH_RECORDS_MAX} records and {BATCH_BYTES_MAX} bytes of them"
        );
        return Err(Error::new(ErrorCode::BatchTooLarge, message).field("records").limit(BATCH_RECORDS_MAX));
    }
    Ok(())
}

fn refuse(field: &'static str, message: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, message.to_owned()).field(field)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ageing::Ageing;
    use crate::clock::Clock;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    /// A broker's life in which it is this time.
    fn hub(store: &Arc<dyn Store>, now_ms: u64) -> Arc<Hub> {
        Hub::new(Arc::clone(store), Clock::start_at(now_ms), Ageing::default(), Duration::from_secs(1))
    }

    fn request(import: &str, from: u64, records: u64) -> raw::ImportRecords {
        let begin = wire::ImportBegin {
            end: 100,
            lineage: vec![wire::LineageEntry { epoch: 0, from_offset: 0 }],
            session: "old".into(),
            ..Default::default()
        };
        let records = (0..records).map(|_| Bytes::new()).collect();
        raw::ImportRecords { import: import.into(), begin: Some(begin), from, records, ..Default::default() }
    }

    async fn wake_all(hub: &Arc<Hub>, now_ms: u64) -> Vec<SessionId> {
        let due = hub.store().due(now_ms, None, 9).await.unwrap();
        for due in &due {
            // That of one that is deleted now is answered by that.
            drop(hub.ask(&due.session, Operation::Wake).await);
        }
        hub.drain().await;
        due.into_iter().map(|due| due.session).collect()
    }

    #[tokio::test]
    async fn an_import_that_nobody_goes_on_with_is_removed() {
        const START: u64 = 1_700_000_000_000;
        const HOUR: u64 = 60 * 60 * 1000;
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let session = SessionId::parse("a").unwrap();
        let sender = Sender { principal: "ada".into(), ..Sender::default() };
        let take = async |now_ms, import, from, records| {
            let hub = hub(&store, now_ms);
            let step = step(&hub, sender.clone(), &session, request(import, from, records), || Ok(()))
                .await
                .unwrap();
            hub.drain().await;
            step.next
        };
        assert_eq!(take(START, "left", 0, 5).await, 5);
        assert_eq!(take(START, "slow", 0, 5).await, 5);
        assert_eq!(take(START + 23 * HOUR, "slow", 5, 5).await, 10);
        let later = START + 25 * HOUR;
        assert_eq!(wake_all(&hub(&store, later), later).await.len(), 2);
        assert_eq!(take(later, "slow", 10, 5).await, 15, "it goes on");
        assert_eq!(wake_all(&hub(&store, later), later).await, []);
        // The other one begins again: what it had is gone.
        let hub = hub(&store, later);
        let gone = step(&hub, sender.clone(), &session, request("left", 5, 5), || Ok(())).await.unwrap_err();
        assert_eq!(gone.code, ErrorCode::ImportOutOfOrder);
        hub.drain().await;
        // That one has no record: it goes as well.
        let later = later + 49 * HOUR;
        assert_eq!(wake_all(&self::hub(&store, later), later).await.len(), 2);
        assert_eq!(store.due(u64::MAX, None, 9).await.unwrap(), []);
    }
    #[tokio::test]
    async fn a_finish_that_was_cut_short_is_finished_by_asking_again() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let hub = hub(&store, 1);
        let session = SessionId::parse("a").unwrap();
        let sender = Sender { principal: "ada".into(), ..Sender::default() };
        step(&hub, sender.clone(), &session, request("cut", 0, 100), || Ok(())).await.unwrap();
        let finish = raw::ImportRecords { finish: true, ..request("cut", 100, 0) };
        let begin = finish.begin.clone().unwrap();
        let staging = format!("~import/{}/cut", segment(&sender, &session, &begin));
        let adopt =
            Command::Adopt { sender: sender.clone(), end: 100, session: begin.session, meta: Box::default() };
        hub.ask(&SessionId::reserved(&staging).unwrap(), Operation::Command(adopt)).await.unwrap();
        let done = step(&hub, sender, &session, finish, || Ok(())).await.unwrap();
        assert_eq!((done.next, done.finished.unwrap().end), (100, 101));
        hub.drain().await;
    }
}
