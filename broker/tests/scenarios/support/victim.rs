//! A process that is killed, at the latest at the end of its test.

use std::process::{Child, Command};

pub(crate) struct Victim(Child);

impl Victim {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Kill -9.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
