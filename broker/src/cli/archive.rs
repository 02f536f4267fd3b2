//! Archives: a session in a file, as JSON Lines or in a compact binary form. Both begin with a head, have one entry a
//! record, and end with a count and a checksum, so that a file that was cut short or changed is found out.
//!
//! JSON Lines, each line an object:
//! ```text
//! {"head":{"version":1,…}}                       an `ImportBegin` of the protocol
//! {"offset":"0","record":{…}}                    a `Record` of the protocol
//! {"end":{"records":"1","checksum":"…"}}         xxh3-64, in hexadecimal, of every byte before this line
//! ```
//! Binary, integers little-endian:
//! ```text
//! "LWEXPORT" · version u32 · entry*
//! entry    kind u8 (1 head, 2 record, 3 end) · length u32 · payload
//! head     an `ImportBegin`;  record  offset u64 · a `Record`;  end  records u64 · xxh3-64 u64 of every byte before
//! ```

use std::io::{BufRead, Read, Write};

use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::wire::{ImportBegin, Record};
use prost::Message;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// The version of both forms.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"LWEXPORT";
const HEAD: u8 = 1;
const RECORD: u8 = 2;
const END: u8 = 3;

/// How an archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// JSON Lines, for people and other programs.
    Jsonl,
    /// Compact.
    Binary,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("this is not an export of `longwire export`")]
    NotAnArchive,
    /// It was written by a later program.
    #[error("the export is of version {0}, and this program reads version {VERSION}: use a newer one")]
    Version(u32),
    /// An entry that cannot be read.
    #[error("entry {entry} of the export cannot be read: {what}")]
    Malformed {
        /// Counted from 1, the head included.
        entry: u64,
        /// What is wrong.
        what: String,
    },
    /// An offset that is not the next one.
    #[error(
        "the export goes on with offset {found} where {expected} is due: records are missing, or are there twice"
    )]
    OutOfOrder {
        /// The offset that is due.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// It has no end.
    #[error("the export was cut short: it has no end, or fewer records than its head says")]
    CutShort,
    /// Its checksum is another.
    #[error("the checksum of the export does not fit: the file was changed or damaged")]
    Checksum,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Line {
    #[serde(rename = "head")]
    Head { version: u32, session: ImportBegin },
    #[serde(rename = "record")]
    Record { offset: u64, record: Box<Record> },
    #[serde(rename = "end")]
    End { records: u64, checksum: String },
}

/// Writes an archive.
pub(crate) struct Writer<W> {
    out: W,
    form: Form,
    hash: Xxh3,
    records: u64,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    pub(crate) fn new(out: W, form: Form, head: &ImportBegin) -> std::io::Result<Self> {
        let mut writer = Self { out, form, hash: Xxh3::new(), records: 0 };
        match form {
            Form::Jsonl => writer.line(&Line::Head { version: VERSION, session: head.clone() })?,
            Form::Binary => {
                writer.put(MAGIC)?;
                writer.put(&VERSION.to_le_bytes())?;
                writer.entry(HEAD, &head.encode_to_vec())?;
            }
        }
        Ok(writer)
    }

    /// Adds a record.
    pub(crate) fn record(&mut self, offset: u64, record: Record) -> std::io::Result<()> {
        self.records += 1;
        match self.form {
            Form::Jsonl => self.line(&Line::Record { offset, record: Box::new(record) }),
            Form::Binary => {
                let mut payload = offset.to_le_bytes().to_vec();
                payload.extend(record.encode_to_vec());
                self.entry(RECORD, &payload)
            }
        }
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> std::io::Result<u64> {
        let (records, checksum) = (self.records, self.hash.digest());
        match self.form {
            Form::Jsonl => self.line(&Line::End { records, checksum: format!("{checksum:016x}") })?,
            Form::Binary => {
                self.entry(END, &[records.to_le_bytes(), checksum.to_le_bytes()].concat())?;
            }
        }
        self.out.flush()?;
        Ok(records)
    }

    fn line(&mut self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.put(&text)
    }

    fn entry(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        self.put(&[kind])?;
        self.put(&(payload.len() as u32).to_le_bytes())?;
        self.put(payload)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads an archive of either form, and checks it as far as it was read.
pub(crate) struct Reader<R> {
    input: R,
    form: Form,
    hash: Xxh3,
    head: ImportBegin,
    entry: u64,
    next: u64,
    records: u64,
}

enum Entry {
    Head(ImportBegin),
    Record(u64, Box<Record>),
    End { records: u64, checksum: u64, before: u64 },
}

impl<R: BufRead> Reader<R> {
    /// Reads the head.
    pub(crate) fn open(mut input: R) -> Result<Self, ArchiveError> {
        let form = match input.fill_buf()?.first() {
            Some(b'{') => Form::Jsonl,
            Some(b'L') => Form::Binary,
            _ => return Err(ArchiveError::NotAnArchive),
        };
        let head = ImportBegin::default();
        let mut reader = Self { input, form, hash: Xxh3::new(), head, entry: 0, next: 0, records: 0 };
        if form == Form::Binary {
            let mut start = [0; 12];
            reader.take(&mut start)?;
            let version = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
            if !start.starts_with(MAGIC) {
                return Err(ArchiveError::NotAnArchive);
            }
            if version != VERSION {
                return Err(ArchiveError::Version(version));
            }
        }
        match reader.entry()? {
            Entry::Head(head) => {
                reader.next = head.start;
                reader.head = head;
                Ok(reader)
            }
            _ => Err(ArchiveError::NotAnArchive),
        }
    }

    /// What the archive is of.
    pub(crate) fn head(&self) -> &ImportBegin {
        &self.head
    }

    /// The next record with its offset; none after the last, when everything fits.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Record)>, ArchiveError> {
        match self.entry()? {
            Entry::Head(_) => Err(self.malformed("a second head")),
            Entry::Record(offset, record) => {
                if offset != self.next {
                    return Err(ArchiveError::OutOfOrder { expected: self.next, found: offset });
                }
                self.next += 1;
                self.records += 1;
                Ok(Some((offset, *record)))
            }
            Entry::End { records, checksum, before } => {
                if checksum != before {
                    return Err(ArchiveError::Checksum);
                }
                if records != self.records || self.next != self.head.end {
                    return Err(ArchiveError::CutShort);
                }
                if !self.input.fill_buf()?.is_empty() {
                    return Err(self.malformed("something follows the end"));
                }
                Ok(None)
            }
        }
    }

    fn malformed(&self, what: &str) -> ArchiveError {
        ArchiveError::Malformed { entry: self.entry, what: what.to_owned() }
    }

    fn entry(&mut self) -> Result<Entry, ArchiveError> {
        self.entry += 1;
        let before = self.hash.digest();
        match self.form {
            Form::Jsonl => self.line(before),
            Form::Binary => self.binary(before),
        }
    }

    fn line(&mut self, before: u64) -> Result<Entry, ArchiveError> {
        let mut line = Vec::new();
        // Twice what a frame may have: JSON writes data as base64.
        let limit = 2 * FRAME_BYTES_MAX as u64;
        self.input.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(ArchiveError::CutShort);
        }
        self.hash.update(&line);
        let line: Line = serde_json::from_slice(&line).map_err(|error| match self.entry {
            1 => ArchiveError::NotAnArchive,
            _ => self.malformed(&error.to_string()),
        })?;
        match line {
            Line::Head { version, .. } if version != VERSION => Err(ArchiveError::Version(version)),
            Line::Head { session, .. } => Ok(Entry::Head(session)),
            Line::Record { offset, record } => Ok(Entry::Record(offset, record)),
            Line::End { records, checksum } => {
                let checksum = u64::from_str_radix(&checksum, 16).map_err(|_| ArchiveError::Checksum)?;
                Ok(Entry::End { records, checksum, before })
            }
        }
    }

    fn binary(&mut self, before: u64) -> Result<Entry, ArchiveError> {
        let mut start = [0; 5];
        self.take(&mut start)?;
        let length = u32::from_le_bytes([start[1], start[2], start[3], start[4]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.malformed("it is longer than a record can be"));
        }
        let mut payload = vec![0; length];
        self.take(&mut payload)?;
        let malformed = |error: prost::DecodeError| self.malformed(&error.to_string());
        match (start[0], payload.split_first_chunk::<8>()) {
            (HEAD, _) => ImportBegin::decode(payload.as_slice()).map(Entry::Head).map_err(malformed),
            (RECORD, Some((offset, record))) => {
                let record = Record::decode(record).map_err(malformed)?;
                Ok(Entry::Record(u64::from_le_bytes(*offset), Box::new(record)))
            }
            (END, Some((records, checksum))) => {
                let checksum =
                    checksum.try_into().map_err(|_| self.malformed("the end has another length"))?;
                let (records, checksum) = (u64::from_le_bytes(*records), u64::from_le_bytes(checksum));
                Ok(Entry::End { records, checksum, before })
            }
            _ => Err(self.malformed("it is of an unknown kind, or too short")),
        }
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ArchiveError::CutShort,
            _ => ArchiveError::Io(error),
        })?;
        self.hash.update(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::wire::record::Body;

    use super::*;

    fn record(offset: u64) -> Record {
        Record {
            time_ms: 5 + offset,
            headers: [("k".to_owned(), "v\n".to_owned())].into(),
            body: Some(if offset.is_multiple_of(2) {
                Body::Text("{\"a\":1}\n".into())
            } else {
                Body::Data(vec![0, 255].into())
            }),
            ..Default::default()
        }
    }

    fn written(form: Form, offsets: &[u64]) -> Vec<u8> {
        let head = ImportBegin { start: 3, end: 6, session: "a/b".into(), ..Default::default() };
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, form, &head).unwrap();
        for offset in offsets {
            writer.record(*offset, record(*offset)).unwrap();
        }
        writer.finish().unwrap();
        file
    }

    fn read(file: &[u8]) -> Result<Vec<(u64, Record)>, ArchiveError> {
        let mut reader = Reader::open(file)?;
        assert_eq!(reader.head().session, "a/b");
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn both_forms_give_back_what_was_written() {
        for form in [Form::Jsonl, Form::Binary] {
            let records = read(&written(form, &[3, 4, 5])).unwrap();
            assert_eq!(records, [3, 4, 5].map(|offset| (offset, record(offset))));
        }
    }

    #[test]
    fn holes_repetitions_and_cuts_are_found() {
        for form in [Form::Jsonl, Form::Binary] {
            let hole = read(&written(form, &[3, 5])).unwrap_err();
            assert!(matches!(hole, ArchiveError::OutOfOrder { expected: 4, found: 5 }), "{hole}");
            let twice = read(&written(form, &[3, 3, 4, 5])).unwrap_err();
            assert!(matches!(twice, ArchiveError::OutOfOrder { expected: 4, found: 3 }), "{twice}");
            assert!(matches!(read(&written(form, &[3, 4])).unwrap_err(), ArchiveError::CutShort));
            let whole = written(form, &[3, 4, 5]);
            for cut in 0..whole.len() {
                assert!(read(&whole[..cut]).is_err(), "{form:?} cut at {cut}");
            }
            let mut longer = whole.clone();
            longer.extend_from_slice(b"more");
            assert!(read(&longer).is_err());
        }
        assert!(matches!(Reader::open(&b"hello"[..]), Err(ArchiveError::NotAnArchive)));
        assert!(matches!(Reader::open(&b"{}\n"[..]), Err(ArchiveError::NotAnArchive)));
    }

    #[test]
    fn a_changed_byte_never_gives_other_records() {
        for form in [Form::Jsonl, Form::Binary] {
            let whole = written(form, &[3, 4, 5]);
            let right = read(&whole).unwrap();
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                if let Ok(records) = std::panic::catch_unwind(|| read(&changed)).unwrap_or(Ok(Vec::new())) {
                    assert!(records == right || records.is_empty(), "{form:?} at {at}");
                }
            }
        }
    }
}
