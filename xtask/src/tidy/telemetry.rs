//! Every name that is emitted is in the manual.

use super::{Context, Problems};
use crate::process::Result;

const NAMES: &str = "oneiric-core/src/telemetry.rs";
const MANUAL: &str = "docs/telemetry.md";

/// Compares the constants with the manual.
pub(super) fn check(context: &Context<'_>) -> Result<Problems> {
    if !context.tree.has(MANUAL) {
        return Ok(vec![format!("{MANUAL} is not there")]);
    }
    Ok(compare(&context.tree.read(NAMES)?, &context.tree.read(MANUAL)?))
}

fn compare(source: &str, manual: &str) -> Problems {
    let names = names(source);
    if names.is_empty() {
        return vec![format!("no constant was found in {NAMES}")];
    }
    let missing = names.into_iter().filter(|name| !manual.contains(&format!("`{name}`")));
    missing.map(|name| format!("{MANUAL} does not list `{name}`")).collect()
}

/// The values of all `const …: &str = "…";`.
fn names(source: &str) -> Vec<&str> {
    source
        .split("const ")
        .skip(1)
        .filter_map(|item| item.split_once(';').map(|(item, _)| item))
        .filter_map(|item| {
            item.split_once(": &str =")?.1.trim().strip_prefix('"')?.strip_suffix('"')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        /// One.
        pub const ONE: &str = "secrets.one";
        pub const TWO: &str =
            "two-happened";
        pub const ALL: [&str; 2] = [ONE, TWO];
    "#;

    #[test]
    fn a_manual_with_every_name_is_good() {
        assert_eq!(names(SOURCE), ["secrets.one", "two-happened"]);
        assert_eq!(compare(SOURCE, "| `secrets.one` | `two-happened` |"), Problems::new());
    }

    #[test]
    fn a_missing_name_is_found() {
        let problems = compare(SOURCE, "| `secrets.one` | two-happened, `two-happened-twice` |");
        assert_eq!(problems, ["docs/telemetry.md does not list `two-happened`"]);
        assert!(compare("", "")[0].contains("no constant"));
    }
}
