//! Erasing: the offsets of what somebody wrote, and the command that makes tombstones of them.

use std::ops::Range;
use std::sync::Arc;

use longwire_core::command::{Command, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::{ERASE_RANGES_MAX, PRINCIPAL_BYTES_MAX, TITLE_BYTES_MAX};
use longwire_proto::meta::check_length;
use longwire_proto::record::{Sealed, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::hub::Hub;
use crate::life::progress;
use crate::request::Operation;
use crate::store::ReadLimit;
use crate::store::reconcile::retry_read;
use crate::store_error::{corrupt, in_session};

/// Records read at a time.
const PIECE: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };
/// Ranges in the record of one erasure; what somebody wrote in more places takes several.
const RECORD_RANGES_MAX: usize = 8192;

/// Erases what the request names, and answers how many records that were.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`], [`ErrorCode::OutOfRange`], and those of the session.
pub async fn erase(
    hub: &Arc<Hub>,
    asker: Sender,
    session: &SessionId,
    request: wire::EraseRecords,
) -> Result<u64, Error> {
    let wire::EraseRecords { request: _, session: _, ranges, sender, reason } = request;
    check_length("reason", &reason, TITLE_BYTES_MAX)?;
    check_length("sender", &sender, PRINCIPAL_BYTES_MAX)?;
    if ranges.is_empty() == sender.is_empty() {
        let message = "an erase names either `ranges` or a `sender`";
        return Err(Error::new(ErrorCode::InvalidArgument, message).field("ranges"));
    }
    let ranges = if sender.is_empty() { named(ranges)? } else { written_by(hub, session, &sender).await? };
    let mut erased = 0;
    for ranges in ranges.chunks(RECORD_RANGES_MAX) {
        let (ranges, of, reason) = (ranges.to_vec(), sender.clone(), reason.clone());
        let command = Command::Erase { sender: asker.clone(), ranges, of, reason };
        if let Some(Reply::Erased { records }) = hub.ask(session, Operation::Command(command)).await? {
            erased += records;
        }
    }
    Ok(erased)
}

/// The ranges of a request, sorted.
fn named(ranges: Vec<wire::OffsetRange>) -> Result<Vec<Range<u64>>, Error> {
    let refuse = |message: String| Error::new(ErrorCode::InvalidArgument, message).field("ranges");
    if ranges.len() > ERASE_RANGES_MAX {
        let message = format!("an erase names at most {ERASE_RANGES_MAX} ranges; erase in several steps");
        return Err(refuse(message).limit(ERASE_RANGES_MAX));
    }
    let mut ranges: Vec<Range<u64>> = ranges.iter().map(|range| range.from..range.next).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    if let Some(empty) = ranges.iter().find(|range| range.is_empty()) {
        return Err(refuse(format!("the range from {} to {} is empty", empty.start, empty.end)));
    }
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
        return Err(refuse(format!("offset {} is in two ranges", pair[1].start)));
    }
    Ok(ranges)
}

/// Where a principal's records are, those included that were imported as theirs, up to the end of now.
async fn written_by(hub: &Arc<Hub>, session: &SessionId, principal: &str) -> Result<Vec<Range<u64>>, Error> {
    let progress = progress(hub, session).await?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut next = progress.start;
    while next < progress.end {
        let chunk = retry_read(|| hub.store().read(progress.log, next, PIECE))
            .await
            .map_err(|error| in_session(session, &error))?;
        if chunk.records.is_empty() {
            return Err(corrupt(session, format!("at offset {next}: records are missing")));
        }
        for (offset, record) in (chunk.from..progress.end).zip(&chunk.records) {
            let theirs = Sealed::parse(record).is_ok_and(|sealed| {
                let erasable = sealed.kind != kind::SESSION && sealed.kind != kind::TOMBSTONE;
                erasable && (sealed.principal == principal || sealed.original == principal)
            });
            match ranges.last_mut() {
                Some(last) if theirs && last.end == offset => last.end += 1,
                _ if theirs => ranges.push(offset..offset + 1),
                _ => {}
            }
        }
        next = chunk.next();
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_do_not_overlap() {
        let ranges = |pairs: &[(u64, u64)]| {
            named(pairs.iter().map(|&(from, next)| wire::OffsetRange { from, next }).collect())
        };
        assert_eq!(ranges(&[(5, 7), (1, 2), (2, 5)]).unwrap(), [1..2, 2..5, 5..7]);
        assert_eq!(ranges(&[(5, 5)]).unwrap_err().field, "ranges");
        assert_eq!(ranges(&[(5, 4)]).unwrap_err().field, "ranges");
        assert_eq!(ranges(&[(1, 5), (4, 6)]).unwrap_err().code, ErrorCode::InvalidArgument);
        assert_eq!(ranges(&vec![(1, 2); ERASE_RANGES_MAX + 1]).unwrap_err().limit, ERASE_RANGES_MAX as u64);
    }
}
