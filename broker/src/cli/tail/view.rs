//! How a record is shown.

use std::io::Write;

use base64::Engine;
use longwire::{Body, Record};
use longwire_proto::kind;
use longwire_proto::wire;
use serde_json::json;

use crate::cli::clock_text::date_time;
use crate::cli::escape::{escape, escape_keeping_colours};
use crate::cli::run::{EXIT_TYPE, PARTIAL_HEADER, STREAM_HEADER, Stream, TRUE};

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Time, sender and text. Escaped on a terminal.
    Human { terminal: bool },
    /// Bodies of messages, exactly; on a terminal with control characters other than colours made visible.
    Raw { terminal: bool },
    /// One JSON object on each line.
    Json,
}

impl View {
    pub(crate) fn choose(raw: bool, json: bool, terminal: bool) -> Self {
        match (raw, json) {
            (true, _) => Self::Raw { terminal },
            (_, true) => Self::Json,
            _ => Self::Human { terminal },
        }
    }

    /// Puts what the view shows of a record behind what the buffer has.
    pub(crate) fn put(self, record: &Record, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Human { terminal } => human(record, terminal, out),
            Self::Raw { terminal } => raw(record, terminal, out),
            Self::Json => writeln!(out, "{}", to_json(record)),
        }
    }
}

fn raw(record: &Record, terminal: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    let is_piece = record.grows || record.kind == kind::DELTA;
    if (record.kind != kind::MESSAGE && !is_piece) || record.record_type == EXIT_TYPE {
        return Ok(());
    }
    if terminal {
        let text = String::from_utf8_lossy(record.bytes());
        out.write_all(escape_keeping_colours(&text).as_bytes())?;
    } else {
        out.write_all(record.bytes())?;
    }
    if !is_piece && record.headers.get(PARTIAL_HEADER).map(String::as_str) != Some(TRUE) {
        out.push(b'\n');
    }
    Ok(())
}

fn human(record: &Record, terminal: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    let stream = record.headers.get(STREAM_HEADER).map(String::as_str);
    let stream = stream.or_else(|| Stream::of_message(&record.message).map(Stream::as_str));
    let sender = match stream {
        Some(stream) => stream,
        None if record.kind == kind::SESSION => "(session)",
        None if record.kind == kind::TOMBSTONE => "(erased)",
        None if record.record_type == EXIT_TYPE => "(exit)",
        None if record.sender.device.is_empty() => record.sender.principal.as_str(),
        None => record.sender.device.as_str(),
    };
    let is_piece = record.grows || record.kind == kind::DELTA;
    let text = match &record.body {
        // That a message is whole is no news to who has read it.
        Body::Text(text) if text.is_empty() && record.close == "complete" => return Ok(()),
        Body::Text(text) if text.is_empty() && !record.close.is_empty() => format!("({})", record.close),
        // The next piece begins with the next line.
        Body::Text(text) if is_piece => text.strip_suffix('\n').unwrap_or(text).to_owned(),
        Body::Text(text) => text.clone(),
        Body::Data(_) if record.kind == kind::SESSION => session_change(record),
        Body::Data(data) => match record.content_type.as_str() {
            "" => format!("({} bytes)", data.len()),
            content_type => format!("({} bytes of {content_type})", data.len()),
        },
        Body::Ask(ask) => question(&record.id, ask),
        Body::Answer(answer) => answered(&record.reply_to, answer),
        Body::RunChange(change) => run_changed(record, change),
        Body::Reference(bytes) => format!("({bytes} bytes of {})", record.message),
        Body::Cancel(cancel) => with_reason(format!("cancels run {}", record.run), &cancel.reason),
        Body::Receipt(receipt) => {
            with_reason(format!("input {}: {}", record.reply_to, receipt.state), &receipt.reason)
        }
        Body::LeaseChange(change) => {
            with_reason(format!("agent {}: {}", change.agent, change.state), &change.reason)
        }
        Body::StateChange(change) => state_changed(change),
        _ => format!("(kind {})", record.kind),
    };
    let time = date_time(record.time_ms);
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if terminal {
            writeln!(out, "{time}  {:9}  {}", escape(sender), escape(line))?;
        } else {
            writeln!(out, "{time}  {sender:9}  {line}")?;
        }
    }
    Ok(())
}

fn with_reason(text: String, reason: &str) -> String {
    if reason.is_empty() { text } else { format!("{text}: {reason}") }
}

fn question(id: &str, ask: &wire::Ask) -> String {
    let options: Vec<_> = ask.options.iter().map(|option| option.id.as_str()).collect();
    let fields: Vec<_> = ask.fields.iter().map(|field| field.name.as_str()).collect();
    let choices = if options.is_empty() { fields.join(", ") } else { options.join(" | ") };
    let subject = if ask.subject.is_empty() { String::new() } else { format!(": {}", ask.subject) };
    format!("asks {id}: {}{subject} [{choices}]", ask.title)
}

fn answered(ask: &str, answer: &wire::Answer) -> String {
    let note = if answer.note.is_empty() { String::new() } else { format!(" ({})", answer.note) };
    let values = answer.values.iter().map(|(name, value)| match &value.value {
        Some(wire::value::Value::String(text)) => format!("{name}={text}"),
        Some(wire::value::Value::Number(number)) => format!("{name}={number}"),
        Some(wire::value::Value::Boolean(boolean)) => format!("{name}={boolean}"),
        None => format!("{name}="),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    match (answer.outcome.as_str(), answer.option.as_str()) {
        ("", "") => format!("answers {ask}: {values}{note}"),
        ("", option) => format!("answers {ask}: {option}{note}"),
        (outcome, _) => format!("{ask} is {outcome}{note}"),
    }
}

fn run_changed(record: &Record, change: &wire::RunChange) -> String {
    let run = if record.id.is_empty() { &record.run } else { &record.id };
    let mut text = format!("run {run}");
    let state = if record.id.is_empty() { change.state.as_str() } else { "started" };
    let fraction = change.fraction.map(|fraction| format!("{:.0} %", fraction * 100.0)).unwrap_or_default();
    for part in [state, change.title.as_str(), fraction.as_str(), change.note.as_str()] {
        if !part.is_empty() {
            text.push_str(": ");
            text.push_str(part);
        }
    }
    text
}

fn state_changed(change: &wire::StateChange) -> String {
    use longwire_proto::wire::state_change::Value;
    match &change.value {
        Some(Value::Text(text)) => format!("sets {}: {text}", change.key),
        Some(Value::Data(data)) => format!("sets {}: ({} bytes)", change.key, data.len()),
        None => format!("removes {}", change.key),
    }
}

/// What a change of the session itself says.
fn session_change(record: &Record) -> String {
    use longwire_proto::wire::session_change::Change;
    let change = longwire_proto::wire::SessionChange::decode(record.bytes());
    match change.ok().and_then(|change| change.change) {
        Some(Change::Meta(meta)) if meta.title.is_empty() => "described".to_owned(),
        Some(Change::Meta(meta)) => format!("described: {}", meta.title),
        Some(Change::Close(close)) if close.reason.is_empty() => "closed".to_owned(),
        Some(Change::Close(close)) => format!("closed: {}", close.reason),
        Some(Change::Erase(erase)) if erase.sender.is_empty() => format!("{} erased", offsets(&erase.ranges)),
        Some(Change::Erase(erase)) => format!("{} erased, of {}", offsets(&erase.ranges), erase.sender),
        Some(Change::Origin(origin)) if origin.imported => format!("imported from {}", origin.session),
        Some(Change::Origin(origin)) => format!("forked off {}", origin.session),
        None => "changed".to_owned(),
    }
}

fn offsets(ranges: &[longwire_proto::wire::OffsetRange]) -> String {
    match ranges.iter().map(|range| range.next.saturating_sub(range.from)).sum::<u64>() {
        1 => "1 record".to_owned(),
        records => format!("{records} records"),
    }
}

use prost::Message as _;

fn to_json(record: &Record) -> serde_json::Value {
    let mut value = json!({
        "position": record.position().to_string(),
        "epoch": record.epoch,
        "offset": record.offset,
        "time_ms": record.time_ms,
        "sender": { "principal": record.sender.principal, "device": record.sender.device },
        "kind": record.kind,
    });
    let texts = [
        ("id", &record.id),
        ("type", &record.record_type),
        ("mode", &record.mode),
        ("run", &record.run),
        ("reply_to", &record.reply_to),
        ("replaces", &record.replaces),
        ("content_type", &record.content_type),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        value[name] = json!(text);
    }
    if !record.sender.agent.is_empty() {
        value["sender"]["agent"] = json!(record.sender.agent);
        value["sender"]["generation"] = json!(record.sender.generation);
    }
    if !record.to.is_empty() {
        value["to"] = json!(record.to);
    }
    if !record.headers.is_empty() {
        value["headers"] = json!(record.headers);
    }
    match &record.body {
        Body::Text(text) => value["text"] = json!(text),
        Body::Data(data) => value["data"] = json!(base64::engine::general_purpose::STANDARD.encode(data)),
        Body::Ask(ask) => value["ask"] = json!(ask),
        Body::Answer(answer) => value["answer"] = json!(answer),
        Body::RunChange(change) => value["run_change"] = json!(change),
        Body::Reference(bytes) => value["reference"] = json!({ "bytes": bytes }),
        Body::Cancel(cancel) => value["cancel"] = json!(cancel),
        Body::Receipt(receipt) => value["receipt"] = json!(receipt),
        Body::LeaseChange(change) => value["lease_change"] = json!(change),
        Body::StateChange(change) => value["state_change"] = json!(change),
        _ => {}
    }
    if record.kind == kind::DELTA {
        value["at_byte"] = json!(record.at_byte);
    }
    if let Some(from) = record.folded_from {
        value["folded_from"] = json!(from);
    }
    let grown = [("message", &record.message), ("close", &record.close)];
    for (name, text) in grown.into_iter().filter(|(_, text)| !text.is_empty()) {
        value[name] = json!(text);
    }
    if record.grows {
        value["grows"] = json!(true);
    }
    value
}

#[cfg(test)]
mod tests {
    use longwire::Sender;

    use super::*;

    fn record(body: &[u8]) -> Record {
        let text = String::from_utf8(body.to_vec());
        Record {
            epoch: 0,
            offset: 7,
            time_ms: 0,
            sender: Sender { principal: "ada".into(), ..Default::default() },
            producer: None,
            id: String::new(),
            kind: 0,
            record_type: String::new(),
            to: Vec::new(),
            mode: String::new(),
            run: String::new(),
            reply_to: String::new(),
            replaces: String::new(),
            headers: Default::default(),
            content_type: String::new(),
            body: text.map_or_else(|_| Body::Data(body.to_vec().into()), Body::Text),
            grows: false,
            message: String::new(),
            close: String::new(),
            at_byte: 0,
            folded_from: None,
        }
    }

    fn shown(view: View, record: &Record) -> Vec<u8> {
        let mut out = Vec::new();
        view.put(record, &mut out).unwrap();
        out
    }

    #[test]
    fn raw_is_exact_and_says_nothing_of_its_own() {
        let view = View::Raw { terminal: false };
        assert_eq!(shown(view, &record(b"a\xff\x1b[2J")), b"a\xff\x1b[2J\n");
        let mut partial = record(b"no newline");
        partial.headers.insert(PARTIAL_HEADER.into(), TRUE.into());
        assert_eq!(shown(view, &partial), b"no newline");
        assert_eq!(shown(view, &Record { record_type: EXIT_TYPE.into(), ..record(b"x") }), b"");
        assert_eq!(shown(view, &Record { kind: kind::SESSION, ..record(b"x") }), b"");
    }

    #[test]
    fn pieces_of_a_stream_are_shown_line_by_line_and_are_exact_in_raw() {
        let opens = Record { id: "5f-stdout-1".into(), grows: true, ..record(b"one\ntwo\n") };
        let mut opens = Record { content_type: "text/plain".into(), ..opens };
        opens.headers.insert(STREAM_HEADER.into(), "stdout".into());
        let piece = |text: &[u8], close: &str| Record {
            kind: kind::DELTA,
            message: "5f-stdout-1".into(),
            close: close.into(),
            ..record(text)
        };
        let all = [opens, piece(b"three\n\nf", ""), piece(b"\xff\n", ""), piece(b"", "complete")];
        let together = |view| -> Vec<u8> { all.iter().flat_map(|record| shown(view, record)).collect() };
        assert_eq!(together(View::Raw { terminal: false }), b"one\ntwo\nthree\n\nf\xff\n");
        let human = String::from_utf8(together(View::Human { terminal: false })).unwrap();
        let lines: Vec<&str> = human.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        let said = |text: &str| format!("stdout     {text}");
        assert_eq!(lines, ["one", "two", "three", "", "f", "(2 bytes)"].map(said));
        let ended =
            String::from_utf8(shown(View::Human { terminal: true }, &piece(b"", "cancelled"))).unwrap();
        assert!(ended.ends_with("stdout     (cancelled)\n"), "{ended}");
    }

    #[test]
    fn a_terminal_gets_no_control_sequences() {
        let hostile = record(b"\x1b]0;owned\x07 two\nlines");
        let text = String::from_utf8(shown(View::Human { terminal: true }, &hostile)).unwrap();
        assert!(!text.contains('\x1b') && text.contains("\\x1b]0;owned\\x07"));
        assert_eq!(text.lines().count(), 2);
        let raw = shown(View::Raw { terminal: true }, &record(b"\x1b[31mred\x1b[2J"));
        assert_eq!(raw, b"\x1b[31mred\\x1b[2J\n");
    }

    #[test]
    fn json_has_place_and_body() {
        let value: serde_json::Value = serde_json::from_slice(&shown(View::Json, &record(b"hi"))).unwrap();
        assert_eq!(value["position"], "0000000000000000_0000000000000007");
        assert_eq!((&value["offset"], &value["text"]), (&json!(7), &json!("hi")));
        let value: serde_json::Value = serde_json::from_slice(&shown(View::Json, &record(b"\xff"))).unwrap();
        assert_eq!(value["data"], "/w==");
    }
}
