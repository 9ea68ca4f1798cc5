//! The map names exactly the crates that there are.

use super::markdown::{Part, parts};
use super::{Context, Problems};
use crate::process::Result;
use crate::workspace::Package;

const MAP: &str = "docs/ARCHITECTURE.md";

/// Compares the headings of the map with the members of the workspace.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    Ok(compare(&context.tree.read(MAP)?, &context.workspace.packages))
}

fn compare(text: &str, packages: &[Package]) -> Problems {
    let headings: Vec<String> = parts(text)
        .into_iter()
        .filter_map(|(_, part)| match part {
            Part::Heading(heading) => Some(heading.trim_matches('`').to_owned()),
            _ => None,
        })
        .collect();
    let mut problems = Problems::new();
    for package in packages {
        match headings.iter().filter(|heading| **heading == package.name).count() {
            0 => problems.push(format!("{MAP} has no heading `{}`", package.name)),
            1 => {}
            _ => problems.push(format!("{MAP} has more than one heading `{}`", package.name)),
        }
    }
    // A heading without a space can only be meant as the name of a crate.
    let is_name = |heading: &&String| heading.contains('-') && !heading.contains(' ');
    for heading in headings.iter().filter(is_name) {
        if packages.iter().all(|package| package.name != *heading) {
            problems.push(format!("{MAP} speaks of `{heading}`, which is no crate"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Problems {
        let package = |name: &str| Package {
            name: name.to_owned(),
            library: None,
            features: Vec::new(),
            default: Vec::new(),
            uses: Vec::new(),
        };
        compare(text, &[package("oneiric-core"), package("xtask")])
    }

    #[test]
    fn a_map_with_each_crate_once_is_good() {
        let good = "# Map\n## Cross-cutting concerns\n### `oneiric-core`\n### xtask\n";
        assert_eq!(problems(good), Problems::new());
    }

    #[test]
    fn missing_double_and_stale_crates_are_found() {
        let missing = "### oneiric-core\nxtask\n```\n### xtask\n```\n";
        assert_eq!(problems(missing), ["docs/ARCHITECTURE.md has no heading `xtask`"]);
        let double = problems("### oneiric-core\n### xtask\n## xtask\n");
        assert!(double.len() == 1 && double[0].contains("more than one"), "{double:?}");
        let stale = problems("### oneiric-core\n### xtask\n### oneiric-old\n");
        assert!(stale.len() == 1 && stale[0].contains("`oneiric-old`"), "{stale:?}");
    }
}
