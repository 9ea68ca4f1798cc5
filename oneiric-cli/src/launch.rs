//! How this program starts itself to become a child process.

use std::ffi::OsString;
use std::process::ExitCode;

use oneiric_adapter_process::{Launcher, launcher};

/// The first argument that means it. It is of no use to people.
const ARGUMENT: &str = "launch-child";

/// How a child is started by it.
pub(crate) fn launcher() -> Launcher {
    // The program as it runs now, even if its file was replaced since.
    Launcher::new("/proc/self/exe", [ARGUMENT])
}

/// If it is what this start is for, what came of it; where all went well it does not return.
pub(crate) fn requested(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let _program = arguments.next();
    (arguments.next()? == ARGUMENT).then(|| launcher::main(arguments))
}
