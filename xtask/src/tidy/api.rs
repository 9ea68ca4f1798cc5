//! The public face of each library, as a committed text: a change of it is seen in review.

use std::fs;

use super::{Context, Problems};
use crate::process::{Failure, Result};

const FOLDER: &str = "docs/api";

/// Compares each `lib.rs` with its snapshot, or rewrites the snapshots.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    let mut problems = Problems::new();
    let mut expected = Vec::new();
    for package in &context.workspace.packages {
        let Some(library) = &package.library else { continue };
        let source = fs::read_to_string(library)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", library.display())))?;
        let file = format!("{FOLDER}/{}.txt", package.name);
        let face = face(&source);
        if context.fix {
            write(context, &file, &face)?;
        } else {
            let snapshot = fs::read_to_string(context.tree.path(&file)).ok();
            problems.extend(compare(&file, snapshot.as_deref(), &face));
        }
        expected.push(file);
    }
    for stale in context.tree.ending(".txt").filter(|file| file.starts_with(FOLDER)) {
        if expected.iter().any(|file| file == stale) {
            continue;
        }
        if context.fix {
            fs::remove_file(context.tree.path(stale))
                .map_err(|error| Failure::new(format!("cannot remove {stale}: {error}")))?;
        } else {
            problems.push(format!("{stale} is of no library; `cargo xtask tidy --fix` removes it"));
        }
    }
    Ok(problems)
}

fn write(context: &Context<'_>, file: &str, face: &str) -> Result {
    let path = context.tree.path(file);
    fs::create_dir_all(context.tree.path(FOLDER))
        .and_then(|()| fs::write(path, face))
        .map_err(|error| Failure::new(format!("cannot write {file}: {error}")))
}

fn compare(file: &str, snapshot: Option<&str>, face: &str) -> Problems {
    let remedy = "`cargo xtask tidy --fix` rewrites it";
    let Some(snapshot) = snapshot else { return vec![format!("{file} is not there; {remedy}")] };
    if snapshot == face {
        return Problems::new();
    }
    let lines = |text: &str, other: &str, sign: &str| -> Vec<String> {
        text.lines()
            .filter(|line| other.lines().all(|known| known != *line))
            .map(|line| format!("{sign}{line}"))
            .collect()
    };
    let changes = [lines(face, snapshot, "+"), lines(snapshot, face, "-")].concat();
    vec![format!("{file} is not what the library shows ({}); {remedy}", changes.join(" "))]
}

/// The public names of a front page, sorted, one on a line.
fn face(source: &str) -> String {
    let mut names = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        // Items of the front page begin at the margin.
        if let Some(first) = line.strip_prefix("pub use ") {
            let mut tree = first.to_owned();
            while !tree.contains(';') {
                let Some(next) = lines.next() else { break };
                tree.push_str(next.trim());
                tree.push(' ');
            }
            let tree = tree.split(';').next().unwrap_or(&tree);
            names.extend(use_names(tree));
        } else if let Some(item) = line.strip_prefix("pub ") {
            names.extend(item_name(item));
        } else if let Some(name) = line.strip_prefix("macro_rules! ") {
            names.push(format!("macro {}", ident(name)));
        }
    }
    names.sort();
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// The names that a `use` brings out.
fn use_names(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    if let Some((path, group)) = tree.split_once('{') {
        let inside = group.rsplit_once('}').map_or(group, |(inside, _)| inside);
        let module = path.trim_end_matches("::").rsplit("::").next().unwrap_or(path);
        return split_group(inside)
            .iter()
            .flat_map(|part| if part == "self" { vec![module.into()] } else { use_names(part) })
            .collect();
    }
    let name = match tree.split_once(" as ") {
        Some((_, alias)) => alias.trim(),
        None => tree.rsplit("::").next().unwrap_or(tree),
    };
    if name == "*" { vec![tree.to_owned()] } else { vec![name.to_owned()] }
}

/// The parts of a group, at the commas that are in no inner group.
fn split_group(group: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The kind and the name of an item such as `mod telemetry;` or `const fn answer() -> u8 {`.
fn item_name(item: &str) -> Option<String> {
    let qualifies = |word: &str| ["async", "const", "unsafe"].contains(&word);
    if let Some((before, name)) = item.split_once("fn ")
        && before.split_whitespace().all(qualifies)
    {
        return Some(format!("fn {}", ident(name)));
    }
    let mut words = item.split_whitespace();
    Some(format!("{} {}", words.next()?, ident(words.next()?)))
}

fn ident(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process;
    use crate::tidy::tree::Tree;
    use crate::workspace::{Package, Workspace};

    #[test]
    fn the_face_is_what_the_front_page_brings_out() {
        let source = "//! Front page.\n\
                      mod hidden;\n\
                      pub mod telemetry;\n\
                      pub use clock::{Clock, Moment};\n\
                      pub use provider::{\n    Change as Changed, stream::{self, Stream},\n    \
                      fetch_each,\n};\n\
                      pub use other::*;\n\
                      use private::Thing;\n\
                      pub async fn go() {\n    pub(crate) inner();\n}\n\
                      pub const LIMIT: usize = 1;\n\
                      pub struct Pair(u8, u8);\n";
        assert_eq!(
            face(source).lines().collect::<Vec<_>>(),
            [
                "Changed",
                "Clock",
                "Moment",
                "Stream",
                "const LIMIT",
                "fetch_each",
                "fn go",
                "mod telemetry",
                "other::*",
                "stream",
                "struct Pair",
            ]
        );
    }

    #[test]
    fn fixing_writes_what_is_missing_and_removes_what_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("lib.rs");
        fs::write(&library, "pub use a::B;\n").unwrap();
        fs::create_dir_all(dir.path().join(FOLDER)).unwrap();
        fs::write(dir.path().join(FOLDER).join("gone.txt"), "").unwrap();
        process::output(Command::new("git").args(["init", "--quiet"]).current_dir(dir.path()));
        let workspace = Workspace {
            root: dir.path().to_owned(),
            target: dir.path().join("target"),
            packages: vec![Package {
                name: "a".to_owned(),
                library: Some(library),
                features: Vec::new(),
                default: Vec::new(),
                uses: Vec::new(),
            }],
        };
        let problems = |fix| {
            let tree = Tree::load(dir.path()).unwrap();
            check(&Context { workspace: &workspace, tree, fix }).unwrap()
        };
        let before = problems(false);
        assert_eq!(before.len(), 2, "{before:?}");
        assert!(before[0].contains("a.txt is not there") && before[1].contains("gone.txt"));
        assert_eq!(problems(true), Problems::new());
        assert_eq!(problems(false), Problems::new());
        let snapshot = fs::read_to_string(dir.path().join(FOLDER).join("a.txt"));
        assert_eq!(snapshot.unwrap(), "B\n");
    }

    #[test]
    fn a_change_of_the_face_is_a_problem_that_names_it() {
        assert_eq!(compare("a.txt", Some("A\nB\n"), "A\nB\n"), Problems::new());
        let problems = compare("a.txt", Some("A\nB\n"), "A\nC\n");
        assert!(problems.len() == 1 && problems[0].contains("(+C -B)"), "{problems:?}");
        assert!(compare("a.txt", None, "A\n")[0].contains("a.txt is not there"));
    }
}
