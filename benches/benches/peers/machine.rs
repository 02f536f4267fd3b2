//! What was measured on, and with what.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use super::row::{Measure, Row};
use super::server::installed;
use super::subject::Subject;
use super::told::Told;

/// What a server says about its version.
fn version(binary: &str) -> Option<String> {
    let said = match binary {
        "s2-lite" | "durable-streams" | "durable-streams-server" => {
            // They do not say; what installed them wrote it down.
            let list = installed(binary)?.canonicalize().ok()?.parent()?.parent()?.join(".crates.toml");
            let list = std::fs::read_to_string(list).ok()?;
            let line = list.lines().find(|line| line.starts_with('"'))?;
            line.trim_start_matches('"').split(" (").next()?.to_owned()
        }
        _ => {
            String::from_utf8(Command::new(installed(binary)?).arg("--version").output().ok()?.stdout).ok()?
        }
    };
    let words: Vec<&str> = said.split_whitespace().take_while(|word| !word.starts_with("sha=")).collect();
    Some(words.join(" "))
}

/// Versions, the kernel, the disk, and who was not there.
pub(crate) fn said(told: &Told, missing: &BTreeSet<Subject>) -> String {
    let mut binaries: Vec<&str> =
        Row::ALL.iter().flat_map(|row| row.subjects()).filter_map(|subject| subject.binary()).collect();
    binaries.sort_unstable();
    binaries.dedup();
    let versions: Vec<String> = binaries.into_iter().filter_map(version).collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "Linux {}, {cores} cores; {}",
        kernel.trim().split('-').next().unwrap_or(""),
        versions.join("; ")
    );
    if let Some(sync) = told.median(Row::One, Subject::Raw, Measure::P50) {
        write!(
            text,
            "; p50 of an append of 256 bytes and its fdatasync in this run: {}",
            Measure::P50.text(sync)
        )
        .unwrap();
    }
    text.push_str(".\n");
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|subject| subject.name()).collect();
        write!(text, "\nNot installed, and so not measured: {}.\n", names.join(", ")).unwrap();
    }
    let failures = told.failures();
    if !failures.is_empty() {
        write!(text, "\nFailed: {}.\n", failures.join(", ")).unwrap();
    }
    text
}
