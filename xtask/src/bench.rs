//! `bench`: the cache beside its peers, by a program in a workspace of its own.

use std::process::Command;

use crate::process::{Failure, Result, cargo, run as run_shown, status};
use crate::workspace::Workspace;

/// What may follow `cargo xtask bench`.
pub(crate) const USAGE: &str = "[--json FILE] [--quick] [--only PART]";

/// The part that measures the program and not the library.
const PROGRAM: &str = "program";

/// `cargo xtask bench`. The AWS library is most of the build, so `--quick` does without it, and
/// the program says what it leaves out.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let (quick, only) = check(args)?;
    let target = workspace.target.join("bench");
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--bins", "--manifest-path"]);
    build.arg(workspace.root.join("bench").join("Cargo.toml")).env("CARGO_TARGET_DIR", &target);
    if !quick {
        build.args(["--features", "aws"]);
    }
    run_shown(&mut build)?;
    let mut bench = Command::new(target.join("release").join("oneiric-bench"));
    if only.is_none_or(|part| part == PROGRAM) {
        // What is measured of the program itself is that of its release build, as users have it.
        let mut build = cargo();
        build.args(["build", "--release", "--locked", "--package", "oneiric-cli"]);
        run_shown(build.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &target))?;
        bench.env("ONEIRIC_BIN", target.join("release").join("oneiric"));
    }
    let ended = status(bench.args(args))?;
    if ended.success() { Ok(()) } else { Err(Failure::new(format!("the bench failed ({ended})"))) }
}

/// Refuses before the build what the program would refuse after it. Whether it is to be quick, and
/// which part is wanted alone.
fn check(args: &[String]) -> Result<(bool, Option<&str>)> {
    let mut quick = false;
    let mut only = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => quick = true,
            "--json" => {
                rest.next().ok_or_else(|| Failure::usage("`--json` needs a file"))?;
            }
            "--only" => {
                let part = rest.next();
                let part =
                    part.ok_or_else(|| Failure::usage("`--only` needs the name of a part"))?;
                only = Some(part.as_str());
            }
            other => {
                return Err(Failure::usage(format!(
                    "`{other}` is not understood here; the arguments are {USAGE}"
                )));
            }
        }
    }
    Ok((quick, only))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(bool, Option<String>)> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        check(&args).map(|(quick, only)| (quick, only.map(str::to_owned)))
    }

    #[test]
    fn what_the_program_takes_is_taken_and_nothing_else() {
        for (text, quick, only) in [
            ("", false, None),
            ("--json f", false, None),
            ("--quick", true, None),
            ("--only hits --quick", true, Some("hits")),
        ] {
            assert_eq!(checked(text).unwrap(), (quick, only.map(str::to_owned)), "{text}");
        }
        for text in ["--json", "--slow", "f", "--quick --json"] {
            assert_eq!(checked(text).unwrap_err().code(), 2, "{text}");
        }
    }
}
