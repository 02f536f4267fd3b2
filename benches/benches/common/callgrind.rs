//! Counting instructions with valgrind: what else the machine does is not in them.

use std::path::Path;
use std::process::Command;

/// What makes a process count. The file is there when it has ended.
pub(crate) fn callgrind(out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--fair-sched=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    // One thread does the work, and one part of memory is shared by all: which one a task runs on would be chance.
    valgrind.env("TOKIO_WORKER_THREADS", "1").env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1");
    valgrind
}

/// Instructions of the whole process.
pub(crate) fn instructions(out: &Path) -> u64 {
    let text = std::fs::read_to_string(out).unwrap();
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    total.unwrap_or_else(|| panic!("{} has no total", out.display())).trim().parse().unwrap()
}
