//! The entries of the outbox file, as bytes.
//!
//! ```text
//! file  = magic entry*                          magic = "LWOUTBX1"
//! entry = length:u32 crc:u32 payload            crc = CRC32C of length and payload
//! payload = 1 entry:u64 slot session batch      a publish was accepted
//!         | 2 (entry:u64)*                      publishes have their answer
//!         | 3 epoch:u64 session                 the session's live entries are numbered anew, from 0, under epoch
//!         | 4 slot session                      the slot of the session's next publish
//!         | 5 act_as payload                    1, 3 or 4, of publishes in this principal's name
//! slot    = epoch:u64 sequence:u64 producer     session, producer, act_as = length:u8 text
//! ```
//! Integers are little-endian; `batch` is the rest of the payload.

use bytes::{Buf, BufMut, Bytes};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::session_id::SessionId;

use crate::lane::Lane;
use crate::machine::outbox::{Entry, Slot};

/// The first bytes of an outbox file of this version.
pub(crate) const MAGIC: &[u8; 8] = b"LWOUTBX1";
/// Bytes in front of a payload.
pub(crate) const HEAD_BYTES: usize = 8;
/// No payload is longer: a batch fits a frame, and what is in front of it fits a kilobyte.
pub(crate) const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX + 1024;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileEntry {
    Publish { entry: Entry, slot: Slot, lane: Lane, batch: Bytes },
    Done(Vec<Entry>),
    Renumber { epoch: u64, lane: Lane },
    Next { slot: Slot, lane: Lane },
}

fn put_text(buffer: &mut Vec<u8>, text: &str) {
    // Producers, session ids and principals have at most 255 bytes.
    buffer.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    buffer.put_slice(text.as_bytes());
}

fn put_slot(buffer: &mut Vec<u8>, slot: &Slot) {
    buffer.put_u64_le(slot.epoch);
    buffer.put_u64_le(slot.sequence);
    put_text(buffer, &slot.producer);
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

fn take_text(bytes: &mut Bytes) -> Option<String> {
    let length = usize::from(bytes.try_get_u8().ok()?);
    if bytes.len() < length {
        return None;
    }
    String::from_utf8(bytes.split_to(length).to_vec()).ok()
}

fn take_lane(bytes: &mut Bytes, act_as: &str) -> Option<Lane> {
    Some(Lane { session: SessionId::parse(&take_text(bytes)?).ok()?, act_as: act_as.to_owned() })
}

fn take_slot(bytes: &mut Bytes) -> Option<Slot> {
    let (epoch, sequence) = (take_u64(bytes)?, take_u64(bytes)?);
    Some(Slot { producer: take_text(bytes)?, epoch, sequence })
}

impl FileEntry {
    /// Puts the entry, head and payload, behind what the buffer has.
    pub(crate) fn put(&self, buffer: &mut Vec<u8>) {
        let head = buffer.len();
        buffer.put_bytes(0, HEAD_BYTES);
        if let Some(lane) = self.lane().filter(|lane| !lane.act_as.is_empty()) {
            buffer.put_u8(5);
            put_text(buffer, &lane.act_as);
        }
        match self {
            Self::Publish { entry, slot, lane, batch } => {
                buffer.put_u8(1);
                buffer.put_u64_le(*entry);
                put_slot(buffer, slot);
                put_text(buffer, lane.session.as_str());
                buffer.put_slice(batch);
            }
            Self::Done(entries) => {
                buffer.put_u8(2);
                entries.iter().for_each(|entry| buffer.put_u64_le(*entry));
            }
            Self::Renumber { epoch, lane } => {
                buffer.put_u8(3);
                buffer.put_u64_le(*epoch);
                put_text(buffer, lane.session.as_str());
            }
            Self::Next { slot, lane } => {
                buffer.put_u8(4);
                put_slot(buffer, slot);
                put_text(buffer, lane.session.as_str());
            }
        }
        let length = u32::try_from(buffer.len() - head - HEAD_BYTES).unwrap_or(u32::MAX).to_le_bytes();
        let crc = checksum(length, &buffer[head + HEAD_BYTES..]).to_le_bytes();
        buffer[head..head + 4].copy_from_slice(&length);
        buffer[head + 4..head + HEAD_BYTES].copy_from_slice(&crc);
    }

    fn lane(&self) -> Option<&Lane> {
        match self {
            Self::Publish { lane, .. } | Self::Renumber { lane, .. } | Self::Next { lane, .. } => Some(lane),
            Self::Done(_) => None,
        }
    }

    /// Reads a payload whose checksum was found right.
    pub(crate) fn parse(mut payload: Bytes) -> Option<Self> {
        let mut kind = payload.try_get_u8().ok()?;
        let mut act_as = String::new();
        if kind == 5 {
            act_as = take_text(&mut payload)?;
            kind = payload.try_get_u8().ok()?;
        }
        match kind {
            1 => {
                let entry = take_u64(&mut payload)?;
                let slot = take_slot(&mut payload)?;
                let lane = take_lane(&mut payload, &act_as)?;
                Some(Self::Publish { entry, slot, lane, batch: payload })
            }
            2 => {
                let mut entries = Vec::new();
                while !payload.is_empty() {
                    entries.push(take_u64(&mut payload)?);
                }
                Some(Self::Done(entries))
            }
            3 => {
                let epoch = take_u64(&mut payload)?;
                Some(Self::Renumber { epoch, lane: take_lane(&mut payload, &act_as)? })
            }
            4 => {
                let slot = take_slot(&mut payload)?;
                Some(Self::Next { slot, lane: take_lane(&mut payload, &act_as)? })
            }
            _ => None,
        }
    }
}

/// What the head of an entry says: the payload's length and its checksum.
pub(crate) fn parse_head(head: [u8; HEAD_BYTES]) -> Option<(usize, u32)> {
    let [a, b, c, d, e, f, g, h] = head;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    (length <= PAYLOAD_BYTES_MAX).then_some((length, u32::from_le_bytes([e, f, g, h])))
}

/// The checksum of a payload of this length.
pub(crate) fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}
