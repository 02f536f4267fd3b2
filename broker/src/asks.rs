//! What became of an ask: how it ended is state of the session, and what was answered is read from its log.

use std::sync::Arc;

use longwire_core::command::{Command, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::RECORD_BYTES_MAX;
use longwire_proto::resolution::Resolution;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::record::Body;
use prost::Message;

use crate::hub::Hub;
use crate::life::progress;
use crate::request::Operation;
use crate::store::ReadLimit;
use crate::store::reconcile::retry_read;

/// One record, as large as any is.
const ONE: ReadLimit = ReadLimit { records: 1, bytes: RECORD_BYTES_MAX };

/// The offset of the record that asks, and how the ask ended, unless it is open.
///
/// # Errors
/// [`ErrorCode::AskNotFound`], and those of the session.
pub(crate) async fn describe(
    hub: &Arc<Hub>,
    session: &SessionId,
    ask: String,
) -> Result<(u64, Option<Resolution>), Error> {
    match hub.ask(session, Operation::Command(Command::DescribeAsk { ask })).await? {
        Some(Reply::Ask { offset, resolved: Some(mut resolved) }) => {
            read_answer(hub, session, &mut resolved).await;
            Ok((offset, Some(*resolved)))
        }
        Some(Reply::Ask { offset, resolved: None }) => Ok((offset, None)),
        _ => Err(Error::new(ErrorCode::Internal, "the session answered something else")),
    }
}

/// Reads the answer of an ask that has ended. It stays unknown when its record was erased or trimmed, or cannot be read: how the ask
/// ended is known all the same.
pub(crate) async fn read_answer(hub: &Arc<Hub>, session: &SessionId, resolved: &mut Resolution) {
    if resolved.answer.is_some() {
        return;
    }
    let Ok(progress) = progress(hub, session).await else { return };
    if !(progress.start..progress.end).contains(&resolved.offset) {
        return;
    }
    let Ok(chunk) = retry_read(|| hub.store().read(progress.log, resolved.offset, ONE)).await else { return };
    let record = chunk.records.first().filter(|_| chunk.from == resolved.offset);
    let Some(Ok(record)) = record.map(|record| wire::Record::decode(record.clone())) else { return };
    if let Some(Body::Answer(answer)) = record.body {
        resolved.answer = Some(answer.encode_to_vec().into());
    }
}
