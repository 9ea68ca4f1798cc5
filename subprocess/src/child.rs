//! One run of a command: fed, listened to, and ended with everything it started.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use crate::redact::Captured;

/// How long the last words of a command that has ended may take to arrive. They are in the pipe
/// already, unless another process holds its other end open; then this is all we wait.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a run ended.
pub(crate) enum Ending {
    Exited(ExitStatus, Captured),
    /// It was killed with its process group.
    TimedOut,
    /// It could not be started, or not be waited for.
    Lost(io::Error),
}

/// Runs a command with this on its standard input, and keeps this much of the end of its standard
/// error. Dropping the future kills the process group.
pub(crate) async fn run(
    mut command: Command,
    input: Option<&[u8]>,
    window: usize,
    limit: Duration,
) -> Ending {
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ending::Lost(error),
    };
    // Declared after the child, so that the group is killed before its leader is reaped.
    let mut group = Group::of(child.id());
    let stdin = child.stdin.take();
    let stderr = child.stderr.take().expect("standard error is piped");
    let mut listener = Listener::new(stderr, window);

    let talk = async {
        tokio::join!(feed(stdin, input.unwrap_or_default()), listener.listen());
        pending::<Infallible>().await
    };
    let ended = tokio::select! {
        ended = timeout(limit, child.wait()) => ended,
        never = talk => match never {},
    };
    match ended {
        Err(_) => Ending::TimedOut,
        Ok(Err(error)) => Ending::Lost(error),
        Ok(Ok(status)) => {
            group.release();
            listener.captured.cut_after = timeout(LAST_WORDS, listener.listen()).await.is_err();
            Ending::Exited(status, listener.captured)
        }
    }
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        // A command that does not read its input closes the pipe; its exit code says the rest.
        let _ = stdin.write_all(input).await;
    }
}

/// The end of what a command writes to its standard error.
struct Listener {
    stderr: ChildStderr,
    window: usize,
    captured: Captured,
}

impl Listener {
    fn new(stderr: ChildStderr, window: usize) -> Self {
        Self { stderr, window, captured: Captured::default() }
    }

    /// Listens until the other end is closed. It may be interrupted and taken up again.
    async fn listen(&mut self) {
        let mut chunk = Zeroizing::new([0; 4096]);
        while let Ok(length @ 1..) = self.stderr.read(&mut *chunk).await {
            let kept = &mut self.captured.bytes;
            if kept.len() + length > 2 * self.window {
                let mut older = std::mem::take(&mut **kept);
                kept.extend_from_slice(&older[older.len().saturating_sub(self.window)..]);
                older.zeroize();
                self.captured.cut_before = true;
            }
            kept.extend_from_slice(&chunk[..length]);
        }
    }
}

/// The process group of a command that is running.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// What the command has left behind when it ended is meant to stay.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended by itself a moment ago.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
