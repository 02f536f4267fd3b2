//! Producers: what makes a publish idempotent.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::PRODUCER_WINDOW;
use longwire_proto::record::{PayloadHash, ProducerRef, SealedProducer};

use crate::row::{RowReader, RowWriter};

/// What the keys of the rows of producers begin with.
const KEY_TAG: &[u8] = b"producer";

/// A producer's identity: its own id within those of its principal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerKey {
    /// The principal that writes.
    pub principal: String,
    /// The id that the writer chose.
    pub id: String,
}

impl ProducerKey {
    /// The key of the producer's row in a snapshot.
    #[must_use]
    pub fn row_key(&self) -> Bytes {
        let mut key = RowWriter::default();
        key.bytes(KEY_TAG).bytes(self.principal.as_bytes()).bytes(self.id.as_bytes());
        key.finish()
    }

    /// The producer of such a key; `None` when it is another row's.
    #[must_use]
    pub fn of_row(key: &[u8]) -> Option<Self> {
        let mut key = RowReader(key);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        (key.bytes()? == KEY_TAG).then_some(())?;
        Some(Self { principal: text(key.bytes()?)?, id: text(key.bytes()?)? })
    }
}

/// One remembered publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    from: u64,
    count: u64,
    hash: PayloadHash,
}

/// The hash of a publish of which something was erased: what it was is not to be known any more, so a repetition is taken
/// for one whatever its payload.
const ERASED: PayloadHash = PayloadHash(0);

/// What is known of one producer: its epoch and its last publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    epoch: u64,
    next_sequence: u64,
    /// The last publishes, without a hole, the newest (`next_sequence - 1`) last.
    window: VecDeque<Entry>,
}

/// Whether a publish is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is: append it.
    New,
    /// It was made before, at `[from, next)`.
    Duplicate {
        /// Offset of its first record.
        from: u64,
        /// Offset after its last record.
        next: u64,
    },
}

/// Judges a publish of a producer; `known` is what is known of it.
///
/// # Errors
/// [`ErrorCode::ProducerUnknown`], [`ErrorCode::ProducerFenced`], [`ErrorCode::SequenceGap`],
/// [`ErrorCode::SequenceConflict`] or [`ErrorCode::Duplicate`].
pub fn judge(
    known: Option<&Producer>,
    publish: &ProducerRef,
    count: u64,
    hash: PayloadHash,
) -> Result<Verdict, Error> {
    let ProducerRef { id, epoch, sequence } = publish;
    let Some(producer) = known else {
        if *sequence == 0 {
            return Ok(Verdict::New);
        }
        let message = format!(
            "producer `{id}` is not known here, so its first sequence must be 0, not {sequence}; publish under a new producer id"
        );
        return Err(Error::new(ErrorCode::ProducerUnknown, message).field("producer"));
    };
    if *epoch < producer.epoch {
        let message = format!(
            "producer `{id}` has published under epoch {}; epoch {epoch} is fenced, this writer must stop",
            producer.epoch
        );
        return Err(Error::new(ErrorCode::ProducerFenced, message)
            .field("producer")
            .expected(producer.epoch));
    }
    let next = if *epoch > producer.epoch { 0 } else { producer.next_sequence };
    if *sequence == next {
        return Ok(Verdict::New);
    }
    if *sequence > next {
        let message =
            format!("sequence {sequence} of producer `{id}` skips: the next is {next}; publish in order");
        return Err(Error::new(ErrorCode::SequenceGap, message).field("producer").expected(next));
    }
    match producer.entry(*sequence) {
        Some(entry) if entry.count == count && (entry.hash == hash || entry.hash == ERASED) => {
            Ok(Verdict::Duplicate { from: entry.from, next: entry.from + entry.count })
        }
        Some(_) => {
            let message = format!(
                "sequence {sequence} of producer `{id}` was published with another payload; use a new sequence for a new payload"
            );
            Err(Error::new(ErrorCode::SequenceConflict, message).field("producer").expected(next))
        }
        None => {
            let message = format!(
                "sequence {sequence} of producer `{id}` was published before; only the last {PRODUCER_WINDOW} are answered with their offsets"
            );
            Err(Error::new(ErrorCode::Duplicate, message).field("producer").expected(next.saturating_sub(1)))
        }
    }
}

impl Producer {
    /// A producer of which nothing has been folded yet.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { epoch, next_sequence: 0, window: VecDeque::new() }
    }

    fn entry(&self, sequence: u64) -> Option<&Entry> {
        let back = self.next_sequence.checked_sub(1)?.checked_sub(sequence)?;
        let index = (self.window.len() as u64).checked_sub(1)?.checked_sub(back)?;
        self.window.get(usize::try_from(index).ok()?)
    }

    /// The offset of the last record that was folded.
    #[must_use]
    pub fn last_offset(&self) -> u64 {
        self.window.back().map_or(0, |entry| entry.from + entry.count.saturating_sub(1))
    }

    /// Takes a record over. Total: a record that [`judge`] would not have let in is believed all the same, because it is
    /// in the log.
    pub fn fold(&mut self, publish: &SealedProducer<'_>, offset: u64, record: &[u8], tombstone: bool) {
        let continues = publish.epoch == self.epoch
            && publish.sequence.checked_add(1) == Some(self.next_sequence)
            && self.window.back().is_some_and(|entry| entry.from + entry.count == offset);
        if let (true, Some(entry)) = (continues, self.window.back_mut()) {
            let known = !tombstone && entry.hash != ERASED;
            entry.hash = if known { entry.hash.with(entry.count, record) } else { ERASED };
            entry.count += 1;
            return;
        }
        if publish.epoch != self.epoch || publish.sequence != self.next_sequence {
            self.epoch = publish.epoch;
            self.window.clear();
        }
        if self.window.len() == PRODUCER_WINDOW {
            self.window.pop_front();
        }
        self.next_sequence = publish.sequence.saturating_add(1);
        let hash = if tombstone { ERASED } else { PayloadHash::default().with(0, record) };
        self.window.push_back(Entry { from: offset, count: 1, hash });
    }

    /// Forgets what the publishes that have one of these offsets were.
    pub fn erase(&mut self, range: &Range<u64>) {
        let first = self.window.partition_point(|entry| entry.from + entry.count <= range.start);
        for entry in self.window.range_mut(first..).take_while(|entry| entry.from < range.end) {
            entry.hash = ERASED;
        }
    }

    /// The producer as a row of a snapshot.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = RowWriter::default();
        row.u64(self.epoch).u64(self.next_sequence).u64(self.window.len() as u64);
        for entry in &self.window {
            row.u64(entry.from).u64(entry.count).u64(entry.hash.0);
        }
        row.finish()
    }

    /// The producer of a row; `None` when the row is not one.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let mut row = RowReader(row);
        let (epoch, next_sequence, length) = (row.u64()?, row.u64()?, row.u64()?);
        if length > PRODUCER_WINDOW as u64 || length > next_sequence {
            return None;
        }
        let entry = |_| Some(Entry { from: row.u64()?, count: row.u64()?, hash: PayloadHash(row.u64()?) });
        let window = (0..length).map(entry).collect::<Option<_>>()?;
        Some(Self { epoch, next_sequence, window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_erased_publish_was_is_not_known_any_more() {
        let sequence = |sequence| SealedProducer { id: "p", epoch: 0, sequence };
        let mut producer = Producer::new(0);
        for (offset, publish) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
            producer.fold(&sequence(publish), offset, b"payload", false);
        }
        producer.erase(&(1..3));
        let judged = |publish, count| {
            let publish = ProducerRef { id: "p".into(), epoch: 0, sequence: publish };
            judge(Some(&producer), &publish, count, PayloadHash(12345))
        };
        assert_eq!(judged(0, 2).unwrap(), Verdict::Duplicate { from: 0, next: 2 });
        assert_eq!(judged(1, 1).unwrap(), Verdict::Duplicate { from: 2, next: 3 });
        assert_eq!(judged(1, 2).unwrap_err().code, ErrorCode::SequenceConflict, "it had another length");
        assert_eq!(judged(2, 1).unwrap_err().code, ErrorCode::SequenceConflict, "it was not erased");
        // A log that is folded again has tombstones instead.
        let mut again = Producer::new(0);
        for (offset, publish, tombstone) in [(0, 0, false), (1, 0, true), (2, 1, true), (3, 2, false)] {
            again.fold(&sequence(publish), offset, b"payload", tombstone);
        }
        assert_eq!(again, producer);
    }
}
