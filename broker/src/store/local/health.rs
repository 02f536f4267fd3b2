//! Whether the store takes writes, and why not.

use metrics::gauge;
use tokio::sync::watch;
use tracing::{error, info};

use crate::store::{Health, StoreError};

/// Which part is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The journal cannot be written.
    Journal,
    /// The database cannot be written.
    Database,
    /// The store was told to stop; this part never gets well.
    Stopped,
}

/// The troubles of the parts.
#[derive(Debug)]
pub struct HealthBoard(watch::Sender<[Option<String>; 3]>);

impl Default for HealthBoard {
    fn default() -> Self {
        Self(watch::Sender::new([None, None, None]))
    }
}

impl HealthBoard {
    /// A part is in trouble.
    pub fn trouble(&self, part: Part, what: String) {
        self.0.send_if_modified(|causes| {
            let cause = &mut causes[part as usize];
            if cause.as_ref() == Some(&what) {
                return false;
            }
            if part != Part::Stopped {
                error!(?part, what, "the store takes no writes");
            }
            *cause = Some(what);
            true
        });
        gauge!("longwire_store_degraded").set(1.0);
    }

    /// A part is well again.
    pub fn well(&self, part: Part) {
        let changed = self.0.send_if_modified(|causes| causes[part as usize].take().is_some());
        if changed {
            info!(?part, "the store has recovered");
            gauge!("longwire_store_degraded").set(if self.check().is_ok() { 0.0 } else { 1.0 });
        }
    }

    /// The health for humans.
    #[must_use]
    pub fn now(&self) -> Health {
        match self.check() {
            Ok(()) => Health::Ready,
            Err(StoreError::Unavailable(what)) => Health::Degraded(what),
            Err(error) => Health::Degraded(error.to_string()),
        }
    }

    /// # Errors
    /// [`StoreError::Unavailable`] while a part is in trouble.
    pub fn check(&self) -> Result<(), StoreError> {
        let causes: Vec<String> = self.0.borrow().iter().flatten().cloned().collect();
        if causes.is_empty() { Ok(()) } else { Err(StoreError::Unavailable(causes.join("; "))) }
    }

    /// Resolves with the trouble as soon as there is one.
    pub async fn troubled(&self) -> StoreError {
        let mut changes = self.0.subscribe();
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }
}
