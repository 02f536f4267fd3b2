//! `longwire store`: looking after a data folder while no broker runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use longwire_broker::inspect::{Report, inspect};
use longwire_broker::projections::{Reprojected, reproject};
use longwire_broker::store::Store;
use longwire_broker::store::local::compact::compact;
use longwire_broker::store::local::rebuild::{Rebuilt, Repaired, rebuild};
use longwire_broker::store::local::stats::{Stats, stats};
use longwire_broker::store::local::{LocalConfig, LocalStore};
use serde_json::json;

use crate::cli::{EXIT_FAILURE, restore};

/// Looks after a data folder. No broker may be running on it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire store check --data longwire-data")]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Reads and verifies every record; exits with 1 when something is damaged
    #[command(after_help = "Example:\n  longwire store check --data longwire-data")]
    Check(Folder),
    /// Makes the database file small again after records were deleted
    #[command(after_help = "Example:\n  longwire store compact --data longwire-data")]
    Compact(Folder),
    /// Says what is in the folder and how much room it takes
    #[command(after_help = "Example:\n  longwire store stats --data longwire-data")]
    Stats(Folder),
    /// Makes anew what sessions are found by, from their records: rows, names, terms, changes, deadlines
    #[command(after_help = "Example:\n  longwire store rebuild --data longwire-data")]
    Rebuild(Folder),
    /// Makes a new data folder of a backup, in which every session begins a new epoch
    #[command(after_help = "Example:\n  longwire store restore backups/monday --data longwire-data")]
    Restore(restore::RestoreArgs),
    /// Says what was erased and deleted, as lines of JSON, for a restore of an older backup
    #[command(after_help = "Example:\n  longwire store erasures --data longwire-data > erasures.jsonl")]
    Erasures(Folder),
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// The data folder
    #[arg(long, value_name = "DIR", default_value = "longwire-data")]
    data: PathBuf,
}

/// Runs the command.
pub(crate) async fn run(args: StoreArgs, json: bool) -> anyhow::Result<ExitCode> {
    match args.command {
        StoreCommand::Check(folder) => check(existing(folder)?, json).await,
        StoreCommand::Compact(folder) => {
            let folder = existing(folder)?;
            let compacted = tokio::task::spawn_blocking(move || compact(&folder)).await??;
            let mut out = std::io::stdout();
            if json {
                writeln!(
                    out,
                    "{}",
                    json!({ "before_bytes": compacted.before, "after_bytes": compacted.after })
                )?;
            } else {
                writeln!(out, "{} bytes before, {} after", compacted.before, compacted.after)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Stats(folder) => {
            let folder = existing(folder)?;
            let found = tokio::task::spawn_blocking(move || stats(&folder)).await??;
            print_stats(&found, json)?;
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Rebuild(folder) => {
            let folder = existing(folder)?;
            let data = folder.clone();
            let rebuilt = tokio::task::spawn_blocking(move || rebuild(&data)).await??;
            // After that: what it mended is what sessions are opened by.
            let config = LocalConfig::new(folder);
            let store = Arc::new(tokio::task::spawn_blocking(move || LocalStore::open(config)).await??);
            let reprojected = reproject(&store).await;
            store.shutdown().await?;
            let reprojected = reprojected?;
            print_rebuilt(&rebuilt, &reprojected, json)?;
            let sound = rebuilt.damaged == 0 && reprojected.damaged.is_empty();
            Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
        }
        StoreCommand::Restore(args) => restore::run(args, json).await,
        StoreCommand::Erasures(folder) => restore::erasures(existing(folder)?).await,
    }
}

/// A broker makes a folder that is absent; whoever looks after one has mistyped it.
fn existing(folder: Folder) -> anyhow::Result<PathBuf> {
    let data = folder.data;
    anyhow::ensure!(data.is_dir(), "there is no data folder {}; name it with --data", data.display());
    let is_empty = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_none());
    anyhow::ensure!(!is_empty, "{} is empty, and no data folder; name that with --data", data.display());
    Ok(data)
}

async fn check(data: PathBuf, json: bool) -> anyhow::Result<ExitCode> {
    let config = LocalConfig::new(data);
    let store: Arc<dyn Store> =
        Arc::new(tokio::task::spawn_blocking(move || LocalStore::open(config)).await??);
    let style =
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    // Draws on stderr, and only when that is a terminal.
    let bar = ProgressBar::new_spinner().with_style(style);
    let report = inspect(Arc::clone(&store), |report| {
        bar.set_message(format!("{} sessions, {} records", report.sessions, report.records));
        bar.tick();
    })
    .await;
    bar.finish_and_clear();
    store.shutdown().await?;
    let report = report?;
    print(&report, json)?;
    Ok(if report.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

fn print(report: &Report, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    if json {
        let damages: Vec<_> = report
            .damages
            .iter()
            .map(|damage| json!({ "session": damage.session.as_str(), "offset": damage.offset, "what": damage.what }))
            .collect();
        let Report { sessions, records, bytes, longest, .. } = report;
        let report = json!({
            "sessions": sessions, "records": records, "bytes": bytes, "longest": longest, "damages": damages,
        });
        return writeln!(out, "{report}");
    }
    writeln!(out, "Sessions  {}", report.sessions)?;
    writeln!(out, "Records   {} (the longest session has {})", report.records, report.longest)?;
    writeln!(out, "Bytes     {}", report.bytes)?;
    for damage in &report.damages {
        writeln!(out, "DAMAGED   {} from offset {} on: {}", damage.session, damage.offset, damage.what)?;
    }
    if report.damages.is_empty() {
        writeln!(out, "Every record is sound.")?;
    }
    Ok(())
}

fn print_stats(stats: &Stats, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let numbers = [
        ("sessions", stats.sessions),
        ("deleted_names", stats.deleted_names),
        ("records", stats.records),
        ("record_bytes", stats.record_bytes),
        ("chunks", stats.chunks),
        ("rows", stats.rows),
        ("damaged", stats.damaged),
        ("removing", stats.removing),
        ("database_bytes", stats.database_bytes),
        ("free_bytes", stats.free_bytes),
        ("segments", stats.segments),
        ("journal_bytes", stats.journal_bytes),
        ("unsettled_commits", stats.unsettled_commits),
        ("settled_commit", stats.settled_commit),
        ("ballast_bytes", stats.ballast_bytes),
    ];
    if json {
        let mut report: serde_json::Map<_, _> =
            numbers.into_iter().map(|(name, number)| (name.to_owned(), number.into())).collect();
        let tables = stats.tables.iter().map(|table| {
            json!({
                "name": table.name, "entries": table.entries, "stored_bytes": table.stored_bytes,
                "page_bytes": table.page_bytes,
            })
        });
        report.insert("tables".into(), tables.collect());
        return writeln!(out, "{}", serde_json::Value::from(report));
    }
    for (name, number) in numbers {
        writeln!(out, "{:<18} {number}", name.replace('_', " "))?;
    }
    for table in &stats.tables {
        writeln!(
            out,
            "table {:<12} {} entries, {} bytes in pages of {}",
            table.name, table.entries, table.stored_bytes, table.page_bytes
        )?;
    }
    Ok(())
}

fn print_rebuilt(rebuilt: &Rebuilt, reprojected: &Reprojected, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let tables = [
        ("terms", rebuilt.terms),
        ("changes", rebuilt.changes),
        ("deadlines", rebuilt.deadlines),
        ("names", rebuilt.names),
    ];
    let damaged: Vec<u64> = rebuilt.damaged_logs.iter().map(|log| log.0).collect();
    if json {
        let mut report = serde_json::Map::new();
        report.insert("logs".into(), rebuilt.logs.into());
        for (name, Repaired { missing, superfluous }) in tables {
            report.insert(name.into(), json!({ "missing": missing, "superfluous": superfluous }));
        }
        report.insert("damaged".into(), rebuilt.damaged.into());
        report.insert("damaged_logs".into(), damaged.into());
        report.insert("remade".into(), rebuilt.remade.into());
        let damages = reprojected.damaged.iter();
        let unread: serde_json::Value = damages
            .map(|(session, error)| json!({ "session": session.as_str(), "what": error.to_string() }))
            .collect();
        report.insert(
            "projections".into(),
            json!({ "sessions": reprojected.sessions, "wrong": reprojected.wrong, "unread": unread }),
        );
        return writeln!(out, "{}", serde_json::Value::from(report));
    }
    writeln!(out, "Looked at {} sessions.", rebuilt.logs)?;
    for (name, Repaired { missing, superfluous }) in tables {
        writeln!(out, "{name:<10} {missing} were missing, {superfluous} were wrong")?;
    }
    writeln!(
        out,
        "{:<10} {} of {} were not what the records say",
        "projections", reprojected.wrong, reprojected.sessions
    )?;
    for (session, error) in &reprojected.damaged {
        writeln!(out, "DAMAGED    {session} cannot be read: {error}")?;
    }
    if rebuilt.remade {
        writeln!(out, "Keys were damaged: the tables were made again from nothing.")?;
    }
    if rebuilt.damaged > 0 {
        writeln!(
            out,
            "DAMAGED    {} sessions cannot be opened; the first have the logs {damaged:?}",
            rebuilt.damaged
        )?;
    }
    Ok(())
}
