//! The house rules. Each is a function over text, with a test that shows it failing; the tests here apply them to the
//! repository.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the repository fails")]

use std::fs;
use std::path::{Path, PathBuf};

use longwire_broker::config::Config;
use longwire_broker::memory::{Part, parts};
use longwire_proto::error::ErrorCode;
use longwire_proto::limits;
use longwire_proto::outcome::Outcome;

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/source.rs"]
mod source;

/// Folders of source; what is not below one of them is not ours to judge.
const CRATES: [&str; 6] = ["proto", "broker", "broker/core", "client-sdk", "examples", "benches"];
/// Folders that are never looked into.
const SKIPPED: [&str; 4] = ["target", "node_modules", ".git", "__pycache__"];
/// Lines of ARCHITECTURE.md: who reads it for the first time should reach its end.
const ARCHITECTURE_LINES_MAX: usize = 250;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below `folder` whose name has one of the extensions, as its path from the root and its text.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(path);
            } else if path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted)) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Rust files that are compiled into what users run.
fn product_sources() -> Vec<(String, String)> {
    let all = files(".", &["rs"]);
    let tests: Vec<String> = all.iter().flat_map(|(path, text)| source::test_modules(path, text)).collect();
    let is_test = |path: &str| {
        path.contains("/tests/")
            || tests.iter().any(|module| {
                path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            })
    };
    let ours = |path: &str| path.contains("src/") && !path.starts_with("benches/");
    all.into_iter().filter(|(path, _)| ours(path) && !is_test(path)).collect()
}

/// Fails with every violation of a rule in the files given.
#[track_caller]
fn check(files: &[(String, String)], rule: impl Fn(&str) -> Vec<String>) {
    assert!(!files.is_empty(), "the rule was applied to no file");
    let violations: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| rule(text).into_iter().map(move |violation| format!("{path}: {violation}")))
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn files_are_short() {
    check(&product_sources(), source::too_long);
}

#[test]
fn nothing_panics_for_want_of_a_value() {
    check(&product_sources(), source::panics);
}

#[test]
fn nothing_is_left_unfinished() {
    check(&files(".", &["rs", "md", "toml", "py", "proto", "yml", "sh"]), source::unfinished);
}

#[test]
fn tests_are_ignored_for_a_reason() {
    check(&files(".", &["rs"]), source::ignored_without_reason);
}

#[test]
fn imports_name_the_defining_module() {
    check(&files(".", &["rs"]), source::imports_through_root);
}

#[test]
fn core_has_no_clock_no_order_of_hashes_and_no_io() {
    check(&files("broker/core/src", &["rs"]), source::impure);
}

#[test]
fn layers_hold() {
    for name in CRATES {
        let path = format!("{name}/Cargo.toml");
        let text = read(&path);
        check(&[(path, text)], manifest::forbidden);
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for name in CRATES {
        let path = format!("{name}/Cargo.toml");
        let text = read(&path);
        check(&[(path, text)], manifest::without_lints);
    }
}

#[test]
fn documented_limits_are_the_limits() {
    let rows =
        limits::TABLE.iter().map(|(name, value)| vec![format!("`{name}`"), value.to_string()]).collect();
    check(&[("docs/protocol.md".into(), read("docs/protocol.md"))], |text| {
        docs::table_differs(text, "limits", &rows)
    });
}

#[test]
fn documented_errors_are_the_errors() {
    let row = |code: &ErrorCode| {
        let retryable = if code.retryable() { "yes" } else { "no" };
        let (http, close) = (code.http_status().to_string(), code.close_code().to_string());
        let grpc = code.grpc_status().as_str().to_owned();
        vec![format!("`{code}`"), retryable.into(), http, close, grpc]
    };
    let rows = ErrorCode::ALL.iter().map(row).collect();
    check(&[("docs/protocol.md".into(), read("docs/protocol.md"))], |text| {
        docs::table_differs(text, "errors", &rows)
    });
}

#[test]
fn documented_metrics_are_the_metrics() {
    let sources: String = product_sources().into_iter().map(|(_, text)| text).collect();
    let row = |(name, kind): (String, String)| vec![format!("`{name}`"), kind];
    let rows = docs::metrics(&sources).into_iter().map(row).collect();
    check(&[("docs/operations.md".into(), read("docs/operations.md"))], |text| {
        docs::table_differs(text, "metrics", &rows)
    });
}

#[test]
fn documented_memory_is_the_formula() {
    let row = |part: Part| vec![part.name.to_owned(), part.count.to_string(), part.bytes.to_string()];
    let rows = parts(&Config::default()).into_iter().map(row).collect();
    check(&[("docs/operations.md".into(), read("docs/operations.md"))], |text| {
        docs::table_differs(text, "memory", &rows)
    });
}

#[test]
fn documented_protocol_is_the_protocol() {
    let proto = read("proto/proto/longwire/v1/longwire.proto");
    let names: Vec<String> = Outcome::ALL.iter().map(|outcome| outcome.as_str().to_owned()).collect();
    check(&[("docs/protocol.md".into(), read("docs/protocol.md"))], |text| {
        let mut violations = docs::hash_differs(text, &proto);
        violations.extend(docs::unnamed(text, &docs::frames(&proto)));
        violations.extend(docs::unnamed(text, &names));
        violations
    });
}

#[test]
fn the_documented_conversation_is_one() {
    check(&[("docs/protocol.md".into(), read("docs/protocol.md"))], docs::transcript_errors);
}

#[test]
fn architecture_can_be_read_in_one_go() {
    check(&[("ARCHITECTURE.md".into(), read("ARCHITECTURE.md"))], |text| {
        docs::longer_than(text, ARCHITECTURE_LINES_MAX)
    });
}

#[test]
fn one_word_a_thing() {
    check(&files(".", &["md"]), docs::synonyms);
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in files(".", &["md"]) {
        let folder = root().join(&path).parent().unwrap().to_owned();
        check(&[(path, text)], |text| docs::dead_links(text, |link| folder.join(link).exists()));
    }
}
