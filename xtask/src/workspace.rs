//! What cargo knows about the workspace.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Failure, Result, cargo, output};

/// The workspace as `cargo metadata` describes it.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One member.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// The source of its library, where it has one.
    pub(crate) library: Option<PathBuf>,
    pub(crate) features: Vec<String>,
    /// Those of them that are on by default.
    pub(crate) default: Vec<String>,
    /// The members of the workspace that it depends on.
    pub(crate) uses: Vec<Use>,
}

/// A dependency of one member on another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) name: String,
    /// Only its tests depend on it.
    pub(crate) dev: bool,
}

impl Workspace {
    /// Asks cargo, in the workspace that this crate belongs to.
    pub(crate) fn load() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = cargo();
        command.args(["metadata", "--format-version=1", "--no-deps"]).current_dir(here);
        let text = output(&mut command)
            .ok_or_else(|| Failure::new("`cargo metadata` failed; run it to see why"))?;
        Self::parse(&text).ok_or_else(|| Failure::new("`cargo metadata` answers in a new format"))
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut packages: Vec<Package> =
            value["packages"].as_array()?.iter().map(Package::parse).collect::<Option<_>>()?;
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self {
            root: value["workspace_root"].as_str()?.into(),
            target: value["target_directory"].as_str()?.into(),
            packages,
        })
    }
}

impl Package {
    fn parse(value: &Value) -> Option<Self> {
        let is_library = |target: &&Value| {
            target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib"))
        };
        let library = value["targets"].as_array()?.iter().find(is_library);
        let mut features: Vec<String> = value["features"].as_object()?.keys().cloned().collect();
        features.sort();
        let default = value["features"]["default"].as_array();
        let named = |feature: &Value| feature.as_str().map(str::to_owned);
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            library: library.and_then(|target| target["src_path"].as_str()).map(PathBuf::from),
            features,
            default: default.into_iter().flatten().filter_map(named).collect(),
            uses: value["dependencies"].as_array()?.iter().filter_map(Use::parse).collect(),
        })
    }
}

impl Use {
    /// Only a dependency with a path is one on a member.
    fn parse(value: &Value) -> Option<Self> {
        value["path"].as_str()?;
        Some(Self { name: value["name"].as_str()?.to_owned(), dev: value["kind"] == "dev" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{
        "workspace_root": "/w", "target_directory": "/t",
        "packages": [
            {"name": "b", "features": {"y": [], "default": ["y"]},
             "targets": [{"kind": ["test"], "src_path": "/w/b/tests/t.rs"},
                         {"kind": ["lib"], "src_path": "/w/b/src/lib.rs"}],
             "dependencies": [
                {"name": "serde", "kind": null},
                {"name": "a", "kind": null, "path": "/w/a"},
                {"name": "kit", "kind": "dev", "path": "/w/kit"}]},
            {"name": "a", "features": {}, "dependencies": [],
             "targets": [{"kind": ["bin"], "src_path": "/w/a/src/main.rs"}]}]}"#;

    #[test]
    fn metadata_is_read_into_members_and_their_uses() {
        let workspace = Workspace::parse(METADATA).unwrap();
        assert_eq!(workspace.target, Path::new("/t"));
        assert_eq!(workspace.packages[0].name, "a");
        assert_eq!(workspace.packages[0].library, None);
        let b = &workspace.packages[1];
        assert_eq!(b.library.as_deref(), Some(Path::new("/w/b/src/lib.rs")));
        assert_eq!(
            (&b.features[..], &b.default[..]),
            (&["default", "y"].map(String::from)[..], &["y".to_owned()][..])
        );
        let uses: Vec<_> = b.uses.iter().map(|used| (used.name.as_str(), used.dev)).collect();
        assert_eq!(uses, [("a", false), ("kit", true)]);
    }

    #[test]
    fn this_workspace_has_us_in_it() {
        let workspace = Workspace::load().unwrap();
        assert!(workspace.packages.iter().any(|package| package.name == "xtask"));
        assert!(workspace.root.join("xtask").is_dir());
    }
}
