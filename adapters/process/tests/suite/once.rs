//! One run of a command, as if it had been called in our place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use rustix::process::Signal;

use crate::common::{Orphan, Running, number_in, once, rig, runs, said, until};

#[test]
fn secrets_are_in_the_environment() {
    let output = once(&["env.TOKEN=s3cr3t"], "echo $TOKEN");
    assert_eq!(said(&output), "s3cr3t\n");
}

#[test]
fn secrets_are_in_private_files_that_end_with_the_child() {
    let body = "echo $ONEIRIC_SECRETS_DIR; cat $ONEIRIC_SECRETS_DIR/tls/key; \
                stat -c %a $ONEIRIC_SECRETS_DIR $ONEIRIC_SECRETS_DIR/tls/key";
    let output = said(&once(&["files.tls/key=s3cr3t\n"], body));
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[1..], ["s3cr3t", "700", "400"]);
    assert!(!std::path::Path::new(lines[0]).exists());
}

#[test]
fn secrets_are_on_descriptors_that_cannot_be_written() {
    let body = "cat /dev/fd/$A; echo; cat <&$B; echo; echo x 2>/dev/null >/dev/fd/$A || echo sealed; \
                ls -l /proc/self/fd | grep -c memfd";
    let output = said(&once(&["fds.A=one", "fds.B=two"], body));
    assert_eq!(output, "one\ntwo\nsealed\n2\n");
}

#[test]
fn exit_codes_and_signals_pass_through() {
    for (body, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -PIPE $$", 141),
    ] {
        assert_eq!(once(&[], body).status.code(), Some(code), "{body}");
    }
    let absent = rig("once", &[], &["no-such-program"]).status().unwrap();
    assert_eq!(absent.code(), Some(127));
    let launched = rig("once", &["orphans=stop"], &["no-such-program"]).status().unwrap();
    assert_eq!(launched.code(), Some(127));
    let refused = rig("once", &[], &["/etc/passwd"]).status().unwrap();
    assert_eq!(refused.code(), Some(126));
}

#[test]
fn arguments_and_variables_that_are_not_utf_8_pass_through() {
    let odd = OsStr::from_bytes(b"a\xffb");
    let command: [&OsStr; 5] = ["sh", "-c", "printf '%s %s %s' \"$1\" \"$ODD\" \"$TOKEN\"", "sh"]
        .map(OsStr::new)
        .into_iter()
        .chain([odd])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let setting = OsStr::from_bytes(b"env.TOKEN=\xfe");
    let output = rig("once", &[setting], &command).env("ODD", odd).output().unwrap();
    assert_eq!(output.stdout, b"a\xffb a\xffb \xfe");
}

#[test]
fn signals_reach_the_child_with_its_group() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        let ready = dir.path().join(name);
        let body = format!(
            "trap 'echo got; exit 9' {name}; echo $$ > {}; while :; do sleep 0.01; done",
            ready.display()
        );
        let mut command = rig("once", &[], &["sh", "-c", &body]);
        command.stdout(Stdio::piped());
        let mut running = Running::of(command);
        number_in(&ready);
        running.signal(signal);
        assert_eq!(running.code(), Some(9), "{name}");
    }
}

#[test]
fn what_is_ignored_stays_ignored() {
    let body = "trap '' HUP; exec \"$0\" once -- sh -c 'kill -HUP $$; echo lived'";
    let rig = env!("CARGO_BIN_EXE_oneiric-process-rig");
    let output = std::process::Command::new("sh").args(["-c", body, rig]).output().unwrap();
    assert_eq!(said(&output), "lived\n");
}

#[test]
fn what_was_ignored_by_who_called_can_be_asked() {
    let body = "trap '' HUP; for name in HUP TERM USR2; do \"$0\" ignores $name; echo $?; done";
    let rig = env!("CARGO_BIN_EXE_oneiric-process-rig");
    let output = std::process::Command::new("sh").args(["-c", body, rig]).output().unwrap();
    assert_eq!(said(&output), "0\n1\n1\n");
}

#[test]
fn a_broken_pipe_ends_the_child() {
    // Programs of ours ignore it, and a child must not inherit that.
    assert_eq!(once(&[], "yes | head -n 1; kill -PIPE $$").status.code(), Some(141));
}

#[test]
fn what_was_for_us_alone_is_not_inherited() {
    let mut command = rig("once", &["env.TOKEN=t"], &["env"]);
    command.env("ONEIRIC_SECRET_DB", "leak").env("ONEIRIC_PROVIDERS__V__TOKEN", "leak");
    command.env("LISTEN_FDS", "1").env("APP", "kept");
    let shown = said(&command.output().unwrap());
    assert!(!shown.contains("leak") && !shown.contains("LISTEN_FDS"), "{shown}");
    assert!(shown.contains("APP=kept") && shown.contains("TOKEN=t"), "{shown}");

    let mut command = rig("once", &["env.TOKEN=t", "inherit=no"], &["env"]);
    let shown = said(&command.env("APP", "dropped").output().unwrap());
    assert!(!shown.contains("dropped"), "{shown}");
    assert!(shown.contains("TOKEN=t") && shown.contains("PATH="), "{shown}");
}

#[test]
fn a_child_has_the_mask_that_it_was_given() {
    assert_eq!(said(&once(&["umask=027"], "umask")), "0027\n");
}

#[test]
fn a_child_dies_with_its_supervisor_or_is_kept_as_it_was_said() {
    let dir = tempfile::tempdir().unwrap();
    for (policy, kept) in [("stop", false), ("keep", true)] {
        let file = dir.path().join(policy);
        let body = format!("echo $$ > {}; exec sleep 300", file.display());
        let settings = format!("orphans={policy}");
        let mut running = Running::of(rig("once", &[settings.as_str()], &["sh", "-c", &body]));
        let child = Orphan(number_in(&file));
        running.signal(Signal::KILL);
        running.code();
        if kept {
            assert!(runs(child.0));
        } else {
            until("the end of the child", || (!runs(child.0)).then_some(()));
        }
    }
}
