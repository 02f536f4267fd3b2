//! `longwire store`: looking after a data folder while no broker runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use longwire_broker::inspect::{Report, inspect};
use longwire_broker::store::Store;
use longwire_broker::store::local::compact::compact;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use serde_json::json;

use crate::cli::EXIT_FAILURE;

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
    }
}

/// A broker makes a folder that is absent; whoever looks after one has mistyped it.
fn existing(folder: Folder) -> anyhow::Result<PathBuf> {
    let data = folder.data;
    anyhow::ensure!(data.is_dir(), "there is no data folder {}; name it with --data", data.display());
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
