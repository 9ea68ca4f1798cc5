//! A block of a document that is said to be a file is that file, and the guide that is made of the
//! files of the example leaves none out.

use std::fs;

use super::docs::documents;
use super::{Context, Problems};
use crate::process::{Failure, Result};

/// The folder whose files the guide shows, and the guide.
const EXAMPLE: &str = "providers/example/";
const GUIDE: &str = "docs/providers/writing-a-provider.md";

/// Where the repository is for a crate inside it, and for one beside it as in the guide.
const INSIDE: &str = "../../";
const BESIDE: &str = "../oneiric/";

/// Compares each block with its file, or rewrites it.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    let mut problems = Problems::new();
    for document in documents(&context.tree) {
        let text = context.tree.read(document)?;
        let read = |file: &str| context.tree.read(file).ok();
        let (fixed, found) = compare(document, &text, &read);
        if context.fix && fixed != text {
            fs::write(context.tree.path(document), &fixed)
                .map_err(|error| Failure::new(format!("cannot write {document}: {error}")))?;
            // What a file that is not there should be, nobody can write.
            problems.extend(compare(document, &fixed, &read).1);
        } else {
            problems.extend(found);
        }
    }
    if context.tree.has(GUIDE) {
        let files = ["rs", "toml"].into_iter().flat_map(|end| context.tree.ending(end));
        problems.extend(left_out(&context.tree.read(GUIDE)?, files));
    }
    Ok(problems)
}

/// The document as it should be, and what is wrong with it.
fn compare(
    document: &str,
    text: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> (String, Problems) {
    let (mut fixed, mut problems) = (String::new(), Problems::new());
    let mut lines = (1..).zip(text.split_inclusive('\n'));
    while let Some((number, line)) = lines.next() {
        fixed.push_str(line);
        let Some(file) = named(line) else { continue };
        let block: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| line.trim_end() != "```")
            .collect();
        match read(file).map(|text| shown(file, &text)) {
            Some(expected) => {
                if expected != block {
                    let remedy = "`cargo xtask tidy --fix` rewrites it";
                    problems.push(format!("{document}:{number} is not {file} as it is; {remedy}"));
                }
                fixed.push_str(&expected);
            }
            None => {
                problems.push(format!("{document}:{number} shows {file}, which is not there"));
                fixed.push_str(&block);
            }
        }
        fixed.push_str("```\n");
    }
    (fixed, problems)
}

/// The file that a block is said to be: the word after the language, if it is a path.
fn named(line: &str) -> Option<&str> {
    let (_, file) = line.strip_prefix("```")?.trim_end().split_once(' ')?;
    file.contains('/').then_some(file)
}

/// A file as a document shows it. A manifest is that of a crate beside the repository.
fn shown(file: &str, text: &str) -> String {
    if file.ends_with(".toml") { text.replace(INSIDE, BESIDE) } else { text.to_owned() }
}

fn left_out<'f>(guide: &str, files: impl Iterator<Item = &'f str>) -> Problems {
    let shown: Vec<&str> = guide.lines().filter_map(named).collect();
    files
        .filter(|file| file.starts_with(EXAMPLE) && !shown.contains(file))
        .map(|file| format!("{GUIDE} does not show {file}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Option<String> {
        match file {
            "a/lib.rs" => Some("//! A.\n\nfn a() {\n    b();\n}\n".to_owned()),
            "a/Cargo.toml" => Some("core = { path = \"../../core\" }\n".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_block_that_is_its_file_is_good() {
        let text = "# A\n```rust a/lib.rs\n//! A.\n\nfn a() {\n    b();\n}\n```\nthen\n\
                    ```toml a/Cargo.toml\ncore = { path = \"../oneiric/core\" }\n```\n\
                    ```rust\nfn other() {}\n```\n```sh\ncargo new a\n```\n```text is said\n```\n";
        assert_eq!(compare("a.md", text, &read), (text.to_owned(), Problems::new()));
    }

    #[test]
    fn a_block_that_is_not_its_file_is_a_problem_and_is_rewritten() {
        let text = "```rust a/lib.rs\n//! A.\n\nfn a() {\nb();\n}\n```\nthen\n";
        let (fixed, problems) = compare("a.md", text, &read);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("a.md:1 is not a/lib.rs"), "{problems:?}");
        assert!(fixed.contains("    b();\n}\n```\nthen\n"), "{fixed}");
        assert_eq!(compare("a.md", &fixed, &read).1, Problems::new());
    }

    #[test]
    fn a_file_that_is_not_there_is_a_problem() {
        let text = "x\n```rust a/none.rs\nfn a() {}\n```\n";
        let (fixed, problems) = compare("a.md", text, &read);
        assert_eq!(fixed, text);
        assert_eq!(problems, ["a.md:2 shows a/none.rs, which is not there"]);
    }

    #[test]
    fn the_guide_shows_every_file_of_the_example() {
        let guide = "```rust providers/example/src/lib.rs\n```\n";
        let files = ["providers/example/src/lib.rs", "providers/example/src/new.rs", "a/b.rs"];
        let problems = left_out(guide, files.into_iter());
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("does not show providers/example/src/new.rs"));
    }
}
