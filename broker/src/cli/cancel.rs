//! `longwire cancel`: asks whoever does a run to end it.

use std::process::ExitCode;
use std::time::Duration;

use longwire::{RunInfo, RunState, Session, SessionId};

use crate::cli::connect;
use crate::cli::duration_text::millis;
use crate::cli::escape::escape;
use crate::cli::{Context, Usage};

/// Cancels a run, and the runs that are a part of it.
///
/// Whoever does it is asked to end it. When the deadline has passed, the broker ends it, and takes the agent's lease away.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  longwire cancel acme/build/42\n  longwire cancel acme/build/42 deps --deadline 5s --reason 'wrong branch'"
)]
pub(crate) struct CancelArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    session: SessionId,
    /// The id of the run, as `longwire runs` shows it [default: the only one that is a part of no other]
    run: Option<String>,
    /// How long it has to end by itself, such as 30s
    #[arg(long, value_name = "TIME", value_parser = millis, default_value = "30s")]
    deadline: u64,
    /// For humans
    #[arg(long, default_value = "")]
    reason: String,
}

/// Runs the command.
pub(crate) async fn run(args: CancelArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.session.as_str())?;
    let run = match args.run {
        Some(run) => run,
        None => only_run(&session).await?,
    };
    session.run(&run).cancel(Duration::from_millis(args.deadline), args.reason).await?;
    client.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

async fn only_run(session: &Session) -> anyhow::Result<String> {
    let has_ended = |run: &RunInfo| RunState::parse(&run.state).is_some_and(RunState::has_ended);
    let runs = session.describe().await?.runs.into_iter();
    let runs: Vec<_> = runs.filter(|run| run.parent.is_empty() && !has_ended(run)).collect();
    match &runs[..] {
        [run] => Ok(run.id.clone()),
        [] => Err(Usage(format!("nothing is run in {}", session.id())).into()),
        several => {
            let names: Vec<_> =
                several.iter().map(|run| format!("{} ({})", run.id, escape(&run.title))).collect();
            Err(Usage(format!("which run? There are {}", names.join(", "))).into())
        }
    }
}
