//! Every file that a document names is there.

use super::markdown::{Part, anchor, parts};
use super::tree::Tree;
use super::{Context, Problems};
use crate::process::Result;

/// Checks links and paths of every document.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    let mut problems = Problems::new();
    for document in documents(&context.tree) {
        let read = |file: &str| context.tree.read(file).ok();
        problems.extend(check_document(
            document,
            &context.tree.read(document)?,
            &context.tree,
            &read,
        ));
    }
    Ok(problems)
}

/// The texts that speak of how things are. The change log speaks of how they were.
pub(super) fn documents(tree: &Tree) -> impl Iterator<Item = &str> {
    tree.ending(".md").filter(|file| *file != "CHANGELOG.md")
}

fn check_document(
    document: &str,
    text: &str,
    tree: &Tree,
    read: &dyn Fn(&str) -> Option<String>,
) -> Problems {
    let mut problems = Problems::new();
    for (line, part) in parts(text) {
        match part {
            Part::Link(target) if !is_elsewhere(&target) => {
                let (path, fragment) = target.split_once('#').unwrap_or((&target, ""));
                let file = if path.is_empty() { document.into() } else { beside(document, path) };
                if !tree.has(&file) {
                    problems
                        .push(format!("{document}:{line} links to {target}, which is not there"));
                } else if !fragment.is_empty() && !has_anchor(read(&file), fragment) {
                    problems.push(format!(
                        "{document}:{line} links to {target}, and there is no such heading"
                    ));
                }
            }
            Part::Code(code) if is_path(&code) => {
                let path = code.split(':').next().unwrap_or(&code);
                if !tree.has(path) && !tree.has(&beside(document, path)) {
                    problems.push(format!("{document}:{line} names `{code}`, which is not there"));
                }
            }
            _ => {}
        }
    }
    problems
}

fn is_elsewhere(target: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// Whether a piece of code is a path of ours, perhaps with a line number. Most words with a slash
/// are not: keys of secrets, routes, types of content.
fn is_path(code: &str) -> bool {
    let (path, line) = code.split_once(':').unwrap_or((code, "0"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    path.contains('/')
        && !path.starts_with(['/', '~'])
        && path.chars().all(plain)
        && line.chars().all(|c| c.is_ascii_digit())
        && (path.starts_with("docs/") || path.ends_with(".rs") || path.ends_with(".md"))
}

/// A path that is meant from the folder of a document.
fn beside(document: &str, path: &str) -> String {
    let mut folder: Vec<&str> = document.split('/').collect();
    folder.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                folder.pop();
            }
            part => folder.push(part),
        }
    }
    folder.join("/")
}

fn has_anchor(text: Option<String>, fragment: &str) -> bool {
    let Some(text) = text else { return false };
    parts(&text).iter().any(|(_, part)| match part {
        Part::Heading(heading) => anchor(heading) == fragment,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Problems {
        let tree = Tree::of(&["README.md", "docs/a.md", "docs/runbooks/B.md", "core/src/lib.rs"]);
        let read = |file: &str| (file == "docs/a.md").then(|| "# One\n## Two words\n".to_owned());
        check_document("docs/runbooks/B.md", text, &tree, &read)
    }

    #[test]
    fn what_is_there_may_be_named() {
        for text in [
            "[a](../a.md) [two](../a.md#two-words) [up](../../README.md) [folder](../)",
            "[web](https://example.com/x.md#y) <https://example.com>",
            "`core/src/lib.rs` `core/src/lib.rs:12` `docs/a.md` `../a.md` `docs/runbooks/`",
            "`app/db.json` `a.rs` `/etc/x.md` `GET /v1/a.md` `foo/<name>.rs` `text/html`",
            "```sh\ncat docs/none.md\n```",
        ] {
            assert_eq!(problems(text), Problems::new(), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_a_problem() {
        for (text, part) in [
            ("[a](a.md)", "B.md:1 links to a.md, which is not there"),
            ("x\n\n[a](../a.md#three)", "B.md:3 links to ../a.md#three, and there is no such"),
            ("[here](#nowhere)", "no such heading"),
            ("`core/src/none.rs`", "names `core/src/none.rs`"),
            ("`core/src/none.rs:7`", "names `core/src/none.rs:7`"),
            ("`docs/none/`", "names `docs/none/`"),
            ("see `docs/none.md`.", "names `docs/none.md`"),
        ] {
            let problems = problems(text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].contains(part), "{text}: {problems:?}");
        }
    }

    #[test]
    fn the_change_log_may_speak_of_the_past() {
        let tree = Tree::of(&["CHANGELOG.md", "README.md", "docs/a.md", "docs/b.txt"]);
        assert_eq!(documents(&tree).collect::<Vec<_>>(), ["README.md", "docs/a.md"]);
    }
}
