//! A read of one page, from the request to the frame.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::codec::{Encoding, encode_page};
use longwire_proto::error::Error;
use longwire_proto::limits::{READ_PAGE_DEFAULT, READ_PAGE_MAX};
use longwire_proto::outcome::Outcome;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire::from::From;
use longwire_proto::wire::read::Place;
use longwire_proto::{raw, wire};

use crate::filter::Filter;
use crate::hub::Hub;
use crate::log_reader::LogReader;
use crate::page::{PageReader, Unit};
use crate::read_view::ReadView;
use crate::subscription::resolve;

/// Reads one page. With `after_requests` it reflects what the session was asked before.
///
/// # Errors
/// `session_not_found`, `invalid_position`, `invalid_argument`, and those of reading.
pub(super) async fn page(
    hub: &Arc<Hub>,
    encoding: Encoding,
    session: SessionId,
    read: wire::Read,
    after_requests: bool,
) -> Result<Bytes, Error> {
    let wire::Read { request, session: _, place, limit, filter, unit, view } = read;
    let unit = Unit::parse(&unit)?;
    let view = ReadView::parse(&view)?;
    let filter = Filter::from_wire(filter)?;
    let limit = match usize::try_from(limit) {
        Ok(0) => READ_PAGE_DEFAULT,
        Ok(limit) => limit.min(READ_PAGE_MAX),
        Err(_) => READ_PAGE_MAX,
    };
    if after_requests {
        hub.flush(&session).await;
    }
    let mut reader = hub.attach(&session).await?;
    let progress = reader.loaded().await?;
    if !progress.exists() {
        return Err(Error::no_such_session());
    }
    let (wish, field) = match &place {
        None => (From::End(true), ""),
        Some(Place::After(position)) => (From::Position(position.clone()), "after"),
        Some(Place::Before(position)) => (From::Position(position.clone()), "before"),
    };
    let start = resolve(Some(&wish), &progress).map_err(|error| error.field(field))?;
    // A closed session that was read to its end still has pages.
    let outcome = if start.outcome == Outcome::Closed { Outcome::Resumed } else { start.outcome };
    let log = LogReader { store: Arc::clone(hub.store()), session: session.clone(), log: progress.log };
    let pages = PageReader { log, filter, limit, unit, view };
    let lineage = &progress.lineage;
    // A page is of one epoch: a reader makes positions of it.
    let page = match place {
        Some(Place::After(_)) => {
            let until = lineage.until(start.from).map_or(progress.end, |until| until.min(progress.end));
            pages.forwards(start.from, until).await?
        }
        _ => pages.backwards(lineage.since(start.from).max(progress.start), start.from).await?,
    };
    let epoch = lineage.epoch_at(page.next);
    let filtered = page.records.len() as u64 != page.next - page.from;
    let (offsets, records): (Vec<u64>, Vec<Bytes>) = page.records.into_iter().unzip();
    encode_page(
        encoding,
        raw::Page {
            request,
            epoch,
            start: progress.start,
            end: progress.end,
            outcome: outcome.as_str().to_owned(),
            from: page.from,
            next: page.next,
            records,
            offsets: if filtered { offsets } else { Vec::new() },
        },
    )
}
