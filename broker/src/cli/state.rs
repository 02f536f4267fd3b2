//! `longwire state`: shows and sets the keyed state of a session.

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;
use longwire::{PublishError, Published, SessionId, SetState, StateEntry, StateValue};
use serde_json::json;

use crate::cli::connect;
use crate::cli::escape::escape;
use crate::cli::{Context, EXIT_FAILURE};

/// Shows the keyed state of a session: small things that whoever comes finds, such as what an agent may do without asking.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "Examples:\n  longwire state acme/chat/7\n  longwire state get acme/chat/7 branch\n  \
    longwire state set acme/chat/7 branch main --if-revision 0\n  longwire state rm acme/chat/7 branch"
)]
pub(crate) struct StateArgs {
    /// The session
    #[arg(value_parser = SessionId::parse, required = true)]
    id: Option<SessionId>,
    #[command(subcommand)]
    command: Option<StateCommand>,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Prints what a key is; exits with 1 when it is not there
    #[command(after_help = "Example:\n  longwire state get acme/chat/7 branch")]
    Get {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// The key
        key: String,
    },
    /// Sets a key, and prints its new revision
    #[command(after_help = "Example:\n  longwire state set acme/chat/7 branch main")]
    Set {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// The key
        key: String,
        /// What it is from now on
        value: String,
        /// Only when this is its revision; 0 when it is not there
        #[arg(long, value_name = "OFFSET")]
        if_revision: Option<u64>,
    },
    /// Removes a key
    #[command(after_help = "Example:\n  longwire state rm acme/chat/7 branch")]
    Rm {
        /// The session
        #[arg(value_parser = SessionId::parse)]
        id: SessionId,
        /// The key
        key: String,
        /// Only when this is its revision
        #[arg(long, value_name = "OFFSET")]
        if_revision: Option<u64>,
    },
}

/// Runs the command.
pub(crate) async fn run(args: StateArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = |id: &SessionId| client.session(id.as_str());
    let code = match (args.command, args.id) {
        (Some(StateCommand::Get { id, key }), _) => match session(&id)?.get(&key).await? {
            Some(entry) => show(&context, &entry, false).map(|()| ExitCode::SUCCESS)?,
            None => ExitCode::from(EXIT_FAILURE),
        },
        (Some(StateCommand::Set { id, key, value, if_revision }), _) => {
            let published = change(session(&id)?.set(key, value), if_revision).await?;
            let mut out = std::io::stdout().lock();
            match context.json {
                true => writeln!(out, "{}", json!({ "revision": published.from.offset }))?,
                false => writeln!(out, "{}", published.from.offset)?,
            }
            ExitCode::SUCCESS
        }
        (Some(StateCommand::Rm { id, key, if_revision }), _) => {
            change(session(&id)?.remove(key), if_revision).await?;
            ExitCode::SUCCESS
        }
        (None, Some(id)) => {
            for entry in session(&id)?.describe().await?.entries {
                show(&context, &entry, true)?;
            }
            ExitCode::SUCCESS
        }
        // clap asks for one of them.
        (None, None) => ExitCode::from(EXIT_FAILURE),
    };
    client.shutdown().await?;
    Ok(code)
}

async fn change(set: SetState, if_revision: Option<u64>) -> Result<Published, PublishError> {
    match if_revision {
        Some(revision) => set.if_revision(revision).await,
        None => set.await,
    }
}

fn show(context: &Context, entry: &StateEntry, with_key: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if context.json {
        writeln!(out, "{}", json!(entry))?;
        return Ok(());
    }
    let value = match &entry.value {
        Some(StateValue::Text(text)) => escape(text).into_owned(),
        Some(StateValue::Data(data)) => format!("({} bytes)", data.len()),
        None => String::new(),
    };
    match with_key {
        true => writeln!(
            out,
            "{}  {value}  ({}, revision {})",
            escape(&entry.key),
            escape(&entry.principal),
            entry.revision
        )?,
        false => writeln!(out, "{value}")?,
    }
    Ok(())
}
