//! Real faults on the real binary: killed while it recovers, a disk that fails, is slow or full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use longwire_proto::codec::Encoding;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::acknowledged::Acknowledged;
use crate::support::broker::{Attempt, Broker, folder, wait_until};
use crate::support::rng::Rng;
use crate::support::wire_client::WireClient;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What gives a file its name, whatever the machine.
const RENAMES: &str = "?rename,?renameat,?renameat2";
const SESSIONS: [&str; 3] = ["faults/a", "faults/b", "faults/c"];

fn is_degraded(broker: &Broker) -> bool {
    let (status, body) = broker.get("/readyz");
    status == 503 && body.starts_with("degraded: ")
}

/// `LONGWIRE_FAULT_CYCLES` times, by default a few.
fn cycles(default: u64) -> u64 {
    std::env::var("LONGWIRE_FAULT_CYCLES").map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn kill_9_during_recovery_loses_nothing() {
    const KILLS: u64 = 4;
    let mut rng = Rng::from_env(21);
    let (_folder, data) = folder();
    let mut acknowledged = Acknowledged::default();
    let (mut early, mut late) = (0, 0);
    for _ in 0..cycles(8) {
        let started = Instant::now();
        let broker = Broker::start(&data);
        let took = started.elapsed().as_micros() as u64;
        acknowledged.check(&broker).await;
        let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
        for number in 0..20 {
            acknowledged.publish(&mut client, SESSIONS[number % SESSIONS.len()]).await;
        }
        // Right after an acknowledgement: the journal is what the next starts have to recover.
        broker.kill();
        for _ in 0..KILLS {
            let attempt = Attempt::start(&data);
            tokio::time::sleep(Duration::from_micros(rng.below(took + took / 4))).await;
            if attempt.kill() {
                late += 1;
            } else {
                early += 1;
            }
        }
    }
    acknowledged.check(&Broker::start(&data)).await;
    println!("{early} starts were killed before they were ready, {late} after");
    assert!(early > 0, "no start was killed before it was ready");
}

/// `strace` with what it injects, or nothing where it is missing; `scripts/test` says so.
fn strace(inject: &str) -> Option<Command> {
    strace_calls("fdatasync", inject)
}

/// The same for calls of these names.
fn strace_calls(calls: &str, inject: &str) -> Option<Command> {
    let there = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "strace is not installed");
        eprintln!("SKIPPED: strace is not installed");
        return None;
    }
    let mut command = Command::new("strace");
    // -D: the broker stays our child, strace becomes its grandchild.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={calls}"));
    command.arg("-e").arg(format!("inject={calls}:{inject}"));
    Some(command)
}

/// What is done one after the other are names and syncs: of each thread's, every one is once the last that the process does.
#[tokio::test]
async fn kill_9_during_the_first_start_leaves_a_folder_that_starts() {
    for calls in ["?mkdir,?mkdirat", RENAMES, "fsync", "fdatasync"] {
        let mut killed = 0;
        loop {
            let inject = format!("signal=SIGKILL:when={}", killed + 1);
            let Some(strace) = strace_calls(calls, &inject) else { return };
            let (_folder, data) = folder();
            let ready = Attempt::start_under(strace, &data).kill_when_ready();
            let mut acknowledged = Acknowledged::default();
            let broker = Broker::start(&data);
            let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
            acknowledged.publish(&mut client, SESSIONS[0]).await;
            broker.kill();
            acknowledged.check(&Broker::start(&data)).await;
            if ready {
                break;
            }
            killed += 1;
        }
        println!("{calls}: {killed} starts were killed before they were ready");
        assert!(killed > 0, "{calls}: no start was killed");
    }
}

/// In what strace wrote: the line at which the first call that names a file had ended.
fn ended(told: &str, call: &str) -> usize {
    let (at, line) = told.lines().enumerate().find(|(_, line)| line.contains(call)).unwrap_or_else(|| {
        panic!("{call} is not in\n{told}");
    });
    if !line.contains("<unfinished") {
        return at;
    }
    let thread = line.split_whitespace().next().unwrap();
    let of_thread = |line: &str| line.split_whitespace().next() == Some(thread);
    let rest = told.lines().enumerate().skip(at + 1);
    rest.clone().find(|(_, line)| of_thread(line)).map_or(usize::MAX, |(at, _)| at)
}

/// Whoever finds a name in a new folder relies on what it stands for, and on all that is without a name still.
#[tokio::test]
async fn nothing_of_a_new_folder_has_a_name_before_all_of_it_is_durable() {
    if strace("error=EIO").is_none() {
        return;
    }
    let (folder, data) = folder();
    let log = folder.path().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-y", "-e"]).arg(format!("trace=fsync,fdatasync,{RENAMES}"));
    // The database's own sync is not one of these, and would be over sooner.
    strace.args(["-e", "inject=fsync:delay_enter=50000", "-o"]).arg(&log);
    let broker = Broker::start_under(strace, &data, &[]);
    let told = fs::read_to_string(&log).unwrap();
    broker.kill();
    let opened = |path: &Path| ended(&told, &format!("<{}>", path.display()));
    let renamed = |name: &str| ended(&told, &format!("\"{}\"", data.join(name).display()));
    let named = renamed("sessions.redb.new");
    assert!(named < renamed("FORMAT.new"), "{told}");
    for path in [data.join("sessions.redb.new"), data.join("FORMAT.new"), folder.path().to_owned()] {
        assert!(opened(&path) < named, "{} is not durable before\n{told}", path.display());
    }
}

#[tokio::test]
async fn failing_syncs_delay_publishes_and_lose_nothing() {
    // Of every thread the calls from the first to the second number fail: for who writes the journal those are groups. Opening a
    // folder that there is already takes fewer.
    for (first, last) in [(8, 8), (10, 14), (15, 19)] {
        let Some(strace) = strace(&format!("error=EIO:when={first}..{last}")) else { return };
        let (_folder, data) = folder();
        assert!(Broker::start(&data).terminate());
        let broker = Broker::start_under(strace, &data, &[]);
        let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
        let mut acknowledged = Acknowledged::default();
        let failed = || broker.get("/metrics").1.contains("longwire_store_journal_failures_total");
        let mut number = 0;
        // Which thread writes a group is not known beforehand; in the end one of them comes to these calls.
        while number < 30 || !failed() {
            acknowledged.publish(&mut client, SESSIONS[number % SESSIONS.len()]).await;
            number += 1;
        }
        wait_until("ready again", || broker.get("/readyz").0 == 200);
        acknowledged.check(&broker).await;
        broker.kill();
        acknowledged.check(&Broker::start(&data)).await;
    }
}

#[tokio::test]
async fn a_disk_that_fails_for_good_degrades_and_loses_nothing() {
    let Some(strace) = strace("error=EIO:when=10+") else { return };
    let (_folder, data) = folder();
    assert!(Broker::start(&data).terminate());
    let broker = Broker::start_under(strace, &data, &[]);
    let mut acknowledged = Acknowledged::default();
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    // Each on a connection of its own: the one that meets the fault waits for as long as the disk fails.
    let session = SESSIONS[0];
    while !is_degraded(&broker) {
        let value = acknowledged.value();
        let frame = tokio::time::timeout(Duration::from_secs(2), client.publish(session, &[&value])).await;
        match frame {
            Ok(ServerFrame::Published(ack)) => acknowledged.note(session, ack.from, value),
            Ok(ServerFrame::Refused(_)) | Err(_) => {
                client = WireClient::connect(broker.address(), Encoding::Proto).await;
            }
            Ok(other) => panic!("{other:?}"),
        }
    }
    // Another session: its publish is refused at once, as something to be tried again.
    let mut other = WireClient::connect(broker.address(), Encoding::Proto).await;
    let refused = match other.publish(SESSIONS[1], &["refused"]).await {
        ServerFrame::Refused(refused) => refused.error.unwrap(),
        frame => panic!("{frame:?} came instead of a refusal"),
    };
    assert!(refused.retryable && refused.code == "storage_unavailable", "{refused:?}");
    assert!(!acknowledged.values.is_empty(), "the disk failed before anything was acknowledged");
    acknowledged.check(&broker).await;
    broker.kill();
    let broker = Broker::start(&data);
    acknowledged.check(&broker).await;
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    acknowledged.publish(&mut client, session).await;
}

#[tokio::test]
async fn slow_syncs_delay_acknowledgements_and_lose_nothing() {
    let Some(strace) = strace("delay_enter=30000") else { return };
    let (_folder, data) = folder();
    let broker = Broker::start_under(strace, &data, &[]);
    let mut acknowledged = Acknowledged::default();
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for number in 0..30 {
        acknowledged.publish(&mut client, SESSIONS[number % SESSIONS.len()]).await;
    }
    broker.kill();
    acknowledged.check(&Broker::start(&data)).await;
}

/// A name that an earlier process changed and did not make durable, before it died, must not be relied on.
#[tokio::test]
async fn the_folder_is_made_durable_at_every_start() {
    if strace("error=EIO").is_none() {
        return;
    }
    let (folder, data) = folder();
    // Everything that is to be in the folder is, so nothing else needs it synced then.
    let broker = Broker::start(&data);
    wait_until("the ballast is there", || data.join("ballast").exists());
    assert!(broker.terminate());
    let log = folder.path().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-y", "-e", "trace=fsync", "-o"]).arg(&log);
    let broker = Broker::start_under(strace, &data, &[]);
    let synced = format!("<{}>)", data.display());
    wait_until("the folder is synced", || fs::read_to_string(&log).unwrap().contains(&synced));
    broker.kill();
}

/// A small disk of its own, in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=80m", "none"]).arg(at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.into()));
        }
        eprintln!("SKIPPED: only root can mount the small disk that is to be full");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishes_until_there_is_room() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk")) else { return };
    let data = disk.0.join("data");
    let filler = disk.0.join("filler");
    let broker = Broker::start(&data);
    let mut acknowledged = Acknowledged::default();
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let padding = "y".repeat(200_000);
    for _ in 0..2 {
        let patience = Instant::now() + PATIENCE;
        let refused = 'filling: loop {
            // Whatever the broker gives up to go on is taken too.
            fill(&filler);
            for _ in 0..8 {
                let value = format!("{} {padding}", acknowledged.value());
                // One that meets the full disk waits for room; it may be in the log or not.
                let frame =
                    tokio::time::timeout(Duration::from_secs(2), client.publish(SESSIONS[0], &[&value]))
                        .await;
                match frame {
                    Ok(ServerFrame::Published(ack)) => acknowledged.note(SESSIONS[0], ack.from, value),
                    Ok(ServerFrame::Refused(refused)) => break 'filling refused.error.unwrap(),
                    Ok(other) => panic!("{other:?} came instead of an acknowledgement"),
                    Err(_) => {
                        client = WireClient::connect(broker.address(), Encoding::Proto).await;
                    }
                }
                assert!(Instant::now() < patience, "the disk does not become full");
            }
        };
        assert!(refused.retryable, "{refused:?}");
        assert!(["storage_unavailable", "overloaded"].contains(&refused.code.as_str()), "{refused:?}");
        // Reads go on.
        acknowledged.check(&broker).await;
        fs::remove_file(&filler).unwrap();
        let patience = Instant::now() + PATIENCE;
        loop {
            let value = acknowledged.value();
            match client.publish(SESSIONS[0], &[&value]).await {
                ServerFrame::Published(ack) => {
                    acknowledged.note(SESSIONS[0], ack.from, value);
                    break;
                }
                frame => assert!(Instant::now() < patience, "{frame:?} although there is room"),
            }
        }
        wait_until("ready again", || broker.get("/readyz").0 == 200);
    }
    broker.kill();
    let broker = Broker::start(&data);
    acknowledged.check(&broker).await;
    assert!(broker.terminate());
    drop(disk);
}

/// Takes every byte that is free.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for piece in [1 << 20, 4096] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
}
