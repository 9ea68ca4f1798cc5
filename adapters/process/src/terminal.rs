//! The terminal, and whose it is.

use std::os::fd::BorrowedFd;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpid};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

/// How a child stands to the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It leads a group of its own, which the terminal is handed to when it is ours.
    Own,
    /// It stays in our group, since that has others in it: the rest of a pipeline, or the script
    /// that called us. The terminal sends its signals to the child as well as to us.
    Shared,
}

impl Standing {
    /// The right one for where we are.
    pub(crate) fn here() -> Self {
        let alone = own_group() == Some(getpid()) && isatty(stdout());
        if is_ours() && !alone { Self::Shared } else { Self::Own }
    }
}

/// Whether standard input is the terminal and our group is in its foreground.
pub(crate) fn is_ours() -> bool {
    own_group().is_some_and(is_of)
}

/// Takes it from this group, if that has it.
pub(crate) fn take_from(group: Pid) {
    if is_of(group)
        && let Some(own) = own_group()
    {
        hand_to(own);
    }
}

/// In a container our group may be one of outside, which has no number here.
fn own_group() -> Option<Pid> {
    Pid::from_raw(nix::unistd::getpgrp().as_raw())
}

/// Whether this group is in the foreground of the terminal that is our standard input.
fn is_of(group: Pid) -> bool {
    terminal().is_some_and(|terminal| tcgetpgrp(terminal).is_ok_and(|owner| owner == group))
}

/// Whether there is one.
pub(crate) fn is_there() -> bool {
    terminal().is_some()
}

/// Puts this group into the foreground.
pub(crate) fn hand_to(group: Pid) {
    let Some(terminal) = terminal() else { return };
    // Who is in the background and asks for this is stopped by SIGTTOU, unless it is blocked.
    let mut stopping = SigSet::empty();
    stopping.add(Signal::SIGTTOU);
    let Ok(before) = SigSet::thread_get_mask() else { return };
    if stopping.thread_block().is_ok() {
        // Without a terminal that we control there is nothing to hand over.
        let _ = tcsetpgrp(terminal, group);
        let _ = before.thread_set_mask();
    }
}

fn terminal() -> Option<BorrowedFd<'static>> {
    let stdin = stdin();
    isatty(stdin).then_some(stdin)
}
