//! Looks after the keys that are in files: what changed there counts soon after, without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::auth::guard::Guard;
use crate::auth::key_file::KeyFile;
use crate::auth::key_set::Keys;
use crate::auth::signing_keys::SigningKeys;
use crate::file_stamp::FileStamp;

/// How often files are looked at: a key that was dropped ends connections within a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often what has expired is forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Watches until it is stopped.
pub struct KeyWatch {
    guard: Arc<Guard>,
    files: Vec<Watched>,
}

/// Keys of a file.
enum Loaded {
    Signing(SigningKeys),
    Issuer { name: String, keys: Keys },
}

enum Source {
    Signing(PathBuf),
    Issuer { name: String, file: KeyFile },
}

struct Watched {
    source: Source,
    /// The file whose keys are in use.
    taken: Option<FileStamp>,
    /// What was said of a failure last, so that it is said once.
    said: Option<String>,
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Signing(path) => path,
            Self::Issuer { file, .. } => file.path(),
        }
    }

    fn load(&self) -> Result<Loaded, String> {
        match self {
            Self::Signing(path) => {
                SigningKeys::load(path).map(Loaded::Signing).map_err(|error| error.to_string())
            }
            Self::Issuer { name, file } => match file.load() {
                Ok(keys) => Ok(Loaded::Issuer { name: name.clone(), keys }),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

impl Watched {
    fn new(source: Source) -> Self {
        Self { source, taken: None, said: None }
    }

    /// The keys of the file when it is another one than before. One that cannot be read is tried again each time.
    fn look(&mut self) -> Option<Loaded> {
        // Looked at first: what changes while it is read is read again.
        let loaded = match FileStamp::of(self.source.path()) {
            Ok(stamp) if self.taken == Some(stamp) => return None,
            Ok(stamp) => self.source.load().map(|loaded| (stamp, loaded)),
            Err(error) => Err(format!("{}: {error}", self.source.path().display())),
        };
        match loaded {
            Ok((stamp, loaded)) => {
                (self.taken, self.said) = (Some(stamp), None);
                Some(loaded)
            }
            Err(error) => {
                // Put back as it was, it is read again.
                self.taken = None;
                if self.said.as_ref() != Some(&error) {
                    metrics::counter!("longwire_key_file_failures_total").increment(1);
                    tracing::error!(%error, "a file with keys cannot be used; the keys of before stay in use");
                    self.said = Some(error);
                }
                None
            }
        }
    }
}

impl KeyWatch {
    /// Watches the file of the broker's own keys, and those of issuers by their names. Each is read once at the beginning:
    /// it may have changed since the guard was given its keys.
    #[must_use]
    pub fn new(guard: Arc<Guard>, signing: PathBuf, issuers: Vec<(String, KeyFile)>) -> Self {
        let issuers = issuers.into_iter().map(|(name, file)| Source::Issuer { name, file });
        let files = [Source::Signing(signing)].into_iter().chain(issuers).map(Watched::new).collect();
        Self { guard, files }
    }

    /// Works until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut rounds = interval(LOOK_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tidy_at = Instant::now() + TIDY_EVERY;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            let mut files = std::mem::take(&mut self.files);
            let looked = tokio::task::spawn_blocking(move || {
                let loaded: Vec<Loaded> = files.iter_mut().filter_map(Watched::look).collect();
                (files, loaded)
            });
            let Ok((files, loaded)) = looked.await else {
                tracing::error!("files with keys are not looked at any more; start the broker again");
                return;
            };
            self.files = files;
            loaded.into_iter().for_each(|loaded| self.take(loaded));
            if tidy_at <= Instant::now() {
                self.guard.tidy().await;
                tidy_at = Instant::now() + TIDY_EVERY;
            }
        }
    }

    fn take(&self, loaded: Loaded) {
        match loaded {
            Loaded::Signing(keys) => {
                tracing::info!(key = keys.id(), "signing keys are in use as their file has them");
                self.guard.put_signing_keys(keys);
            }
            Loaded::Issuer { name, keys } => {
                tracing::info!(issuer = name, keys = keys.iter().count(), "keys of an issuer are in use");
                self.guard.put_keys(&name, keys);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::signing_keys::Earlier;

    const NOW_MS: u64 = 1_764_000_000_000;

    fn key(loaded: Option<Loaded>) -> Option<String> {
        match loaded {
            Some(Loaded::Signing(keys)) => Some(keys.id()),
            Some(Loaded::Issuer { .. }) => panic!("of an issuer"),
            None => None,
        }
    }

    #[test]
    fn a_changed_file_is_read_once_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = SigningKeys::load_or_make(&path).unwrap();
        let mut watched = Watched::new(Source::Signing(path.clone()));
        assert_eq!(key(watched.look()), Some(first.id()));
        assert_eq!(key(watched.look()), None);
        let second = first.rotate(&path, Earlier::Kept, NOW_MS).unwrap();
        assert_eq!(key(watched.look()), Some(second.id()));
        assert_eq!(key(watched.look()), None);

        let whole = fs::read(&path).unwrap();
        fs::write(&path, b"{}").unwrap();
        assert_eq!(key(watched.look()), None);
        assert!(watched.said.as_ref().is_some_and(|said| said.contains("damaged")));
        fs::remove_file(&path).unwrap();
        assert_eq!(key(watched.look()), None);
        fs::write(&path, whole).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(key(watched.look()), None);
        assert!(watched.said.as_ref().is_some_and(|said| said.contains("644")));
        // Nothing but the mode changes.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key(watched.look()), Some(second.id()));
        assert_eq!(watched.said, None);
    }
}
