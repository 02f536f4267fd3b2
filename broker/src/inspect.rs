//! Looking through a whole store: every record of every session, read and verified as a reader would.

use std::collections::VecDeque;
use std::sync::Arc;

use longwire_proto::record::Sealed;
use longwire_proto::session_id::SessionId;

use crate::store::{ListQuery, Listed, ReadLimit, Store, StoreError};

/// Sessions listed at a time.
const SESSIONS_AT_A_TIME: usize = 1000;
/// Records read at a time.
const PIECE: ReadLimit = ReadLimit { records: 8192, bytes: PIECE_BYTES };
/// Bytes read at a time.
pub const PIECE_BYTES: usize = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions looked at.
    pub sessions: u64,
    /// Sound records.
    pub records: u64,
    /// Bytes of sound records.
    pub bytes: u64,
    /// Records of the longest session.
    pub longest: u64,
    /// What is damaged: the first place of each session that has one.
    pub damages: Vec<Damaged>,
}

/// A place where a session cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The session.
    pub session: SessionId,
    /// The first offset that cannot be read.
    pub offset: u64,
    /// What does not fit.
    pub what: String,
}

/// Reads everything. `progress` is told after each step.
///
/// # Errors
/// Those of listing the sessions; damage of one session is part of the report.
pub async fn inspect(store: Arc<dyn Store>, mut progress: impl FnMut(&Report)) -> Result<Report, StoreError> {
    let mut scan = Scan::new(store);
    while scan.step().await? {
        progress(&scan.report);
    }
    Ok(scan.report)
}

/// A look through a whole store, piece by piece.
pub struct Scan {
    store: Arc<dyn Store>,
    /// Sessions that were listed and not looked at.
    listed: VecDeque<Listed>,
    /// Where the list goes on; `None` at its end.
    list_after: Option<Option<SessionId>>,
    /// The session that is being read: its next offset, and the time of the record before it.
    reading: Option<(Listed, u64, u64)>,
    report: Report,
}

impl Scan {
    /// Begins with the first session.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let report = Report::default();
        Self { store, listed: VecDeque::new(), list_after: Some(None), reading: None, report }
    }

    /// What was found so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Reads one piece. False when everything was read.
    ///
    /// # Errors
    /// Those of listing the sessions.
    pub async fn step(&mut self) -> Result<bool, StoreError> {
        if let Some((session, next, time_ms)) = self.reading.take() {
            self.read(session, next, time_ms).await;
            return Ok(true);
        }
        if let Some(session) = self.listed.pop_front() {
            self.report.sessions += 1;
            self.report.longest = self.report.longest.max(session.end - session.start);
            let start = session.start;
            self.reading = Some((session, start, 0));
            return Ok(true);
        }
        let Some(after) = self.list_after.take() else { return Ok(false) };
        let query = ListQuery { after, limit: SESSIONS_AT_A_TIME, ..ListQuery::default() };
        let page = self.store.list(query).await?;
        self.list_after = page.more_after.map(Some);
        self.listed.extend(page.sessions);
        Ok(true)
    }

    async fn read(&mut self, session: Listed, mut next: u64, mut time_ms: u64) {
        if next >= session.end {
            return;
        }
        let what = match self.store.read(session.log, next, PIECE).await {
            // It was trimmed or deleted meanwhile.
            Ok(chunk) if chunk.from > next => {
                self.reading = Some((session, chunk.from, time_ms));
                return;
            }
            Err(StoreError::Deleted | StoreError::NotFound) => return,
            Ok(chunk) if chunk.records.is_empty() => "records are missing".to_owned(),
            Ok(chunk) => {
                let sound = chunk.records.iter().take_while(|record| is_sound(record, &mut time_ms)).count();
                self.report.records += sound as u64;
                let bytes = chunk.records[..sound].iter().map(|record| record.len() as u64);
                self.report.bytes += bytes.sum::<u64>();
                next += sound as u64;
                if sound == chunk.records.len() {
                    self.reading = Some((session, next, time_ms));
                    return;
                }
                "the bytes are not a record, or its time is before that of the one before".to_owned()
            }
            Err(StoreError::Corrupt { offset, what, .. }) => {
                next = next.max(offset);
                what
            }
            Err(error) => error.to_string(),
        };
        self.report.damages.push(Damaged { session: session.session, offset: next, what });
    }
}

fn is_sound(record: &[u8], time_ms: &mut u64) -> bool {
    match Sealed::parse(record) {
        Ok(record) if record.time_ms >= *time_ms => {
            *time_ms = record.time_ms;
            true
        }
        _ => false,
    }
}
