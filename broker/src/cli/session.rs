//! `longwire session`: what sessions there are, and making and ending them.

use std::io::Write;
use std::process::ExitCode;

use longwire::{Client, SessionId, SessionInfo, SessionMeta};
use serde_json::json;

use crate::cli::Context;
use crate::cli::clock_text::date_time;
use crate::cli::connect;
use crate::cli::escape::escape;
use crate::cli::publish::parse_pair;

/// Sessions asked for at a time.
const PAGE_SESSIONS: u32 = 500;

/// Lists, shows, creates, closes and deletes sessions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire session list acme/")]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SessionCommand {
    /// Lists sessions in order of their ids
    #[command(after_help = "Example:\n  longwire session list acme/")]
    List {
        /// Only ids that begin with this
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Shows one session
    #[command(after_help = "Example:\n  longwire session show acme/build/42")]
    Show {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
    },
    /// Creates a session, durably
    #[command(after_help = "Example:\n  longwire session create acme/build/42 --title \"Nightly build\"")]
    Create {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// A title for humans
        #[arg(long, default_value = "")]
        title: String,
        /// A label; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
        labels: Vec<(String, String)>,
        /// The session that this one belongs to
        #[arg(long, value_name = "ID", default_value = "")]
        parent: String,
        /// Replace title, labels and parent when the session exists
        #[arg(long)]
        update: bool,
    },
    /// Closes a session: it takes no more publishes, and readers come to its end
    #[command(after_help = "Example:\n  longwire session close acme/build/42 --reason done")]
    Close {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Deletes a session and all its records, for good
    #[command(after_help = "Example:\n  longwire session delete acme/build/42")]
    Delete {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
    },
}

/// Runs the command.
pub(crate) async fn run(args: SessionArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let json = context.json;
    match args.command {
        SessionCommand::List { prefix } => list(&client, &prefix, json).await?,
        SessionCommand::Show { id } => show(&client.session(id.as_str())?.describe().await?, json)?,
        SessionCommand::Create { id, title, labels, parent, update } => {
            let session = client.session(id.as_str())?;
            let meta = SessionMeta { title, labels: labels.into_iter().collect(), parent };
            let made =
                if update { session.create_or_update(meta).await? } else { session.create(meta).await? };
            show(&made, json)?;
        }
        SessionCommand::Close { id, reason } => {
            show(&client.session(id.as_str())?.close(&reason).await?, json)?;
        }
        SessionCommand::Delete { id } => {
            client.session(id.as_str())?.delete().await?;
            let mut out = std::io::stdout().lock();
            if json {
                writeln!(out, "{}", json!({ "session": id.as_str(), "deleted": true }))?;
            } else {
                writeln!(out, "{id} is deleted")?;
            }
        }
    }
    client.close().await?;
    Ok(ExitCode::SUCCESS)
}

fn to_json(info: &SessionInfo) -> serde_json::Value {
    json!({
        "session": info.session,
        "epoch": info.epoch,
        "start": info.start,
        "end": info.end,
        "title": info.meta.title,
        "labels": info.meta.labels,
        "parent": info.meta.parent,
        "created_ms": info.created_ms,
        "last_time_ms": info.last_time_ms,
        "closed": info.closed,
    })
}

async fn list(client: &Client, prefix: &str, json: bool) -> anyhow::Result<()> {
    let mut pages = client.sessions(prefix).page_size(PAGE_SESSIONS);
    let mut headed = false;
    while let Some(page) = pages.next_page().await? {
        let mut out = std::io::stdout().lock();
        if json {
            for info in &page {
                writeln!(out, "{}", to_json(info))?;
            }
            continue;
        }
        // Columns are as wide as a page needs: the list may be longer than memory.
        let width = page.iter().map(|info| info.session.len()).max().unwrap_or(0).max("SESSION".len());
        if !headed && !page.is_empty() {
            writeln!(
                out,
                "{:width$}  {:>9}  {:6}  {:24}  TITLE",
                "SESSION", "RECORDS", "STATE", "LAST RECORD"
            )?;
            headed = true;
        }
        for info in &page {
            let state = if info.closed { "closed" } else { "open" };
            let records = info.end - info.start;
            let (last, title) = (time(info.last_time_ms), escape(&info.meta.title));
            let line = format!("{:width$}  {records:>9}  {state:6}  {last:24}  {title}", info.session);
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

fn time(time_ms: u64) -> String {
    if time_ms == 0 { "-".to_owned() } else { date_time(time_ms) }
}

fn show(info: &SessionInfo, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", to_json(info))?;
        return Ok(());
    }
    writeln!(out, "Session      {}", info.session)?;
    if !info.meta.title.is_empty() {
        writeln!(out, "Title        {}", escape(&info.meta.title))?;
    }
    writeln!(out, "State        {}", if info.closed { "closed" } else { "open" })?;
    writeln!(out, "Records      {} (offsets {} to {})", info.end - info.start, info.start, info.end)?;
    writeln!(out, "Epoch        {}", info.epoch)?;
    writeln!(out, "Created      {}", time(info.created_ms))?;
    writeln!(out, "Last record  {}", time(info.last_time_ms))?;
    if !info.meta.parent.is_empty() {
        writeln!(out, "Parent       {}", escape(&info.meta.parent))?;
    }
    for (name, value) in &info.meta.labels {
        writeln!(out, "Label        {}={}", escape(name), escape(value))?;
    }
    Ok(())
}
