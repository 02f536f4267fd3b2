//! Reads of what is delivered as it is stored: of settled records, the way from their page to the socket has one copy. What is
//! anywhere else, erased or damaged is left to `reader.rs`.

use std::ops::Range;
use std::sync::Arc;

use crate::store::framed::{Framed, Framer};
use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::place::Place;
use crate::store::local::reader::{blocking, read};
use crate::store::local::shared::Shared;
use crate::store::local::table::Damage;
use crate::store::local::table::chunks::{CHUNKS, Packed};
use crate::store::{LogId, ReadLimit, StoreError};

/// Records of a log from `from` on, framed.
///
/// # Errors
/// See [`crate::store::Store::read`].
pub async fn read_framed(
    shared: Arc<Shared>,
    log: LogId,
    from: u64,
    limit: ReadLimit,
) -> Result<Framed, StoreError> {
    let place = {
        let state = shared.state();
        let extent = state.extent(log)?;
        let place = extent.map(|extent| state.place(log, &extent, from, limit));
        // Looked up before the database is read: what is rewritten meanwhile was found either way.
        place.filter(|place| state.erasing.is_empty() || state.erased(place).is_empty())
    };
    match place {
        Some(Place::Memory { chunk, .. }) if !chunk.records.is_empty() => return Ok(chunk.into()),
        Some(Place::Database { holder, offsets }) => {
            let framed = blocking(&shared, move |shared| {
                Ok(read_settled(&shared.database, holder, offsets, limit).ok())
            });
            if let Some(framed) = framed.await? {
                return Ok(framed);
            }
        }
        _ => {}
    }
    Ok(read(shared, log, from, limit).await?.into())
}

/// Settled records, within one transaction: it reads a few chunks. Some, or an error.
fn read_settled(
    database: &Database,
    log: LogId,
    offsets: Range<u64>,
    limit: ReadLimit,
) -> Result<Framed, DatabaseFailure> {
    let Range { start: from, end: until } = offsets;
    database.read(|transaction| {
        let chunks = transaction.open_table(CHUNKS)?;
        let Some(entry) = chunks.range((log.0, 0)..=(log.0, from))?.next_back() else {
            return Err(Damage("its chunk is missing").into());
        };
        let (key, mut value) = entry?;
        let mut base = key.value().1;
        let mut framer = Framer::new(limit);
        loop {
            let packed = Packed::parse(log, base, value.value())?;
            if base <= from {
                let is_last = packed.end() >= until;
                framer.reserve(if is_last { packed.bytes() } else { usize::MAX });
            }
            let goes_on = packed.frame(from, until, &mut framer);
            let next = from + framer.count();
            if !goes_on || packed.end() != next {
                break;
            }
            let Some(after) = chunks.get((log.0, next))? else { break };
            (base, value) = (next, after);
        }
        if framer.count() == 0 {
            return Err(Damage("its chunk is missing").into());
        }
        Ok(framer.finish(from))
    })
}
