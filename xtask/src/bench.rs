//! `bench`: the cache beside its peers, by a program in a workspace of its own.

use std::process::Command;

use crate::process::{Failure, Result, cargo, run as run_shown, status};
use crate::workspace::Workspace;

/// What may follow `cargo xtask bench`.
pub(crate) const USAGE: &str = "[--json FILE] [--quick] [--only PART]";

/// `cargo xtask bench`. The AWS library is most of the build, so `--quick` does without it, and
/// the program says what it leaves out.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let quick = check(args)?;
    let target = workspace.target.join("bench");
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--bins", "--manifest-path"]);
    build.arg(workspace.root.join("bench").join("Cargo.toml")).env("CARGO_TARGET_DIR", &target);
    if !quick {
        build.args(["--features", "aws"]);
    }
    run_shown(&mut build)?;
    let program = target.join("release").join("oneiric-bench");
    let ended = status(Command::new(program).args(args))?;
    if ended.success() { Ok(()) } else { Err(Failure::new(format!("the bench failed ({ended})"))) }
}

/// Refuses before the build what the program would refuse after it. Whether it is to be quick.
fn check(args: &[String]) -> Result<bool> {
    let mut quick = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => quick = true,
            "--json" | "--only" if rest.next().is_some() => {}
            "--json" => return Err(Failure::usage("`--json` needs a file")),
            "--only" => return Err(Failure::usage("`--only` needs the name of a part")),
            other => {
                return Err(Failure::usage(format!(
                    "`{other}` is not understood here; the arguments are {USAGE}"
                )));
            }
        }
    }
    Ok(quick)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<bool> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        check(&args)
    }

    #[test]
    fn what_the_program_takes_is_taken_and_nothing_else() {
        for (text, quick) in
            [("", false), ("--json f", false), ("--quick", true), ("--only hits --quick", true)]
        {
            assert_eq!(checked(text).unwrap(), quick, "{text}");
        }
        for text in ["--json", "--slow", "f", "--quick --json"] {
            assert_eq!(checked(text).unwrap_err().code(), 2, "{text}");
        }
    }
}
