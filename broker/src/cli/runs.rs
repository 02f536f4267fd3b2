//! `longwire runs`: the tree of a session's runs, live.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use longwire::{From, RunInfo, Session, SessionId};
use longwire_proto::kind;
use serde_json::json;

use crate::cli::Context;
use crate::cli::connect;
use crate::cli::escape::escape;

/// What changes the picture.
const KINDS: [u32; 4] = [kind::RUN, kind::ASK, kind::ANSWER, kind::SESSION];
/// It is not drawn more often than this: nobody reads faster.
const REDRAW_PAUSE: Duration = Duration::from_millis(200);

/// Draws the tree of a session's runs: those that go on, and those that ended last.
///
/// On a terminal it is drawn again whenever something changes, until the session is closed; elsewhere, and with --no-follow, once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  longwire runs acme/build/42")]
pub(crate) struct RunsArgs {
    /// The session
    #[arg(value_parser = SessionId::parse)]
    id: SessionId,
    /// Draw it once
    #[arg(long)]
    no_follow: bool,
}

/// Runs the command.
pub(crate) async fn run(args: RunsArgs, context: Context) -> anyhow::Result<ExitCode> {
    let client = connect::client(&context)?;
    connect::reach(&client).await?;
    let session = client.session(args.id.as_str())?;
    let live = !args.no_follow && !context.json && std::io::stdout().is_terminal();
    if live {
        follow(&session).await?;
    } else {
        let runs = session.describe().await?.runs;
        let mut out = std::io::stdout().lock();
        if context.json {
            for run in &runs {
                writeln!(out, "{}", json!(run))?;
            }
        } else {
            out.write_all(tree(&runs).as_bytes())?;
        }
    }
    client.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

async fn follow(session: &Session) -> anyhow::Result<()> {
    let mut changes = session.subscribe(From::End).kinds(KINDS).await?;
    let mut lines = 0;
    loop {
        let info = session.describe().await?;
        let text = format!("{}: {}\n{}", escape(&info.session), info.status, tree(&info.runs));
        let mut out = std::io::stdout();
        if lines > 0 {
            // Up to where it was drawn last, and all below goes.
            write!(out, "\x1b[{lines}F\x1b[J")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        lines = text.lines().count();
        match changes.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) if error.goes_on() => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        }
        tokio::time::sleep(REDRAW_PAUSE).await;
        while changes.try_next().is_some() {}
    }
}

/// The tree, one run a line. A run whose parent is not known any more stands at the root.
fn tree(runs: &[RunInfo]) -> String {
    let mut sorted: Vec<&RunInfo> = runs.iter().collect();
    sorted.sort_unstable_by_key(|run| run.offset);
    let is_root = |run: &&&RunInfo| !sorted.iter().any(|parent| parent.id == run.parent);
    let mut text = String::new();
    let roots: Vec<&RunInfo> = sorted.iter().filter(is_root).copied().collect();
    let mut waiting: Vec<(&RunInfo, String, String)> =
        roots.into_iter().rev().map(|run| (run, String::new(), String::new())).collect();
    // Each run is put down before its parts, and has one parent, which is older: this ends.
    while let Some((run, own, below)) = waiting.pop() {
        text.push_str(&format!("{own}{}\n", line(run)));
        let parts: Vec<&RunInfo> = sorted.iter().filter(|part| part.parent == run.id).copied().collect();
        for (index, part) in parts.iter().enumerate().rev() {
            let last = index + 1 == parts.len();
            let own = format!("{below}{}", if last { "└─ " } else { "├─ " });
            let below = format!("{below}{}", if last { "   " } else { "│  " });
            waiting.push((part, own, below));
        }
    }
    text
}

fn line(run: &RunInfo) -> String {
    let sign = match run.state.as_str() {
        "completed" => '✓',
        "failed" | "abandoned" => '✗',
        "cancelled" => '⊘',
        "input_required" => '?',
        "suspended" => '‖',
        _ => '▶',
    };
    let title = if run.title.is_empty() { &run.id } else { &run.title };
    let mut text = format!("{sign} {}", escape(title));
    if let Some(fraction) = run.fraction {
        text.push_str(&format!("  {:.0} %", fraction * 100.0));
    }
    if !run.note.is_empty() {
        text.push_str(&format!("  {}", escape(&run.note)));
    }
    for (name, value) in &run.counters {
        text.push_str(&format!("  {}={value}", escape(name)));
    }
    text.push_str(&format!("  ({})", escape(&run.state)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, offset: u64, parent: &str, state: &str) -> RunInfo {
        RunInfo { id: id.into(), offset, parent: parent.into(), state: state.into(), ..Default::default() }
    }

    #[test]
    fn runs_stand_below_what_they_are_a_part_of() {
        let runs = [
            run("test", 3, "all", "working"),
            run("all", 0, "", "working"),
            run("lint", 1, "all", "completed"),
            run("unit", 4, "test", "failed"),
            run("lost", 5, "gone", "working"),
        ];
        let expected = "▶ all  (working)\n├─ ✓ lint  (completed)\n└─ ▶ test  (working)\n   └─ ✗ unit  (failed)\n▶ lost  (working)\n";
        assert_eq!(tree(&runs), expected);
    }

    #[test]
    fn what_others_wrote_does_not_move_the_cursor() {
        let hostile = RunInfo { title: "\x1b[2J".into(), note: "a\nb".into(), ..run("r", 0, "", "working") };
        let text = tree(&[hostile]);
        assert!(!text.contains('\x1b') && text.lines().count() == 1, "{text}");
    }
}
