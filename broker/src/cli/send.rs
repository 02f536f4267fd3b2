//! `longwire send`: says something to an agent, and tells what becomes of it.

use std::io::Write;
use std::process::ExitCode;

use longwire::{InputState, Mode, Session, SessionId};
use serde_json::json;

use crate::cli::connect;
use crate::cli::escape::escape;
use crate::cli::{Context, EXIT_FAILURE, Usage};

/// Sends input to an agent of a session, and waits until it was consumed.
///
/// Exits with 0 when the agent has done it, and with 1 when it is not going to. Stopping to wait takes nothing back: the input is the
/// agent's once the broker has it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longwire send acme/chat/7 \"and then the tests\"\n  \
    longwire send acme/chat/7 --to coder --mode steer \"use the other branch\"\n  longwire send acme/chat/7 --no-wait \"good night\"")]
pub(crate) struct SendArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    session: SessionId,
    /// What is said
    text: String,
    /// The agent [default: the only one that the session has]
    #[arg(long, value_name = "AGENT")]
    to: Option<String>,
    /// What it is to what the agent does: changes it, comes after it, or stops it
    #[arg(long, value_enum, default_value_t = ModeArg::Followup)]
    mode: ModeArg,
    /// Names the input: sending again under the same id sends nothing new
    #[arg(long, value_name = "INPUT")]
    id: Option<String>,
    /// Exit as soon as the broker has it
    #[arg(long)]
    no_wait: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ModeArg {
    Steer,
    Followup,
    Preempt,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Steer => Self::Steer,
            ModeArg::Followup => Self::Followup,
            ModeArg::Preempt => Self::Preempt,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: SendArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.session.as_str())?;
    let agent = match args.to {
        Some(agent) => agent,
        None => only_agent(&session).await?,
    };
    let mut send = session.send(&agent, args.text).mode(args.mode.into());
    if let Some(id) = args.id {
        send = send.id(id);
    }
    let mut sent = send.await?;
    let mut code = ExitCode::SUCCESS;
    show(&context, sent.id(), "accepted", "")?;
    while !args.no_wait
        && let Some(state) = sent.next().await?
    {
        match state {
            InputState::Delivered => show(&context, sent.id(), "delivered", "")?,
            InputState::Consumed { run } => show(&context, sent.id(), "consumed", &run)?,
            InputState::NotConsumed { reason } => {
                show(&context, sent.id(), "not consumed", &reason)?;
                code = ExitCode::from(EXIT_FAILURE);
            }
        }
    }
    client.shutdown().await?;
    Ok(code)
}

fn show(context: &Context, id: &str, state: &str, detail: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if context.json {
        let key = if state == "consumed" { "run" } else { "reason" };
        let mut line = json!({ "input": id, "state": state.replace(' ', "_") });
        if !detail.is_empty() {
            line[key] = json!(detail);
        }
        writeln!(out, "{line}")?;
    } else {
        let detail = if detail.is_empty() { String::new() } else { format!(": {}", escape(detail)) };
        writeln!(out, "{state}{detail}")?;
    }
    Ok(())
}

async fn only_agent(session: &Session) -> anyhow::Result<String> {
    let mut agents = session.describe().await?.agents.into_iter().map(|agent| agent.agent);
    let which = |names: String| Usage(format!("which agent? The session has {names}; name one with --to"));
    match (agents.next(), agents.next()) {
        (Some(agent), None) => Ok(agent),
        (None, _) => Err(which("none yet: one is there once a worker serves the session".to_owned()).into()),
        (Some(first), Some(second)) => {
            let names: Vec<_> = [first, second].into_iter().chain(agents).collect();
            Err(which(names.join(", ")).into())
        }
    }
}
