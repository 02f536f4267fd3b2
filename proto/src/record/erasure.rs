//! What is left of a record that is erased.

use bytes::Bytes;

use crate::delta::put_reference;
use crate::field::{self, Fields, Value, put_bytes, put_varint};
use crate::kind;
use crate::meaning::has_meaning;

/// What is left of a body when its record is erased.
const ANSWER_OUTCOME: u32 = 1;
const RUN_PARENT: u32 = 2;
const RUN_STATE: u32 = 3;
const CANCEL_DEADLINE: u32 = 1;
const RECEIPT_STATE: u32 = 1;
const RECEIPT_RUN: u32 = 2;
const STATE_KEY: u32 = 1;
/// All but the reason.
const LEASE_CHANGE: [u32; 5] = [1, 2, 3, 4, 5];

/// What is left of a sealed record when its content is erased: the fields that say when, who and which publish, as they
/// were, and [`kind::TOMBSTONE`]. Of a record that means something to the session its ids and what it did are left, too, so that a log
/// that is folded again comes to the same. `None` for a record that is never erased: one that is a tombstone already, and a change
/// of the session itself. Of bytes that are no record nothing is left but the kind, so this is total, and the same
/// bytes give the same tombstone for ever.
#[must_use]
pub fn erased(record: &[u8]) -> Option<Bytes> {
    let (mut left, mut named, mut addressed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut was, mut grows, mut body_bytes) = (kind::MESSAGE.into(), false, 0);
    for field in Fields(record).map_while(Result::ok) {
        match (field.number, field.value) {
            (field::TIME_MS | field::SENDER | field::PRODUCER, _) => left.extend_from_slice(field.encoded),
            (field::KIND, Value::Varint(found)) => was = found,
            (
                field::ID | field::RUN | field::REPLY_TO | field::MESSAGE | field::CLOSE | field::AT_BYTE,
                _,
            ) => {
                named.extend_from_slice(field.encoded);
            }
            (field::TEXT | field::DATA, Value::Bytes(body)) => body_bytes = body.len() as u64,
            (field::TO | field::MODE, _) => addressed.extend_from_slice(field.encoded),
            (field::GROWS, Value::Varint(1..)) => {
                grows = true;
                named.extend_from_slice(field.encoded);
            }
            (field::ANSWER, Value::Bytes(answer)) => {
                keep(&mut named, field::ANSWER, answer, &[ANSWER_OUTCOME])
            }
            (field::RUN_CHANGE, Value::Bytes(change)) => {
                keep(&mut named, field::RUN_CHANGE, change, &[RUN_PARENT, RUN_STATE]);
            }
            (field::CANCEL, Value::Bytes(cancel)) => {
                keep(&mut named, field::CANCEL, cancel, &[CANCEL_DEADLINE]);
            }
            (field::RECEIPT, Value::Bytes(receipt)) => {
                keep(&mut named, field::RECEIPT, receipt, &[RECEIPT_STATE, RECEIPT_RUN]);
            }
            (field::STATE_CHANGE, Value::Bytes(change)) => {
                keep(&mut named, field::STATE_CHANGE, change, &[STATE_KEY]);
            }
            (field::LEASE_CHANGE, Value::Bytes(change)) => {
                keep(&mut named, field::LEASE_CHANGE, change, &LEASE_CHANGE);
            }
            _ => {}
        }
    }
    let Ok(was) = u32::try_from(was) else {
        put_varint(&mut left, field::KIND, kind::TOMBSTONE.into());
        return Some(left.into());
    };
    if [kind::TOMBSTONE, kind::SESSION].contains(&was) {
        return None;
    }
    if has_meaning(was, grows) {
        put_varint(&mut left, field::WAS, was.into());
        left.extend_from_slice(&named);
    }
    // What comes behind them in their message is where it was.
    if body_bytes > 0 && (was == kind::DELTA || (was == kind::MESSAGE && grows)) {
        put_reference(&mut left, body_bytes);
    }
    if was == kind::INPUT {
        left.extend_from_slice(&addressed);
    }
    put_varint(&mut left, field::KIND, kind::TOMBSTONE.into());
    Some(left.into())
}

/// Puts a message of which only some fields are kept.
fn keep(buffer: &mut Vec<u8>, number: u32, message: &[u8], fields: &[u32]) {
    let kept = Fields(message).map_while(Result::ok).filter(|field| fields.contains(&field.number));
    put_bytes(buffer, number, &kept.flat_map(|field| field.encoded).copied().collect::<Vec<u8>>());
}
