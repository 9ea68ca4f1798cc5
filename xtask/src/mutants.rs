//! `mutants`: breaks the product on purpose, in a copy, and asks whether the tests notice.
//!
//! Each file of `mutants/` is one defect that a guard in the code prevents, with the name of the
//! test that fails without the guard. A mutant that survives means that the test proves less than
//! it says; one that no longer applies has to be written anew.

mod mutant;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Failure, Result, cargo, lines, output, program};
use crate::workspace::Workspace;

use mutant::{Mutant, Test};

/// How long one test may take. A mutant may well hang, and that is noticed too.
const PATIENCE: Duration = Duration::from_secs(60);

/// `cargo xtask mutants`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mutants = load(&workspace.root.join("mutants"), args)?;
    let copy = Copy::of(workspace)?;
    copy.check_unchanged(&mutants)?;
    let (mut passed, mut failed) = (0, 0);
    for mutant in &mutants {
        let start = Instant::now();
        let verdict = copy.try_out(mutant);
        let seconds = start.elapsed().as_secs_f64();
        match verdict {
            Ok(killed) => {
                passed += 1;
                println!("{}: {killed} by {} in {seconds:.1} s", mutant.name, mutant.test.name);
            }
            Err(failure) => {
                failed += 1;
                println!("{}: FAILED: {failure} ({})", mutant.name, mutant.about);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err(Failure::new("the tests do not notice every mutant")) }
}

/// The mutants of a folder, or those that are asked for by name.
fn load(folder: &Path, names: &[String]) -> Result<Vec<Mutant>> {
    let unreadable = |error| Failure::new(format!("cannot read {}: {error}", folder.display()));
    let mut mutants = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).map_err(unreadable)?;
            mutants.push(Mutant::parse(&name, &text)?);
        }
    }
    if let Some(name) = names.iter().find(|name| !mutants.iter().any(|of| of.name == **name)) {
        return Err(Failure::usage(format!("there is no mutant `{name}`")));
    }
    mutants.retain(|mutant| names.is_empty() || names.contains(&mutant.name));
    // Those of one package one after the other, so that it is built as seldom as possible.
    mutants.sort_by(|a, b| (&a.test, &a.name).cmp(&(&b.test, &b.name)));
    Ok(mutants)
}

/// A copy of the workspace that may be broken.
struct Copy {
    original: PathBuf,
    root: PathBuf,
    target: PathBuf,
    /// The model checks are a workspace of their own, and slow to build; see `proofs/`.
    proofs_target: PathBuf,
}

/// How a test ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Passed,
    Failed,
    TimedOut,
}

impl Copy {
    /// Brings the copy up to date. What has not changed keeps its time, so that it is not built
    /// again.
    fn of(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target.join("mutants");
        let copy = Self {
            original: workspace.root.clone(),
            root: folder.join("tree"),
            target: folder.join("target"),
            proofs_target: workspace.target.join("proofs"),
        };
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let list = output(git.current_dir(&copy.original))
            .ok_or_else(|| Failure::new("git cannot list the files of the workspace"))?;
        let wanted: BTreeSet<&str> = list.split('\0').filter(|file| !file.is_empty()).collect();
        for file in &wanted {
            copy.restore(file)?;
        }
        // What was renamed since the last run would be there twice.
        let wanted = wanted.iter().map(|file| copy.root.join(file)).collect();
        prune(&copy.root, &wanted)?;
        Ok(copy)
    }

    /// Every test must pass on the unchanged copy, or its failure says nothing.
    fn check_unchanged(&self, mutants: &[Mutant]) -> Result {
        let tests: BTreeSet<&Test> = mutants.iter().map(|mutant| &mutant.test).collect();
        let mut built: BTreeMap<(&str, &str), PathBuf> = BTreeMap::new();
        for test in tests {
            let target = (test.package.as_str(), test.target.as_str());
            let program = match built.entry(target) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.build(test)?),
            };
            let ending = self.execute(program, test)?;
            if ending != Ending::Passed {
                return Err(Failure::new(format!("{} without a mutant: {ending:?}", test.name)));
            }
        }
        Ok(())
    }

    /// Breaks the copy, runs the test and mends the copy again; says how the mutant was noticed.
    fn try_out(&self, mutant: &Mutant) -> Result<&'static str> {
        let mut whole = BTreeMap::new();
        let outcome = self.apply(mutant, &mut whole).and_then(|()| {
            let program = self.build(&mutant.test)?;
            self.execute(&program, &mutant.test)
        });
        for (path, text) in whole {
            write(&path, text.as_bytes())?;
        }
        match outcome? {
            Ending::Failed => Ok("killed"),
            Ending::TimedOut => Ok("killed (it hangs)"),
            Ending::Passed => Err(Failure::new(format!("it survives {}", mutant.test.name))),
        }
    }

    /// Makes the edits, and keeps what each file was before.
    fn apply(&self, mutant: &Mutant, whole: &mut BTreeMap<PathBuf, String>) -> Result {
        for edit in &mutant.edits {
            let path = self.root.join(&edit.file);
            let text = fs::read_to_string(&path)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", edit.file)))?;
            write(&path, edit.apply(&text)?.as_bytes())?;
            whole.entry(path).or_insert(text);
        }
        Ok(())
    }

    /// Copies a file of the original over ours if it differs.
    fn restore(&self, file: &str) -> Result {
        let path = self.root.join(file);
        match fs::read(self.original.join(file)) {
            Ok(bytes) if fs::read(&path).is_ok_and(|known| known == bytes) => Ok(()),
            Ok(bytes) => write(&path, &bytes),
            // Deleted, and not yet committed.
            Err(_) => {
                let _ = fs::remove_file(&path);
                Ok(())
            }
        }
    }

    /// Builds a test target and says where its program is.
    fn build(&self, test: &Test) -> Result<PathBuf> {
        let (manifest, target) = if test.package.starts_with("oneiric-proof-") {
            ("proofs/Cargo.toml", &self.proofs_target)
        } else {
            ("Cargo.toml", &self.target)
        };
        let mut command = cargo();
        command
            .args(["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics"])
            .args(["--package", &test.package, "--manifest-path"])
            .arg(self.root.join(manifest))
            .env("CARGO_TARGET_DIR", target);
        if test.package.starts_with("oneiric-adapter-") {
            // Their features are drivers to choose from, and their tests need all of them.
            command.arg("--all-features");
        }
        match test.target.as_str() {
            "lib" => command.arg("--lib"),
            target => command.args(["--test", target]),
        };
        let mut programs = Vec::new();
        let ended = lines(&mut command, |line| programs.extend(program(line)))?;
        match programs.pop() {
            Some((_, path)) if ended.success() => Ok(path),
            _ => Err(Failure::new(format!("{} {} does not build", test.package, test.target))),
        }
    }

    fn execute(&self, program: &Path, test: &Test) -> Result<Ending> {
        let cannot = |error| Failure::new(format!("{} cannot be run: {error}", program.display()));
        let mut command = Command::new(program);
        command.args(["--exact", &test.name]).current_dir(&self.root);
        let said = self.root.with_extension("said");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(fs::File::create(&said).map_err(cannot)?);
        let mut child = command.spawn().map_err(cannot)?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(cannot)? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().and_then(|()| child.wait()).map_err(cannot)?;
                return Ok(Ending::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Ok(Ending::Failed);
        }
        if fs::read_to_string(&said).map_err(cannot)?.contains(" 1 passed") {
            return Ok(Ending::Passed);
        }
        Err(Failure::new(format!("{} has no test {}", test.target, test.name)))
    }
}

/// Deletes every file below a folder that is not wanted.
fn prune(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result {
    let cannot = |error| Failure::new(format!("cannot tidy up {}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        if entry.file_type().map_err(cannot)?.is_dir() {
            prune(&entry.path(), wanted)?;
        } else if !wanted.contains(&entry.path()) {
            fs::remove_file(entry.path()).map_err(cannot)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    written
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_from_the_workspace_goes_from_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, moved] = ["a/kept.rs", "a/b/moved.rs"].map(|file| folder.path().join(file));
        for file in [&kept, &moved] {
            write(file, b"").unwrap();
        }
        prune(folder.path(), &BTreeSet::from([kept.clone()])).unwrap();
        assert!(kept.exists() && !moved.exists());
    }
}
