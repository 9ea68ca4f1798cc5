//! The first process of a container buries what nobody else does.

use std::process::Command;

use crate::common::said;

/// Leaves three processes behind that end, looks for them, and ends.
fn leave(patience: &str) -> String {
    format!(
        "for n in 1 2 3; do (sleep 0.05 & exec true); done; n=0; sleep 0.2; \
         while grep -q '^State:.Z' /proc/[0-9]*/status && [ $n -lt {patience} ]; do \
         sleep 0.5; n=$((n+1)); done; \
         grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; echo $PPID; exit 9"
    )
}

#[expect(clippy::print_stderr, reason = "what is skipped says so")]
fn skipped() {
    eprintln!("skipped: a namespace of processes cannot be made here");
}

/// A program of ours in a container of its own, if there can be one: that is up to where the tests
/// run, and otherwise there is nothing to try.
fn container() -> Option<Command> {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let can = Command::new("unshare").args(unshare).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        skipped();
        return None;
    }
    let mut container = Command::new("unshare");
    container.args(unshare).arg(env!("CARGO_BIN_EXE_oneiric-process-rig"));
    Some(container)
}

#[test]
fn one_run_buries_them_at_once() {
    let Some(mut container) = container() else { return };
    let output = container.args(["once", "--", "sh", "-c", &leave("0")]).output().unwrap();
    assert_eq!(said(&output), "0\n1\n");
    assert_eq!(output.status.code(), Some(9));
}

#[test]
fn an_adapter_buries_them_when_nobody_else_has() {
    let Some(mut container) = container() else { return };
    let settings = ["hook", "leave=yes", "files.key=k", "--", "sh", "-c"];
    let output = container.args(settings).arg(leave("120")).output().unwrap();
    assert_eq!(said(&output), "0\n1\n");
    assert_eq!(output.status.code(), Some(9));
}
