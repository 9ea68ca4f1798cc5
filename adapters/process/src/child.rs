//! How a child is started.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::getpid;

use crate::config::{Config, Orphans};
use crate::delivery::{Delivery, MARK, surroundings};
use crate::launcher::{self, Launcher, Task};

/// Everything that the start of a child needs.
pub(crate) struct Launch<'a> {
    pub(crate) config: &'a Config,
    pub(crate) delivery: &'a Delivery,
    pub(crate) orphans: Orphans,
    pub(crate) launcher: Option<&'a Launcher>,
    pub(crate) sockets: &'a [OwnedFd],
    pub(crate) folder: Option<&'a Path>,
    /// What is found again by the mark of its environment, if it is to be.
    pub(crate) mark: Option<&'a str>,
    /// More variables, which say who it is.
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// Whether it leads a process group of its own.
    pub(crate) apart: bool,
    /// Whether it has the standard input of the one who runs it.
    pub(crate) attended: bool,
}

impl Launch<'_> {
    /// Starts it. Where it must die with its parent that is the thread which calls this.
    pub(crate) fn start(&self) -> io::Result<Child> {
        let mut command = self.command()?;
        if self.apart {
            command.process_group(0);
        }
        if !self.attended {
            command.stdin(Stdio::null());
        }
        let _fillers = self.delivery.dress(&mut command, self.sockets, self.folder)?;
        command.spawn().map_err(|error| {
            let program = self.config.command[0].display();
            io::Error::new(error.kind(), format!("cannot run `{program}` ({error})"))
        })
    }

    fn command(&self) -> io::Result<Command> {
        let config = self.config;
        let (program, arguments) =
            config.command.split_first().expect("a command names its program");
        let task = self.task();
        let mut command = match self.launcher {
            _ if task.is_nothing() => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            Some(launcher) => launcher.command(&task, &config.command),
            None => return Err(io::Error::other(needs_launcher(config, self.orphans))),
        };
        surroundings(config, &mut command);
        if let Some(dir) = &config.working_dir {
            command.current_dir(dir);
        }
        if !task.listen.is_empty() {
            command.env("LISTEN_FDS", task.listen.len().to_string());
            command.env("LISTEN_FDNAMES", task.listen.join(":"));
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(mark) = self.mark {
            command.env(MARK, mark);
        }
        Ok(command)
    }

    fn task(&self) -> Task {
        let signal = self.config.stop_signal.0;
        let stop = self.orphans == Orphans::Stop;
        Task {
            death: stop.then(|| (signal, getpid().as_raw_nonzero().get())),
            umask: self.config.umask,
            listen: launcher::names(self.sockets.len()),
        }
    }
}

/// Why a launcher is missed.
pub(crate) fn needs_launcher(config: &Config, orphans: Orphans) -> String {
    let what = if !config.listen.is_empty() {
        "`listen`"
    } else if config.umask.is_some() {
        "`umask`"
    } else {
        debug_assert_eq!(orphans, Orphans::Stop);
        "`orphans = \"stop\"`"
    };
    format!("{what} needs a launcher, and this program has none (`with_launcher`)")
}

/// Whether such a child can only be started by a launcher.
pub(crate) fn needs_one(config: &Config, orphans: Orphans) -> bool {
    !config.listen.is_empty() || config.umask.is_some() || orphans == Orphans::Stop
}
