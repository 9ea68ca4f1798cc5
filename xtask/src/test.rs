//! `test`: the one test command. It sets up, runs every suite, and says what was not run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{Failure, Programs, Result, build, cargo, lines, output, status};
use crate::workspace::Workspace;
use crate::{rotate, setup};

mod report;

use report::Tally;

/// Where a suite that cannot run is a failure.
const REQUIRE_LIVE: &str = "ONEIRIC_REQUIRE_LIVE";

/// What is tested besides the default features, since a receiver for it is there.
const BESIDES: &str = "oneiric-cli/otlp-grpc";

/// Asks suites that search at random, or try every schedule, to go on for longer.
const DEEP: &str = "ONEIRIC_DEEP";

/// Long enough to cross several rotations under load, short enough for every commit.
const SHORT_REHEARSAL: [&str; 7] =
    ["--json", "--rotations", "20", "--clients", "8", "--requests", "2000"];

/// The features of the rehearsal that its scenarios here need.
const REHEARSED: [&str; 4] = [rotate::POSTGRES_VAULT, rotate::TLS, rotate::REDIS, rotate::SIGNAL];

/// `cargo xtask test`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let options = Options::parse(args)?;
    let required = std::env::var_os(REQUIRE_LIVE).is_some_and(|value| value == "1");
    if required && options.no_live {
        return Err(Failure::usage(format!("`--no-live` contradicts {REQUIRE_LIVE}=1")));
    }
    let folder = workspace.target.join("xtask");
    let summary = folder.join("test-summary.txt");
    fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
    // An old summary must not speak for a run that was cut short.
    let _ = fs::remove_file(&summary);

    let live = if options.no_live { Live::not_wanted() } else { Live::set_up(workspace) };
    if required {
        live.check()?;
    }
    let programs = if options.rehearses() {
        rotate::build_rehearsal(&REHEARSED)?
    } else {
        build(&["oneiric-cli"], &[])?
    };

    let mut tally = workspace_tests(workspace, &options, &live, &programs)?;
    tally.add(doc_tests(&options)?);
    tally.add(proofs(workspace, &options)?);
    if options.rehearses() {
        // The test runner has put programs of its own, with fewer features, in the same place.
        let programs = rotate::build_rehearsal(&REHEARSED)?;
        tally.add(rehearse("http", &live, &programs)?);
        tally.add(rehearse("template", &live, &programs)?);
        tally.add(rehearse(rotate::TLS, &live, &programs)?);
        match &live.python {
            // What it runs in the service's place is a program in Python.
            Ok(_) => tally.add(rehearse("process", &live, &programs)?),
            Err(why) => tally.skip(format!("SKIPPED rehearsal process: {why}")),
        }
        match &live.postgres {
            Ok(_) => tally.add(rehearse(rotate::POSTGRES, &live, &programs)?),
            Err(why) => tally.skip(format!("SKIPPED rehearsal postgres: {why}")),
        }
        match live.postgres.as_ref().and(live.python.as_ref()) {
            Ok(_) => tally.add(rehearse(rotate::POSTGRES_VAULT, &live, &programs)?),
            Err(why) => tally.skip(format!("SKIPPED rehearsal postgres-vault: {why}")),
        }
        for (scenario, server) in [(rotate::REDIS, &setup::REDIS), (rotate::SIGNAL, &setup::NGINX)]
        {
            match live.server(server) {
                Ok(_) => tally.add(rehearse(scenario, &live, &programs)?),
                Err(why) => tally.skip(format!("SKIPPED rehearsal {scenario}: {why}")),
            }
        }
    }

    println!("\n{tally}");
    fs::write(&summary, format!("{}\n", tally.closing_line()))
        .map_err(|error| cannot_write(&summary, &error))?;
    tally.verdict(required)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    no_live: bool,
    skip_rehearsal: bool,
    deep: bool,
    filters: Vec<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for arg in args {
            match arg.as_str() {
                "--no-live" => options.no_live = true,
                "--skip-rehearsal" => options.skip_rehearsal = true,
                "--deep" => options.deep = true,
                flag if flag.starts_with('-') => {
                    return Err(Failure::usage(format!("test does not know `{flag}`")));
                }
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }

    /// Whoever asks for some tests does not wait for rehearsals.
    fn rehearses(&self) -> bool {
        !self.skip_rehearsal && self.filters.is_empty()
    }

    /// The filters in the form that the standard test harness takes.
    fn harness_filters(&self) -> impl Iterator<Item = &str> {
        let dashes = (!self.filters.is_empty()).then_some("--");
        dashes.into_iter().chain(self.filters.iter().map(String::as_str))
    }

    /// Tells the tests how far to go.
    fn export(&self, command: &mut Command) {
        if self.deep {
            command.env(DEEP, "1");
        }
    }
}

/// What could be had for the live suites, and why the rest could not.
#[derive(Debug)]
struct Live {
    postgres: Result<PathBuf, String>,
    python: Result<PathBuf, String>,
    /// In the order of [`setup::SERVERS`].
    servers: [Result<PathBuf, String>; setup::SERVERS.len()],
}

impl Live {
    fn set_up(workspace: &Workspace) -> Self {
        Self {
            postgres: setup::postgres().map_err(|failure| failure.to_string()),
            python: setup::python(workspace).map_err(|failure| failure.to_string()),
            servers: setup::SERVERS
                .map(|server| setup::server(server).map_err(|failure| failure.to_string())),
        }
    }

    fn not_wanted() -> Self {
        let why = || Err("`--no-live` was asked for".to_owned());
        Self { postgres: why(), python: why(), servers: setup::SERVERS.map(|_| why()) }
    }

    fn check(&self) -> Result {
        let servers = setup::SERVERS.iter().map(|server| server.name).zip(&self.servers);
        let all = [("postgres", &self.postgres), ("python", &self.python)].into_iter();
        for (what, found) in all.chain(servers) {
            if let Err(why) = found {
                return Err(Failure::new(format!("{REQUIRE_LIVE}=1 and no {what}: {why}")));
            }
        }
        Ok(())
    }

    fn server(&self, server: &setup::Server) -> &Result<PathBuf, String> {
        let at = setup::SERVERS.iter().position(|of| of.name == server.name);
        &self.servers[at.expect("it is one of them")]
    }

    /// Tells the tests where everything is.
    fn export(&self, programs: &Programs, command: &mut Command) -> Result {
        command.env("ONEIRIC_BIN", programs.path("oneiric")?);
        if let Ok(dir) = &self.postgres {
            command.env("ONEIRIC_PG_BIN", dir);
        }
        if let Ok(python) = &self.python {
            command.env("ONEIRIC_PYTHON", python);
        }
        for (server, found) in setup::SERVERS.iter().zip(&self.servers) {
            if let Ok(program) = found {
                command.env(server.variable, program);
            }
        }
        Ok(())
    }
}

fn workspace_tests(
    workspace: &Workspace,
    options: &Options,
    live: &Live,
    programs: &Programs,
) -> Result<Tally> {
    if output(cargo().args(["nextest", "--version"])).is_none() {
        eprintln!("cargo-nextest is not there; cargo test does it, more slowly");
        let mut command = cargo();
        command.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]);
        command.args(["--features", BESIDES]);
        command.args(options.harness_filters());
        options.export(&mut command);
        live.export(programs, &mut command)?;
        return harness(&mut command, "the workspace's tests");
    }
    let junit = workspace.target.join("nextest/default/junit.xml");
    let _ = fs::remove_file(&junit);
    let config = workspace.root.join("xtask/nextest.toml");
    let mut command = cargo();
    command
        .args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass"])
        .args(["--features", BESIDES])
        .args(["--profile", "default"])
        .arg(format!("--tool-config-file=xtask:{}", config.display()))
        .args(&options.filters);
    options.export(&mut command);
    live.export(programs, &mut command)?;
    let ended = status(&mut command)?;
    match fs::read_to_string(&junit) {
        Ok(text) => Tally::from_junit(&text)
            .ok_or_else(|| Failure::new("nextest's report has no count in it")),
        Err(_) if ended.success() => Ok(Tally::default()),
        Err(_) => Err(Failure::new(format!("the workspace's tests did not run ({ended})"))),
    }
}

fn doc_tests(options: &Options) -> Result<Tally> {
    let mut command = cargo();
    command.args(["test", "--doc", "--workspace", "--no-fail-fast"]);
    command.args(options.harness_filters());
    harness(&mut command, "the doc tests")
}

/// The model checks, in their own workspace.
fn proofs(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let mut command = cargo();
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast", "--manifest-path"])
        .arg(workspace.root.join("proofs").join("Cargo.toml"))
        .args(options.harness_filters())
        .env("CARGO_TARGET_DIR", workspace.target.join("proofs"));
    options.export(&mut command);
    harness(&mut command, "the model checks")
}

/// Runs tests under the standard harness and counts its result lines.
fn harness(command: &mut Command, what: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    let ended = lines(command, |line| {
        println!("{line}");
        tally.add_result_line(line);
    })?;
    if ended.success() || tally.failed > 0 {
        return Ok(tally);
    }
    Err(Failure::new(format!("{what} did not run to their end ({ended})")))
}

/// One scenario, as a suite of one test.
fn rehearse(scenario: &str, live: &Live, programs: &Programs) -> Result<Tally> {
    let mut command = rotate::rehearsal(programs)?;
    live.export(programs, &mut command)?;
    command.args(SHORT_REHEARSAL).args(["--scenario", scenario]);
    let mut printed = String::new();
    let ended = lines(&mut command, |line| printed.push_str(line))?;
    if ended.success() {
        println!("rehearsal {scenario}: ok, {}", rehearsal_counts(&printed));
    } else {
        println!("rehearsal {scenario}: FAILED ({ended}) {printed}");
    }
    Ok(Tally::one(ended.success()))
}

fn rehearsal_counts(json: &str) -> String {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    let count = |name: &str| format!("{} {name}", report[name]);
    ["rotations", "requests", "failed"].map(count).join(", ")
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn a_filter_leaves_the_rehearsals_out() {
        assert!(parse("").unwrap().rehearses());
        assert!(parse("--no-live").unwrap().rehearses());
        assert!(!parse("--skip-rehearsal").unwrap().rehearses());
        let options = parse("cache --no-live loader").unwrap();
        assert!(options.no_live && !options.rehearses());
        assert_eq!(options.harness_filters().collect::<Vec<_>>(), ["--", "cache", "loader"]);
        assert_eq!(parse("").unwrap().harness_filters().count(), 0);
        assert_eq!(parse("--nolive").unwrap_err().code(), 2);
    }

    #[test]
    fn what_cannot_be_had_is_a_failure_where_it_is_required() {
        let all = || Live {
            postgres: Ok("/pg".into()),
            python: Ok("/py".into()),
            servers: setup::SERVERS.map(|_| Ok("/server".into())),
        };
        assert!(all().check().is_ok());
        let some = Live { python: Err("no pip".into()), ..all() };
        let failure = some.check().unwrap_err().to_string();
        assert!(failure.contains("no python: no pip"), "{failure}");
        for (at, server) in setup::SERVERS.iter().enumerate() {
            let mut some = all();
            some.servers[at] = Err("no apt".into());
            assert!(some.server(server).is_err());
            let failure = some.check().unwrap_err().to_string();
            assert!(failure.contains(&format!("no {}: no apt", server.name)), "{failure}");
        }
    }

    #[test]
    fn a_rehearsal_is_told_in_its_counts() {
        let json = r#"{"scenario":"http","rotations":8,"requests":2001,"failed":0}"#;
        assert_eq!(rehearsal_counts(json), "8 rotations, 2001 requests, 0 failed");
    }

    #[test]
    fn a_harness_that_breaks_off_is_no_success() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let tally = harness(&mut shell("echo 'test result: ok. 2 passed; 0 failed'"), "tests");
        assert_eq!(tally.unwrap().passed, 2);
        let tally =
            harness(&mut shell("echo 'test result: FAILED. 1 passed; 1 failed'; exit 1"), "");
        assert_eq!(tally.unwrap().failed, 1);
        assert!(harness(&mut shell("exit 101"), "tests").is_err(), "it did not compile");
    }
}
