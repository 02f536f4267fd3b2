//! `longwire token`: making tokens, looking at them, and letting them be accepted no longer.

mod inspect;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::Mint;
use longwire_broker::auth::principal::Kind;
use longwire_proto::grant::Grant;
use longwire_proto::grants::Grants;
use serde_json::json;

use crate::cli::clock_text::{date_time, now_ms};
use crate::cli::duration_text::millis;
use crate::cli::key::Folder;
use crate::cli::{Context, Usage, connect};

/// The token that a command shows, when it needs one.
pub(crate) const TOKEN_VARIABLE: &str = "LONGWIRE_TOKEN";
/// Bytes read of what is to be a token: whoever pipes in something else is told so soon.
const READ_BYTES_MAX: u64 = 64 << 10;

/// Makes tokens, shows what is in one, and lets one be accepted no longer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire token create --sub ada --grant 'acme/**:read,publish' --ttl 1h")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Makes a token with the key of a data folder, and prints it; no broker needs to run
    #[command(
        after_help = "Examples:\n  longwire token create --sub ada --grant 'acme/**:read,publish' --ttl 8h\n  \
        export LONGWIRE_TOKEN=$(longwire token create --sub ci --kind service --grant 'ci/**:create,publish')"
    )]
    Create(CreateArgs),
    /// Shows what a token says, and whether a key of a data folder signed it; asks nobody
    #[command(
        after_help = "Examples:\n  longwire token inspect < token.txt\n  LONGWIRE_TOKEN=… longwire token inspect --json"
    )]
    Inspect {
        /// The token, or `-` to read it from stdin, which others on this host cannot see [default: LONGWIRE_TOKEN, or stdin]
        #[arg(value_name = "TOKEN")]
        token: Option<String>,
        #[command(flatten)]
        folder: Folder,
    },
    /// Lets a token be accepted no longer, and ends the connections that were made with it
    #[command(
        after_help = "Examples:\n  longwire token revoke - < token.txt\n  longwire token revoke --id 5l3Zr8oYcVbHkW0u9nQx2A"
    )]
    Revoke {
        /// The token, or `-` to read it from stdin, which others on this host cannot see
        #[arg(value_name = "TOKEN", required_unless_present = "id")]
        token: Option<String>,
        /// The id of a token that this broker made, instead of the token
        // An id may begin with any character of base64url.
        #[arg(long, value_name = "ID", conflicts_with = "token", allow_hyphen_values = true)]
        id: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Whose token: the name that records, producers and cursors are kept under
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// What it may do: a pattern of sessions and rights, such as `acme/**:read,publish`; may be repeated
    ///
    /// Rights are read, publish, create, answer, control, lease, state and manage; none includes another one.
    #[arg(long = "grant", value_name = "PATTERN:RIGHTS", required = true)]
    grants: Vec<Grant>,
    /// What it is to those who ask for somebody of a role, such as `approver`; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// What kind of somebody: human, agent or service
    #[arg(long, default_value_t = Kind::Agent)]
    kind: Kind,
    /// For how long, such as 15m, 8h or 30d
    #[arg(long, value_name = "TIME", value_parser = millis, default_value = "1h")]
    ttl: u64,
    /// The only device that may use it
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    #[command(flatten)]
    folder: Folder,
}

/// Runs the command.
pub(crate) async fn run(args: TokenArgs, context: Context) -> anyhow::Result<ExitCode> {
    match args.command {
        TokenCommand::Create(args) => create(args, context.json)?,
        TokenCommand::Inspect { token, folder } => {
            let token = match token.or_else(variable) {
                Some(token) => read(&token)?,
                None if std::io::stdin().is_terminal() => {
                    return Err(Usage(format!(
                        "there is no token to look at: give it on stdin, or in {TOKEN_VARIABLE}"
                    ))
                    .into());
                }
                None => read("-")?,
            };
            inspect::inspect(&token, &folder, context.json)?;
        }
        TokenCommand::Revoke { token, id } => revoke(token, id, &context).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: CreateArgs, json: bool) -> anyhow::Result<()> {
    let CreateArgs { sub, grants, roles, kind, ttl, device, folder } = args;
    let keys = folder.keys()?;
    let grants = Grants::new(grants)?;
    let device = device.as_deref();
    let mint = Mint { sub: &sub, kind, grants: &grants, roles: &roles, device, ttl_ms: ttl };
    let minted = keys.mint(&Issuer::own(OWN_NAME, OWN_NAME)?, &mint, now_ms())?;
    let (id, expires) = (minted.id.id(), date_time(minted.expires_ms));
    let mut out = std::io::stdout().lock();
    if json {
        let expires_ms = minted.expires_ms;
        writeln!(
            out,
            "{}",
            json!({ "token": minted.token, "id": id, "expires_ms": expires_ms, "expires": expires })
        )?;
        return Ok(());
    }
    writeln!(out, "{}", minted.token)?;
    eprintln!("longwire: a token of {sub} ({kind}) for {grants}, valid until {expires}");
    eprintln!("longwire: whoever has it is {sub}; `longwire token revoke --id {id}` ends that");
    Ok(())
}

async fn revoke(token: Option<String>, id: Option<String>, context: &Context) -> anyhow::Result<()> {
    let token = token.as_deref().map(read).transpose()?;
    let client = connect::client(context)?;
    connect::reach(&client).await?;
    match (token, id) {
        (Some(token), _) => client.revoke_token(&token).await?,
        (None, id) => client.revoke_token_id(&id.unwrap_or_default()).await?,
    }
    let mut out = std::io::stdout().lock();
    match context.json {
        true => writeln!(out, "{}", json!({ "revoked": true }))?,
        false => writeln!(out, "the token is not accepted any more, and its connections end")?,
    }
    drop(out);
    client.close().await?;
    Ok(())
}

fn variable() -> Option<String> {
    std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty())
}

/// A token as it was given, or from stdin when that was `-`.
fn read(given: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    match given {
        "-" => std::io::stdin().take(READ_BYTES_MAX).read_to_string(&mut text)?,
        given => {
            text.push_str(given);
            text.len()
        }
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(Usage("the token is empty".to_owned()).into());
    }
    Ok(token.to_owned())
}
