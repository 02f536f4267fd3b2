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
use longwire_broker::life::erasures::{Gone, Repeated, collect, deletions, repeat};
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
    /// What was erased and deleted since, as `longwire store erasures` prints it: it is done again
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
    let repeated = match &erasures {
        Some(file) => repeat_all(restoring.path(), file).await?,
        None => Repeated::default(),
    };
    let Repeated { erased, deleted } = repeated;
    let restored = tokio::task::spawn_blocking(move || restoring.finish()).await??;
    let mut out = std::io::stdout();
    if json {
        let report = json!({
            "folder": data, "sessions": restored.sessions, "records": restored.records, "erased": erased,
            "deleted": deleted,
            "damaged": restored.damaged,
        });
        writeln!(out, "{report}")?;
    } else {
        let (sessions, records) = (restored.sessions, restored.records);
        writeln!(out, "{}: {sessions} sessions, {records} records", data.display())?;
        if erasures.is_some() {
            writeln!(out, "{erased} records erased again, {deleted} sessions deleted again")?;
        }
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
fn each(path: &Path, mut work: impl FnMut(Gone) -> anyhow::Result<()>) -> anyhow::Result<()> {
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
        let gone = serde_json::from_slice(&line);
        let what = || {
            format!(
                "{shown}, line {number}: expected is {{\"session\":…,\"epoch\":…,\"ranges\":[[from,next],…]}} or \
                 {{\"session\":…,\"deleted_below\":…}}"
            )
        };
        work(gone.with_context(what)?)?;
    }
    Ok(())
}

/// Erases and deletes in a folder that is not served yet, through the owners of its sessions.
async fn repeat_all(data: &Path, file: &Path) -> anyhow::Result<Repeated> {
    let store: Arc<dyn Store> = open(data).await?;
    let hub = Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), IDLE);
    let asker = Sender { principal: RESTORER.to_owned(), ..Sender::default() };
    let (sender, mut erasures) = tokio::sync::mpsc::channel(1);
    let path = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || each(&path, |gone| Ok(sender.blocking_send(gone)?)));
    let mut done = Repeated::default();
    let mut outcome = Ok(());
    while let Some(gone) = erasures.recv().await {
        match repeat(&hub, &asker, &gone).await {
            Ok(Repeated { erased, deleted }) => {
                done.erased += erased;
                done.deleted += deleted;
            }
            Err(error) => {
                let what = format!("what is gone in `{}` cannot be removed again", gone.session());
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
    Ok(done)
}

async fn open(data: &Path) -> anyhow::Result<Arc<LocalStore>> {
    let config = LocalConfig::new(data);
    Ok(Arc::new(tokio::task::spawn_blocking(move || LocalStore::open(config)).await??))
}

/// Runs `store erasures`.
pub(crate) async fn erasures(data: PathBuf) -> anyhow::Result<ExitCode> {
    let store = open(&data).await?;
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    let mut write = |gone: Gone| {
        if written.is_ok() {
            written = serde_json::to_string(&gone)
                .map_err(std::io::Error::from)
                .and_then(|line| writeln!(out, "{line}"));
        }
    };
    // First: what is deleted has nothing to be erased.
    let deleted = deletions(&store, &mut write).await;
    let reading: Arc<dyn Store> = Arc::clone(&store) as _;
    let damaged = match deleted {
        Ok(()) => collect(&reading, write).await,
        Err(error) => Err(error),
    };
    store.shutdown().await?;
    written?;
    let damaged = damaged?;
    for (session, error) in &damaged {
        eprintln!("longwire: {session}: {error}; what was erased there may be missing above");
    }
    Ok(if damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}
