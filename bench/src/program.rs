//! The program itself, as users have it: what `oneiric run` adds to a command, how large the file is,
//! and how much memory one takes that looks after a command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::report::{Figure, Target, median};

/// Where the release build of `oneiric` is.
pub const PROGRAM: &str = "ONEIRIC_BIN";

/// What a command gets.
const SECRETS: usize = 10;
/// How often a command is run, each time beside the bare one, for one run of the figure.
const PAIRS: usize = 40;
/// How often the secrets of the command that is looked after are rotated before its memory counts.
const ROTATIONS: usize = 20;
/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);
const MEGABYTE: f64 = 1_000_000.0;

/// All of them, from so many runs.
///
/// # Errors
/// If the program is not told, or does not do what it must.
pub fn figures(runs: usize) -> Result<Vec<Figure>, String> {
    let program = std::env::var_os(PROGRAM).map(PathBuf::from);
    let program = program.ok_or(format!("{PROGRAM} does not say where `oneiric` is"))?;
    let place = Place::new(&program)?;
    let mut extra = Vec::new();
    for _ in 0..runs {
        extra.push(place.overhead()?);
    }
    let (with, bare): (Vec<_>, Vec<_>) = extra.iter().copied().unzip();
    let added = extra.iter().map(|(with, bare)| with - bare).collect();
    let note = format!("{:.2} ms with, {:.2} ms bare", median(&with), median(&bare));
    let size = fs::metadata(&program).map_err(|error| error.to_string())?.len();
    let resident = (0..runs.min(3)).map(|_| place.supervisor()).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![
        Figure::new("run_overhead_ms", "ms", added).target(Target::AtMost(2.0)).note(note),
        Figure::new("binary_mb", "MB", vec![size as f64 / MEGABYTE]).target(Target::AtMost(8.0)),
        Figure::new("supervisor_mb", "MB", resident)
            .target(Target::AtMost(10.0))
            .note(format!("resident, after {ROTATIONS} rotations")),
    ])
}

/// A folder with settings and secrets.
struct Place {
    program: PathBuf,
    dir: TempDir,
}

impl Place {
    fn new(program: &Path) -> Result<Self, String> {
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let said = |error: std::io::Error| error.to_string();
        let (secrets, run) = (dir.path().join("secrets"), dir.path().join("run"));
        let mut settings = format!(
            "[agent]\nruntime_dir = {run:?}\n[providers.files]\nkind = \"file\"\npath = {secrets:?}\n"
        );
        for folder in [&secrets, &run] {
            fs::create_dir(folder).map_err(said)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(said)?;
        }
        for number in 0..SECRETS {
            settings.push_str(&format!("[secrets.secret-{number}]\nref = \"files:{number}\"\n"));
        }
        fs::write(dir.path().join("oneiric.toml"), settings).map_err(said)?;
        let place = Self { program: program.to_owned(), dir };
        (0..SECRETS).try_for_each(|number| place.put(number, "the first value"))?;
        Ok(place)
    }

    /// Puts a value there by a rename.
    fn put(&self, number: usize, value: &str) -> Result<(), String> {
        let unfinished = self.dir.path().join("unfinished");
        let done = fs::write(&unfinished, value)
            .and_then(|()| fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o600)))
            .and_then(|()| {
                fs::rename(&unfinished, self.dir.path().join(format!("secrets/{number}")))
            });
        done.map_err(|error| error.to_string())
    }

    fn oneiric(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.dir.path());
        // What it says is not what is measured.
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The median times, in ms, of `true` with secrets and of the bare one, by turns.
    fn overhead(&self) -> Result<(f64, f64), String> {
        // That the command has its secrets is seen once.
        let check = format!("test \"$SECRET_{}\" = 'the first value'", SECRETS - 1);
        timed(&mut self.oneiric(&["run", "--", "sh", "-c", &check]))?;
        let (mut with, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            bare.push(timed(Command::new("true").stdin(Stdio::null()))?);
            with.push(timed(&mut self.oneiric(&["run", "--", "true"]))?);
        }
        Ok((median(&with), median(&bare)))
    }

    /// The resident megabytes of one that restarts a command in each of some rotations.
    fn supervisor(&self) -> Result<f64, String> {
        let args = ["run", "--on-change", "restart", "--", "sleep", "600"];
        let mut running = Running(self.oneiric(&args).spawn().map_err(|error| error.to_string())?);
        let rotate = ["secrets", "rotate", "--provider", "files", "--all"];
        let start = Instant::now();
        while !succeeds(&mut self.oneiric(&rotate))? {
            if start.elapsed() > PATIENCE {
                return Err("`oneiric run --on-change` cannot be rotated".into());
            }
            sleep(Duration::from_millis(20));
        }
        for round in 0..ROTATIONS {
            self.put(0, &format!("value {round}"))?;
            if !succeeds(&mut self.oneiric(&rotate))? {
                return Err(format!("rotation {round} of `oneiric run --on-change` failed"));
            }
        }
        let status = fs::read_to_string(format!("/proc/{}/status", running.0.id()));
        let status = status.map_err(|error| format!("its memory cannot be read: {error}"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: Option<f64> =
            resident.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok());
        running.stop()?;
        Ok(kibibytes.ok_or("its memory is not in its status")? * 1024.0 / MEGABYTE)
    }
}

/// A program that ends with us.
struct Running(Child);

impl Running {
    fn stop(&mut self) -> Result<(), String> {
        let id = self.0.id().to_string();
        succeeds(Command::new("kill").args(["-TERM", &id]))?;
        self.0.wait().map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn timed(command: &mut Command) -> Result<f64, String> {
    let start = Instant::now();
    let good = succeeds(command)?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    if good { Ok(took) } else { Err(format!("{command:?} failed")) }
}

fn succeeds(command: &mut Command) -> Result<bool, String> {
    let status = command.stdout(Stdio::null()).status();
    status.map(|status| status.success()).map_err(|error| format!("{command:?}: {error}"))
}
