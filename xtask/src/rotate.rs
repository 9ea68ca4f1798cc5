//! `rotate`: a rehearsal on embedded parts, or, with a provider, the real thing.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::process::{Failure, Programs, Result, build};
use crate::setup;
use crate::workspace::Workspace;

/// What may follow `cargo xtask rotate`.
pub(crate) const USAGE: &str = "[--scenario NAME] [--rotations N] [--clients N] [--requests N] \
     [--naive] [--json] | the arguments of `oneiric secrets rotate`";

/// The scenarios that are features of the rehearsal, because they bring much along. All but `tls`
/// also need a server or two.
pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const POSTGRES_VAULT: &str = "postgres-vault";
pub(crate) const TLS: &str = "tls";
pub(crate) const REDIS: &str = "redis";
pub(crate) const SIGNAL: &str = "signal";

/// The flags of a rehearsal that take a value.
const VALUES: [&str; 4] = ["--scenario", "--rotations", "--clients", "--requests"];
/// Those that do not.
const SWITCHES: [&str; 2] = ["--naive", "--json"];

/// `cargo xtask rotate`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut command = match Rotation::parse(args)? {
        Rotation::Rehearsal { scenario } => {
            let scenario = scenario.as_deref();
            let features = [POSTGRES, POSTGRES_VAULT, TLS, REDIS, SIGNAL];
            let feature = features.into_iter().find(|feature| scenario == Some(*feature));
            let programs = build_rehearsal(feature.as_slice())?;
            let mut command = rehearsal(&programs)?;
            if [POSTGRES, POSTGRES_VAULT].map(Some).contains(&scenario) {
                command.env("ONEIRIC_PG_BIN", setup::postgres()?);
            }
            if scenario == Some(POSTGRES_VAULT) {
                // OpenBao is among what the environment has.
                command.env("ONEIRIC_PYTHON", setup::python(workspace)?);
            }
            for (of, server) in [(REDIS, &setup::REDIS), (SIGNAL, &setup::NGINX)] {
                if scenario == Some(of) {
                    command.env(server.variable, setup::server(server)?);
                }
            }
            command
        }
        Rotation::Live => {
            let programs = build(&["oneiric-cli"], &[])?;
            let mut command = Command::new(programs.path("oneiric")?);
            command.args(["secrets", "rotate"]);
            command
        }
    };
    // The other program takes our place, so that its exit code and its signals are its own.
    let error = command.args(args).exec();
    Err(Failure::new(format!("{} cannot be run: {error}", command.get_program().display())))
}

/// Builds the rehearsal, with these of its features, and the binary that it drives.
pub(crate) fn build_rehearsal(features: &[&str]) -> Result<Programs> {
    let features: Vec<_> = features.iter().map(|of| format!("oneiric-rehearsal/{of}")).collect();
    let features: Vec<_> = features.iter().map(String::as_str).collect();
    build(&["oneiric-cli", "oneiric-rehearsal"], &features)
}

/// The built rehearsal, with the binary that it drives.
pub(crate) fn rehearsal(programs: &Programs) -> Result<Command> {
    let mut command = Command::new(programs.path("oneiric-rehearsal")?);
    command.env("ONEIRIC_BIN", programs.path("oneiric")?);
    Ok(command)
}

/// Whether `cargo xtask rotate` with this flag is a rehearsal.
pub(crate) fn is_rehearsal_flag(flag: &str) -> bool {
    VALUES.contains(&flag) || SWITCHES.contains(&flag)
}

#[derive(Debug, PartialEq, Eq)]
enum Rotation {
    Rehearsal { scenario: Option<String> },
    Live,
}

impl Rotation {
    /// It is a rehearsal as long as every argument is one of a rehearsal. Anything else is for
    /// `oneiric secrets rotate`, which refuses what it does not know; but never is a rehearsal
    /// that was meant mistaken for a live rotation, or the other way round.
    fn parse(args: &[String]) -> Result<Self> {
        let mut scenario = None;
        let mut rehearsed = None;
        let mut live = None;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            if VALUES.contains(&flag) {
                let value = inline.map(str::to_owned).or_else(|| rest.next().cloned());
                let value =
                    value.ok_or_else(|| Failure::usage(format!("`{flag}` needs a value")))?;
                rehearsed = Some(flag);
                if flag == "--scenario" {
                    scenario = Some(value);
                }
            } else if flag == "--naive" {
                rehearsed = Some(flag);
            } else if flag != "--json" {
                live = live.or(Some(flag));
            }
        }
        match (rehearsed, live) {
            (Some(rehearsed), Some(live)) => Err(Failure::usage(format!(
                "`{rehearsed}` belongs to a rehearsal and `{live}` does not; \
                 the arguments are {USAGE}"
            ))),
            (None, Some(_)) => Ok(Self::Live),
            (_, None) => Ok(Self::Rehearsal { scenario }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rotation> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Rotation::parse(&args)
    }

    #[test]
    fn flags_of_a_rehearsal_alone_are_a_rehearsal() {
        for text in ["", "--json", "--naive", "--rotations 5 --clients=8 --requests 100 --json"] {
            assert_eq!(parse(text).unwrap(), Rotation::Rehearsal { scenario: None }, "{text}");
        }
        for text in ["--scenario postgres", "--json --scenario=postgres"] {
            let postgres = Rotation::Rehearsal { scenario: Some(POSTGRES.into()) };
            assert_eq!(parse(text).unwrap(), postgres, "{text}");
        }
    }

    #[test]
    fn a_provider_makes_it_a_rotation() {
        for text in [
            "--provider files --keys a,b --json",
            "-p files --all",
            "--all",
            "--keys=a",
            "--json --timeout 30s --provider files",
        ] {
            assert_eq!(parse(text).unwrap(), Rotation::Live, "{text}");
        }
    }

    #[test]
    fn what_could_be_either_is_refused() {
        for text in ["--rotations 5 --all", "--provider files --naive", "--scenario"] {
            assert_eq!(parse(text).unwrap_err().code(), 2, "{text}");
        }
    }

    #[test]
    fn every_flag_of_a_rehearsal_is_in_the_usage() {
        for flag in VALUES.iter().chain(&SWITCHES) {
            assert!(USAGE.contains(flag), "{flag}");
            assert!(is_rehearsal_flag(flag));
        }
        assert!(!is_rehearsal_flag("--provider"));
    }
}
