//! How a child ended.

use std::fmt;

use rustix::process::{WaitIdStatus, WaitStatus};

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl Ending {
    /// As shells put it: the exit code, or 128 and the number of the signal.
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Exited(code) => code,
            Self::Signalled(number) => 128 + number,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    pub(crate) fn of_wait(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Signalled))
    }

    pub(crate) fn of_waitid(status: &WaitIdStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Signalled))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(number) => write!(f, "was ended by signal {number}"),
        }
    }
}
