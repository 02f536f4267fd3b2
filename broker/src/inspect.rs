//! Looking through a whole store: every record of every session, read and verified as a reader would.

use longwire_proto::record::Sealed;
use longwire_proto::session_id::SessionId;

use crate::store::{ListQuery, Listed, ReadLimit, Store, StoreError};

/// Sessions listed at a time.
const SESSIONS_AT_A_TIME: usize = 1000;
/// Records read at a time.
const PIECE: ReadLimit = ReadLimit { records: 8192, bytes: 1 << 20 };

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

/// Reads everything. `progress` is told after each session.
///
/// # Errors
/// Those of listing the sessions; damage of one session is part of the report.
pub async fn inspect(store: &dyn Store, mut progress: impl FnMut(&Report)) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut after = None;
    loop {
        let query = ListQuery { after: after.take(), limit: SESSIONS_AT_A_TIME, ..ListQuery::default() };
        let page = store.list(query).await?;
        after = page.more_after;
        for session in page.sessions {
            inspect_session(store, &session, &mut report).await;
            progress(&report);
        }
        if after.is_none() {
            return Ok(report);
        }
    }
}

async fn inspect_session(store: &dyn Store, session: &Listed, report: &mut Report) {
    report.sessions += 1;
    report.longest = report.longest.max(session.end - session.start);
    let (mut next, mut time_ms) = (session.start, 0);
    while next < session.end {
        let what = match store.read(session.log, next, PIECE).await {
            Ok(chunk) if chunk.from != next || chunk.records.is_empty() => "records are missing".to_owned(),
            Ok(chunk) => {
                let sound = chunk.records.iter().take_while(|record| is_sound(record, &mut time_ms)).count();
                report.records += sound as u64;
                report.bytes += chunk.records[..sound].iter().map(|record| record.len() as u64).sum::<u64>();
                next += sound as u64;
                if sound == chunk.records.len() {
                    continue;
                }
                "the bytes are not a record, or its time is before that of the one before".to_owned()
            }
            Err(StoreError::Corrupt { offset, what, .. }) => {
                next = next.max(offset);
                what
            }
            Err(error) => error.to_string(),
        };
        report.damages.push(Damaged { session: session.session.clone(), offset: next, what });
        return;
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
