//! What every source file looks like.

use super::{Context, Problems};
use crate::process::Result;

/// Past this a file is split by concept.
const MOST_LINES: usize = 600;

/// What is not finished, or is a test that does not run. Spelled so that we do not find ourselves.
const UNFINISHED: [&str; 3] =
    [concat!("todo", "!"), concat!("unimplemented", "!"), concat!("#[", "ignore")];

/// Checks every Rust file.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    let mut problems = Problems::new();
    for file in context.tree.ending(".rs") {
        problems.extend(check_file(file, &context.tree.read(file)?));
    }
    Ok(problems)
}

fn check_file(file: &str, text: &str) -> Problems {
    let mut problems = Problems::new();
    if !text.starts_with("//!") {
        problems.push(format!("{file} does not start with a `//!` line that says what it is"));
    }
    if file.ends_with("src/lib.rs") && !text.contains("#![forbid(unsafe_code)]") {
        problems.push(format!("{file} has no `#![forbid(unsafe_code)]`"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        problems.push(format!("{file} has {lines} lines; split it by concept at {MOST_LINES}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
            problems.push(format!("{file}:{number} has `{word}`"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "//! A crate.\n#![forbid(unsafe_code)]\n";

    #[test]
    fn a_good_file_has_no_problem() {
        assert_eq!(check_file("a/src/lib.rs", GOOD), Problems::new());
        assert_eq!(check_file("a/src/b.rs", "//! A module.\n"), Problems::new());
        let full = format!("//! Full.\n{}", "\n".repeat(MOST_LINES - 1));
        assert_eq!(check_file("a/src/b.rs", &full), Problems::new());
    }

    #[test]
    fn each_fault_is_found() {
        let long = format!("//! Long.\n{}", "\n".repeat(MOST_LINES));
        for (file, text, part) in [
            ("a/src/b.rs", "use a::b;\n", "does not start with"),
            ("a/src/b.rs", "", "does not start with"),
            ("a/src/b.rs", "/// Not about the file.\n", "does not start with"),
            ("a/src/lib.rs", "//! A crate.\n", "forbid(unsafe_code)"),
            ("a/src/b.rs", &long, "601 lines"),
            ("a/src/b.rs", concat!("//! A.\nfn f() { todo", "!() }\n"), "b.rs:2 has"),
            ("a/src/b.rs", concat!("//! A.\n\nfn f() { unimplemented", "!() }\n"), "b.rs:3 has"),
            ("a/tests/b.rs", concat!("//! A.\n#[", "ignore = \"slow\"]\n"), "b.rs:2 has"),
        ] {
            let problems = check_file(file, text);
            assert_eq!(problems.len(), 1, "{part}: {problems:?}");
            assert!(problems[0].contains(part), "{part}: {problems:?}");
        }
    }
}
