//! `longwire store restore` and `longwire store erasures`: a new data folder of a backup.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use longwire_broker::ageing::Ageing;
use longwire_broker::clock::Clock;
use longwire_broker::hub::Hub;
use longwire_broker::life::erasures::{Erasure, collect, repeat};
use longwire_broker::store::Store;
use longwire_broker::store::local::restore::begin;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_proto::record::Sender;
use serde_json::json;

use crate::cli::EXIT_FAILURE;

/// Bytes of one line of a file of erasures: the record of one erasure has 8,192 ranges at most, of two numbers each.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// A session in which something was erased leaves memory after this time: there may be many of them.
const IDLE: Duration = Duration::from_millis(100);
/// Who the records of repeated erasures name.
const RESTORER: &str = "restore";

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The folder of the backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// The data folder to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// What was erased since, as `longwire store erasures` prints it: it is erased again
    #[arg(long, value_name = "FILE")]
    erasures: Option<PathBuf>,
}

/// Runs `store restore`.
pub(crate) async fn run(args: RestoreArgs, json: bool) -> anyhow::Result<ExitCode> {
    let RestoreArgs { backup, data, erasures } = args;
    if let Some(file) = &erasures {
        // Before anything is copied: what is wrong in line 1,000 is not found after an hour.
        each(file, |_| Ok(()))?;
    }
    let (from, to) = (backup.clone(), data.clone());
    let now_ms = Clock::start().now_ms();
    let restoring = tokio::task::spawn_blocking(move || begin(&from, &to, now_ms)).await??;
    let erased = match &erasures {
        Some(file) => erase_again(restoring.path(), file).await?,
        None => 0,
    };
    let restored = tokio::task::spawn_blocking(move || restoring.finish()).await??;
    let mut out = std::io::stdout();
    if json {
        let report = json!({
            "folder": data, "sessions": restored.sessions, "records": restored.records, "erased": erased,
            "damaged": restored.damaged,
        });
        writeln!(out, "{report}")?;
    } else {
        let (sessions, records) = (restored.sessions, restored.records);
        writeln!(out, "{}: {sessions} sessions, {records} records, {erased} erased again", data.display())?;
        if restored.damaged > 0 {
            writeln!(
                out,
                "DAMAGED   {} sessions cannot be opened, as in the backup; `longwire store check` names them",
                restored.damaged
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does something with every erasure of a file.
fn each(path: &Path, mut work: impl FnMut(Erasure) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut lines = BufReader::new(file);
    for number in 1.. {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read {shown}"))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let erasure = serde_json::from_slice(&line);
        let what = || {
            format!(
                "{shown}, line {number}: expected is {{\"session\":…,\"epoch\":…,\"ranges\":[[from,next],…]}}"
            )
        };
        work(erasure.with_context(what)?)?;
    }
    Ok(())
}

/// Erases in a folder that is not served yet, through the owners of its sessions, and answers how many records.
async fn erase_again(data: &Path, file: &Path) -> anyhow::Result<u64> {
    let store = open(data).await?;
    let hub = Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), IDLE);
    let asker = Sender { principal: RESTORER.to_owned(), ..Sender::default() };
    let (sender, mut erasures) = tokio::sync::mpsc::channel(1);
    let path = file.to_owned();
    let reading =
        tokio::task::spawn_blocking(move || each(&path, |erasure| Ok(sender.blocking_send(erasure)?)));
    let mut erased = 0;
    let mut outcome = Ok(());
    while let Some(erasure) = erasures.recv().await {
        match repeat(&hub, &asker, &erasure).await {
            Ok(records) => erased += records,
            Err(error) => {
                let what = format!("the erasure in `{}` cannot be repeated", erasure.session);
                outcome = Err(anyhow::Error::new(error).context(what));
                break;
            }
        }
    }
    drop(erasures);
    let read = reading.await?;
    hub.drain().await;
    store.shutdown().await?;
    outcome?;
    read?;
    Ok(erased)
}

async fn open(data: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let config = LocalConfig::new(data);
    Ok(Arc::new(tokio::task::spawn_blocking(move || LocalStore::open(config)).await??))
}

/// Runs `store erasures`.
pub(crate) async fn erasures(data: PathBuf) -> anyhow::Result<ExitCode> {
    let store = open(&data).await?;
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    let damaged = collect(&store, |erasure| {
        if written.is_ok() {
            written = serde_json::to_string(&erasure)
                .map_err(std::io::Error::from)
                .and_then(|line| writeln!(out, "{line}"));
        }
    })
    .await;
    store.shutdown().await?;
    written?;
    let damaged = damaged?;
    for (session, error) in &damaged {
        eprintln!("longwire: {session}: {error}; what was erased there may be missing above");
    }
    Ok(if damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}
