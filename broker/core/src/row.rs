//! The bytes of snapshot rows: little-endian integers and length-prefixed byte strings.

use bytes::{Buf, BufMut, Bytes};

/// Writes a row.
#[derive(Debug, Default)]
pub struct RowWriter(Vec<u8>);

impl RowWriter {
    /// Adds an integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64_le(value);
        self
    }

    /// Adds a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u64(value.len() as u64);
        self.0.put_slice(value);
        self
    }

    /// The row.
    #[must_use]
    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Reads a row. Every method answers `None` at its end.
#[derive(Debug)]
pub struct RowReader<'a>(pub &'a [u8]);

impl<'a> RowReader<'a> {
    /// The next integer.
    pub fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    /// The next byte string.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    /// The next byte string, as text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}
