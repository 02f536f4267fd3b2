//! `longwire run`: runs any command as an agent, and records what it says.

mod agent;
mod child;
mod child_token;
mod drain;
mod ending;
mod input;
mod pieces;
mod recorder;
mod spool;
mod streams;
mod trace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use longwire::{Client, Session, SessionId, SessionMeta};
use longwire_proto::limits::TITLE_BYTES_MAX;
use longwire_proto::short_id::is_short_id;

use crate::cli::Context;
use crate::cli::clock_text::{date, now_ms};
use crate::cli::connect::lasting_builder;
use crate::cli::duration_text::millis;
use crate::cli::page_link::page_link;
use crate::cli::run::agent::{Agent, Role};
use crate::cli::run::child::{NotStarted, SESSION_VARIABLE, Told};
use crate::cli::run::drain::Drained;
use crate::cli::run::ending::Ending;
use crate::cli::run::recorder::Recorder;
use crate::cli::run::spool::SpoolDir;
use crate::cli::run::trace::Trace;

pub(crate) use crate::cli::run::child::RUN_VARIABLE;
pub(crate) use crate::cli::run::streams::Stream;

/// Header that says which of the command's streams a message is: `stdout` or `stderr`.
pub(crate) const STREAM_HEADER: &str = "longwire-stream";
/// Header that says that no newline follows a record's body.
pub(crate) const PARTIAL_HEADER: &str = "longwire-partial";
/// The value of a header that says yes.
pub(crate) const TRUE: &str = "true";
/// Type of the record that a command's end becomes.
pub(crate) const EXIT_TYPE: &str = "longwire.exit";
/// Header with the exit status as a shell gives it: 0 to 255, 128 + n for signal n.
pub(crate) const EXIT_STATUS_HEADER: &str = "longwire-exit-status";

/// The run is started beside the command, which may be quicker to name it: for how long whoever does waits.
pub(crate) const RUN_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
pub(crate) const RUN_RETRY: Duration = Duration::from_millis(100);

/// Runs a command as an agent of a session, which can be watched from anywhere, and records what it says.
///
/// The command's output is shown as it comes, and `longwire run` exits as the command does. Each of its streams is a message that
/// grows, and the command a run, which ends as it does. While the broker is away the output waits in a file of the spool folder, and
/// the command goes on. When the command has ended, `longwire run` waits until the broker has everything; Ctrl-C then leaves the rest
/// to the next `longwire run` with the same spool folder and broker, which sends what earlier ones left.
///
/// When the run is cancelled, the command gets SIGTERM, and SIGKILL shortly before the deadline. SIGINT, SIGTERM and SIGHUP are passed
/// on to the command (Ctrl-C in a terminal reaches it by itself). A command that is not found exits with 127, one that cannot be run
/// with 126.
///
/// With a W3C `TRACEPARENT` in the environment, which the command inherits, its run and what it says carry that as their header `traceparent`.
///
/// The command has LONGWIRE_URL, LONGWIRE_SESSION and LONGWIRE_RUN, which `longwire ask` goes by. Where the broker asks for tokens, and
/// yours lets you share the session, LONGWIRE_TOKEN is one that can read and publish in this session and nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longwire run -- cargo build\n  \
    longwire run acme/build/42 --title \"Nightly build\" --close -- make all\n  \
    longwire run acme/shell --stdin -- bash        # then: longwire pub acme/shell \"ls\"")]
pub(crate) struct RunArgs {
    /// The session; made up when left out
    #[arg(value_parser = SessionId::parse)]
    id: Option<SessionId>,
    /// A title for the session and the run [default of the run: the command]
    #[arg(long)]
    title: Option<String>,
    /// The name of the agent; while somebody else is it, the command goes on without [default: run, or the next that is free: run-2 …]
    #[arg(long, value_name = "NAME", value_parser = agent_name)]
    agent: Option<String>,
    /// Without a connection for so long, 1s to 10m, somebody else may be the agent, and the run is suspended [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    ttl: Option<u64>,
    /// Give what others publish to the session from now on, or send to the agent, to the command's stdin, one line each
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

fn agent_name(text: &str) -> Result<String, String> {
    if is_short_id(text.as_bytes()) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 of A-Z a-z 0-9 _ -".to_owned())
    }
}

/// Nobody else has it, so it needs no session to be told apart in.
fn made_up_run() -> anyhow::Result<String> {
    let random = getrandom::u64().map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(format!("{random:016x}"))
}

/// The command as one types it, as far as a title has room.
fn title_of(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let mut title = words.join(" ");
    title.truncate(title.floor_char_boundary(TITLE_BYTES_MAX));
    title
}

/// The run around this one, when it is of the same session.
fn outer_run(session: &SessionId) -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let same = variable(SESSION_VARIABLE).is_some_and(|outer| outer == session.as_str());
    variable(RUN_VARIABLE).filter(|run| same && is_short_id(run.as_bytes()))
}

/// Runs the command.
pub(crate) async fn run(args: RunArgs, context: Context) -> anyhow::Result<ExitCode> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => made_up_id()?,
    };
    let spool = SpoolDir::open(args.spool.clone(), &context.url)?;
    let run = made_up_run()?;
    let own = spool.file(&run);
    // Nothing is sent before the driver runs, and it does not run before the command does.
    let (client, driver) = lasting_builder(&context)?.outbox_file(&own).build()?;
    // Whoever finds the file after a kill of this process can end what it has begun.
    spool::remember(&own, &id)?;
    let session = client.session(id.as_str())?;
    let (acting, acting_driver) = lasting_builder(&context)?.build()?;
    let acting_driver = tokio::spawn(acting_driver);
    let acting_session = acting.session(id.as_str())?;
    let token = child_token::child_token(&context, &acting, &acting_session).await;
    // From here on a signal is the command's.
    let signals = child::passed_signals()?;
    let told = Told { session: &id, run: &run, token };
    let running = match child::start(&args.command, args.stdin, &context, told) {
        Ok(running) => running,
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
    let trace = Trace::of_environment();
    let recorder = Recorder::start(&client, session.clone(), &run, trace.clone());
    let role = Role {
        name: args.agent,
        ttl: args.ttl.map(Duration::from_millis),
        run,
        title: args.title.clone().unwrap_or_else(|| title_of(&args.command)),
        parent: outer_run(&id),
        takes_input: args.stdin,
        trace,
    };
    let title = args.title.map(|title| tokio::spawn(describe(session.clone(), title)));
    let (agent, inputs) = Agent::start(acting.clone(), acting_session, role);

    let stdin = args.stdin.then(|| (session.clone(), inputs));
    let outcome = child::attend(running, signals, &recorder, stdin, agent.cancel.clone()).await?;
    let closes = recorder.finish(outcome).await;

    let drained = drain::wait(&client, &leftovers, title, agent.end(outcome)).await;
    drop(acting.close().await);
    drop(acting_driver.await);
    let needless = closes.needless(drained == Drained::Whole).await;
    tell_refusals(&client, needless);
    if args.close {
        close(&session, &outcome.ending, drained).await;
    }
    drop(client.close().await);
    drop(driver.await);
    for leftover in leftovers {
        leftover.end().await;
    }
    if drained == Drained::Whole {
        spool::remove(&own);
    }
    Ok(ExitCode::from(outcome.ending.shell_status()))
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

fn tell_refusals(client: &Client, needless: u64) {
    let status = client.outbox().borrow().clone();
    let refused = status.refused.saturating_sub(needless);
    if let Some(error) = status.last_error.filter(|_| refused > 0) {
        eprintln!("longwire: {refused} publishes were refused and are not in the session: {error}");
    }
}

async fn close(session: &Session, ending: &Ending, drained: Drained) {
    if drained == Drained::Whole {
        if let Err(error) = session.close(&ending.to_string()).await {
            eprintln!("longwire: the session was not closed: {error}");
        }
    } else {
        let id = session.id();
        eprintln!("longwire: the session was not closed; do it with `longwire session close {id}`");
    }
}
