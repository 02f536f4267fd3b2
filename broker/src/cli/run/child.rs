//! The command: starting it, passing signals and bytes through, and how it ended.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::process::Stdio;
use std::time::Duration;

use longwire::{Session, SessionId, TOKEN_VARIABLE, URL_VARIABLE};
use rustix::process::{Pid, Signal};
use rustix::termios::tcgetpgrp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::cli::Context;
use crate::cli::run::agent::Inputs;
use crate::cli::run::ending::{Ending, Outcome};
use crate::cli::run::input;
use crate::cli::run::recorder::{Recorder, StreamRecorder};
use crate::cli::run::streams::Stream;

/// The environment variable that tells the command its session.
pub(crate) const SESSION_VARIABLE: &str = "LONGWIRE_SESSION";
/// The environment variable that tells the command its run.
pub(crate) const RUN_VARIABLE: &str = "LONGWIRE_RUN";
/// Exit code for a command that does not exist, as shells have it.
const EXIT_NOT_FOUND: u8 = 127;
/// Exit code for a command that cannot be run, as shells have it.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Bytes read of the command at a time: a whole pipe.
const READ_BYTES: usize = 64 << 10;
/// After a signal, or when the run was cancelled, output is read for this long from pipes that something else keeps open when the command has ended.
const GRACE: Duration = Duration::from_secs(2);
/// Signals that wait to be passed on.
const SIGNALS_MAX: usize = 8;

/// Why the command was not started.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) message: String,
    pub(crate) code: u8,
}

/// What the command is told.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) session: &'a SessionId,
    pub(crate) run: &'a str,
    /// A token for this session alone; none when what this process has is the command's, too.
    pub(crate) token: Option<String>,
}

/// The command, while it runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    process: Option<Pid>,
    /// It leads a group of its own, which can be signalled as a whole.
    leads: bool,
}

impl Running {
    /// Signals the command alone. One that has just ended needs no signal.
    fn signal(&self, signal: Signal) {
        if let Some(process) = self.process {
            let _ = rustix::process::kill_process(process, signal);
        }
    }

    /// Signals the command and, where it can be told apart, what it has started.
    fn signal_all(&self, signal: Signal) {
        match self.process {
            Some(process) if self.leads => {
                let _ = rustix::process::kill_process_group(process, signal);
            }
            _ => self.signal(signal),
        }
    }
}

/// Starts the command with its output in pipes.
pub(crate) fn start(
    command: &[OsString],
    stdin: bool,
    context: &Context,
    told: Told<'_>,
) -> Result<Running, NotStarted> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| NotStarted { message: "no command was given".to_owned(), code: EXIT_NOT_FOUND })?;
    let mut child = Command::new(program);
    child.args(arguments).env(URL_VARIABLE, &context.url);
    child.env(SESSION_VARIABLE, told.session.as_str()).env(RUN_VARIABLE, told.run);
    child.envs(told.token.map(|token| (TOKEN_VARIABLE, token)));
    child.envs(context.tls.variables());
    child.stdin(if stdin { Stdio::piped() } else { Stdio::inherit() });
    child.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A terminal's keys are for the group that is in front of it, which the command then has to be in.
    let terminals =
        [std::io::stdin().is_terminal(), std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    let leads = !terminals.contains(&true);
    if leads {
        child.process_group(0);
    }
    let child = child.spawn().map_err(|error| {
        let name = program.display();
        if error.kind() == ErrorKind::NotFound {
            let message = format!("{name}: command not found; nothing was published");
            return NotStarted { message, code: EXIT_NOT_FOUND };
        }
        let message = format!("{name}: cannot be run: {error}; nothing was published");
        NotStarted { message, code: EXIT_NOT_EXECUTABLE }
    })?;
    let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    Ok(Running { child, process, leads })
}

/// Whether a terminal sends its signals to us and to the command alike.
fn shares_terminal() -> bool {
    let own = rustix::process::getpgrp();
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == own)
        || tcgetpgrp(std::io::stdout()).is_ok_and(|group| group == own)
        || tcgetpgrp(std::io::stderr()).is_ok_and(|group| group == own)
}

/// Listens for the signals that are passed on. From now on they do not end this process.
pub(crate) fn passed_signals() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
    let kinds = [
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::hangup(), Signal::HUP),
    ];
    for (kind, number) in kinds {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        drop(tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // More than a command can take note of.
                let _ = sender.try_send(number);
            }
        }));
    }
    Ok(receiver)
}

/// Passes output, input and signals through until the command has ended and its output too. When its run is cancelled, the command is
/// asked to end, and killed when `cancel` says.
pub(crate) async fn attend(
    mut running: Running,
    mut signals: mpsc::Receiver<Signal>,
    recorder: &Recorder,
    stdin: Option<(Session, Inputs)>,
    mut cancel: watch::Receiver<Option<Instant>>,
) -> anyhow::Result<Outcome> {
    let mut pumps = JoinSet::new();
    if let Some(stdout) = running.child.stdout.take() {
        pumps.spawn(pump(stdout, tokio::io::stdout(), recorder.stream(Stream::Stdout)));
    }
    if let Some(stderr) = running.child.stderr.take() {
        pumps.spawn(pump(stderr, tokio::io::stderr(), recorder.stream(Stream::Stderr)));
    }
    let pipe = running.child.stdin.take();
    let input =
        stdin.zip(pipe).map(|((session, inputs), pipe)| tokio::spawn(input::feed(session, inputs, pipe)));
    let mut kill_at = None;
    let status = loop {
        tokio::select! {
            status = running.child.wait() => break status?,
            Some(signal) = signals.recv() => {
                let by_terminal = signal == Signal::INT && !running.leads && shares_terminal();
                if !by_terminal {
                    running.signal(signal);
                }
            }
            Ok(()) = cancel.changed() => {
                if kill_at.is_none() {
                    running.signal_all(Signal::TERM);
                }
                kill_at = *cancel.borrow_and_update();
            }
            () = reached(kill_at) => {
                running.signal_all(Signal::KILL);
                // Once: what is left is to wait for its end.
                kill_at = None;
            }
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    // Its own children may still write. Whoever does not want to wait for them says so with a signal, or cancels the run; the signal
    // that ended the command may come only now, so what is in the pipes is read in any case.
    let enough = async {
        tokio::select! {
            Some(_) = signals.recv() => {}
            Ok(_) = cancel.wait_for(Option::is_some) => {}
        }
    };
    tokio::select! {
        () = all(&mut pumps) => {}
        () = enough => {
            let kill_at = *cancel.borrow();
            if let Some(kill_at) = kill_at.filter(|_| running.leads) {
                running.signal_all(Signal::TERM);
                drop(timeout_at(kill_at, all(&mut pumps)).await);
                running.signal_all(Signal::KILL);
            }
            drop(timeout(GRACE, all(&mut pumps)).await);
            pumps.shutdown().await;
        }
    }
    let is_cancelled = cancel.borrow().is_some();
    Ok(Outcome { ending: Ending::new(status), is_cancelled })
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn all(pumps: &mut JoinSet<()>) {
    while pumps.join_next().await.is_some() {}
}

/// Shows and records one stream of the command.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut recorder: StreamRecorder,
) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let bytes = &buffer[..length];
        let shown = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        let shown: std::io::Result<()> = shown.await;
        recorder.push(bytes).await;
        if shown.is_err() {
            // Whoever read our output has gone. Closing the pipe tells the command as it would have been told itself.
            break;
        }
    }
    recorder.finish().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context { url: "ws://x".into(), ..Context::default() }
    }

    fn id() -> SessionId {
        SessionId::parse("a").unwrap()
    }

    fn told(session: &SessionId) -> Told<'_> {
        Told { session, run: "5f", token: Some("t".to_owned()) }
    }

    #[tokio::test]
    async fn says_why_a_command_was_not_started() {
        let id = id();
        let code = |program: &str| start(&[program.into()], false, &context(), told(&id)).unwrap_err().code;
        assert_eq!(code("/no/such/command"), EXIT_NOT_FOUND);
        assert_eq!(code("/dev/null"), EXIT_NOT_EXECUTABLE);
    }

    #[tokio::test]
    async fn ends_as_the_command_does() {
        let end = async |script: &str| {
            let command = ["sh", "-c", script].map(OsString::from);
            let mut running = start(&command, true, &context(), told(&id())).unwrap();
            Ending::new(running.child.wait().await.unwrap())
        };
        let ending = end("exit 3").await;
        assert_eq!((ending.shell_status(), ending.to_string()), (3, "exit status 3".to_owned()));
        let ending = end("kill -9 $$").await;
        assert_eq!((ending.shell_status(), ending.to_string()), (137, "signal 9".to_owned()));
        let ending =
            end("test $LONGWIRE_URL-$LONGWIRE_SESSION-$LONGWIRE_RUN-$LONGWIRE_TOKEN = ws://x-a-5f-t").await;
        assert_eq!(ending, Ending::Exited(0));
    }
}
