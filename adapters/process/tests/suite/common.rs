//! What the tests share.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// More than anything here takes, on a busy machine as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program of ours, in this role.
pub(crate) fn rig<S: AsRef<OsStr>>(role: &str, settings: &[S], command: &[S]) -> Command {
    let mut rig = Command::new(env!("CARGO_BIN_EXE_oneiric-process-rig"));
    rig.arg(role).args(settings).arg("--").args(command).stdin(Stdio::null());
    rig
}

/// What it printed, and how it ended.
pub(crate) fn once(settings: &[&str], body: &str) -> Output {
    rig("once", settings, &["sh", "-c", body]).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits for something to be so.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: it did not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number that a script wrote into this file.
#[track_caller]
pub(crate) fn number_in(path: &Path) -> i32 {
    until("a number in a file", || std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// A process that nobody has reaped yet is gone too.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn code(&mut self) -> Option<i32> {
        until("the end of a process", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
