//! What is measured in processes of their own: instructions, allocations, resident memory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::hits;
use crate::report::{Figure, Target};
use crate::resident;
use crate::variant::{VARIANTS, exists};

/// How a child was not run, or what it said that cannot be read.
pub type Problem = String;

/// How many reads callgrind counts; twice as many in the second run.
pub const READS: usize = 20_000;

/// Instructions per read. One variant runs with so many reads and with twice as many under
/// callgrind, which counts only within passes: the difference is the reads' alone. Counting is
/// not measuring time, so the two run side by side.
///
/// # Errors
/// If there is no valgrind, or it does not work.
pub fn instructions() -> Result<Vec<Figure>, Problem> {
    let probe = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Err("there is no valgrind here".into());
    }
    let mut per_read = HashMap::new();
    for (name, _) in VARIANTS {
        let runs = [READS, 2 * READS].map(|count| callgrind(name, count));
        let [once, twice] = runs.map(|child| child.and_then(collected));
        per_read.insert(*name, (twice? - once?) / READS as f64);
    }
    let figure = |(name, ours, peer, target): (String, &str, &str, Option<Target>)| {
        let (ours, theirs) = (*per_read.get(ours)?, *per_read.get(peer)?);
        let figure = Figure::new(name, "instructions", vec![ours]);
        Some(figure.against(peer, &[theirs]).maybe_target(target))
    };
    Ok(hits::by_instructions().filter_map(figure).collect())
}

/// Allocations per hit, of every way to read ours and of the peers.
///
/// # Errors
/// If the counting program cannot be run.
pub fn allocations() -> Result<Vec<Figure>, Problem> {
    let counter = this_program()?.with_file_name("oneiric-bench-allocations");
    let text = output(&mut Command::new(counter))?;
    let counts: HashMap<&str, f64> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    let count = |name: &str| counts.get(name).copied().ok_or(format!("`{name}` was not counted"));
    let ours = ["try_get", "get", "handle", "reader"].map(count);
    let worst = ours.into_iter().try_fold(0.0, |worst, one| Ok::<_, Problem>(one?.max(worst)))?;
    let figure = |name: &str, value| Figure::new(name, "allocations", vec![value]);
    let mut figures = vec![figure("allocs_per_hit", worst).target(Target::AtMost(0.0))];
    figures.push(figure("allocs_per_hit_fresh_ref", count("get_fresh_ref")?));
    for peer in ["moka", "quick_cache", "aws"] {
        if exists(peer) {
            figures.push(figure(&format!("{peer}_allocs_per_hit"), count(peer)?));
        }
    }
    Ok(figures)
}

/// Resident bytes per entry, each variant in a fresh process.
///
/// # Errors
/// If a process cannot be run.
pub fn bytes_per_entry(entries: usize) -> Result<Vec<Figure>, Problem> {
    let mut bytes = HashMap::new();
    for (name, _) in resident::VARIANTS {
        let text =
            output(Command::new(this_program()?).args(["resident", name, &entries.to_string()]))?;
        let measured = text.trim().parse().map_err(|_| format!("`{text}` is no number"))?;
        bytes.insert(*name, vec![measured]);
    }
    let ours = Figure::new("bytes_per_entry", "bytes", bytes["ours"].clone())
        .against("quick_cache", &bytes["quick_cache"])
        .target(Target::AtMost(1.0));
    let others = bytes.keys().filter(|name| !["ours", "quick_cache"].contains(name));
    let mut others: Vec<_> = others
        .map(|name| {
            let figure =
                Figure::new(format!("bytes_per_entry_vs_{name}"), "bytes", bytes["ours"].clone());
            (name, figure.against(*name, &bytes[name]))
        })
        .collect();
    others.sort_by_key(|(name, _)| **name);
    Ok([ours].into_iter().chain(others.into_iter().map(|(_, figure)| figure)).collect())
}

fn callgrind(variant: &str, count: usize) -> Result<std::process::Child, Problem> {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Filling is left out: by chance, since hashers have random keys, it differs from process
        // to process by more than the reads do.
        .arg("--toggle-collect=*Reads>::pass*")
        .arg(this_program()?)
        .args(["reads", variant, &count.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind cannot be run: {error}"))
}

/// The instructions that callgrind says it has counted.
fn collected(child: std::process::Child) -> Result<f64, Problem> {
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("a variant does not run under callgrind ({})", output.status));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.ok_or_else(|| "callgrind does not say what it counted".into())
}

fn output(command: &mut Command) -> Result<String, Problem> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}` failed ({})", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn this_program() -> Result<PathBuf, Problem> {
    std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))
}
