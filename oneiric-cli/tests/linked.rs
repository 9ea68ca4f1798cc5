//! A build has the kinds that its features name, and no others. `cargo xtask features` builds and
//! runs this with each choice of features.

use std::process::Command;

/// Each kind, where it is set, and whether it was picked.
const KINDS: [(&str, &str, bool); 8] = [
    ("providers", "env", cfg!(feature = "env")),
    ("providers", "file", cfg!(feature = "file")),
    ("providers", "exec", cfg!(feature = "exec")),
    ("providers", "aws", cfg!(feature = "aws")),
    ("providers", "gcp", cfg!(feature = "gcp")),
    ("providers", "vault", cfg!(feature = "vault")),
    ("adapters", "command", cfg!(feature = "command")),
    ("adapters", "template", cfg!(feature = "template")),
];

#[test]
fn a_kind_is_there_exactly_where_it_was_picked() {
    for (table, kind, picked) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!("[{table}.a]\nkind = \"{kind}\"\n");
        std::fs::write(folder.path().join("oneiric.toml"), settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneiric"));
        command.args(["config", "check"]).current_dir(folder.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ONEIRIC_") {
                command.env_remove(name);
            }
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let missing = format!("`{table}.a.kind` is `{kind}`, and no such ");
        assert_eq!(said.contains(&missing), !picked, "{kind}: {said}");
    }
}

#[test]
fn the_commands_are_the_same_in_every_build() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneiric"));
    let output = command.args(["secrets", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(help, include_str!("snapshots/help-secrets.txt"));
}
