//! `features`: a feature picks what is linked, so each must build and work without the others, and
//! what nobody picked must not be there.

use crate::process::{Failure, Result, cargo, output, run as run_command};
use crate::workspace::{Package, Workspace};

/// The package that has the choice.
const CLI: &str = "oneiric-cli";
/// What the names of adapters begin with.
const ADAPTERS: &str = "oneiric-adapter-";
/// What the names of cloud SDKs begin with. Each is large, and is for those who asked for it.
const CLOUD: [&str; 8] = [
    "aws-config",
    "aws-sdk-",
    "aws-smithy",
    "azure-",
    "azure_",
    "gcloud-",
    "google-cloud",
    "googleapis",
];
/// The same for a client of gRPC.
const GRPC: [&str; 1] = ["tonic"];

/// `cargo xtask features`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    crate::no_arguments(args)?;
    check_links(&workspace.packages)?;
    for selection in selections(&workspace.packages) {
        // A warning that one feature set alone gives, such as an unused import, must not pass.
        // Denying it through RUSTFLAGS would build every dependency again; clippy does not.
        run_command(cargo().arg("clippy").args(&selection).args(["--", "-D", "warnings"]))?;
    }
    // The tests of the libraries are those of every other run; the binary's own differ by features.
    for selection in selections(&workspace.packages) {
        if selection.iter().any(|arg| arg == CLI) {
            let tests = ["--quiet", "--bins", "--test", "linked"];
            run_command(cargo().arg("test").args(&selection).args(tests).args(clouds(&selection)))?;
        }
    }
    Ok(())
}

/// The binary with none of its features, with each alone and with all; each library with none, and
/// each adapter, whose features are drivers to choose from, with each alone.
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
            if package.name.starts_with(ADAPTERS) {
                for feature in package.features.iter().filter(|feature| *feature != "default") {
                    let alone = ["--no-default-features", "--features", feature];
                    selections.push(select(&package.name, &alone));
                }
            }
        }
    }
    selections
}

/// What is tested with a cloud beside it, where its client is linked.
fn clouds(selection: &[String]) -> &'static [&'static str] {
    let is_linked = selection.iter().any(|arg| arg == "--all-features");
    if is_linked { &["--test", "clouds"] } else { &[] }
}

/// Fails if the binary as it is built by default links the SDK of a cloud, or a client of gRPC.
fn check_links(packages: &[Package]) -> Result {
    let cli = packages.iter().find(|package| package.name == CLI);
    let cli = cli.ok_or_else(|| Failure::new(format!("there is no package {CLI}")))?;
    let features = cli.default.join(",");
    if cli.default.is_empty() {
        return Err(Failure::new(format!("{CLI} has no default feature any more")));
    }
    let found = linked(&features)?;
    let found = of_these(&found, &[&CLOUD[..], &GRPC].concat()).join(", ");
    if !found.is_empty() {
        return Err(Failure::new(format!(
            "{CLI} with the features {features} links {found}; see `cargo tree --invert`"
        )));
    }
    eprintln!("{CLI} links no cloud SDK and no gRPC by default");
    Ok(())
}

/// What is linked with these features, by `cargo tree`: one package a line.
fn linked(features: &str) -> Result<String> {
    let mut command = cargo();
    command
        .args(["tree", "--package", CLI, "--no-default-features", "--features", features])
        .args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    output(&mut command).ok_or_else(|| Failure::new("`cargo tree` failed; run it to see why"))
}

/// The packages of a tree whose name begins with one of these.
fn of_these<'a>(tree: &'a str, refused: &[&str]) -> Vec<&'a str> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<&str> =
        names.filter(|name| refused.iter().any(|prefix| name.starts_with(prefix))).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, library: bool, features: &[&str]) -> Package {
        let named = |features: &[&str]| features.iter().map(|&of| of.to_owned()).collect();
        Package {
            name: name.to_owned(),
            library: library.then(|| "lib.rs".into()),
            features: named(features),
            default: named(features.get(1..).unwrap_or_default()),
            uses: Vec::new(),
        }
    }

    #[test]
    fn each_feature_stands_alone_and_so_does_each_library() {
        let packages = [
            package("oneiric-cli", false, &["default", "env", "file"]),
            package("oneiric-core", true, &["extra"]),
            package("oneiric-adapter-db", true, &["default", "one"]),
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
                "--package oneiric-adapter-db --no-default-features",
                "--package oneiric-adapter-db --no-default-features --features one",
            ]
        );
    }

    #[test]
    fn the_sdk_of_a_cloud_is_found_in_a_tree() {
        let tree = "oneiric-cli v0.1.0 (/w/oneiric-cli)\n\
                    oneiric-provider-gcp v0.1.0 (/w/providers/gcp)\n\
                    google-cloud-secretmanager-v1 v1.2.0\n\
                    google-cloud-auth v1.0.0\n\
                    google-cloud-auth v1.0.0 (*)\n\
                    serde_json v1.0.0\n\
                    tonic v0.14.0\n";
        assert_eq!(of_these(tree, &CLOUD), ["google-cloud-auth", "google-cloud-secretmanager-v1"]);
        assert_eq!(of_these(tree, &GRPC), ["tonic"]);
        for name in ["aws-sdk-secretsmanager", "aws-config", "azure_core", "gcloud-sdk"] {
            assert_eq!(of_these(&format!("{name} v1.0.0 (proc-macro)"), &CLOUD), [name]);
        }
        assert!(of_these("aws-lc-rs v1.0.0\nhyper v1.0.0\n\n", &CLOUD).is_empty());
    }

    #[test]
    fn a_real_tree_is_searched_and_shows_grpc_only_where_it_is_asked_for() {
        assert_eq!(of_these(&linked("env,otlp-grpc").unwrap(), &GRPC).first(), Some(&"tonic"));
        assert!(of_these(&linked("env,otlp").unwrap(), &GRPC).is_empty());
        assert_eq!(
            of_these(&linked("env").unwrap(), &["oneiric-provider-"]),
            ["oneiric-provider-env"]
        );
    }

    #[test]
    fn without_default_features_nothing_is_proven() {
        let packages = [package("oneiric-cli", false, &["default"])];
        let error = check_links(&packages).unwrap_err().to_string();
        assert!(error.contains("no default feature"), "{error}");
    }
}
