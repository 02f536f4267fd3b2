//! Pages of a session's records, read from the store in both directions.

use std::collections::VecDeque;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::{DELIVERY_BYTES_MAX, READ_PAGE_MAX, READ_SCAN_MAX};
use longwire_proto::record::Sealed;

use crate::filter::{Filter, Passed};
use crate::fold::folded;
use crate::log_reader::LogReader;
use crate::read_view::ReadView;
use crate::store::{Chunk, ReadLimit};

/// Records read at a time, and bytes: a page looks at few records when it needs few.
const PIECE: ReadLimit = ReadLimit { records: 512, bytes: 1 << 20 };

/// The records of `[from, next)` that pass the filter, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where the range that the page covers begins.
    pub from: u64,
    /// Where it ends.
    pub next: u64,
    /// The records that pass.
    pub records: VecDeque<(u64, Bytes)>,
}

/// Reads pages of one log.
pub struct PageReader {
    /// The log.
    pub log: LogReader,
    /// Which records to show; `None` for all.
    pub filter: Option<Filter>,
    /// Units on the page, at least 1.
    pub limit: usize,
    /// What the limit counts.
    pub unit: Unit,
    /// How they are seen.
    pub view: ReadView,
}

/// What the limit of a page counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Every record that is shown.
    #[default]
    Records,
    /// Messages: a page has the records of other kinds in between as well, up to as many as a page may have.
    Messages,
}

impl Unit {
    /// The unit that a text of the wire names.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" | "records" => Ok(Self::Records),
            "messages" => Ok(Self::Messages),
            other => {
                let message = format!("`unit` is `records` or `messages`, not `{other}`");
                Err(Error::new(ErrorCode::InvalidArgument, message).field("unit"))
            }
        }
    }

    fn counts(self, record: &[u8]) -> bool {
        self == Self::Records || Sealed::parse(record).is_ok_and(|sealed| sealed.kind == kind::MESSAGE)
    }
}

/// How full a page is.
#[derive(Default)]
struct Fill {
    units: usize,
    records: usize,
    bytes: usize,
}

impl Fill {
    /// Takes a record in, unless the page is full. One record is always on a page, whatever its length.
    fn take(&mut self, reader: &PageReader, record: &[u8]) -> bool {
        let counts = reader.unit.counts(record);
        let full = self.is_full(reader) || self.records >= READ_PAGE_MAX;
        if self.records > 0 && (full || self.bytes + record.len() > DELIVERY_BYTES_MAX) {
            return false;
        }
        self.units += usize::from(counts);
        self.records += 1;
        self.bytes += record.len();
        true
    }

    /// Takes all of some records in, or none. One is always on a page.
    fn take_all(&mut self, reader: &PageReader, shown: &[(u64, Bytes)]) -> bool {
        let units = shown.iter().filter(|(_, record)| reader.unit.counts(record)).count();
        let bytes: usize = shown.iter().map(|(_, record)| record.len()).sum();
        let (units, records, bytes) = (self.units + units, self.records + shown.len(), self.bytes + bytes);
        let full = units > reader.limit || records > READ_PAGE_MAX || bytes > DELIVERY_BYTES_MAX;
        if full && records > 1 {
            return false;
        }
        *self = Self { units, records, bytes };
        true
    }

    fn is_full(&self, reader: &PageReader) -> bool {
        self.units >= reader.limit
    }
}

impl PageReader {
    /// The first records of `[from, end)`.
    ///
    /// # Errors
    /// [`ErrorCode::DataCorrupt`] or [`ErrorCode::StorageUnavailable`].
    pub async fn forwards(&self, from: u64, end: u64) -> Result<Page, Error> {
        if self.view == ReadView::Folded {
            return self.folded_forwards(from, end).await;
        }
        let mut page = Page { from, next: from, records: VecDeque::new() };
        let mut fill = Fill::default();
        while page.next < end && !fill.is_full(self) && self.may_scan(&page) {
            let piece = self.piece(page.next, end, self.step()).await?;
            let next = piece.next();
            for (offset, record) in self.passing(&piece) {
                if !fill.take(self, &record) {
                    page.next = offset;
                    return Ok(page);
                }
                page.records.push_back((offset, record));
            }
            page.next = next;
        }
        Ok(page)
    }

    /// The last records of `[start, before)`, in their order.
    ///
    /// # Errors
    /// As [`PageReader::forwards`].
    pub async fn backwards(&self, start: u64, before: u64) -> Result<Page, Error> {
        if self.view == ReadView::Folded {
            return self.folded_backwards(start, before).await;
        }
        let mut page = Page { from: before, next: before, records: VecDeque::new() };
        let mut fill = Fill::default();
        while page.from > start && !fill.is_full(self) && self.may_scan(&page) {
            let piece = self.piece_before(start, page.from, self.step()).await?;
            for (offset, record) in self.passing(&piece).rev() {
                if !fill.take(self, &record) {
                    page.from = offset + 1;
                    return Ok(page);
                }
                page.records.push_front((offset, record));
            }
            page.from = piece.from;
        }
        Ok(page)
    }

    /// [`Self::forwards`], folded. Folds of different messages overlap, so a page has all of a piece or none; one that does not fit is
    /// tried in halves.
    async fn folded_forwards(&self, from: u64, end: u64) -> Result<Page, Error> {
        let mut page = Page { from, next: from, records: VecDeque::new() };
        let (mut fill, mut step) = (Fill::default(), PIECE.records);
        while page.next < end && !fill.is_full(self) && self.may_scan(&page) {
            let piece = self.piece(page.next, end, step).await?;
            let shown = self.folded(&piece);
            if fill.take_all(self, &shown) {
                page.next = piece.next();
                page.records.extend(shown);
            } else if piece.records.len() == 1 {
                break;
            } else {
                step = piece.records.len() / 2;
            }
        }
        Ok(page)
    }

    /// [`Self::backwards`], folded, in the same way.
    async fn folded_backwards(&self, start: u64, before: u64) -> Result<Page, Error> {
        let mut page = Page { from: before, next: before, records: VecDeque::new() };
        let (mut fill, mut step) = (Fill::default(), PIECE.records);
        while page.from > start && !fill.is_full(self) && self.may_scan(&page) {
            let piece = self.piece_before(start, page.from, step).await?;
            let shown = self.folded(&piece);
            if fill.take_all(self, &shown) {
                page.from = piece.from;
                shown.into_iter().rev().for_each(|one| page.records.push_front(one));
            } else if piece.records.len() == 1 {
                break;
            } else {
                step = piece.records.len() / 2;
            }
        }
        Ok(page)
    }

    fn folded(&self, piece: &Chunk) -> Vec<(u64, Bytes)> {
        let Passed { records, offsets } = folded(piece.from, &piece.records, self.filter.as_ref());
        offsets.into_iter().zip(records).collect()
    }

    /// Without a filter every record counts, so no more than the page's are read.
    fn step(&self) -> usize {
        let all_count = self.filter.is_none() && self.unit == Unit::Records;
        if all_count { self.limit.min(PIECE.records) } else { PIECE.records }
    }

    fn may_scan(&self, page: &Page) -> bool {
        page.next - page.from < READ_SCAN_MAX as u64
    }

    /// The records from an offset on, at most so many, and as many as may be read at a time.
    async fn piece(&self, from: u64, until: u64, records: usize) -> Result<Chunk, Error> {
        let left = usize::try_from(until - from).unwrap_or(usize::MAX);
        self.log.range(from, ReadLimit { records: records.min(left), ..PIECE }).await
    }

    /// The records up to an offset, in the same way.
    async fn piece_before(&self, start: u64, before: u64, mut records: usize) -> Result<Chunk, Error> {
        loop {
            let from = before.saturating_sub(records as u64).max(start);
            let piece = self.piece(from, before, records).await?;
            if piece.next() == before {
                return Ok(piece);
            }
            // They have more bytes than are read at a time; the last of them are wanted.
            records = (records / 2).max(1);
        }
    }

    fn passing(&self, piece: &Chunk) -> impl DoubleEndedIterator<Item = (u64, Bytes)> + use<> {
        let passed = match &self.filter {
            Some(filter) => filter.apply(piece.from, &piece.records),
            None => Passed { records: piece.records.clone(), offsets: (piece.from..piece.next()).collect() },
        };
        passed.offsets.into_iter().zip(passed.records)
    }
}
