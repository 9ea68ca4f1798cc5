//! `ci`: all that is checked besides the tests. It stops at the first failure.

use std::process::Command;
use std::time::Instant;

use crate::process::{Failure, Result, cargo, run as run_command};
use crate::workspace::Workspace;
use crate::{features, tidy};

/// One step: its name, and what it does.
type Step<'a> = (&'a str, &'a dyn Fn() -> Result);

/// `cargo xtask ci`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    crate::no_arguments(args)?;
    let rustdoc = || {
        let mut command = cargo_with("doc --workspace --all-features --no-deps");
        command.env("RUSTDOCFLAGS", "-D warnings");
        run_command(&mut command)
    };
    let clippy = "clippy --workspace --all-targets --all-features -- -D warnings";
    run_steps(&[
        ("format", &|| run_command(&mut cargo_with("fmt --all --check"))),
        ("lints", &|| run_command(&mut cargo_with(clippy))),
        ("docs", &rustdoc),
        ("tidy", &|| tidy::run(workspace, &[])),
        ("features", &|| features::run(workspace, &[])),
    ])
}

fn run_steps(steps: &[Step<'_>]) -> Result {
    for (name, step) in steps {
        let start = Instant::now();
        println!("ci: {name}");
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        result.map_err(|failure| {
            Failure::new(format!("{failure}\nci: {name} FAILED after {seconds:.1} s"))
        })?;
        println!("ci: {name} ok in {seconds:.1} s");
    }
    Ok(())
}

fn cargo_with(args: &str) -> Command {
    let mut command = cargo();
    command.args(args.split(' '));
    command
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_first_failure_ends_it_and_is_named() {
        let after = Cell::new(false);
        let failure = run_steps(&[
            ("good", &|| Ok(())),
            ("bad", &|| Err(Failure::new("it rains"))),
            ("after", &|| {
                after.set(true);
                Ok(())
            }),
        ])
        .unwrap_err()
        .to_string();
        assert!(failure.starts_with("it rains\nci: bad FAILED after"), "{failure}");
        assert!(!after.get());
    }
}
