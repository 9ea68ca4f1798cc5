//! Who may depend on whom: `core <- secrets <- runtime <- cli`, and
//! `core <- providers, adapters <- cli`.

use super::Problems;
use crate::workspace::Package;

/// The part that a crate plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Core,
    Secrets,
    Runtime,
    Cli,
    Provider,
    Adapter,
    Subprocess,
    Testkit,
    Fake,
    Rehearsal,
    Xtask,
}

use Role::{
    Adapter, Cli, Core, Fake, Provider, Rehearsal, Runtime, Secrets, Subprocess, Testkit, Xtask,
};

impl Role {
    fn of(package: &str) -> Option<Self> {
        Some(match package {
            "oneiric-core" => Core,
            "oneiric-secrets" => Secrets,
            "oneiric-runtime" => Runtime,
            "oneiric-cli" => Cli,
            "oneiric-subprocess" => Subprocess,
            "oneiric-testkit" => Testkit,
            "oneiric-gcp-fake" => Fake,
            "oneiric-rehearsal" => Rehearsal,
            "xtask" => Xtask,
            name if name.starts_with("oneiric-provider-") => Provider,
            name if name.starts_with("oneiric-adapter-") => Adapter,
            _ => return None,
        })
    }

    /// What it may be linked with.
    fn may_use(self) -> &'static [Self] {
        match self {
            Core | Fake | Xtask => &[],
            Secrets | Provider | Subprocess | Testkit => &[Core],
            Adapter => &[Core, Subprocess],
            Runtime => &[Core, Secrets],
            Cli => &[Core, Secrets, Runtime, Provider, Adapter],
            Rehearsal => &[Core, Secrets, Runtime, Provider, Adapter, Testkit],
        }
    }

    /// What its tests may use besides.
    fn tests_may_use(self) -> &'static [Self] {
        match self {
            Provider => &[Testkit, Fake],
            Secrets | Runtime | Cli => &[Testkit],
            // What comes of a report that a credential was refused is seen with a runtime only.
            Adapter => &[Testkit, Secrets, Runtime],
            Rehearsal => &[Fake],
            Core | Subprocess | Testkit | Fake | Xtask => &[],
        }
    }
}

/// Checks every dependency of one member on another.
pub(super) fn check(packages: &[Package]) -> Problems {
    let mut problems = Problems::new();
    for package in packages {
        let Some(role) = Role::of(&package.name) else {
            problems.push(format!("`{}` has no role in xtask/src/tidy/edges.rs", package.name));
            continue;
        };
        for used in &package.uses {
            let allowed = Role::of(&used.name).is_some_and(|other| {
                role.may_use().contains(&other)
                    || (used.dev && role.tests_may_use().contains(&other))
            });
            if !allowed {
                let who = if used.dev { "the tests of " } else { "" };
                problems
                    .push(format!("{who}`{}` must not depend on `{}`", package.name, used.name));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Use;

    fn package(name: &str, uses: &[(&str, bool)]) -> Package {
        Package {
            name: name.to_owned(),
            library: None,
            features: Vec::new(),
            default: Vec::new(),
            uses: uses.iter().map(|&(name, dev)| Use { name: name.to_owned(), dev }).collect(),
        }
    }

    fn problems(name: &str, uses: &[(&str, bool)]) -> Problems {
        check(&[package(name, uses)])
    }

    #[test]
    fn the_arrows_of_the_design_are_allowed() {
        let (linked, dev) = (false, true);
        for (name, uses) in [
            ("oneiric-core", &[][..]),
            ("oneiric-secrets", &[("oneiric-core", linked), ("oneiric-testkit", dev)]),
            ("oneiric-runtime", &[("oneiric-secrets", linked), ("oneiric-testkit", dev)]),
            ("oneiric-provider-file", &[("oneiric-core", linked), ("oneiric-testkit", dev)]),
            ("oneiric-provider-gcp", &[("oneiric-gcp-fake", dev)]),
            ("oneiric-rehearsal", &[("oneiric-gcp-fake", dev)]),
            ("oneiric-adapter-http", &[("oneiric-core", linked), ("oneiric-runtime", dev)]),
            ("oneiric-cli", &[("oneiric-runtime", linked), ("oneiric-adapter-http", linked)]),
            ("oneiric-rehearsal", &[("oneiric-runtime", linked), ("oneiric-testkit", linked)]),
        ] {
            assert_eq!(problems(name, uses), Problems::new(), "{name}");
        }
    }

    #[test]
    fn every_other_arrow_is_a_problem() {
        let (linked, dev) = (false, true);
        for (name, used, kind) in [
            ("oneiric-core", "oneiric-secrets", linked),
            ("oneiric-core", "oneiric-testkit", dev),
            ("oneiric-secrets", "oneiric-runtime", linked),
            ("oneiric-secrets", "oneiric-testkit", linked),
            ("oneiric-runtime", "oneiric-provider-file", linked),
            ("oneiric-runtime", "oneiric-adapter-http", dev),
            ("oneiric-provider-file", "oneiric-secrets", linked),
            ("oneiric-provider-file", "oneiric-provider-env", linked),
            ("oneiric-adapter-http", "oneiric-provider-file", dev),
            ("oneiric-adapter-http", "oneiric-runtime", linked),
            ("oneiric-cli", "oneiric-testkit", linked),
            ("oneiric-cli", "oneiric-rehearsal", dev),
            ("oneiric-rehearsal", "oneiric-cli", linked),
            ("oneiric-provider-gcp", "oneiric-gcp-fake", linked),
            ("oneiric-gcp-fake", "oneiric-core", linked),
            ("oneiric-cli", "oneiric-gcp-fake", dev),
            ("oneiric-runtime", "xtask", dev),
            ("xtask", "oneiric-core", linked),
            ("oneiric-core", "stranger", linked),
        ] {
            let problems = problems(name, &[(used, kind)]);
            let [problem] = &problems[..] else { panic!("{name} -> {used}: {problems:?}") };
            assert!(problem.contains(name) && problem.contains(used), "{problem}");
        }
    }

    #[test]
    fn a_crate_without_a_role_is_a_problem() {
        assert!(problems("oneiric-extra", &[])[0].contains("has no role"));
    }
}
