//! The command: starting it, passing signals and bytes through, and how it ended.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use longwire::{Session, SessionId, URL_VARIABLE};
use rustix::process::{Pid, Signal};
use rustix::termios::tcgetpgrp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::Context;
use crate::cli::run::ending::Ending;
use crate::cli::run::input;
use crate::cli::run::recorder::{Recorder, Stream, StreamRecorder};

/// The environment variable that tells the command its session.
const SESSION_VARIABLE: &str = "LONGWIRE_SESSION";
/// Exit code for a command that does not exist, as shells have it.
const EXIT_NOT_FOUND: u8 = 127;
/// Exit code for a command that cannot be run, as shells have it.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Bytes read of the command at a time: a whole pipe.
const READ_BYTES: usize = 64 << 10;
/// After a signal, output is read for this long from pipes that something else keeps open when the command has ended.
const GRACE: Duration = Duration::from_secs(2);
/// Signals that wait to be passed on.
const SIGNALS_MAX: usize = 8;

/// Why the command was not started.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) message: String,
    pub(crate) code: u8,
}

/// Starts the command with its output in pipes.
pub(crate) fn start(
    command: &[OsString],
    stdin: bool,
    context: &Context,
    session: &SessionId,
) -> Result<Child, NotStarted> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| NotStarted { message: "no command was given".to_owned(), code: EXIT_NOT_FOUND })?;
    let mut child = Command::new(program);
    child.args(arguments).env(URL_VARIABLE, &context.url).env(SESSION_VARIABLE, session.as_str());
    child.envs(context.tls.variables());
    child.stdin(if stdin { Stdio::piped() } else { Stdio::inherit() });
    child.stdout(Stdio::piped()).stderr(Stdio::piped());
    child.spawn().map_err(|error| {
        let name = program.display();
        if error.kind() == ErrorKind::NotFound {
            let message = format!("{name}: command not found; nothing was published");
            return NotStarted { message, code: EXIT_NOT_FOUND };
        }
        let message = format!("{name}: cannot be run: {error}; nothing was published");
        NotStarted { message, code: EXIT_NOT_EXECUTABLE }
    })
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

/// Passes output, input and signals through until the command has ended and its output too.
pub(crate) async fn attend(
    mut child: Child,
    mut signals: mpsc::Receiver<Signal>,
    session: &Session,
    recorder: &Recorder,
    stdin: bool,
) -> anyhow::Result<Ending> {
    let mut pumps = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        pumps.spawn(pump(stdout, tokio::io::stdout(), recorder.stream(Stream::Stdout)));
    }
    if let Some(stderr) = child.stderr.take() {
        pumps.spawn(pump(stderr, tokio::io::stderr(), recorder.stream(Stream::Stderr)));
    }
    let input =
        child.stdin.take().filter(|_| stdin).map(|pipe| tokio::spawn(input::feed(session.clone(), pipe)));
    let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            Some(signal) = signals.recv() => {
                let by_terminal = signal == Signal::INT && shares_terminal();
                if let Some(process) = process.filter(|_| !by_terminal) {
                    // One that has just ended needs no signal.
                    let _ = rustix::process::kill_process(process, signal);
                }
            }
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    // Its own children may still write. Whoever does not want to wait for them says so with a signal; the one that ended
    // the command may come only now, so what is in the pipes is read in any case.
    tokio::select! {
        () = all(&mut pumps) => {}
        Some(_) = signals.recv() => {
            drop(tokio::time::timeout(GRACE, all(&mut pumps)).await);
            pumps.shutdown().await;
        }
    }
    Ok(Ending::new(status))
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

    #[tokio::test]
    async fn says_why_a_command_was_not_started() {
        let code = |program: &str| start(&[program.into()], false, &context(), &id()).unwrap_err().code;
        assert_eq!(code("/no/such/command"), EXIT_NOT_FOUND);
        assert_eq!(code("/dev/null"), EXIT_NOT_EXECUTABLE);
    }

    #[tokio::test]
    async fn ends_as_the_command_does() {
        let end = async |script: &str| {
            let command = ["sh", "-c", script].map(OsString::from);
            Ending::new(start(&command, true, &context(), &id()).unwrap().wait().await.unwrap())
        };
        let ending = end("exit 3").await;
        assert_eq!((ending.shell_status(), ending.to_string()), (3, "exit status 3".to_owned()));
        let ending = end("kill -9 $$").await;
        assert_eq!((ending.shell_status(), ending.to_string()), (137, "signal 9".to_owned()));
        let ending = end("test $LONGWIRE_URL-$LONGWIRE_SESSION = ws://x-a").await;
        assert_eq!(ending, Ending::Exited(0));
    }
}
