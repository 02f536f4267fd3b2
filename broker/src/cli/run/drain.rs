//! Waiting until the broker has everything.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use longwire::{Client, Closed};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::cli::run::spool::Leftover;

/// Nothing is said about a wait that is shorter.
const QUIET_FOR: Duration = Duration::from_millis(500);
/// How often the picture moves.
const TICK: Duration = Duration::from_millis(120);

/// Whether the broker has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It has.
    Whole,
    /// The rest stays in the spool folder.
    Left,
}

/// Waits until the broker has what this run and earlier ones recorded, then for `end`, or until a signal says not to.
pub(crate) async fn wait(
    client: &Client,
    leftovers: &[Leftover],
    title: Option<JoinHandle<()>>,
    end: impl Future<Output = ()>,
) -> Drained {
    let everything = async {
        client.drained().await?;
        if let Some(title) = title {
            drop(title.await);
        }
        end.await;
        for leftover in leftovers {
            leftover.send().await?;
        }
        Ok::<(), Closed>(())
    };
    let stop = async {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::select! {
        result = everything => match result {
            Ok(()) => {}
            Err(error) => eprintln!("longwire: {error}"),
        },
        () = stop => {}
        () = show(client, leftovers) => {}
    }
    let status = client.outbox().borrow().clone();
    if status.entries == 0 {
        return Drained::Whole;
    }
    eprintln!(
        "longwire: {} batches ({} bytes) wait in the spool folder; the next `longwire run` sends them",
        status.entries, status.bytes
    );
    Drained::Left
}

/// Batches and bytes that the broker does not have.
fn left(client: &Client, leftovers: &[Leftover]) -> (u64, u64) {
    let clients = leftovers.iter().map(|leftover| &leftover.client).chain([client]);
    clients.fold((0, 0), |(entries, bytes), client| {
        let outbox = client.outbox();
        let status = outbox.borrow();
        (entries + status.entries, bytes + status.bytes)
    })
}

/// Shows what is waited for. Never ends.
async fn show(client: &Client, leftovers: &[Leftover]) {
    tokio::time::sleep(QUIET_FOR).await;
    let hint = "Ctrl-C leaves them to the next `longwire run`";
    if !std::io::stderr().is_terminal() {
        let (entries, _) = left(client, leftovers);
        match entries {
            0 => eprintln!("longwire: waiting until the broker has ended the run"),
            _ => eprintln!("longwire: waiting until the broker has {entries} batches; {hint}"),
        }
        return std::future::pending().await;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let _cleared = ClearOnDrop(&bar);
    bar.enable_steady_tick(TICK);
    loop {
        let (entries, bytes) = left(client, leftovers);
        let kib = bytes.div_ceil(1024);
        bar.set_message(format!("the broker does not have {entries} batches ({kib} KiB) yet; {hint}"));
        tokio::time::sleep(TICK).await;
    }
}

struct ClearOnDrop<'a>(&'a ProgressBar);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
