//! The process: started with a clean environment, and ended with everything it started.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::config::Config;

/// What a program inherits anyway. None of it holds a secret.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// How often it is looked whether a program has ended that is given time for it.
const LOOK: Duration = Duration::from_millis(10);

/// How long a process that was killed may take to be gone. More only if it hangs in the kernel.
const REAPED: Duration = Duration::from_secs(5);

/// A process with its group. Dropping it kills the group.
pub(crate) struct Program {
    // Declared before the child, so that the group is killed before its leader is reaped: until
    // then nobody else can have its number.
    group: Group,
    child: Child,
}

/// Its three pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Program {
    /// Starts it.
    pub(crate) fn start(config: &Config) -> io::Result<(Self, Pipes)> {
        let (program, arguments) =
            config.command.split_first().expect("the settings name a program");
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        let named = config.env.iter().map(String::as_str);
        for name in INHERITED.into_iter().chain(named) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pipes = Pipes {
            stdin: child.stdin.take().expect("standard input is piped"),
            stdout: child.stdout.take().expect("standard output is piped"),
            stderr: child.stderr.take().expect("standard error is piped"),
        };
        Ok((Self { group: Group::of(child.id()), child }, pipes))
    }

    /// Waits for its end so long, ends it if it has not come, and says how it ended by itself.
    pub(crate) async fn end(mut self, grace: Duration) -> Option<ExitStatus> {
        let by_itself = timeout(grace, self.has_ended()).await.is_ok();
        self.group.kill();
        let status = timeout(REAPED, self.child.wait()).await;
        status.ok()?.ok().filter(|_| by_itself)
    }

    /// Whether it ended, without letting go of its number.
    async fn has_ended(&self) {
        let Some(leader) = self.group.0 else { return };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while let Ok(None) = waitid(WaitId::Pid(leader), look) {
            sleep(LOOK).await;
        }
    }
}

/// The process group of a program.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Kills all of it, once.
    fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            // It may be empty already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
