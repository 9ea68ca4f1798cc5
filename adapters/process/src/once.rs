//! One run of a command with secrets, without a runtime and without waiting for anything but it.

use std::io;

use nix::sys::signal::SigSet;
use oneiric_core::{HookError, SecretSet};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, wait, waitpid,
};
use signal_hook::consts::signal::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;

use crate::child::{Launch, needs_launcher, needs_one};
use crate::config::{Config, Orphans};
use crate::delivery::Delivery;
use crate::ending::Ending;
use crate::folder::Folder;
use crate::ignored::Ignored;
use crate::launcher::Launcher;
use crate::terminal::{self, Standing};

/// What is passed on to the child.
const FORWARDED: [i32; 9] =
    [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP];
/// What is passed on to a child that shares the terminal with us, which sends it the others.
const FORWARDED_IN_COMMON: [i32; 4] = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];
/// What we survive because it is meant for the child, which has it from the terminal.
const ENDURED: [i32; 2] = [SIGINT, SIGQUIT];

/// A command that is run once with secrets, as if it had been called in our place: signals reach
/// it, Ctrl-Z and `fg` work, and its exit code is ours.
///
/// As the first process of a container it also buries what nobody else does. In any other process
/// it waits for its own child alone.
#[derive(Debug)]
pub struct OneShot {
    config: Config,
    delivery: Delivery,
    orphans: Orphans,
    launcher: Option<Launcher>,
}

impl OneShot {
    /// The command, with these secrets. Nothing runs yet.
    ///
    /// Of the settings, those that are about changes and starts are not looked at.
    ///
    /// # Errors
    /// If the settings make no sense, or a secret cannot be delivered in the way that they say.
    pub fn new(config: &Config, secrets: &SecretSet) -> Result<Self, HookError> {
        config.check_child().map_err(|error| HookError::failed(error.to_string()))?;
        let delivery = Delivery::new(config, secrets)?;
        let orphans = config.orphans.unwrap_or(Orphans::Keep);
        Ok(Self { config: config.clone(), delivery, orphans, launcher: None })
    }

    /// How what needs a [launcher](crate::launcher) is started.
    #[must_use]
    pub fn with_launcher(mut self, launcher: Launcher) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it could not be started: of the kind `NotFound` where there is no such program.
    pub fn run(self) -> io::Result<Ending> {
        if !self.config.listen.is_empty() {
            let message = "`listen` is for a child that is moved: it needs `on_change`";
            return Err(io::Error::other(message));
        }
        if self.launcher.is_none() && needs_one(&self.config, self.orphans) {
            return Err(io::Error::other(needs_launcher(&self.config, self.orphans)));
        }
        let folder = match self.delivery.files.is_empty() {
            true => None,
            false => Some(Folder::create(&self.config, self.orphans)?.0),
        };
        let staged =
            folder.as_ref().map(|folder| folder.stage(1, &self.delivery.files)).transpose()?;
        let mark = folder.as_ref().map(|folder| format!("{}1", folder.mark()));

        let standing = Standing::here();
        // What comes from here on reaches the child, even if it comes before it is there.
        let mut signals = listen(standing)?;
        let launch = Launch {
            config: &self.config,
            delivery: &self.delivery,
            orphans: self.orphans,
            launcher: self.launcher.as_ref(),
            sockets: &[],
            folder: staged.as_ref().map(crate::folder::Staged::path),
            mark: mark.as_deref(),
            variables: Vec::new(),
            apart: standing == Standing::Own,
            attended: true,
        };
        let child = Attended { pid: Pid::from_child(&launch.start()?), standing };
        drop(launch);
        drop(self);
        if standing == Standing::Own && terminal::is_ours() {
            child.foreground();
        }
        child.attend(&mut signals)
    }
}

/// A child that we do everything for.
struct Attended {
    pid: Pid,
    standing: Standing,
}

impl Attended {
    fn attend(&self, signals: &mut Signals) -> io::Result<Ending> {
        loop {
            for number in signals.wait() {
                match number {
                    SIGCHLD => {}
                    SIGCONT => self.resume(),
                    number => self.forward(number),
                }
            }
            while let Some(status) = self.next_status()? {
                if let Some(ending) = Ending::of_wait(status) {
                    self.take_terminal_back();
                    return Ok(ending);
                }
                if status.stopped() {
                    self.stop_too(status);
                }
            }
        }
    }

    /// What has become of the child, if anything has.
    fn next_status(&self) -> io::Result<Option<WaitStatus>> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        if getpid() != Pid::INIT {
            return Ok(waitpid(Some(self.pid), options)?.map(|(_, status)| status));
        }
        // Nobody else will bury what lost its parent.
        loop {
            match wait(options)? {
                Some((pid, status)) if pid == self.pid => return Ok(Some(status)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn forward(&self, number: i32) {
        if ENDURED.contains(&number) && self.standing == Standing::Shared {
            return;
        }
        if let Some(signal) = Signal::from_named_raw(number) {
            self.send(signal);
        }
    }

    fn send(&self, signal: Signal) {
        // It may have ended a moment ago.
        let _ = match self.standing {
            Standing::Own => kill_process_group(self.pid, signal),
            Standing::Shared => kill_process(self.pid, signal),
        };
    }

    /// The child was stopped: so are we, as the shell that has called us expects.
    fn stop_too(&self, status: WaitStatus) {
        if self.standing == Standing::Shared || !terminal::is_there() {
            return;
        }
        let wants_terminal = [Signal::TTIN, Signal::TTOU].map(|signal| Some(signal.as_raw()));
        if wants_terminal.contains(&status.stopping_signal()) && terminal::is_ours() {
            return self.foreground();
        }
        self.take_terminal_back();
        // Here we stand until somebody continues us.
        let _ = kill_process(getpid(), Signal::STOP);
        self.resume();
    }

    /// We were continued, in the foreground or in the background.
    fn resume(&self) {
        if self.standing == Standing::Own && terminal::is_ours() {
            terminal::hand_to(self.pid);
        }
        self.send(Signal::CONT);
    }

    fn foreground(&self) {
        terminal::hand_to(self.pid);
        // It may have asked for the terminal before it had it, and been stopped.
        self.send(Signal::CONT);
    }

    fn take_terminal_back(&self) {
        if self.standing == Standing::Own {
            terminal::take_from(self.pid);
        }
    }
}

/// Begins to listen. What is ignored stays so, for the child as well: `nohup` relies on it.
fn listen(standing: Standing) -> io::Result<Signals> {
    let ignored = Ignored::now();
    let wanted = match standing {
        Standing::Own => FORWARDED.to_vec(),
        Standing::Shared => [&FORWARDED_IN_COMMON[..], &ENDURED].concat(),
    };
    let wanted = wanted.into_iter().filter(|number| !ignored.holds(*number));
    let signals = Signals::new(wanted.chain([SIGCHLD]))?;
    let mut children = SigSet::empty();
    children.add(nix::sys::signal::Signal::SIGCHLD);
    children.thread_unblock()?;
    Ok(signals)
}
