//! What the operating system is told about a process that holds secrets.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
#[cfg(not(target_os = "linux"))]
use rustix::process::{Resource, Rlimit, setrlimit};

/// Turns core dumps off, and with them, on Linux, tracing by other processes of the same user and
/// the reading of `/proc/PID/mem` and `/proc/PID/environ`.
///
/// Commands that are run from here do not inherit it where that can be had: whether they dump is
/// theirs to say.
pub(crate) fn process() {
    // Defence in depth: where a sandbox forbids it, the program works as well.
    #[cfg(target_os = "linux")]
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    #[cfg(not(target_os = "linux"))]
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{Resource, dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn no_core_is_left_and_a_command_keeps_its_limit() {
        let before = getrlimit(Resource::Core);
        process();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
        assert_eq!(getrlimit(Resource::Core), before);
    }
}
