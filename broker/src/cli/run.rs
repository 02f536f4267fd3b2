//! `longwire run`: runs any command as an agent, and records what it says.

mod child;
mod drain;
mod ending;
mod input;
mod recorder;
mod spool;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use longwire::{Client, Session, SessionId, SessionMeta};

use crate::cli::Context;
use crate::cli::clock_text::{date, now_ms};
use crate::cli::connect::lasting_builder;
use crate::cli::page_link::page_link;
use crate::cli::run::child::NotStarted;
use crate::cli::run::drain::Drained;
use crate::cli::run::ending::Ending;
use crate::cli::run::recorder::Recorder;
use crate::cli::run::spool::SpoolDir;

/// Header that says which of the command's streams a record is a line of: `stdout` or `stderr`.
pub(crate) const STREAM_HEADER: &str = "longwire-stream";
/// Header that says that no newline follows a record's body.
pub(crate) const PARTIAL_HEADER: &str = "longwire-partial";
/// The value of a header that says yes.
pub(crate) const TRUE: &str = "true";
/// Type of the record that a command's end becomes.
pub(crate) const EXIT_TYPE: &str = "longwire.exit";
/// Header with the exit status as a shell gives it: 0 to 255, 128 + n for signal n.
pub(crate) const EXIT_STATUS_HEADER: &str = "longwire-exit-status";

/// Runs a command and records its output, line by line, in a session that can be watched from anywhere.
///
/// The command's output is shown as it comes, and `longwire run` exits as the command does. While the broker is away
/// the records wait in a file of the spool folder, and the command goes on. When the command has ended, `longwire run`
/// waits until the broker has everything; Ctrl-C then leaves the rest to the next `longwire run` with the same spool
/// folder and broker, which sends what earlier ones left.
///
/// SIGINT, SIGTERM and SIGHUP are passed on to the command (Ctrl-C in a terminal reaches it by itself). A command that
/// is not found exits with 127, one that cannot be run with 126.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longwire run -- cargo build\n  \
    longwire run acme/build/42 --title \"Nightly build\" --close -- make all\n  \
    longwire run acme/shell --stdin -- bash        # then: longwire pub acme/shell \"ls\"")]
pub(crate) struct RunArgs {
    /// The session; made up when left out
    #[arg(value_parser = SessionId::parse)]
    id: Option<SessionId>,
    /// A title for the session
    #[arg(long)]
    title: Option<String>,
    /// Give messages that others publish to the session from now on to the command's stdin, one line each
    #[arg(long)]
    stdin: bool,
    /// Close the session when the command has ended
    #[arg(long)]
    close: bool,
    /// Folder for what the broker does not have yet [default: the user's state folder]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn made_up_id() -> anyhow::Result<SessionId> {
    let random = getrandom::u32().map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(SessionId::parse(&format!("run/{}-{random:08x}", date(now_ms())))?)
}

/// Runs the command.
pub(crate) async fn run(args: RunArgs, context: Context) -> anyhow::Result<ExitCode> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => made_up_id()?,
    };
    let spool = SpoolDir::open(args.spool.clone(), &context.url)?;
    let own = spool.new_file()?;
    // Nothing is sent before the driver runs, and it does not run before the command does.
    let (client, driver) = lasting_builder(&context)?.outbox_file(&own).build()?;
    let session = client.session(id.as_str())?;
    // From here on a signal is the command's.
    let signals = child::passed_signals()?;
    let child = match child::start(&args.command, args.stdin, &context, &id) {
        Ok(child) => child,
        Err(NotStarted { message, code }) => {
            drop((client, driver));
            spool::remove(&own);
            eprintln!("longwire: {message}");
            return Ok(ExitCode::from(code));
        }
    };
    let driver = tokio::spawn(driver);
    announce(&id, &context);
    let leftovers = spool.leftovers(&context, &own);
    let title = args.title.map(|title| tokio::spawn(describe(session.clone(), title)));

    let recorder = Recorder::start(session.clone());
    let ending = child::attend(child, signals, &session, &recorder, args.stdin).await?;
    recorder.finish(&ending).await;

    let drained = drain::wait(&client, &leftovers, title).await;
    finish(&client, &session, &ending, args.close, drained).await;
    drop(client.close().await);
    drop(driver.await);
    for leftover in leftovers {
        leftover.end().await;
    }
    if drained == Drained::Whole {
        spool::remove(&own);
    }
    Ok(ExitCode::from(ending.shell_status()))
}

fn announce(id: &SessionId, context: &Context) {
    let page = page_link(&context.url, id);
    if context.json {
        eprintln!("{}", serde_json::json!({ "event": "running", "session": id.as_str(), "page": page }));
    } else {
        eprintln!("longwire: watch with `longwire tail {id} --from start`");
        eprintln!("longwire: or in a browser: {page}");
    }
}

async fn describe(session: Session, title: String) {
    if let Err(error) = session.create_or_update(SessionMeta::titled(title)).await {
        eprintln!("longwire: the title was not set: {error}");
    }
}

async fn finish(client: &Client, session: &Session, ending: &Ending, close: bool, drained: Drained) {
    let status = client.outbox().borrow().clone();
    if let Some(error) = status.last_error.filter(|_| status.refused > 0) {
        eprintln!("longwire: {} publishes were refused and are not in the session: {error}", status.refused);
    }
    if close && drained == Drained::Whole {
        if let Err(error) = session.close(&ending.to_string()).await {
            eprintln!("longwire: the session was not closed: {error}");
        }
    } else if close {
        eprintln!(
            "longwire: the session was not closed; do it with `longwire session close {}`",
            session.id()
        );
    }
}
