//! A terminal, as a shell with job control sees it.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::common::{Running, until};

/// An interactive shell on a terminal of its own.
struct Terminal {
    keys: std::fs::File,
    shown: std::sync::Arc<std::sync::Mutex<String>>,
    _shell: Running,
}

impl Terminal {
    fn open() -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        // A session of its own gets the terminal that it opens first.
        let open =
            "exec setsid sh -c 'exec bash --norc --noediting -i <\"$0\" >\"$0\" 2>&1' \"$0\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", open, &name]).stdin(Stdio::null());
        shell.env("PS1", "").env("RIG", env!("CARGO_BIN_EXE_oneiric-process-rig"));
        let shell = Running::of(shell);
        let keys = std::fs::File::from(ours);
        let mut screen = keys.try_clone().unwrap();
        let shown = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let sees = std::sync::Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                sees.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        let mut terminal = Self { keys, shown, _shell: shell };
        terminal.types("stty -echo; echo rea''dy\n");
        terminal.shows("ready\r\n");
        terminal
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for this, and forgets what was before it.
    #[track_caller]
    fn shows(&self, text: &str) {
        let give_up = std::time::Instant::now() + crate::common::PATIENCE / 3;
        loop {
            let mut shown = self.shown.lock().unwrap();
            if let Some(at) = shown.find(text) {
                shown.drain(..at + text.len());
                return;
            }
            assert!(std::time::Instant::now() < give_up, "{text:?} is not in {:?}", *shown);
            drop(shown);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn a_child_reads_from_its_terminal_and_the_shell_has_it_back_after() {
    let mut terminal = Terminal::open();
    terminal.types("\"$RIG\" once -- sh -c 'echo asks; read line; echo \"got $line\"; exit 7'; echo \"code $?\"\n");
    terminal.shows("asks");
    terminal.types("words\n");
    terminal.shows("got words");
    terminal.shows("code 7");
    terminal.types("echo still here\n");
    terminal.shows("still here");
}

#[test]
fn ctrl_c_ends_the_child_once() {
    let mut terminal = Terminal::open();
    let body = "trap \"echo int; n=1\" INT; echo up; while [ -z \"$n\" ]; do sleep 0.02; done; \
                sleep 0.3; echo over; exit 5";
    terminal.types(&format!("\"$RIG\" once -- sh -c '{body}'; echo \"code $?\"\n"));
    terminal.shows("up");
    terminal.types("\u{3}");
    terminal.shows("int");
    terminal.shows("over");
    terminal.shows("code 5");
    assert!(!terminal.shown.lock().unwrap().contains("int"));
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let mut terminal = Terminal::open();
    let body = "echo up; read line; echo \"got $line\"";
    terminal.types(&format!("\"$RIG\" once -- sh -c '{body}'\n"));
    terminal.shows("up");
    terminal.types("\u{1a}");
    terminal.shows("Stopped");
    terminal.types("echo in between\n");
    terminal.shows("in between");
    terminal.types("fg\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.types("words\n");
    terminal.shows("got words");
    terminal.types("jobs; echo none left\n");
    terminal.shows("none left");
}

#[test]
fn a_job_in_the_background_gets_the_terminal_when_it_comes_forward() {
    let mut terminal = Terminal::open();
    let body = "sleep 0.1; echo asks; read line; echo \"got $line\"";
    terminal.types(&format!("\"$RIG\" once -- sh -c '{body}' &\n"));
    terminal.shows("asks");
    // It reads in the background, which stops it and, by that, the job.
    until("the stop", || {
        terminal.types("jobs\n");
        std::thread::sleep(std::time::Duration::from_millis(100));
        terminal.shown.lock().unwrap().contains("Stopped").then_some(())
    });
    terminal.types("fg\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    terminal.types("words\n");
    terminal.shows("got words");
}

#[test]
fn the_rest_of_a_pipeline_keeps_the_terminal() {
    let mut terminal = Terminal::open();
    let reader = "cat; read line </dev/tty; echo \"reader got $line\"";
    terminal.types(&format!("\"$RIG\" once -- sh -c 'echo page' | sh -c '{reader}'\n"));
    terminal.shows("page");
    terminal.types("words\n");
    terminal.shows("reader got words");
    terminal.types("\"$RIG\" once -- sh -c 'echo up >&2; exec sleep 300' | cat; echo \"over\"\n");
    terminal.shows("up");
    terminal.types("\u{3}");
    terminal.types("echo and on\n");
    terminal.shows("and on");
}
