//! `longwire backup`: everything that a broker has, while it serves.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Context;
use crate::cli::connect;

/// Makes the broker write a backup into its folder of backups (`serve --backups DIR`).
///
/// The backup is a data folder as it was at one moment; `longwire store restore` makes a new one of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire backup monday")]
pub(crate) struct BackupArgs {
    /// The name of the backup: A-Z a-z 0-9 _ -
    name: String,
}

/// Runs the command.
pub(crate) async fn run(args: BackupArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let backup = client.back_up(&args.name).await?;
    let mut out = std::io::stdout().lock();
    if context.json {
        let (folder, sessions) = (&backup.folder, backup.sessions);
        writeln!(
            out,
            "{}",
            json!({ "folder": folder, "sessions": sessions, "records": backup.records, "bytes": backup.bytes })
        )?;
    } else {
        let (sessions, records) = (backup.sessions, backup.records);
        writeln!(out, "{}: {sessions} sessions, {records} records, {} bytes", backup.folder, backup.bytes)?;
    }
    drop(out);
    client.close().await?;
    Ok(ExitCode::SUCCESS)
}
