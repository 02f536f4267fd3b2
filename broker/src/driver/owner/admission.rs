//! The way of a request into the machine: room is reserved and rows are read for it, then it is decided.

use std::future::Future;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use longwire_core::command::Command;
use longwire_core::machine::RowName;
use longwire_proto::error::{Error, ErrorCode};

use crate::driver::RECORD_OVERHEAD_BYTES;
use crate::driver::inbox::Inbox;
use crate::driver::owner::{Ending, Owner};
use crate::request::{Operation, Request};
use crate::store::batch::NEW_LOG_BYTES;
use crate::store::reconcile::retry_read;
use crate::store::{LogId, Reservation, Store, StoreError};
use crate::store_error::in_session;

/// Bytes that are reserved together: a small part of what a session may have, so that it does not wait for all of them.
const PREPAID_BYTES_MAX: usize = 256 << 10;

/// A request on its way into the machine: room is being reserved and rows are being read for it.
pub(super) struct Admission {
    pub(super) request: Request,
    pub(super) prepared: Pin<Box<dyn Future<Output = Result<Prepared, StoreError>> + Send>>,
}

pub(super) struct Prepared {
    reservation: Reservation,
    rows: Vec<Row>,
}

/// The name of a row, and what the store has of it.
type Row = (RowName, Option<Bytes>);

impl Owner {
    /// Whether a command still fits into the batch that is gathering. Alone it always does: what a client may publish at
    /// once is below what the store takes at once.
    fn fits(&self, command: &Command) -> bool {
        let (bytes, records) = self.loaded.machine.gathering();
        let capabilities = self.store.capabilities();
        let added = command.records() + self.loaded.machine.follows(command);
        let adds = command.bytes() + added * RECORD_OVERHEAD_BYTES;
        records == 0
            || adds == 0
            || (bytes + adds <= capabilities.batch_bytes_max
                && records + added <= capabilities.batch_records_max)
    }

    /// Reserves room at once for the publishes that are next, when there is room. What has none then reserves some for itself. Only those
    /// that are decided without waiting for anything: what a batch has reserved it keeps until it is settled, and room for what
    /// comes later would be kept with it.
    pub(super) fn prepay(&mut self, request: &Request, inbox: &mut Inbox) {
        if self.loaded.machine.state().has_cold_producers() {
            return;
        }
        let mut bytes = 0;
        for room in iter::once(request).chain(inbox.look_ahead()).map_while(publish_room) {
            if bytes + room > PREPAID_BYTES_MAX {
                break;
            }
            bytes += room;
        }
        let missing = bytes.saturating_sub(self.prepaid_bytes);
        if missing > 0
            && let Some(reservation) =
                self.store.try_reserve(self.loaded.log, missing + self.beginning_bytes())
        {
            self.reserved.absorb(reservation);
            self.prepaid_bytes += missing;
        }
    }

    /// Bytes that are reserved beside what is published, because there is no session yet.
    fn beginning_bytes(&self) -> usize {
        if self.loaded.exists { 0 } else { NEW_LOG_BYTES }
    }

    /// Prepares a request for the machine. What needs no preparation, or is prepared at once, goes straight in.
    pub(super) fn admit(&mut self, request: Request) {
        let Request { operation, reply_to } = request;
        let command = match operation {
            Operation::Command(command) => command,
            Operation::Delete => return self.end(Ending::Delete, reply_to),
            Operation::Rename(to) => return self.end(Ending::Rename(to), reply_to),
            Operation::Begin(begin) => return self.end(Ending::Begin(begin), reply_to),
            Operation::Reload => return self.end(Ending::Reload, reply_to),
            Operation::Trim(before) => return self.trim(before, reply_to),
            Operation::Wake => return self.wake(reply_to),
            // Not admitted: it changes nothing that others see.
            Operation::Rest => return,
        };
        let bytes = room(&command);
        let names = self.loaded.machine.keys(&command);
        let erase = match &command {
            Command::Erase { ranges, .. } if self.loaded.own_from > 0 => ranges.clone(),
            _ => Vec::new(),
        };
        let is_paid = bytes == 0 || (bytes <= self.prepaid_bytes && self.fits(&command));
        let request = Request { operation: Operation::Command(command), reply_to };
        if is_paid && names.is_empty() && erase.is_empty() {
            self.prepaid_bytes -= bytes;
            return self.handle(request, Prepared { reservation: Reservation::none(), rows: Vec::new() });
        }
        let (store, log, beginning) = (Arc::clone(&self.store), self.loaded.log, self.beginning_bytes());
        let prepared = Box::pin(async move {
            if !erase.is_empty() {
                store.check_erase(log, erase).await?;
            }
            let reservation =
                if bytes == 0 { Reservation::none() } else { store.reserve(log, bytes + beginning).await? };
            Ok(Prepared { reservation, rows: rows(store, log, names).await? })
        });
        self.admission = Some(Admission { request, prepared });
    }

    pub(super) fn admitted(&mut self, prepared: Result<Prepared, StoreError>) {
        let Some(Admission { request, .. }) = self.admission.take() else { return };
        match prepared {
            Ok(prepared) => self.handle(request, prepared),
            Err(StoreError::OutOfRange(what)) => {
                let message = format!("erase them in the session that this one was forked off: {what}");
                let error = Error::new(ErrorCode::EraseElsewhere, message).field("ranges");
                request.reply_to.answer(Err(error));
            }
            Err(error) => request.reply_to.answer(Err(in_session(&self.session, &error))),
        }
    }

    pub(super) fn handle(&mut self, request: Request, prepared: Prepared) {
        let Operation::Command(command) = request.operation else { return };
        if !self.fits(&command) {
            let request = Request { operation: Operation::Command(command), reply_to: request.reply_to };
            self.parked = Some((request, prepared));
            return;
        }
        let mut names: Vec<RowName> = Vec::with_capacity(prepared.rows.len());
        for (name, row) in prepared.rows {
            self.loaded.machine.load(name.clone(), row.as_deref());
            names.push(name);
        }
        let missing = self.loaded.machine.keys(&command).into_iter().filter(|name| !names.contains(name));
        let missing: Vec<RowName> = missing.collect();
        if !missing.is_empty() {
            // They left memory while room was reserved.
            names.extend(missing);
            let request = Request { operation: Operation::Command(command), reply_to: request.reply_to };
            let rows = rows(Arc::clone(&self.store), self.loaded.log, names);
            let reservation = prepared.reservation;
            let prepared = Box::pin(async move { Ok(Prepared { reservation, rows: rows.await? }) });
            self.admission = Some(Admission { request, prepared });
            return;
        }
        self.reserved.absorb(prepared.reservation);
        self.command(command, request.reply_to);
    }
}

/// Bytes that a publish is given room for; none for any other request.
fn publish_room(request: &Request) -> Option<usize> {
    match &request.operation {
        // What means something may need rows first.
        Operation::Command(command @ Command::Publish { meant: None, .. }) => Some(room(command)),
        _ => None,
    }
}

/// Bytes that a command is given room for.
fn room(command: &Command) -> usize {
    match command.records() {
        0 => 0,
        records => command.bytes() + records * RECORD_OVERHEAD_BYTES,
    }
}

/// Reads rows that are not resident.
async fn rows(store: Arc<dyn Store>, log: LogId, names: Vec<RowName>) -> Result<Vec<Row>, StoreError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Bytes> = names.iter().map(RowName::row_key).collect();
    let found = retry_read(|| store.rows(log, keys.clone())).await?;
    Ok(names.into_iter().zip(found).collect())
}
