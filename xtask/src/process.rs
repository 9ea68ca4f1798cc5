//! Running other programs, and how that fails.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

/// The short form of `Result` for every command.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a command ended: one sentence, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Something did not work.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// The command was called in a wrong way.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// What the process ends with.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // It told us about our own package. A build script that looks at these variables (ring's does)
    // would be run again, with all that depends on it, whenever a build by us follows one by hand.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_our_package(name)) {
        command.env_remove(name);
    }
    command
}

fn is_about_our_package(variable: &OsStr) -> bool {
    let name = variable.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

/// Shows a command and runs it. What it prints goes to stderr: our stdout is for data.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = status(command.stdout(io::stderr()))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("`{}` failed ({status})", shown(command))))
}

/// Shows a command and runs it; how it ended is for the caller to judge.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    eprintln!("$ {}", shown(command));
    command.status().map_err(|error| cannot_run(command, &error))
}

/// What a command printed, or `None` where it failed or is not there.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Shows a command and runs it, with each line of its stdout.
pub(crate) fn lines(command: &mut Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    eprintln!("$ {}", shown(command));
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_run(command, &error))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.map_err(|error| cannot_run(command, &error))?;
        line(&String::from_utf8_lossy(&text));
    }
    child.wait().map_err(|error| cannot_run(command, &error))
}

/// Builds packages in one go, so that they share their dependencies, and says where their
/// programs are.
pub(crate) fn build(packages: &[&str], features: &[&str]) -> Result<Programs> {
    let mut command = cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    let mut programs = Vec::new();
    let status = lines(&mut command, |line| programs.extend(program(line)))?;
    if status.success() {
        return Ok(Programs(programs));
    }
    Err(Failure::new(format!("{} did not build", packages.join(" and "))))
}

/// The programs that a build made.
#[derive(Debug)]
pub(crate) struct Programs(Vec<(String, PathBuf)>);

impl Programs {
    /// Where the program of this name is.
    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        let found = self.0.iter().find(|(program, _)| program == name);
        found
            .map(|(_, path)| path.as_path())
            .ok_or_else(|| Failure::new(format!("the build made no program `{name}`")))
    }
}

/// The program that a message of cargo speaks of.
pub(crate) fn program(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

fn shown(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

fn cannot_run(command: &Command, error: &io::Error) -> Failure {
    Failure::new(format!("`{}` cannot be run: {error}", command.get_program().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_messages_of_a_build() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":null}"#;
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"b"},"executable":"/t/b"}"#;
        let programs =
            Programs([library, binary, "talk"].into_iter().filter_map(program).collect());
        assert_eq!(programs.path("b").unwrap(), Path::new("/t/b"));
        assert!(programs.path("a").unwrap_err().to_string().contains("no program `a`"));
    }

    #[test]
    fn cargo_is_not_told_about_our_package() {
        let command = cargo();
        let removed =
            |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        // The test runs under cargo, so the variables are there to be removed.
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("CARGO") && !removed("PATH"));
    }

    #[test]
    fn a_failed_program_is_named_with_its_arguments() {
        let failure = run(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(failure.to_string().starts_with("`sh -c exit 3` failed (exit status: 3)"));
        assert_eq!(failure.code(), 1);
        let failure = run(&mut Command::new("/nowhere/program")).unwrap_err();
        assert!(failure.to_string().contains("cannot be run"), "{failure}");
    }
}
