//! One line of the audit log. What others wrote is cut to a length, and written so that it can be nothing but text.

use std::fmt::Write;
use std::net::SocketAddr;

use longwire_proto::error::Error;
use serde::Serialize;

use crate::auth::operation::Operation;
use crate::auth::principal::Principal;

/// Bytes of a text from outside: every name that is allowed fits.
const TEXT_BYTES_MAX: usize = 512;
/// What happened when it succeeded; else the code of its error.
const OK: &str = "ok";

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    /// Somebody came, or showed a newer token.
    Authentication,
    /// Somebody was not allowed to do something.
    Refusal,
    /// Somebody changed what is there, or who may do what.
    Management,
    /// There was no room for that many others.
    Dropped,
}

/// Something that happened. It never has a token, only the id of one.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub(super) time_ms: u64,
    event: Event,
    #[serde(skip_serializing_if = "str::is_empty")]
    outcome: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    operation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    session: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    principal: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    via: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    device: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Entry {
    fn new(event: Event, outcome: &'static str) -> Self {
        Self {
            time_ms: 0,
            event,
            outcome,
            operation: String::new(),
            session: String::new(),
            target: String::new(),
            principal: String::new(),
            kind: "",
            via: String::new(),
            issuer: String::new(),
            token_id: String::new(),
            device: String::new(),
            connection: String::new(),
            remote: None,
            count: None,
        }
    }

    fn of(event: Event, principal: &Principal, outcome: &'static str) -> Self {
        Self {
            principal: bounded(&principal.id),
            kind: principal.kind.as_str(),
            via: bounded(principal.via.as_deref().unwrap_or_default()),
            issuer: bounded(&principal.issuer),
            token_id: bounded(principal.token.as_ref().map_or("", |token| token.id())),
            device: bounded(principal.device.as_deref().unwrap_or_default()),
            ..Self::new(event, outcome)
        }
    }

    /// Somebody came, or showed a newer token on a connection.
    #[must_use]
    pub fn admitted(principal: &Principal) -> Self {
        Self::of(Event::Authentication, principal, OK)
    }

    /// Somebody came whose token is not accepted. What the token says of them is not believed, and so not told.
    #[must_use]
    pub fn not_admitted(error: &Error) -> Self {
        Self::new(Event::Authentication, error.code.as_str())
    }

    /// Somebody may not do that.
    #[must_use]
    pub fn refused(principal: &Principal, operation: Operation, session: &str, error: &Error) -> Self {
        Self {
            operation: snake(operation),
            session: bounded(session),
            ..Self::of(Event::Refusal, principal, error.code.as_str())
        }
    }

    /// Somebody managed something, or tried and failed. `session` is empty for what is about none.
    #[must_use]
    pub fn managed(
        principal: &Principal,
        operation: Operation,
        session: &str,
        outcome: Result<(), &Error>,
    ) -> Self {
        let outcome = outcome.err().map_or(OK, |error| error.code.as_str());
        Self {
            operation: snake(operation),
            session: bounded(session),
            ..Self::of(Event::Management, principal, outcome)
        }
    }

    pub(super) fn dropped(count: u64, time_ms: u64) -> Self {
        Self { time_ms, count: Some(count), ..Self::new(Event::Dropped, "") }
    }

    /// What it was done to besides a session: the id of a token, the name of a backup, the session that was forked.
    #[must_use]
    pub fn target(mut self, target: &str) -> Self {
        self.target = bounded(target);
        self
    }

    /// On which connection, by the number that the broker gave it.
    #[must_use]
    pub fn connection(mut self, number: u64) -> Self {
        self.connection = format!("c{number}");
        self
    }

    /// From where; nothing when that is not known.
    #[must_use]
    pub fn remote(mut self, remote: Option<SocketAddr>) -> Self {
        self.remote = remote;
        self
    }

    /// From which endpoint of the principal, as it says itself.
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.device = bounded(device);
        self
    }

    /// Whether it costs nothing to bring it about.
    pub(super) fn is_refusal(&self) -> bool {
        match self.event {
            Event::Authentication => self.outcome != OK,
            Event::Refusal => true,
            Event::Management | Event::Dropped => false,
        }
    }

    /// Appends it as a line. Everything outside ASCII is escaped: there are characters that steer terminals, and such that
    /// change the order of others.
    pub(super) fn write(&self, lines: &mut Vec<u8>) {
        // It has nothing that cannot be written.
        let Ok(text) = serde_json::to_string(self) else { return };
        let mut line = String::with_capacity(text.len() + 1);
        for character in text.chars() {
            if matches!(character, ' '..='~') {
                line.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing into a string does not fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
        line.push('\n');
        lines.extend_from_slice(line.as_bytes());
    }
}

/// A text from outside, cut to a length.
fn bounded(text: &str) -> String {
    match text.len() {
        ..=TEXT_BYTES_MAX => text.to_owned(),
        _ => format!("{}…", &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]),
    }
}

/// The name of an operation, such as `fork_into`.
fn snake(operation: Operation) -> String {
    let mut name = String::new();
    for character in format!("{operation:?}").chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use longwire_proto::error::ErrorCode;
    use serde_json::Value;

    use super::*;
    use crate::auth::testing::principal;

    fn line(entry: &Entry) -> (String, Value) {
        let mut lines = Vec::new();
        entry.write(&mut lines);
        let text = String::from_utf8(lines).unwrap();
        assert_eq!((text.matches('\n').count(), text.ends_with('\n'), text.is_ascii()), (1, true, true));
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn an_entry_says_who_did_what() {
        let somebody = principal(&["acme/**:manage"]);
        let error = Error::new(ErrorCode::Forbidden, "secret words of a message");
        let remote = Some("[2001:db8::1]:99".parse().unwrap());
        let entry = Entry::managed(&somebody, Operation::ForkInto, "acme/b", Err(&error))
            .target("acme/a")
            .connection(7)
            .remote(remote)
            .device("laptop");
        let (text, value) = line(&entry);
        for (name, expected) in [
            ("event", "management"),
            ("outcome", "forbidden"),
            ("operation", "fork_into"),
            ("session", "acme/b"),
            ("target", "acme/a"),
            ("principal", "alice"),
            ("kind", "human"),
            ("issuer", "longwire"),
            ("token_id", "t-1"),
            ("device", "laptop"),
            ("connection", "c7"),
            ("remote", "[2001:db8::1]:99"),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        assert!(value.get("via").is_none() && !text.contains("words"));
        let (_, value) = line(&Entry::not_admitted(&error));
        assert_eq!((&value["event"], &value["outcome"]), (&"authentication".into(), &"forbidden".into()));
        assert_eq!(line(&Entry::admitted(&somebody)).1["outcome"], "ok");
    }

    #[test]
    fn what_others_wrote_is_text_and_no_longer_than_allowed() {
        let somebody = principal(&["acme/**:read"]);
        let error = Error::new(ErrorCode::SessionNotFound, "no");
        let hostile = "a\"}\n{\"event\":\"management\u{9b}2J\u{202e}\u{2028}\u{7f}😀";
        let (text, value) = line(&Entry::refused(&somebody, Operation::Trim, hostile, &error));
        assert_eq!(value["session"], hostile);
        assert!(text.contains("\\u202e") && text.contains("\\u007f") && text.contains("\\ud83d\\ude00"));
        let long = "é".repeat(100_000);
        let (text, value) = line(&Entry::refused(&somebody, Operation::Trim, &long, &error).target(&long));
        assert!(text.len() < 8 * TEXT_BYTES_MAX + 1000);
        assert!(value["session"].as_str().unwrap().ends_with('…'));
    }

    #[test]
    fn refusals_are_what_costs_nothing() {
        let (somebody, error) = (principal(&["a:read"]), Error::new(ErrorCode::Unauthenticated, "no"));
        assert!(Entry::not_admitted(&error).is_refusal());
        assert!(Entry::refused(&somebody, Operation::Trim, "a", &error).is_refusal());
        assert!(!Entry::admitted(&somebody).is_refusal());
        assert!(!Entry::managed(&somebody, Operation::Trim, "a", Err(&error)).is_refusal());
    }
}
