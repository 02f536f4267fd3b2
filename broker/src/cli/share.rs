//! `longwire share`: a link with which somebody else sees one session, and may write to it.

mod qr;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use longwire::{Right, Rights, SessionId};

use crate::cli::Context;
use crate::cli::clock_text::date_time;
use crate::cli::connect;
use crate::cli::duration_text::millis;
use crate::cli::escape::escape;
use crate::cli::page_link::{is_local, share_link, token_of};

/// Bytes of a link that are read: a token is shorter.
const LINK_BYTES_MAX: u64 = 64 << 10;

/// Prints a link, and its QR code on a terminal, with which somebody else sees a session in a browser.
///
/// The link is for this session and for nothing but what it says, until its time is over or it is revoked. Whoever has it
/// can use it, and hand it on. What you share you manage, and are allowed yourself.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  longwire share acme/build/42 --rights read,publish --ttl 1h\n  \
    longwire share revoke -                         # asks for the link, which is then in no history of your shell"
)]
pub(crate) struct ShareArgs {
    /// The session
    #[arg(value_parser = SessionId::parse, required = true)]
    id: Option<SessionId>,
    /// What whoever has the link may do
    #[arg(long, value_name = "RIGHTS", default_value = "read", value_parser = rights)]
    rights: Rights,
    /// For how long, such as 90s, 12h or 30d; at most for as long as your own token lasts [default: 1h, or what is left]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    ttl: Option<u64>,
    #[command(subcommand)]
    command: Option<ShareCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ShareCommand {
    /// Makes a link useless, at once: whoever uses it is disconnected
    #[command(
        after_help = "Examples:\n  longwire share revoke -                         # reads the link from stdin\n  \
        longwire share revoke --id AbCdEf"
    )]
    Revoke {
        /// The link, or the token in it; `-` for the first line of stdin
        #[arg(required_unless_present = "id")]
        link: Option<String>,
        /// The id that `longwire share` printed, for somebody who manages everything
        // It may begin with a hyphen.
        #[arg(long, value_name = "ID", conflicts_with = "link", allow_hyphen_values = true)]
        id: Option<String>,
    },
}

fn rights(text: &str) -> Result<Rights, String> {
    text.parse().map_err(|error: longwire::InvalidRights| error.to_string())
}

/// Runs the command.
pub(crate) async fn run(args: ShareArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    match (args.command, args.id) {
        (Some(ShareCommand::Revoke { link, id }), _) => {
            let link = link.map(read).transpose()?;
            connect::reach(&client).await?;
            match (&link, &id) {
                (Some(link), _) => client.revoke_token(token_of(link)).await?,
                (None, id) => client.revoke_token_id(id.as_deref().unwrap_or_default()).await?,
            }
            if context.json {
                writeln!(std::io::stdout(), "{}", serde_json::json!({ "revoked": true }))?;
            } else {
                eprintln!("longwire: revoked; whoever uses it is disconnected");
            }
        }
        (None, Some(id)) => {
            connect::reach(&client).await?;
            let ttl = args.ttl.map(Duration::from_millis);
            let share = client.session(id.as_str())?.share(args.rights, ttl).await?;
            let link = share_link(&context.url, &id, &share.token);
            let expires = date_time(share.expires_ms);
            if context.json {
                let value = serde_json::json!({
                    "session": id.as_str(), "link": link, "token": share.token, "id": share.id,
                    "rights": args.rights.to_string(), "expires_ms": share.expires_ms, "expires": expires,
                });
                writeln!(std::io::stdout(), "{value}")?;
            } else {
                show(&link)?;
                eprintln!(
                    "longwire: {} until {expires}; its id is {}",
                    words(args.rights),
                    escape(&share.id)
                );
                if is_local(&link) {
                    eprintln!(
                        "longwire: the link leads to this machine only; name the broker as others reach it with --url"
                    );
                }
            }
        }
        // clap asks for one of them.
        (None, None) => anyhow::bail!("name a session"),
    }
    drop(client.close().await);
    Ok(ExitCode::SUCCESS)
}

fn words(rights: Rights) -> String {
    let reads = rights.contains(Right::Read);
    let said = if reads { "whoever has the link may" } else { "whoever has it may, without reading," };
    format!("{said} {rights}")
}

fn show(link: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        let columns = rustix::termios::tcgetwinsize(&out).map(|size| usize::from(size.ws_col));
        match qr::code(link, columns.ok().filter(|columns| *columns > 0)) {
            Ok(code) => out.write_all(code.as_bytes())?,
            Err(error) => eprintln!("longwire: no QR code: {error}"),
        }
    }
    Ok(writeln!(out, "{link}")?)
}

fn read(link: String) -> anyhow::Result<String> {
    if link != "-" {
        return Ok(link);
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        eprintln!("longwire: paste the link or the token:");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdin, &mut line)?;
        return Ok(line);
    }
    let mut text = String::new();
    stdin.take(LINK_BYTES_MAX).read_to_string(&mut text).context("stdin has no link")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
