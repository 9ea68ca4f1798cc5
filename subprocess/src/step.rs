//! What runs, and what its end means for an adapter.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use oneiric_core::HookError;
use tokio::process::Command;

use crate::child::{Ending, run};
use crate::redact::Redactor;

/// What a command inherits of the environment besides what its settings name: nothing of it holds a
/// secret.
pub const PASSED_ON: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];
/// The exit code of a command that could not do its work now and may be able to later: `EX_TEMPFAIL`
/// of `sysexits.h`. It says nothing about the secrets.
const COULD_NOT_TRY: i32 = 75;

/// One run of one of an adapter's commands.
///
/// Of the program's own environment, which may hold secrets, it inherits `PATH`, `HOME` and a few
/// more that hold none, and what `pass_env` names. Standard output is ignored; the last line of
/// standard error goes, redacted, into the error.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What the command is called in the settings, for errors.
    pub name: &'static str,
    /// The program and its arguments. Not empty.
    pub argv: &'a [String],
    /// How long it may take; then it is killed with its process group.
    pub limit: Duration,
    /// Where it runs; where the program does if `None`.
    pub working_dir: Option<&'a Path>,
    /// More variables that it inherits.
    pub pass_env: &'a [String],
    /// Variables of its own.
    pub env: &'a [(&'a str, &'a OsStr)],
}

impl Step<'_> {
    /// Runs it with this on its standard input, or nothing. Dropping the future kills it with its
    /// process group.
    ///
    /// # Errors
    /// *Refused* if it exited with another code than 0 and 75; *failed* where it says nothing about
    /// the secrets: with 75, by a signal, after the limit, or if it could not be run.
    pub async fn run(&self, redactor: &Redactor, input: Option<&[u8]>) -> Result<(), HookError> {
        self.run_as(self.command(), redactor, input).await
    }

    /// The same, with this command in the place of the one that the step describes: it has an
    /// environment and descriptors of its own. Only `name`, `limit` and the first of `argv`, for
    /// errors, are looked at.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_as(
        &self,
        command: Command,
        redactor: &Redactor,
        input: Option<&[u8]>,
    ) -> Result<(), HookError> {
        let name = self.name;
        match run(command, input, redactor.window(), self.limit).await {
            Ending::Exited(status, _) if status.success() => Ok(()),
            Ending::Exited(status, captured) => {
                let said = redactor.last_line(&captured);
                let said = said.map(|line| format!(": {line}")).unwrap_or_default();
                Err(match status.code() {
                    Some(COULD_NOT_TRY) => HookError::failed(format!(
                        "`{name}` exited with code {COULD_NOT_TRY}, so it could not try{said}"
                    )),
                    Some(code) => {
                        HookError::refused(format!("`{name}` exited with code {code}{said}"))
                    }
                    None => HookError::failed(format!("`{name}` was ended by a {status}{said}")),
                })
            }
            Ending::TimedOut => {
                let limit = humantime::format_duration(self.limit);
                Err(HookError::failed(format!("`{name}` was killed after {limit}")))
            }
            Ending::Lost(error) => {
                let program = self.argv.first().map(String::as_str).unwrap_or_default();
                let message = format!("`{name}` cannot run `{program}` ({error})");
                Err(HookError::failed(message).caused_by(error))
            }
        }
    }

    fn command(&self) -> Command {
        let (program, arguments) = self.argv.split_first().expect("a command names its program");
        let mut command = Command::new(program);
        command.args(arguments);
        // Some secrets are in our environment, and under what names is not known here.
        command.env_clear();
        let passed = PASSED_ON.into_iter().chain(self.pass_env.iter().map(String::as_str));
        for name in passed {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().copied());
        if let Some(dir) = self.working_dir {
            command.current_dir(dir);
        }
        command
    }
}
