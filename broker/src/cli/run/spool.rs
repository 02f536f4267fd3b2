//! The folder where records wait for the broker: one outbox file a run, in a folder of its own for each broker, and beside it a file
//! that says which session it is of, so that the messages of a run whose process was killed can be ended.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use longwire::{
    Client, Closed, ConnectError, ErrorCode, MessageEnd, OutboxError, PublishError, Session, SessionId,
};
use tokio::task::JoinHandle;

use crate::cli::Context;
use crate::cli::connect::lasting_builder;
use crate::cli::run::streams::{Stream, close, message_id};

/// How the files are called.
const SUFFIX: &str = "outbox";
/// And those that have the id of the session.
const SESSION_SUFFIX: &str = "session";
/// Files of earlier runs that are sent beside one run; more wait for the next.
const LEFTOVERS_MAX: usize = 16;

/// The spool folder of one broker.
#[derive(Debug)]
pub(crate) struct SpoolDir(PathBuf);

/// `$XDG_STATE_HOME/longwire/spool`, else `~/.local/state/longwire/spool`, else a folder of this user's among the
/// temporary ones.
fn default_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(state) => state.join("longwire/spool"),
        None => std::env::temp_dir().join(format!("longwire-spool-{}", rustix::process::getuid().as_raw())),
    }
}

/// A folder's name for a broker: what waits for one must not reach another.
fn broker_name(url: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    url.trim_end_matches('/').chars().map(plain).collect()
}

impl SpoolDir {
    pub(crate) fn open(dir: Option<PathBuf>, url: &str) -> anyhow::Result<Self> {
        let dir = dir.unwrap_or_else(default_dir).join(broker_name(url));
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut make, 0o700);
        make.create(&dir).with_context(|| {
            format!("the spool folder {} cannot be made; choose another with --spool", dir.display())
        })?;
        Ok(Self(dir))
    }

    /// The path of a run's file.
    pub(crate) fn file(&self, run: &str) -> PathBuf {
        self.0.join(format!("{run}.{SUFFIX}"))
    }

    /// Begins to send what runs whose process is gone have left.
    pub(crate) fn leftovers(&self, context: &Context, own: &Path) -> Vec<Leftover> {
        let Ok(files) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let paths = files.flatten().map(|file| file.path());
        let others = paths.filter(|path| path != own && path.extension().is_some_and(|name| name == SUFFIX));
        others.filter_map(|path| Leftover::open(context, path)).take(LEFTOVERS_MAX).collect()
    }
}

/// Remembers of which session the run of an outbox file is.
pub(crate) fn remember(path: &Path, session: &SessionId) -> anyhow::Result<()> {
    let path = path.with_extension(SESSION_SUFFIX);
    std::fs::write(&path, session.as_str())
        .with_context(|| format!("{} cannot be written; choose another folder with --spool", path.display()))
}

/// The session and the run of an outbox file, if they were remembered.
fn remembered(path: &Path) -> Option<(SessionId, String)> {
    let run = path.file_stem()?.to_str()?.to_owned();
    let session = std::fs::read_to_string(path.with_extension(SESSION_SUFFIX)).ok()?;
    Some((SessionId::parse(&session).ok()?, run))
}

/// Removes an outbox file that is not needed any more, with what belongs to it.
pub(crate) fn remove(path: &Path) {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    for path in [path, Path::new(&lock), &path.with_extension(SESSION_SUFFIX)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!("longwire: {} cannot be removed: {error}", path.display());
            }
            _ => {}
        }
    }
}

/// What an earlier run left.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) client: Client,
    path: PathBuf,
    driver: JoinHandle<()>,
    /// Of which session and run it is.
    of: Option<(SessionId, String)>,
    /// Whether its messages were ended.
    is_ended: Cell<bool>,
    /// Ends that were refused, because there was nothing to be ended.
    needless: Cell<u64>,
}

impl Leftover {
    fn open(context: &Context, path: PathBuf) -> Option<Self> {
        let opened = lasting_builder(context).map(|builder| builder.outbox_file(&path).build());
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("longwire: what an earlier run left is not sent: {error:#}");
                return None;
            }
        };
        let (client, driver) = match opened {
            Ok(made) => made,
            // Its run is alive, and sends it.
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => return None,
            Err(error) => {
                eprintln!("longwire: what an earlier run left is not sent: {error}");
                return None;
            }
        };
        let status = client.outbox().borrow().clone();
        if status.cut_bytes > 0 {
            let (bytes, path) = (status.cut_bytes, path.display());
            eprintln!("longwire: {bytes} bytes at the end of {path} were no whole publish and were cut");
        }
        let of = remembered(&path);
        if status.recovered == 0 && of.is_none() {
            drop((client, driver));
            remove(&path);
            return None;
        }
        if status.recovered > 0 {
            eprintln!("longwire: sending {} batches that an earlier run left", status.recovered);
        }
        let (is_ended, needless) = (Cell::new(of.is_none()), Cell::new(0));
        Some(Self { client, path, driver: tokio::spawn(driver), of, is_ended, needless })
    }

    /// Waits until everything was sent, and ends the messages that its process has left open.
    pub(crate) async fn send(&self) -> Result<(), Closed> {
        self.client.drained().await?;
        if let Some((session, run)) = &self.of
            && let Ok(session) = self.client.session(session.as_str())
        {
            for stream in Stream::ALL {
                self.end_messages(&session, run, stream).await?;
            }
        }
        self.is_ended.set(true);
        Ok(())
    }

    async fn end_messages(&self, session: &Session, run: &str, stream: Stream) -> Result<(), Closed> {
        for number in 1.. {
            let close = close(run, &message_id(run, stream, number), MessageEnd::Abandoned);
            let error = match session.publish(close).await {
                Ok(_) => continue,
                Err(PublishError::Closed(closed)) => return Err(closed),
                Err(error) => error,
            };
            self.needless.set(self.needless.get() + 1);
            match error {
                PublishError::Refused(refusal) if refusal.code == Some(ErrorCode::MessageClosed) => {}
                // It was the last one, or nothing of it is ours to end.
                _ => break,
            }
        }
        Ok(())
    }

    /// Closes it, and removes its file when everything was sent.
    pub(crate) async fn end(self) {
        let status = self.client.outbox().borrow().clone();
        drop(self.client.close().await);
        drop(self.driver.await);
        let refused = status.refused.saturating_sub(self.needless.get());
        if let Some(error) = status.last_error.filter(|_| refused > 0) {
            eprintln!("longwire: {refused} batches of an earlier run were refused: {error}");
        }
        if status.entries == 0 && self.is_ended.get() {
            remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_has_a_folder() {
        assert_eq!(broker_name("ws://127.0.0.1:8700/"), "ws___127_0_0_1_8700");
        assert_ne!(broker_name("ws://a:1"), broker_name("ws://a:2"));
    }

    #[tokio::test]
    async fn finds_what_dead_runs_left_and_tidies_what_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { url: "ws://127.0.0.1:9".into(), ..Context::default() };
        let spool = SpoolDir::open(Some(folder.path().to_owned()), &context.url).unwrap();
        let [own, dead, alive, empty, quiet] = ["5f", "60", "61", "62", "63"].map(|run| spool.file(run));
        let mut kept = Vec::new();
        for path in [&own, &dead, &alive, &empty, &quiet] {
            let (client, driver) = lasting_builder(&context).unwrap().outbox_file(path).build().unwrap();
            let driver = tokio::spawn(driver);
            if path == &quiet {
                remember(path, client.session("a").unwrap().id()).unwrap();
            } else if path != &empty {
                drop(client.session("a").unwrap().enqueue("x").await.unwrap());
            }
            if [&dead, &empty, &quiet].contains(&path) {
                client.close().await.unwrap();
            } else {
                kept.push((client, driver));
            }
        }
        let leftovers = spool.leftovers(&context, &own);
        let mut found: Vec<&PathBuf> = leftovers.iter().map(|leftover| &leftover.path).collect();
        found.sort();
        assert_eq!(found, [&dead, &quiet]);
        assert!(!empty.exists());
        for leftover in leftovers {
            leftover.end().await;
        }
        assert!(dead.exists(), "what was not sent stays");
        assert!(quiet.exists(), "so does what was not ended");
        remove(&quiet);
        assert!(!quiet.exists() && remembered(&quiet).is_none());
    }
}
