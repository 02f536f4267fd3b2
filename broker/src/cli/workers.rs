//! `longwire workers`: groups of workers, and what wakes them.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use longwire::{WorkerGroup, WorkerGroupInfo};
use serde_json::json;

use crate::cli::escape::escape;
use crate::cli::{Context, Usage, connect};

/// Bytes of a file that has a secret: far more than one has.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Manages worker groups: which agent is woken, by a webhook, when no worker that is connected does what it has to do.
///
/// A group is named by a folder of sessions and a name in it. It is a session: `longwire tail ~/workers/GROUP` shows every wake, and
/// `longwire tail ~/dead/GROUP` those that were given up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  longwire workers set acme/chat/coders --pattern 'acme/chat/*' --agent coder \\\n    \
    --webhook https://hooks.example/longwire --secret-file secret\n  longwire workers list\n  longwire tail '~/workers/acme/chat/coders'\n  \
    longwire workers remove acme/chat/coders\n\n\
    A secret is made by: (printf whsec_; head -c 32 /dev/urandom | base64) > secret"
)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    command: WorkersCommand,
}

#[derive(Debug, clap::Subcommand)]
enum WorkersCommand {
    /// Makes a group, or replaces what it was told
    Set(SetArgs),
    /// Lists the groups that you manage
    #[command(after_help = "Example:\n  longwire --json workers list")]
    List,
    /// Removes a group, its history and its dead letters
    #[command(after_help = "Example:\n  longwire workers remove acme/chat/coders")]
    Remove {
        /// The group
        group: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  longwire workers set acme/chat/coders --pattern 'acme/chat/*' --agent coder \\\n    \
    --webhook https://hooks.example/longwire --secret-file secret"
)]
struct SetArgs {
    /// The group, such as acme/chat/coders
    group: String,
    /// Whose sessions, within the group's folder, such as 'acme/chat/*'
    #[arg(long, value_name = "PATTERN")]
    pattern: String,
    /// Which agent of theirs
    #[arg(long, value_name = "AGENT")]
    agent: String,
    /// Where the webhook goes
    #[arg(long, value_name = "URL")]
    webhook: String,
    /// The file of the secret that webhooks are signed with; - for the standard input
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Webhooks under way at once [default: 16]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    in_flight: u32,
    /// Tries of one wake before it becomes a dead letter [default: 10]
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    attempts: u32,
}

/// Runs the command.
pub(crate) async fn run(args: WorkersArgs, context: Context) -> anyhow::Result<ExitCode> {
    // Before anybody is asked: what is wrong here is wrong without a broker.
    let wish = match args.command {
        WorkersCommand::Set(args) => Some(wish(args)?),
        WorkersCommand::List => None,
        WorkersCommand::Remove { group } => return remove(&group, &context).await,
    };
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    match wish {
        Some(wish) => client.set_worker_group(wish).await?,
        None => client.worker_groups().await?.iter().try_for_each(|group| show(group, context.json))?,
    }
    client.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(group: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(context)?;
    connect::reach(&client).await?;
    client.remove_worker_group(group).await?;
    client.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

fn wish(args: SetArgs) -> anyhow::Result<WorkerGroup> {
    let SetArgs { group, pattern, agent, webhook, secret_file, in_flight, attempts } = args;
    let mut secret = String::new();
    let path = secret_file.display().to_string();
    let wrong = |why: std::io::Error| Usage(format!("the secret of {path} cannot be read: {why}"));
    if path == "-" {
        std::io::stdin().take(SECRET_FILE_BYTES_MAX).read_to_string(&mut secret).map_err(wrong)?;
    } else {
        let file = std::fs::File::open(&secret_file).map_err(wrong)?;
        file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut secret).map_err(wrong)?;
    }
    let group = WorkerGroup::new(group, pattern, agent).webhook(webhook, secret.trim());
    Ok(group.in_flight_max(in_flight).attempts_max(attempts))
}

fn show(group: &WorkerGroupInfo, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let WorkerGroupInfo { group: name, pattern, agent, webhook, in_flight_max, attempts_max, .. } = group;
    if as_json {
        let line = json!({
            "group": name, "pattern": pattern, "agent": agent, "webhook": webhook,
            "in_flight_max": in_flight_max, "attempts_max": attempts_max,
            "session": group.session, "dead_letters": group.dead_letters,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{}  {} of {}  {}", escape(name), escape(agent), escape(pattern), escape(webhook))?;
    }
    Ok(())
}
