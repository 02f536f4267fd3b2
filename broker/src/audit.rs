//! The audit log: who came, who was refused what, and who managed what, one JSON object a line.
//!
//! One thread writes it. Whoever tells it something never waits: what finds no room is counted, and one line says how many.

pub mod entry;
mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::audit::entry::Entry;
use crate::audit::file::RotatingFile;

/// Entries that wait for the disk: a kilobyte each at most.
const QUEUE: usize = 4096;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;
/// How often it is told how many entries there was no room for.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Refusals of a moment: a client that does something wrong does it often.
const REFUSALS_BURST: u64 = 1000;
/// Refusals a second after that. Whoever is refused pays nothing for it, and must not push what others did out of the files:
/// at this rate that takes half a day.
const REFUSALS_PER_SECOND: u64 = 10;

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file.
    #[error("the audit log {} cannot be written: {error}; name another file with `audit`, or none with `audit = false`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// The thread.
    #[error("the audit log has no thread: {0}")]
    Thread(#[source] io::Error),
}

enum Message {
    Entry(Box<Entry>),
    Close(oneshot::Sender<()>),
}

/// How many refusals may still be told.
struct Budget {
    left: u64,
    since: Instant,
}

struct Shared {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    refusals: Mutex<Budget>,
}

/// See the top of this file. Cloning is cheap.
#[derive(Clone)]
pub struct Audit(Option<Arc<Shared>>);

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audit({})", if self.0.is_some() { "on" } else { "off" })
    }
}

impl Audit {
    /// One that nothing is written to.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// One in this file, which goes on where it ends. A full disk is no reason not to serve.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |error| AuditError::File { path: path.to_owned(), error };
        let mut file = RotatingFile::new(path);
        match file.open() {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                tracing::error!(%error, "the audit log has no room; it is tried again");
            }
            Err(error) => return Err(failed(error)),
        }
        let (audit, messages) = Self::new();
        let dropped = audit.0.as_ref().map(|shared| Arc::clone(&shared.dropped)).unwrap_or_default();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || Writer { file, messages, dropped, failing: false }.run())
            .map_err(AuditError::Thread)?;
        Ok(audit)
    }

    fn new() -> (Self, Receiver<Message>) {
        let (messages, received) = sync_channel(QUEUE);
        let refusals = Mutex::new(Budget { left: REFUSALS_BURST, since: Instant::now() });
        (Self(Some(Arc::new(Shared { messages, dropped: Arc::default(), refusals }))), received)
    }

    /// Tells what happened. The entry is not made when nobody wants it.
    pub fn record(&self, entry: impl FnOnce() -> Entry) {
        let Some(shared) = &self.0 else { return };
        let mut entry = entry();
        if entry.is_refusal() && !shared.may_refuse() {
            shared.drop_one();
            return;
        }
        entry.time_ms = now_ms();
        if let Err(TrySendError::Full(_)) = shared.messages.try_send(Message::Entry(Box::new(entry))) {
            shared.drop_one();
        }
    }

    /// Waits until everything that was told is written.
    pub async fn close(&self) {
        let Some(shared) = self.0.clone() else { return };
        let (written, done) = oneshot::channel();
        // There may be no room for the message before the disk took some others.
        let sent = tokio::task::spawn_blocking(move || shared.messages.send(Message::Close(written)));
        if sent.await.is_ok_and(|sent| sent.is_ok()) {
            // It is dropped when the thread has ended, which leaves nothing to wait for.
            drop(done.await);
        }
    }
}

impl Shared {
    fn may_refuse(&self) -> bool {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("longwire_audit_dropped_total").increment(1);
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs().saturating_mul(REFUSALS_PER_SECOND);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(REFUSALS_BURST);
            self.since = now;
        }
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// The thread.
struct Writer {
    file: RotatingFile,
    messages: Receiver<Message>,
    dropped: Arc<AtomicU64>,
    /// Whether the last write failed, so that it is said once.
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        let mut told = Instant::now();
        loop {
            let first = match self.messages.recv_timeout(TELL_EVERY) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.write(Vec::new(), 0, true);
                    return;
                }
            };
            let (mut lines, mut count, mut closing) = (Vec::new(), 0, None);
            let mut next = first.ok_or(TryRecvError::Empty);
            while let Ok(message) = next {
                match message {
                    Message::Entry(entry) => {
                        entry.write(&mut lines);
                        count += 1;
                    }
                    Message::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                }
                if lines.len() >= WRITE_BYTES {
                    break;
                }
                next = self.messages.try_recv();
            }
            let tells = told.elapsed() >= TELL_EVERY || closing.is_some();
            if tells {
                told = Instant::now();
            }
            self.write(lines, count, tells);
            if let Some(done) = closing {
                self.file.sync();
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }

    /// Writes lines; what the disk does not take counts as dropped.
    fn write(&mut self, mut lines: Vec<u8>, count: u64, tells: bool) {
        let dropped = if tells { self.dropped.swap(0, Ordering::Relaxed) } else { 0 };
        if dropped > 0 {
            Entry::dropped(dropped, now_ms()).write(&mut lines);
        }
        if lines.is_empty() {
            return;
        }
        match self.file.append(&lines) {
            Ok(()) => {
                metrics::counter!("longwire_audit_entries_total").increment(count);
                self.failing = false;
            }
            Err(error) => {
                self.dropped.fetch_add(dropped + count, Ordering::Relaxed);
                metrics::counter!("longwire_audit_failures_total").increment(1);
                metrics::counter!("longwire_audit_dropped_total").increment(count);
                if !self.failing {
                    tracing::error!(%error, "the audit log cannot be written; what happens is counted, and it is tried again");
                }
                self.failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
