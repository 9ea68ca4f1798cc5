//! What becomes of children when the one who runs them is killed.

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Running, number_in, rig, runs, until};

fn environ(pid: i32, name: &str) -> String {
    // One that is becoming another program has none for a moment.
    until("a variable", || {
        let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
        let found = environ.split('\0').find_map(|variable| variable.strip_prefix(name));
        found.map(str::to_owned)
    })
}

#[test]
fn a_supervisor_that_is_killed_takes_its_children_along_and_the_next_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let start = |name: &str, policy: &str, body: &str| {
        let body = format!("echo $$ > {}; {body}", file(name).display());
        let policy = format!("orphans={policy}");
        let supervisor = rig("hook", &[policy.as_str(), "files.key=k"], &["sh", "-c", &body]);
        let supervisor = Running::of(supervisor);
        let child = number_in(&file(name));
        (supervisor, child, environ(child, "ONEIRIC_SECRETS_DIR="))
    };
    let (mut stops, stopped, stopped_files) = start("a", "stop", "exec sleep 300");
    let (mut deaf, ignores, ignored_files) =
        start("b", "stop", "trap '' TERM; while :; do sleep 0.02; done");
    let (mut keeps, kept, kept_files) = start("c", "keep", "exec sleep 300");
    for supervisor in [&mut stops, &mut deaf, &mut keeps] {
        supervisor.signal(Signal::KILL);
        supervisor.code();
    }
    until("the end of the child that hears", || (!runs(stopped)).then_some(()));
    assert!(runs(ignores) && runs(kept));
    let is_there = |path: &str| std::path::Path::new(path).join("key").exists();
    assert!(is_there(&kept_files));

    // The next start waits for those that are to end, and leaves those alone that are kept.
    let (next, _, next_files) = start("d", "keep", "exec sleep 300");
    assert!(!runs(ignores) && runs(kept));
    assert!(!is_there(&stopped_files) && !is_there(&ignored_files));
    assert!(is_there(&kept_files) && is_there(&next_files));
    let kill = |pid| kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    kill(kept);
    drop(next);
    kill(number_in(&file("d")));
    until("the end of those that were kept", || {
        let (mut last, child, _) = start("e", "stop", "exec sleep 300");
        last.signal(Signal::TERM);
        last.code();
        (!runs(child) && !is_there(&kept_files) && !is_there(&next_files)).then_some(())
    });
}
