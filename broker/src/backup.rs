//! Backups: a whole data folder, as it was at one moment, made while the broker serves, and kept for as long as is wanted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::short_id::check_short_id;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::ageing::Ageing;
use crate::clock::Clock;
use crate::store::local::backup::made_ms;
use crate::store::{BackedUp, Store, StoreError};
use crate::store_error::to_error;

/// How often backups that are too old are looked for: they stay longer by this much.
const PAUSE: Duration = Duration::from_secs(60);
/// What the name of a backup ends with while it is removed: a crash in the middle leaves nothing that looks whole.
const EXPIRED: &str = ".expired";

/// Makes a backup of this name in the folder of backups.
///
/// # Errors
/// [`ErrorCode::NotConfigured`] without such a folder, [`ErrorCode::BackupExists`], [`ErrorCode::InvalidArgument`], and those
/// of the store.
pub async fn back_up(
    store: &Arc<dyn Store>,
    backups: Option<PathBuf>,
    name: &str,
) -> Result<BackedUp, Error> {
    check_short_id(ErrorCode::InvalidArgument, "name", name.as_bytes())?;
    let Some(backups) = backups else {
        let message = "the broker was given no folder for backups; start it with `--backups DIR`";
        return Err(Error::new(ErrorCode::NotConfigured, message));
    };
    match store.back_up(backups.join(name)).await {
        Ok(backup) => Ok(backup),
        Err(StoreError::AlreadyExists) => {
            let message = format!("there is a backup `{name}` already; choose another name");
            Err(Error::new(ErrorCode::BackupExists, message).field("name"))
        }
        Err(error) => Err(to_error(&error)),
    }
}

/// Removes backups that are too old: what was erased or deleted since is in them.
pub struct Expiry {
    /// The folder of backups.
    pub backups: PathBuf,
    /// How long they are kept.
    pub keep: Duration,
    /// The time.
    pub clock: Clock,
    /// Whether it is to be trusted.
    pub ageing: Ageing,
}

impl Expiry {
    /// Works until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut rounds = interval(PAUSE);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            if self.ageing.is_suspended() {
                continue;
            }
            let (backups, keep, now_ms) = (self.backups.clone(), self.keep, self.clock.now_ms());
            let done = tokio::task::spawn_blocking(move || expire(&backups, keep, now_ms)).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(%error, backups = %self.backups.display(), "old backups could not be removed; it is tried again");
            }
        }
    }
}

/// Removes what is older, and what an earlier life began to remove. Touches nothing that is no backup.
fn expire(backups: &Path, keep: Duration, now_ms: u64) -> io::Result<()> {
    let entries = match fs::read_dir(backups) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) else {
            continue;
        };
        let made = made_ms(&path);
        let whole = name.strip_suffix(EXPIRED);
        let named = check_short_id(ErrorCode::InvalidArgument, "name", whole.unwrap_or(name).as_bytes());
        if named.is_err() {
            continue;
        }
        if whole.is_some() {
            fs::remove_dir_all(&path)?;
        } else if made.is_some_and(|made_ms| u128::from(now_ms.saturating_sub(made_ms)) > keep.as_millis()) {
            let expired = backups.join(format!("{name}{EXPIRED}"));
            fs::rename(&path, &expired)?;
            fs::remove_dir_all(&expired)?;
            tracing::info!(backup = name, "a backup was as old as backups are kept, and is removed");
            metrics::counter!("longwire_backups_expired_total").increment(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::backup::mark;

    #[test]
    fn old_backups_are_removed_and_nothing_else() {
        let around = tempfile::tempdir().unwrap();
        let path = |name: &str| around.path().join(name);
        for name in ["old", "new", "not-a-backup", "dotted.name", "half.expired", "half.partial"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("sessions.redb"), name).unwrap();
        }
        for (name, made_ms) in [("old", 1000), ("new", 5000), ("dotted.name", 1000)] {
            mark(&path(name), made_ms).unwrap();
        }
        let keep = Duration::from_secs(5);
        let there = || {
            let mut names: Vec<_> = fs::read_dir(around.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        expire(around.path(), keep, 6000).unwrap();
        assert_eq!(there(), ["dotted.name", "half.partial", "new", "not-a-backup", "old"]);
        expire(around.path(), keep, 6001).unwrap();
        assert_eq!(there(), ["dotted.name", "half.partial", "new", "not-a-backup"]);
        // Of a clock that stands before it nothing follows.
        expire(around.path(), keep, 0).unwrap();
        assert_eq!(there().len(), 4);
        expire(&path("nowhere"), keep, 9000).unwrap();
    }
}
