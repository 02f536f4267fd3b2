//! Counting instructions with valgrind: what else the machine does is not in them.

use std::path::Path;
use std::process::Command;

const TUNABLES: &str = "glibc.malloc.arena_max=1:glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff";

/// What makes a process count. The file is there when it has ended.
pub(crate) fn callgrind(out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--fair-sched=yes", "--separate-threads=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    // One thread does the work, and one part of memory is shared by all: which one a task runs on would be chance. An instruction
    // that copies or fills any number of bytes counts once a byte, and not every processor has it: none is used.
    valgrind.env("TOKIO_WORKER_THREADS", "1").env("GLIBC_TUNABLES", TUNABLES);
    valgrind
}

/// Whose instructions count.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    All,
    /// Without the one that settles: how often it does depends on how long a run takes, and it makes spare files meanwhile.
    WithoutSettler,
}

/// Found in what the thread that settles has run.
const SETTLER: &str = "settler::Settler::run";

/// Instructions of a process that has ended.
pub(crate) fn instructions(out: &Path, threads: Threads) -> u64 {
    let name = format!("{}-", out.file_name().unwrap().to_str().unwrap());
    let mut total = 0;
    for entry in std::fs::read_dir(out.parent().unwrap()).unwrap().flatten() {
        if !entry.file_name().to_str().unwrap().starts_with(&name) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // Who reads the next run's must not find this one's.
        std::fs::remove_file(entry.path()).unwrap();
        if threads == Threads::All || !text.contains(SETTLER) {
            let thread = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
            total += thread.map_or(0, |thread| thread.trim().parse().unwrap());
        }
    }
    assert!(total > 0, "valgrind has counted nothing");
    total
}
