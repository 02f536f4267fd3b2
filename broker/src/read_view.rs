//! How a reader sees what it reads: each record, or deltas folded.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::ROLLUP_MS_MAX;
use std::time::Duration;

/// See the top of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadView {
    /// Every record, as it is in the log.
    #[default]
    Raw,
    /// Deltas of one message that follow each other are one record.
    Folded,
}

impl ReadView {
    /// The view that a text of the wire names.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" | "raw" => Ok(Self::Raw),
            "folded" => Ok(Self::Folded),
            other => {
                let message = format!("`view` is `raw` or `folded`, not `{other}`");
                Err(Error::new(ErrorCode::InvalidArgument, message).field("view"))
            }
        }
    }

    /// How long deltas are gathered for who follows.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when it is too long, or nothing is folded.
    pub fn rollup(self, ms: u32) -> Result<Duration, Error> {
        if ms as usize > ROLLUP_MS_MAX {
            let message = format!("`rollup_ms` is {ms}; at most {ROLLUP_MS_MAX} are allowed");
            return Err(Error::new(ErrorCode::InvalidArgument, message)
                .field("rollup_ms")
                .limit(ROLLUP_MS_MAX));
        }
        if ms > 0 && self != Self::Folded {
            let message = "`rollup_ms` is for the view `folded`; ask for that, or leave it out";
            return Err(Error::new(ErrorCode::InvalidArgument, message).field("rollup_ms"));
        }
        Ok(Duration::from_millis(ms.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_has_a_name_and_a_rollup_needs_one() {
        assert_eq!(ReadView::parse(""), Ok(ReadView::Raw));
        assert_eq!(ReadView::parse("raw"), Ok(ReadView::Raw));
        assert_eq!(ReadView::parse("folded"), Ok(ReadView::Folded));
        assert_eq!(ReadView::parse("Folded").unwrap_err().field, "view");
        assert_eq!(ReadView::Folded.rollup(500), Ok(Duration::from_millis(500)));
        assert_eq!(ReadView::Raw.rollup(0), Ok(Duration::ZERO));
        assert_eq!(ReadView::Raw.rollup(1).unwrap_err().field, "rollup_ms");
        assert_eq!(ReadView::Folded.rollup(501).unwrap_err().limit, 500);
    }
}
