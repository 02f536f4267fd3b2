//! A file that occupies room on the disk, to be given up when the disk is full: redb needs some to settle, and settling
//! is what frees the journal's segments.

use std::io;
use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::store::local::disk::Disk;

/// The name of the file.
pub const BALLAST_FILE: &str = "ballast";
/// Zeros written at a time.
const FILL_BYTES: usize = 1 << 20;

/// See the top of this file.
#[derive(Debug)]
pub struct Ballast {
    disk: Arc<dyn Disk>,
    bytes: u64,
    present: bool,
}

impl Ballast {
    /// A ballast of `bytes`, which may be there from an earlier life.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, bytes: u64) -> Self {
        Self { disk, bytes, present: false }
    }

    /// Makes the ballast when it is absent and there is room.
    pub fn restore(&mut self) {
        if self.present {
            return;
        }
        match self.make() {
            Ok(()) => self.present = true,
            Err(error) => {
                debug!(%error, "no room for the ballast yet");
                self.remove();
            }
        }
    }

    /// Gives the room back to the disk.
    pub fn release(&mut self) {
        info!(bytes = self.bytes, "removing the ballast, because the disk is full");
        self.remove();
    }

    fn make(&self) -> io::Result<()> {
        let file = self.disk.open(BALLAST_FILE)?;
        let there = file.bytes()?;
        let zeros = vec![0; FILL_BYTES];
        for at in (there..self.bytes).step_by(FILL_BYTES) {
            file.write_at(at, &zeros[..FILL_BYTES.min((self.bytes - at) as usize)])?;
        }
        file.sync_data()
    }

    fn remove(&mut self) {
        self.present = false;
        if let Err(error) = self.disk.remove(BALLAST_FILE) {
            warn!(%error, "the ballast could not be removed");
        }
    }
}
