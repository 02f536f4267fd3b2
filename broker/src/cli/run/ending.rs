//! How a command ended, as people and shells say it.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use longwire::RunState;

/// What shells add to the number of the signal that ended a command.
const EXIT_SIGNAL_BASE: i32 = 128;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

impl Ending {
    /// How a command with this status ended.
    pub(crate) fn new(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, signal) => Self::Signalled(signal.unwrap_or(0)),
        }
    }

    /// The status as a shell would give it.
    pub(crate) fn shell_status(self) -> u8 {
        let status = match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => EXIT_SIGNAL_BASE + signal,
        };
        u8::try_from(status).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) ending: Ending,
    /// Whether somebody wanted it to.
    pub(crate) is_cancelled: bool,
}

impl Outcome {
    /// How its run ends.
    pub(crate) fn run_state(self) -> RunState {
        match self.ending {
            _ if self.is_cancelled => RunState::Cancelled,
            Ending::Exited(0) => RunState::Completed,
            Ending::Exited(_) | Ending::Signalled(_) => RunState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_as_its_command_does() {
        let state = |ending, is_cancelled| Outcome { ending, is_cancelled }.run_state();
        assert_eq!(state(Ending::Exited(0), false), RunState::Completed);
        assert_eq!(state(Ending::Exited(3), false), RunState::Failed);
        assert_eq!(state(Ending::Signalled(9), false), RunState::Failed);
        // Also when it did what there was to do before it ended.
        assert_eq!(state(Ending::Exited(0), true), RunState::Cancelled);
    }
}
