//! A projection as the journal and the database have it: one piece of bytes, so that a log in memory costs one allocation
//! for it, and a settling sees that nothing changed by comparing bytes.
//!
//! ```text
//! deadline u8 (0 none, 1 some) · u64 · terms (u32 bytes of all, then u16 length and bytes of each) · row
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::store::batch::Projection;

const HEADER_BYTES: usize = 13;

/// See the top of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projected(Bytes);

impl Default for Projected {
    fn default() -> Self {
        Self(Bytes::from_static(&[0; HEADER_BYTES]))
    }
}

impl Projected {
    /// The bytes of a projection that was checked.
    #[must_use]
    pub fn encode(projection: &Projection) -> Self {
        let terms_bytes = projection.terms.iter().map(|term| 2 + term.len()).sum::<usize>();
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + terms_bytes + projection.row.len());
        bytes.put_u8(u8::from(projection.deadline_ms.is_some()));
        bytes.put_u64_le(projection.deadline_ms.unwrap_or(0));
        bytes.put_u32_le(terms_bytes as u32);
        for term in &projection.terms {
            bytes.put_u16_le(term.len() as u16);
            bytes.extend_from_slice(term);
        }
        bytes.extend_from_slice(&projection.row);
        Self(bytes.freeze())
    }

    /// A projection of bytes that were stored; `None` when they have another shape. Copies them: they are part of
    /// something longer, and stay in memory for as long as the log.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(HEADER_BYTES..)?;
        let mut terms = rest.get(..terms_bytes(bytes))?;
        while !terms.is_empty() {
            split_term(&mut terms)?;
        }
        (bytes[0] <= 1).then(|| Self(Bytes::copy_from_slice(bytes)))
    }

    /// All of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The session's row in the list.
    #[must_use]
    pub fn row(&self) -> Bytes {
        self.0.slice(HEADER_BYTES + terms_bytes(&self.0)..)
    }

    /// When the session's owner wants to be woken, in Unix milliseconds.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let (flag, rest) = self.0.split_first()?;
        let when = u64::from_le_bytes(*rest.first_chunk()?);
        (*flag == 1).then_some(when)
    }

    /// The terms, in order.
    pub fn terms(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.terms_section();
        std::iter::from_fn(move || split_term(&mut rest))
    }

    /// Whether every one of `terms` is there.
    #[must_use]
    pub fn has(&self, terms: &[Bytes]) -> bool {
        terms.iter().all(|wanted| self.terms().any(|term| term == wanted))
    }

    /// Whether the other one has the same terms.
    #[must_use]
    pub fn has_terms_of(&self, other: &Self) -> bool {
        self.terms_section() == other.terms_section()
    }

    fn terms_section(&self) -> &[u8] {
        &self.0[HEADER_BYTES..HEADER_BYTES + terms_bytes(&self.0)]
    }
}

fn terms_bytes(bytes: &[u8]) -> usize {
    bytes[9..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize)
}

fn split_term<'t>(rest: &mut &'t [u8]) -> Option<&'t [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (term, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = after;
    Some(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_found_and_nothing_shorter() {
        let projection = Projection {
            row: "the row".into(),
            terms: vec!["".into(), "a".into(), "bc".into()],
            deadline_ms: Some(7),
        };
        let encoded = Projected::encode(&projection);
        let found = Projected::parse(encoded.as_bytes()).unwrap();
        assert_eq!((found.row(), found.deadline_ms()), (projection.row.clone(), Some(7)));
        assert_eq!(found.terms().collect::<Vec<_>>(), [&b""[..], b"a", b"bc"]);
        assert!(found.has(&projection.terms) && found.has(&[]) && !found.has(&["b".into()]));
        assert_eq!(Projected::default(), Projected::encode(&Projection::default()));
        assert_eq!(Projected::default().deadline_ms(), None);
        let whole = encoded.as_bytes();
        for length in 0..whole.len() - projection.row.len() {
            assert_eq!(Projected::parse(&whole[..length]), None, "cut at {length}");
        }
        let mut odd = whole.to_vec();
        odd[0] = 2;
        assert_eq!(Projected::parse(&odd), None);
    }
}
