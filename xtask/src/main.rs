//! `cargo xtask`: the one vocabulary of commands for people and CI alike.
//!
//! It is *not* a build system and holds no knowledge of the product: it calls cargo, the test
//! runner and the built binaries, and checks what no compiler checks. It depends on no crate of
//! the workspace, so that it builds in seconds and works while the others do not compile.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks on its terminal")]

mod workspace;
mod process;
mod setup;
mod test;
mod rotate;
mod bench;
mod mutants;
mod tidy;
mod features;
mod ci;

use std::process::ExitCode;

use process::{Failure, Result};
use workspace::Workspace;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// One word of the vocabulary.
struct Command {
    name: &'static str,
    /// What may follow the name. The flags that documents may name are those that stand here.
    usage: &'static str,
    about: &'static str,
    run: fn(&Workspace, &[String]) -> Result,
}

const COMMANDS: [Command; 8] = [
    Command {
        name: "setup",
        usage: "[--only postgres,python,redis,nginx,haproxy,systemd]",
        about: "get what the tests need: servers, systemd's tools, and a Python with OTLP receivers",
        run: setup::run,
    },
    Command {
        name: "test",
        usage: "[--no-live] [--skip-rehearsal] [--deep] [FILTER...]",
        about: "set up, then run every test and both rehearsals; --no-live gets nothing first",
        run: test::run,
    },
    Command {
        name: "rotate",
        usage: rotate::USAGE,
        about: "rehearse rotations under load; with a provider it is `oneiric secrets rotate`",
        run: rotate::run,
    },
    Command {
        name: "bench",
        usage: bench::USAGE,
        about: "measure the cache beside its peers; --quick leaves out the AWS library",
        run: bench::run,
    },
    Command {
        name: "mutants",
        usage: "[NAME...]",
        about: "break a copy of the product on purpose, and ask whether the tests notice",
        run: mutants::run,
    },
    Command {
        name: "tidy",
        usage: "[--fix]",
        about: "check what no compiler checks; --fix rewrites the snapshots in docs/api",
        run: tidy::run,
    },
    Command {
        name: "features",
        usage: "",
        about: "check and test each Cargo feature of the binary alone; and what a default build links",
        run: features::run,
    },
    Command {
        name: "ci",
        usage: "",
        about: "all that is checked besides the tests: format, lints, docs, tidy, features",
        run: ci::run,
    },
];

fn run(args: &[String]) -> Result {
    let Some((name, rest)) = args.split_first() else {
        print!("{}", help());
        return Ok(());
    };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        print!("{}", help());
        return Ok(());
    }
    let command = COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
        let names = COMMANDS.map(|command| command.name).join(", ");
        Failure::usage(format!("there is no command `{name}`; there are {names}"))
    })?;
    if rest.iter().any(|arg| ["--help", "-h"].contains(&arg.as_str())) {
        println!("cargo xtask {} {}\n  {}", command.name, command.usage, command.about);
        return Ok(());
    }
    (command.run)(&Workspace::load()?, rest)
}

fn help() -> String {
    let mut text = String::from("cargo xtask COMMAND\n\n");
    for command in &COMMANDS {
        text.push_str(&format!("  {} {}\n      {}\n", command.name, command.usage, command.about));
    }
    text
}

/// Refuses arguments where a command takes none.
fn no_arguments(args: &[String]) -> Result {
    match args.first() {
        Some(arg) => Err(Failure::usage(format!("`{arg}` is not understood here"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_unknown_command_is_a_usage_error_that_names_the_known_ones() {
        let failure = run(&args("rotat")).unwrap_err();
        assert_eq!(failure.code(), 2);
        let message = failure.to_string();
        assert!(message.contains("`rotat`") && message.contains("rotate"), "{message}");
    }

    #[test]
    fn help_names_every_command() {
        for command in &COMMANDS {
            assert!(help().contains(&format!("\n  {} ", command.name)), "{}", command.name);
        }
    }
}
