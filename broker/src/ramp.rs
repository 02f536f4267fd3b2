//! How large the next delivery to a reader may be.
//!
//! A connection may break at any time, and a delivery that has not arrived whole has to be sent again. One that is larger
//! than what connections pass would never arrive. So deliveries begin small, and each is at most as large as all before it
//! together: whatever a connection passes, about half of it or more brings its reader ahead.

use longwire_proto::limits::DELIVERY_BYTES_MAX;

/// What the first delivery may have. Together with the frames before it, it arrives in the first round trip of a new
/// connection.
const FIRST_BYTES: usize = 4 << 10;

/// What a reader was given so far, as far as that matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ramp {
    given_bytes: usize,
}

impl Ramp {
    /// Bytes of records that the next delivery may have; a single record may have more.
    pub(crate) fn bytes_max(self) -> usize {
        self.given_bytes.clamp(FIRST_BYTES, DELIVERY_BYTES_MAX)
    }

    /// The reader is given a delivery that has, or passes over, so many bytes of records.
    pub(crate) fn given(&mut self, bytes: usize) {
        self.given_bytes = self.given_bytes.saturating_add(bytes).min(DELIVERY_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_connection_passes_most_of_it_arrives_whole() {
        let mut ramp = Ramp::default();
        let mut arrived = 0;
        while ramp.bytes_max() < DELIVERY_BYTES_MAX {
            let next = ramp.bytes_max();
            assert!(next <= arrived.max(FIRST_BYTES), "{next} after {arrived}");
            ramp.given(next);
            arrived += next;
        }
        assert_eq!(arrived, DELIVERY_BYTES_MAX, "and it grows as fast as that allows");
        ramp.given(usize::MAX);
        assert_eq!(ramp.bytes_max(), DELIVERY_BYTES_MAX);
    }
}
