//! The trace that a command is a part of: its records carry what W3C Trace Context calls `traceparent`. Nothing of it is believed.

use longwire::{Publication, StartRun};

use crate::cli::escape::escape;

/// The environment variable that has it, which the command inherits as it is.
const VARIABLE: &str = "TRACEPARENT";
/// The header that carries it.
const HEADER: &str = "traceparent";
/// `version-trace-parent-flags`: digits of each part.
const DIGITS: [usize; 4] = [2, 32, 16, 2];

/// A trace, when there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace(Option<String>);

impl Trace {
    /// That of this process; one that is none is left out, and that is said.
    pub(crate) fn of_environment() -> Self {
        let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
            return Self::default();
        };
        let text = text.to_string_lossy();
        if is_traceparent(&text) {
            return Self(Some(text.into_owned()));
        }
        eprintln!(
            "longwire: {VARIABLE} is ignored: `{}` is no traceparent, such as \
             00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01; set one, or none",
            escape(&text)
        );
        Self::default()
    }

    /// A record that is a part of it.
    pub(crate) fn mark(&self, publication: Publication) -> Publication {
        match &self.0 {
            Some(trace) => publication.header(HEADER, trace),
            None => publication,
        }
    }

    /// A run that is a part of it.
    pub(crate) fn mark_run(&self, run: StartRun) -> StartRun {
        match &self.0 {
            Some(trace) => run.header(HEADER, trace),
            None => run,
        }
    }
}

/// Whether a text is the `traceparent` of version 00. A later one may have more behind it, and is not of that version.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let fits = parts.len() == DIGITS.len()
        && parts.iter().zip(DIGITS).all(|(part, digits)| part.len() == digits && is_hex(part));
    fits && parts[0] == "00" && !is_zero(parts[1]) && !is_zero(parts[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_told_from_anything_else() {
        assert!(is_traceparent(TRACE));
        assert!(is_traceparent(&TRACE.replace("-01", "-00")));
        let zeros = |digits: usize| "0".repeat(digits);
        for wrong in [
            String::new(),
            "00".to_owned(),
            TRACE.to_uppercase(),
            TRACE.replace("00-0a", "01-0a"),
            TRACE.replace("00-0a", "ff-0a"),
            TRACE.replace("0af7651916cd43dd8448eb211c80319c", &zeros(32)),
            TRACE.replace("b7ad6b7169203331", &zeros(16)),
            TRACE.replace("b7ad", "b7a"),
            TRACE.replace("b7ad", "b7ag"),
            TRACE.replace('-', "_"),
            format!("{TRACE}-"),
            format!(" {TRACE}"),
            format!("{TRACE}\n"),
        ] {
            assert!(!is_traceparent(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_marked_has_the_header_and_nothing_else() {
        let plain = || Publication::text("a").id("b");
        assert_eq!(Trace::default().mark(plain()), plain());
        assert_eq!(Trace(Some(TRACE.to_owned())).mark(plain()), plain().header("traceparent", TRACE));
    }
}
