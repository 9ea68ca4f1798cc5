//! `features`: a feature picks what is linked, so each must build without the others.

use crate::process::{Result, cargo, run as run_command};
use crate::workspace::{Package, Workspace};

/// The package that has the choice.
const CLI: &str = "oneiric-cli";

/// `cargo xtask features`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    crate::no_arguments(args)?;
    for selection in selections(&workspace.packages) {
        // A warning that one feature set alone gives, such as an unused import, must not pass.
        // Denying it through RUSTFLAGS would build every dependency again; clippy does not.
        run_command(cargo().arg("clippy").args(&selection).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// The binary with none of its features, with each alone and with all; each library with none.
fn selections(packages: &[Package]) -> Vec<Vec<String>> {
    let select = |name: &str, features: &[&str]| {
        ["--package", name].iter().chain(features).map(|&arg| arg.to_owned()).collect()
    };
    let mut selections = Vec::new();
    for package in packages {
        if package.name == CLI {
            selections.push(select(CLI, &["--no-default-features"]));
            for feature in package.features.iter().filter(|feature| *feature != "default") {
                let alone = ["--no-default-features", "--features", feature];
                selections.push(select(CLI, &alone));
            }
            selections.push(select(CLI, &["--all-features"]));
        } else if package.library.is_some() {
            selections.push(select(&package.name, &["--no-default-features"]));
        }
    }
    selections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, library: bool, features: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            library: library.then(|| "lib.rs".into()),
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
            uses: Vec::new(),
        }
    }

    #[test]
    fn each_feature_stands_alone_and_so_does_each_library() {
        let packages = [
            package("oneiric-cli", false, &["default", "env", "file"]),
            package("oneiric-core", true, &["extra"]),
            package("xtask", false, &[]),
        ];
        let selections: Vec<String> =
            selections(&packages).iter().map(|selection| selection.join(" ")).collect();
        assert_eq!(
            selections,
            [
                "--package oneiric-cli --no-default-features",
                "--package oneiric-cli --no-default-features --features env",
                "--package oneiric-cli --no-default-features --features file",
                "--package oneiric-cli --all-features",
                "--package oneiric-core --no-default-features",
            ]
        );
    }
}
