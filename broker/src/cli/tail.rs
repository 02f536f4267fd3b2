//! `longwire tail`: shows a session, from anywhere in it, and follows.

mod view;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::str::FromStr;

use longwire::{From, Position, Record, SessionId, Subscription, SubscriptionError};
use longwire_proto::worker_group::named_session;

use crate::cli::Context;
use crate::cli::connect;
use crate::cli::tail::view::View;

/// Records before the end that are shown when nothing else is asked for.
const LAST_DEFAULT: u64 = 10;
/// Bytes gathered before they are written, when more records are there at once.
const WRITE_BYTES: usize = 64 << 10;

/// Shows a session's records and follows it, over any restart of the broker.
///
/// A session that does not exist yet is waited for. The command ends when the session is closed and read, or, with
/// --no-follow, at the end that the session has now.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  longwire tail acme/build/42\n  \
    longwire tail acme/build/42 --from start --raw > build.log\n  \
    longwire tail acme/build/42 --from 0000000000000000_0000000000000042 --json")]
pub(crate) struct TailArgs {
    /// The session
    #[arg(value_parser = parse_session)]
    id: SessionId,
    /// Where to begin: start, end, a position, or an offset
    #[arg(long, value_name = "PLACE", value_parser = parse_from)]
    from: Option<From>,
    /// Begin this many records before the end [default: 10]
    #[arg(short = 'n', long = "last", value_name = "COUNT", conflicts_with = "from")]
    last: Option<u64>,
    /// Stop at the end that the session has now
    #[arg(long)]
    no_follow: bool,
    /// Only records of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Deltas of one message that follow each other come as one
    #[arg(long)]
    folded: bool,
    /// Print the messages' bodies exactly, and nothing else. On a terminal, all control characters but colours are made
    /// visible
    #[arg(long)]
    pub(crate) raw: bool,
}

fn parse_session(text: &str) -> Result<SessionId, String> {
    let is_expanded = text.starts_with('/') && (text.contains("/workers/") || text.contains("/dead/"));
    named_session(text).map_err(|error| match error {
        _ if is_expanded => {
            format!("{error}; a shell makes a path of your home of `~/…`: put the session in quotes")
        }
        _ => error.to_string(),
    })
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "start" => Ok(From::Start),
        "end" => Ok(From::End),
        _ if text.contains('_') => {
            Position::from_str(text).map(From::Position).map_err(|error| error.to_string())
        }
        _ => text.parse().map(From::Offset).map_err(|_| {
            format!(
                "`{text}` is no place in a session; use start, end, an offset, or a position that was printed"
            )
        }),
    }
}

/// Runs the command.
pub(crate) async fn run(args: TailArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    if let Err(error) = connect::reach(&client).await {
        if args.no_follow || error.downcast_ref::<connect::Unreachable>().is_none() {
            return Err(error);
        }
        eprintln!("longwire: {error:#}; trying on");
    }
    let session = client.session(args.id.as_str())?;
    let from = args.from.unwrap_or(From::Last(args.last.unwrap_or(LAST_DEFAULT)));
    let mut subscribe = session.subscribe(from);
    if !args.types.is_empty() {
        subscribe = subscribe.types(args.types.clone());
    }
    if args.folded {
        subscribe = subscribe.folded();
    }
    let subscribe = if args.no_follow { subscribe.until_end() } else { subscribe.wait_for_session() };
    let mut records = subscribe.await?;
    let began = records.outcome();
    if began.is_some_and(|began| !began.exists) {
        eprintln!("longwire: there is no session {} yet; waiting for it", args.id);
    }
    let terminal = std::io::stdout().is_terminal();
    let view = View::choose(args.raw, context.json, terminal);
    let failed = show(&mut records, view).await?;
    drop(records);
    // What it would say was said already.
    drop(client.close().await);
    Ok(if failed { ExitCode::from(crate::cli::EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

/// Shows records until the end; says whether something is wrong with them.
async fn show(records: &mut Subscription, view: View) -> anyhow::Result<bool> {
    let mut out = std::io::stdout();
    let mut text = Vec::new();
    let mut failed = false;
    loop {
        let next = match records.try_next() {
            Some(next) => Some(next),
            // Nothing more is here: show what was gathered before waiting.
            None => {
                flush(&mut out, &mut text)?;
                records.next().await
            }
        };
        let Some(next) = next else { break };
        failed |= take(next, view, &mut text)?;
        if text.len() >= WRITE_BYTES {
            flush(&mut out, &mut text)?;
        }
    }
    flush(&mut out, &mut text)?;
    Ok(failed)
}

fn take(next: Result<Record, SubscriptionError>, view: View, text: &mut Vec<u8>) -> anyhow::Result<bool> {
    match next {
        Ok(record) => view.put(&record, text)?,
        Err(error) if error.goes_on() => {
            eprintln!("longwire: {error}");
            return Ok(true);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(false)
}

fn flush(out: &mut std::io::Stdout, text: &mut Vec<u8>) -> std::io::Result<()> {
    if !text.is_empty() {
        out.write_all(text)?;
        out.flush()?;
        text.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_shell_made_is_told_from_a_slip() {
        let quotes = |text: &str| parse_session(text).unwrap_err().contains("quotes");
        assert!(quotes("/root/workers/acme/coders") && !quotes("/acme/a") && !quotes("acme//workers/a"));
        assert_eq!(parse_session("~/workers/acme/a").unwrap().as_str(), "~/workers/acme/a");
    }

    #[test]
    fn places() {
        assert_eq!(parse_from("start"), Ok(From::Start));
        assert_eq!(parse_from("end"), Ok(From::End));
        assert_eq!(parse_from("42"), Ok(From::Offset(42)));
        let position = Position { epoch: 1, offset: 42 };
        assert_eq!(parse_from(&position.to_string()), Ok(From::Position(position)));
        for text in ["", "-1", "1_2", "yesterday"] {
            assert!(parse_from(text).is_err(), "{text}");
        }
    }
}
