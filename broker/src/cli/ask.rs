//! `longwire ask`: asks a human, and waits for the answer.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use longwire::{Answered, Ask, AskError, AskOutcome, ErrorCode, PublishError, SessionId};
use serde_json::json;
use tokio::time::Instant;

use crate::cli::connect;
use crate::cli::duration_text::millis;
use crate::cli::run::{RUN_PATIENCE, RUN_RETRY, RUN_VARIABLE};
use crate::cli::{Context, EXIT_UNREACHABLE, EXIT_USAGE, Usage};

/// Exit code of an answer that is not the first option.
const EXIT_OTHER: u8 = 1;
/// Exit code when nobody answered in time.
const EXIT_EXPIRED: u8 = 3;
/// Exit code when it is not asked any more.
const EXIT_CANCELLED: u8 = 4;

/// Asks a question, waits for the answer and prints it.
///
/// Within `longwire run` it is asked in that session. It is asked once under its id: a script that was stopped and asks again gets the
/// answer that was given meanwhile. Denied, expired and cancelled are ends that grant nothing.
///
/// Exits with 0 for the first option, 1 for any other and when it is denied, 2 for wrong usage and when it cannot be asked, 3 when it
/// has expired, 4 when it was cancelled, 5 when the broker cannot be reached or does not let one in.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  longwire run demo -- sh -c './build.sh && longwire ask \"Deploy?\" --options yes,no && ./deploy.sh'\n  \
    longwire ask \"Deploy?\" --session acme/build/42 --id deploy-42 --options yes,no --role approver --expires 1h"
)]
pub(crate) struct AskArgs {
    /// What is asked
    title: String,
    /// The options to choose from, separated by commas; the first is the one that exits with 0
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "yes,no")]
    options: Vec<String>,
    /// The session [default: that of `longwire run`]
    #[arg(long, value_name = "ID", env = "LONGWIRE_SESSION", value_parser = SessionId::parse)]
    session: Option<SessionId>,
    /// Names the question: asking again under the same id asks nothing new
    #[arg(long, value_name = "ASK")]
    id: Option<String>,
    /// A principal that may answer; may be repeated
    #[arg(long, value_name = "PRINCIPAL")]
    to: Vec<String>,
    /// Whoever has this role may answer; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Expires so long after it is asked, such as 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = millis)]
    expires: Option<u64>,
    /// More than the question says
    #[arg(long, default_value = "")]
    description: String,
    /// What it is about, such as a command
    #[arg(long, default_value = "")]
    subject: String,
    /// low, medium or high
    #[arg(long, default_value = "")]
    risk: String,
    /// The run that it belongs to: it is cancelled when that ends
    #[arg(long, value_name = "RUN", env = "LONGWIRE_RUN", default_value = "")]
    run: String,
}

/// Runs the command.
pub(crate) async fn run(args: AskArgs, context: Context) -> anyhow::Result<ExitCode> {
    match asked(args, &context).await {
        Ok(code) => Ok(ExitCode::from(code)),
        // A 1 would be another option, and a 4 a cancellation.
        Err(error) => {
            eprintln!("longwire: {error:#}");
            if connect::is_unauthenticated(&error) {
                eprintln!("longwire: {}", connect::TOKEN_HINT);
                return Ok(ExitCode::from(EXIT_UNREACHABLE));
            }
            let unreachable = error.is::<connect::Unreachable>();
            Ok(ExitCode::from(if unreachable { EXIT_UNREACHABLE } else { EXIT_USAGE }))
        }
    }
}

async fn asked(args: AskArgs, context: &Context) -> anyhow::Result<u8> {
    let Some(session) = &args.session else {
        let message = "which session? Ask within `longwire run`, or name one with --session";
        return Err(Usage(message.to_owned()).into());
    };
    let client = connect::client(context)?;
    connect::reach(&client).await?;
    let mut ask = client.session(session.as_str())?.ask(&args.title).options(&args.options);
    ask = ask.description(args.description).subject(args.subject).risk(args.risk).run(&args.run);
    for principal in args.to {
        ask = ask.to(principal);
    }
    for role in args.roles {
        ask = ask.to_role(role);
    }
    if let Some(id) = args.id {
        ask = ask.id(id);
    }
    if let Some(ms) = args.expires {
        ask = ask.expires_in(Duration::from_millis(ms));
    }
    eprintln!("longwire: asked in {session}; answer with `longwire answer {session}`");
    let answered = answered(ask, &args.run).await.map_err(plain)?;
    let mut out = std::io::stdout().lock();
    if context.json {
        writeln!(out, "{}", shown(&answered))?;
    } else if answered.outcome == AskOutcome::Answered {
        writeln!(out, "{}", answered.option)?;
    } else {
        eprintln!("longwire: {} by {}", answered.outcome, answered.by);
    }
    drop(client.close().await);
    Ok(match answered.outcome {
        AskOutcome::Answered if args.options.first() == Some(&answered.option) => 0,
        AskOutcome::Answered | AskOutcome::Denied => EXIT_OTHER,
        AskOutcome::Expired => EXIT_EXPIRED,
        AskOutcome::Cancelled => EXIT_CANCELLED,
    })
}

/// Asks, as soon as the run is there. One that `longwire run` could not start is gone without.
async fn answered(ask: Ask, run: &str) -> Result<Answered, AskError> {
    let is_missing = |answered: &Result<Answered, AskError>| match answered {
        Err(AskError::Publish(PublishError::Refused(refusal))) => {
            refusal.code == Some(ErrorCode::RunNotFound)
        }
        _ => false,
    };
    let asked = ask.clone().await;
    if !is_missing(&asked) || std::env::var(RUN_VARIABLE).as_deref() != Ok(run) {
        return asked;
    }
    let until = Instant::now() + RUN_PATIENCE;
    while Instant::now() < until {
        tokio::time::sleep(RUN_RETRY).await;
        let asked = ask.clone().await;
        if !is_missing(&asked) {
            return asked;
        }
    }
    eprintln!("longwire: there is no run {run}; it is asked without");
    ask.run("").await
}

/// The error within, which the command line knows the exit codes of.
fn plain(error: AskError) -> anyhow::Error {
    match error {
        AskError::Publish(error) => error.into(),
        AskError::Subscription(error) => error.into(),
        AskError::Request(error) => error.into(),
        error @ AskError::SessionClosed(_) => error.into(),
    }
}

fn shown(answered: &Answered) -> serde_json::Value {
    json!({
        "outcome": answered.outcome.as_str(),
        "by": answered.by,
        "offset": answered.offset,
        "option": answered.option,
        "note": answered.note,
    })
}
