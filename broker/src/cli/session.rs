//! `longwire session`: what sessions there are, and making and ending them.

use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

use longwire::{Erased, Expiry, Position, Retention, SessionId, SessionInfo, SessionList, SessionMeta};
use serde_json::json;

use crate::cli::Context;
use crate::cli::clock_text::date_time;
use crate::cli::connect;
use crate::cli::duration_text::millis;
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

/// Whether a session takes publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Open,
    Closed,
    Working,
    InputRequired,
}

#[derive(Debug, clap::Subcommand)]
enum SessionCommand {
    /// Lists sessions in order of their ids
    #[command(after_help = "Example:\n  longwire session list acme/")]
    List {
        /// Only ids that begin with this
        #[arg(default_value = "")]
        prefix: String,
        /// Only ids that match, such as `acme/*/build` or `acme/**`
        #[arg(long, value_name = "PATTERN", default_value = "")]
        pattern: String,
        /// Only sessions with this label; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
        labels: Vec<(String, String)>,
        /// Only sessions in this state
        #[arg(long, value_enum)]
        status: Option<Status>,
        /// Only sessions that belong to this one
        #[arg(long, value_name = "ID", default_value = "")]
        parent: String,
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
        /// Keep records no longer than this, such as 90s, 12h or 30d
        #[arg(long, value_name = "TIME", value_parser = millis)]
        keep_for: Option<u64>,
        /// Keep at most this many records
        #[arg(long, value_name = "COUNT")]
        keep_records: Option<u64>,
        /// Keep at most this many bytes of records
        #[arg(long, value_name = "BYTES")]
        keep_bytes: Option<u64>,
        /// Delete the session so long after its last record
        #[arg(long, value_name = "TIME", value_parser = millis)]
        expire_after: Option<u64>,
        /// Delete the session at this time, in Unix milliseconds
        #[arg(long, value_name = "MILLIS")]
        expire_at: Option<u64>,
        /// Replace all of this when the session exists
        #[arg(long)]
        update: bool,
    },
    /// Drops the records below a position
    #[command(
        after_help = "Example:\n  longwire session trim acme/build/42 0000000000000000_0000000000000100"
    )]
    Trim {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// The position of the first record to keep
        before: Position,
    },
    /// Makes records tombstones: their content is gone for every reader, and from the disk soon after
    #[command(
        after_help = "Examples:\n  longwire session erase acme/build/42 --offsets 5,7-9\n  longwire session erase acme/build/42 --sender ada"
    )]
    Erase {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// Offsets, and ranges from first to last
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = offsets, required_unless_present = "sender")]
        offsets: Vec<Range<u64>>,
        /// Everything that this principal has published so far
        #[arg(long, value_name = "PRINCIPAL", conflicts_with = "offsets")]
        sender: Option<String>,
        /// Why; kept in the log
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Makes a session whose log begins as another one's does, without copying it
    #[command(after_help = "Example:\n  longwire session fork acme/build/42 acme/build/42-retry")]
    Fork {
        /// The session that is forked
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// The new session
        #[arg(value_parser = SessionId::parse)]
        to: SessionId,
        /// The position at which they part [default: the end]
        #[arg(long, value_name = "POSITION")]
        at: Option<Position>,
        /// A title for the new one [default: that of the old one]
        #[arg(long)]
        title: Option<String>,
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
        SessionCommand::List { prefix, pattern, labels, status, parent } => {
            let mut pages = client.sessions(&prefix).pattern(pattern).parent(parent).page_size(PAGE_SESSIONS);
            for (name, value) in labels {
                pages = pages.label(name, value);
            }
            if let Some(status) = status {
                pages = match status {
                    Status::Open => pages.closed(false),
                    Status::Closed => pages.closed(true),
                    Status::Working => pages.status("working"),
                    Status::InputRequired => pages.status("input_required"),
                };
            }
            list(pages, json).await?;
        }
        SessionCommand::Show { id } => show(&client.session(id.as_str())?.describe().await?, json)?,
        SessionCommand::Create {
            id,
            title,
            labels,
            parent,
            keep_for,
            keep_records,
            keep_bytes,
            expire_after,
            expire_at,
            update,
        } => {
            let session = client.session(id.as_str())?;
            let retention = Retention { age_ms: keep_for, bytes: keep_bytes, records: keep_records };
            let expiry = Expiry { idle_ms: expire_after, at_ms: expire_at };
            let labels = labels.into_iter().collect();
            let meta = SessionMeta { title, labels, parent, retention, expiry };
            let made =
                if update { session.create_or_update(meta).await? } else { session.create(meta).await? };
            show(&made, json)?;
        }
        SessionCommand::Close { id, reason } => {
            show(&client.session(id.as_str())?.close(&reason).await?, json)?;
        }
        SessionCommand::Trim { id, before } => {
            show(&client.session(id.as_str())?.trim(before).await?, json)?;
        }
        SessionCommand::Erase { id, offsets, sender, reason } => {
            let session = client.session(id.as_str())?;
            let erased = match sender {
                Some(sender) => session.erase_sender(&sender, &reason).await?,
                None => session.erase(&offsets, &reason).await?,
            };
            let Erased { records, gone_by_ms } = erased;
            let mut out = std::io::stdout().lock();
            if json {
                writeln!(out, "{}", json!({ "records": records, "gone_by_ms": gone_by_ms }))?;
            } else {
                let what = if records == 1 { "1 record".to_owned() } else { format!("{records} records") };
                writeln!(out, "{what} erased; the bytes are gone by {}", time(gone_by_ms))?;
            }
        }
        SessionCommand::Fork { id, to, at, title } => {
            let session = client.session(id.as_str())?;
            let meta = match title {
                Some(title) => Some(SessionMeta { title, ..session.describe().await?.meta }),
                None => None,
            };
            show(&session.fork(&to, at, meta).await?, json)?;
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
        "retention": {
            "age_ms": info.meta.retention.age_ms,
            "bytes": info.meta.retention.bytes,
            "records": info.meta.retention.records,
        },
        "expiry": { "idle_ms": info.meta.expiry.idle_ms, "at_ms": info.meta.expiry.at_ms },
    })
}

/// An offset, or a range from the first to the last.
fn offsets(text: &str) -> Result<Range<u64>, String> {
    let refuse = |_| format!("`{text}` is no offset and no range such as 7-9");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u64>().map_err(refuse)?, last.parse::<u64>().map_err(refuse)?);
    if first > last {
        return Err(format!("the range `{text}` ends before it begins"));
    }
    Ok(first..last.saturating_add(1))
}

async fn list(mut pages: SessionList, json: bool) -> anyhow::Result<()> {
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
    let Retention { age_ms, bytes, records } = info.meta.retention;
    let kept = [(age_ms, "ms"), (bytes, "bytes"), (records, "records")];
    for (most, unit) in kept.into_iter().filter_map(|(most, unit)| Some((most?, unit))) {
        writeln!(out, "Keeps        {most} {unit}")?;
    }
    if let Some(idle_ms) = info.meta.expiry.idle_ms {
        writeln!(out, "Expires      {idle_ms} ms after its last record")?;
    }
    if let Some(at_ms) = info.meta.expiry.at_ms {
        writeln!(out, "Expires      {}", time(at_ms))?;
    }
    Ok(())
}
