//! What has to be done between the start of a child and that of its command.
//!
//! Some properties can be set only by a process itself: that it learns of the death of its parent,
//! its file mode creation mask, the variable that holds its own number. The program that runs
//! children therefore starts itself once more, with a first argument of its choice, calls [`main`]
//! there before anything else, and becomes the command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::fs::Mode;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal, umask};

/// How the program is started so that it calls [`main`].
///
/// ```
/// use oneiric_adapter_process::Launcher;
///
/// // The program as it runs now, even if its file was replaced since.
/// let launcher = Launcher::new("/proc/self/exe", ["launch-child"]);
/// # let _ = launcher;
/// ```
#[derive(Debug, Clone)]
pub struct Launcher {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Launcher {
    /// This program, with these first arguments.
    pub fn new<A: Into<OsString>>(
        path: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self { path: path.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    pub(crate) fn command(&self, task: &Task, command: &[OsString]) -> Command {
        let mut launch = Command::new(&self.path);
        launch.args(&self.arguments).args(task.arguments()).arg("--").args(command);
        launch
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Task {
    /// The signal that the child gets when this parent dies.
    pub(crate) death: Option<(Signal, i32)>,
    pub(crate) umask: Option<u32>,
    /// The names of the sockets that it is given.
    pub(crate) listen: Vec<String>,
}

impl Task {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some((signal, parent)) = self.death {
            arguments.push(format!("death={}", signal.as_raw()));
            arguments.push(format!("parent={parent}"));
        }
        if let Some(mask) = self.umask {
            arguments.push(format!("umask={mask}"));
        }
        if !self.listen.is_empty() {
            arguments.push(format!("listen={}", self.listen.join(":")));
        }
        arguments
    }

    fn read(arguments: &mut impl Iterator<Item = OsString>) -> Option<Self> {
        let mut task = Self::default();
        let (mut death, mut parent) = (None, None);
        for argument in arguments {
            if argument == "--" {
                task.death = death.zip(parent);
                return Some(task);
            }
            let (key, value) = argument.to_str()?.split_once('=')?;
            match key {
                "death" => death = Some(Signal::from_named_raw(value.parse().ok()?)?),
                "parent" => parent = Some(value.parse().ok()?),
                "umask" => task.umask = Some(value.parse().ok()?),
                "listen" => task.listen = value.split(':').map(str::to_owned).collect(),
                _ => return None,
            }
        }
        None
    }
}

/// Becomes the command, given the arguments that follow those of the [`Launcher`]; returns only if
/// that cannot be, with what a shell would: 127 if there is no such program, and 126 otherwise.
///
/// It is to be called before the program starts any thread.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let Some(task) = Task::read(&mut arguments) else {
        return failed("the launcher was called by somebody else", 126);
    };
    let Some(program) = arguments.next() else {
        return failed("the launcher was given no program", 126);
    };
    let mut command = Command::new(&program);
    command.args(arguments);
    if let Some(mask) = task.umask {
        umask(Mode::from_raw_mode(mask));
    }
    if !task.listen.is_empty() {
        command.env("LISTEN_PID", getpid().as_raw_nonzero().to_string());
    }
    if let Some((signal, parent)) = task.death {
        if let Err(error) = set_parent_process_death_signal(Some(signal)) {
            return failed(&format!("the death of the parent cannot be noticed ({error})"), 126);
        }
        // It may have died before that was set.
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
            return ExitCode::from(128 + u8::try_from(signal.as_raw()).unwrap_or(0));
        }
    }
    let error = command.exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    failed(&format!("cannot run `{}` ({error})", program.display()), code)
}

#[expect(clippy::print_stderr, reason = "there is nobody else in this process who could say it")]
fn failed(what: &str, code: u8) -> ExitCode {
    eprintln!("oneiric: {what}");
    ExitCode::from(code)
}

/// The names of sockets in the protocol of systemd, which may not hold a colon.
pub(crate) fn names(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("listen{number}")).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_task_is_read_as_it_was_written() {
        let task = Task { death: Some((Signal::TERM, 42)), umask: Some(0o77), listen: names(2) };
        let argument = task.arguments().into_iter().map(OsString::from);
        let mut all = argument.chain([OsString::from("--"), OsString::from("sh")]);
        assert_eq!(Task::read(&mut all), Some(task));
        assert_eq!(all.next().as_deref(), Some(OsStr::new("sh")));
    }

    #[test]
    fn what_is_no_task_is_not_guessed() {
        for arguments in [vec![], vec!["death=15"], vec!["death=x", "--"], vec!["who=me", "--"]] {
            assert_eq!(Task::read(&mut arguments.into_iter().map(OsString::from)), None);
        }
    }
}
