//! What the operating system is told about a process that holds secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off, and with them, on Linux, tracing by other processes of the same user and
/// the reading of `/proc/PID/mem` and `/proc/PID/environ`.
pub(crate) fn process() {
    // Both are defence in depth: where a sandbox forbids them, the program works as well.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
