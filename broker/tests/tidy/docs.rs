//! Rules over documents.

use bytes::Bytes;
use longwire_proto::codec::{Encoding, decode_client, decode_server, encode_server};
use longwire_proto::wire::server_frame::Frame;
use sha2::{Digest, Sha256};

/// Words that must not stand for one of ours, and ours.
const SYNONYMS: [(&str, &str); 6] = [
    ("topic", "session"),
    ("topics", "sessions"),
    ("channel name", "session id"),
    ("chat room", "session"),
    ("consumer group", "group"),
    ("consumer offset", "cursor"),
];

/// The rows of the table between `<!-- name -->` and `<!-- /name -->`, without its head.
fn table(text: &str, name: &str) -> Option<Vec<Vec<String>>> {
    let (_, rest) = text.split_once(&format!("<!-- {name} -->"))?;
    let (body, _) = rest.split_once(&format!("<!-- /{name} -->"))?;
    let rows = body.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let inner = line.trim_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    Some(rows.map(cells).collect())
}

/// Compares a table with `wanted`; one more column, not empty, has the meaning.
pub(crate) fn table_differs(text: &str, name: &str, wanted: &Vec<Vec<String>>) -> Vec<String> {
    let Some(rows) = table(text, name) else {
        return vec![format!("there is no table between `<!-- {name} -->` and `<!-- /{name} -->`")];
    };
    let mut violations = Vec::new();
    for row in &rows {
        if row.last().is_none_or(String::is_empty) || row.len() != wanted.first().map_or(0, Vec::len) + 1 {
            violations.push(format!("the table `{name}` has a row without a meaning: {row:?}"));
        }
    }
    let given: Vec<Vec<String>> =
        rows.into_iter().map(|mut row| row.drain(..row.len().saturating_sub(1)).collect()).collect();
    for row in wanted.iter().filter(|row| !given.contains(row)) {
        violations.push(format!("the table `{name}` lacks {row:?}"));
    }
    for row in given.iter().filter(|row| !wanted.contains(row)) {
        violations.push(format!("the table `{name}` has {row:?}, which the code has not"));
    }
    if violations.is_empty() && given != *wanted {
        violations.push(format!("the table `{name}` is in another order than in the code"));
    }
    violations
}

/// The metrics that Rust source names: name and type, sorted.
pub(crate) fn metrics(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for kind in ["counter", "gauge", "histogram"] {
        let call = format!("{kind}!(");
        let calls = source.split(&call).skip(1);
        let names = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        found.extend(names.map(|name| (name.to_owned(), kind.to_owned())));
    }
    found.sort();
    found.dedup();
    found
}

/// Compares the hash on the line `proto-sha256: …` with that of the file.
pub(crate) fn hash_differs(text: &str, proto: &str) -> Vec<String> {
    let actual: String = Sha256::digest(proto).iter().map(|byte| format!("{byte:02x}")).collect();
    let line = text.lines().find_map(|line| line.strip_prefix("proto-sha256: "));
    let given = line.and_then(|line| line.split(' ').next());
    let violation = (given != Some(actual.as_str())).then(|| {
        format!(
            "describes another `.proto`: change the text with it, then its hash to\nproto-sha256: {actual}"
        )
    });
    violation.into_iter().collect()
}

/// The frames of the `.proto`, as JSON names them.
pub(crate) fn frames(proto: &str) -> Vec<String> {
    let messages = ["message ClientFrame {", "message ServerFrame {"].into_iter();
    let bodies = messages.filter_map(|head| proto.split_once(head)?.1.split_once("\n}"));
    bodies.flat_map(|(body, _)| body.lines()).filter_map(field_name).collect()
}

/// The name of the field that a line defines, in lowerCamelCase.
fn field_name(line: &str) -> Option<String> {
    let (definition, _) = line.trim().strip_suffix(';')?.split_once(" = ")?;
    let mut camel = String::new();
    for (index, part) in definition.split(' ').next_back()?.split('_').enumerate() {
        let (first, rest) = part.split_at_checked(1)?;
        camel += &if index == 0 { first.to_owned() } else { first.to_uppercase() };
        camel += rest;
    }
    Some(camel)
}

/// Names that do not stand in backticks anywhere.
pub(crate) fn unnamed(text: &str, names: &[String]) -> Vec<String> {
    let missing = names.iter().filter(|name| !text.contains(&format!("`{name}`")));
    missing.map(|name| format!("says nothing of `{name}`")).collect()
}

/// Frames in blocks ```` ```transcript ```` that are none. A line is `C` or `B`, a space and a frame. A frame of the client may be
/// wrong only if the next line is a goodbye with its error; one of the broker must be exactly what the broker writes.
pub(crate) fn transcript_errors(text: &str) -> Vec<String> {
    let blocks = text.split("```transcript\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let lines: Vec<&str> = blocks.flat_map(|(block, _)| block.lines()).collect();
    let mut violations = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let error = match line.split_at_checked(2) {
            Some(("C ", frame)) => client_error(frame, lines.get(index + 1).copied().unwrap_or_default()),
            Some(("B ", frame)) => broker_error(frame),
            _ => Some("begins with neither `C` nor `B`".to_owned()),
        };
        violations.extend(error.map(|error| format!("{line}\n  {error}")));
    }
    if lines.is_empty() {
        violations.push("has no transcript".to_owned());
    }
    violations
}

fn client_error(frame: &str, next: &str) -> Option<String> {
    let error = decode_client(Encoding::Json, Bytes::copy_from_slice(frame.as_bytes())).err()?;
    let goodbye = format!("B {{\"goodbye\":{{\"error\":{{\"code\":\"{}\"", error.code);
    (!next.starts_with(&goodbye)).then(|| error.to_string())
}

fn broker_error(frame: &str) -> Option<String> {
    let decoded: Frame = match decode_server(Encoding::Json, Bytes::copy_from_slice(frame.as_bytes())) {
        Ok(decoded) => decoded,
        Err(error) => return Some(error.to_string()),
    };
    let written = encode_server(Encoding::Json, decoded);
    (written != frame).then(|| format!("the broker would write {}", String::from_utf8_lossy(&written)))
}

pub(crate) fn longer_than(text: &str, lines_max: usize) -> Vec<String> {
    let lines = text.lines().count();
    let violation =
        (lines >= lines_max).then(|| format!("{lines} lines; it must have fewer than {lines_max}"));
    violation.into_iter().collect()
}

/// The text without blocks and spans of code.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut out = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            out.extend(line.split('`').step_by(2));
        }
        out.push('\n');
    }
    out
}

pub(crate) fn synonyms(text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (index, line) in prose(text).lines().enumerate() {
        let spaced: String =
            line.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
        let words: Vec<&str> = spaced.split_whitespace().collect();
        for (wrong, right) in SYNONYMS {
            let parts: Vec<&str> = wrong.split(' ').collect();
            if words.windows(parts.len()).any(|window| window == parts) {
                violations.push(format!("line {}: says `{wrong}`; the word is `{right}`", index + 1));
            }
        }
    }
    violations
}

/// Links to files that are not there.
pub(crate) fn dead_links(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let files =
        targets.filter(|target| !target.contains(':')).map(|t| t.split('#').next().unwrap_or_default());
    files
        .filter(|file| !file.is_empty() && !exists(file))
        .map(|file| format!("leads to `{file}`, which is not there"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[&[&str]]) -> Vec<Vec<String>> {
        text.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn tables_that_differ_are_refused() {
        let wanted = rows(&[&["`a`", "1"], &["`b`", "2"]]);
        let differs = |body: &str| {
            let text = format!("<!-- t -->\n| name | value | meaning |\n|---|---|---|\n{body}\n<!-- /t -->");
            table_differs(&text, "t", &wanted).len()
        };
        assert_eq!(differs("| `a` | 1 | first |\n| `b` | 2 | second |"), 0);
        assert_eq!(differs("| `b` | 2 | second |\n| `a` | 1 | first |"), 1);
        assert_eq!(differs("| `a` | 1 | first |"), 1);
        assert_eq!(differs("| `a` | 1 | first |\n| `b` | 3 | second |"), 2);
        assert_eq!(differs("| `a` | 1 | first |\n| `b` | 2 | |"), 1);
        assert_eq!(table_differs("no table", "t", &wanted).len(), 1);
    }

    #[test]
    fn metrics_are_found_wherever_they_are() {
        let source = "metrics::counter!(\"b_total\", \"why\" => x).increment(1);\ngauge!(\n    \"a\").set(1.0);\ncounter!(\"b_total\")";
        let found: Vec<_> =
            metrics(source).into_iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        assert_eq!(found, ["a gauge", "b_total counter"]);
    }

    #[test]
    fn a_hash_of_another_file_is_refused() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let text = format!("Text.\nproto-sha256: {hash} path\n");
        assert_eq!(hash_differs(&text, "abc").len(), 0);
        assert_eq!(hash_differs(&text, "abd").len(), 1);
        assert_eq!(hash_differs("Text.", "abc").len(), 1);
    }

    #[test]
    fn frames_that_are_not_named_are_found() {
        let proto = "message ClientFrame {\n  oneof frame {\n    Hello hello = 1;\n    A list_sessions = 2;\n  }\n}\nmessage ServerFrame {\n  oneof frame {\n    Pong pong = 1;\n  }\n}\nmessage Hello {\n  string device = 1;\n}";
        let names = frames(proto);
        assert_eq!(names, ["hello", "listSessions", "pong"]);
        assert_eq!(unnamed("`hello`, `pong` and list_sessions", &names), ["says nothing of `listSessions`"]);
    }

    #[test]
    fn wrong_transcripts_are_refused() {
        let errors = |lines: &str| transcript_errors(&format!("A\n```transcript\n{lines}\n```\nB")).len();
        assert_eq!(errors("C {\"ping\":{\"token\":9}}\nB {\"pong\":{\"token\":\"9\"}}"), 0);
        assert_eq!(errors("C {\"ping\":{\"colour\":9}}"), 1);
        let goodbye = "B {\"goodbye\":{\"error\":{\"code\":\"unknown_field\"}}}";
        assert_eq!(errors(&format!("C {{\"ping\":{{\"colour\":9}}}}\n{goodbye}")), 0);
        assert_eq!(errors("B {\"pong\":{\"token\":9}}"), 1);
        assert_eq!(errors("B {\"published\":{\"duplicate\":false}}"), 1);
        assert_eq!(errors("A {}"), 1);
        assert_eq!(transcript_errors("nothing").len(), 1);
    }

    #[test]
    fn long_documents_are_refused() {
        assert_eq!(longer_than("a\nb\n", 3).len(), 0);
        assert_eq!(longer_than("a\nb\nc\n", 3).len(), 1);
    }

    #[test]
    fn synonyms_are_refused_in_prose_only() {
        assert_eq!(synonyms("Subscribe to a Topic, by its channel\nname.").len(), 1);
        assert_eq!(synonyms("The channel name.").len(), 1);
        assert_eq!(synonyms("A `topic` of Kafka.\n```\ntopic\n```\ntopical").len(), 0);
    }

    #[test]
    fn dead_links_are_found() {
        let text = "[a](here.md) [b](there.md#part) [c](https://example.org/x) [d](#part) `[e](f)`";
        assert_eq!(dead_links(text, |file| file == "here.md"), ["leads to `there.md`, which is not there"]);
    }
}
