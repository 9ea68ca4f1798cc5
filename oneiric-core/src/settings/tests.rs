//! The manual, the embedded defaults and the code say the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::keys::{self, KEYS};
use super::layers::{DEFAULTS, SERVERLESS_DEFAULTS};
use super::{Settings, Sources};

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");

/// What `default.toml` says of one setting.
struct Entry {
    default: Option<String>,
    meaning: String,
}

/// The settings of `default.toml`, those that are commented out too, in its order.
fn entries() -> Vec<(String, Entry)> {
    let mut entries = Vec::new();
    let mut table = String::new();
    let mut comment = Vec::new();
    for line in DEFAULTS.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key =
            bare.split_once(" = ").map(|(name, value)| (super::tree::join(&table, name), value));
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some((key, value)) =
            key.filter(|(key, _)| !line.starts_with('#') || KEYS.contains(&key.as_str()))
        {
            let default = (!line.starts_with('#')).then(|| value.to_owned());
            entries.push((key, Entry { default, meaning: comment.join(" ") }));
            comment.clear();
        } else if line.starts_with('#') {
            comment.push(bare);
        } else {
            comment.clear();
        }
    }
    entries
}

#[test]
fn the_embedded_defaults_have_every_setting_in_order_and_no_other() {
    let entries = entries();
    let names: Vec<_> = entries.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, KEYS);
    for (key, entry) in &entries {
        assert!(entry.meaning.ends_with('.'), "{key} has no comment: {:?}", entry.meaning);
    }
}

#[test]
fn the_embedded_defaults_are_settings_with_their_examples_and_without() {
    Settings::load(&Sources::new()).unwrap();
    Settings::load(&Sources::new().with_flags([("profile", "serverless")])).unwrap();

    let is_toml = |line: &str| line.starts_with('[') || line.contains(" = ");
    let uncommented: Vec<_> = DEFAULTS
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_toml(rest)).unwrap_or(line))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oneiric.toml");
    // The examples of sections come before the settings' own tables, as TOML has them.
    std::fs::write(&file, uncommented.join("\n")).unwrap();
    let declared = "[profiles.production]\nDATABASE_URL = { description = \"where orders are\" }";
    std::fs::write(directory.path().join("secretspec.toml"), declared).unwrap();
    let settings = Settings::load(&Sources::new().with_file(file)).unwrap();
    assert_eq!((settings.providers.len(), settings.secrets.len()), (1, 3));
    assert!(settings.explain().iter().all(|setting| setting.value.is_some()));
}

#[test]
fn the_manual_has_the_table_of_all_settings_and_the_embedded_defaults() {
    let serverless: BTreeMap<_, _> =
        SERVERLESS_DEFAULTS.lines().filter_map(|line| line.split_once(" = ")).collect();
    let mut table = String::from(
        "| key | environment | default | serverless | meaning |\n|---|---|---|---|---|\n",
    );
    for (key, entry) in entries() {
        let code = |text: &str| format!("`{}`", text.trim_matches('"'));
        let default = entry.default.as_deref().map_or_else(String::new, code);
        let serverless = serverless.get(key.as_str()).map_or_else(String::new, |text| code(text));
        let env = keys::env_name(&key);
        let meaning = entry.meaning;
        writeln!(table, "| `{key}` | `{env}` | {default} | {serverless} | {meaning} |").unwrap();
    }
    for (section, id) in [(keys::PROVIDERS, "provider"), (keys::ADAPTERS, "adapter")] {
        let env = keys::env_name(&format!("{section}.<id>.<key>"));
        writeln!(
            table,
            "| `{section}.<id>.kind` | `{}` | | | Which code this {id} is. |\n\
             | `{section}.<id>.<key>` | `{env}` | | | What this kind of {id} wants to know. |",
            keys::env_name(&format!("{section}.<id>.kind")),
        )
        .unwrap();
    }
    for (key, meaning) in [
        ("ref", "Where the secret of this name is."),
        ("fallback", "Who is asked, one after the other, while that one cannot answer."),
        ("required", "Whether who uses it cannot do without. `true`, unless there is a `default`."),
        ("default", "A text that stands in its place while it is not there."),
        ("kind", "What form its value must have: `password`, `url`, `pem` or `json`."),
        ("description", "What it is for, in words for people."),
        ("env", "The environment variable in which a command gets it."),
    ] {
        let key = format!("{}.<alias>.{key}", keys::SECRETS);
        writeln!(table, "| `{key}` | `{}` | | | {meaning} |", keys::env_name(&key)).unwrap();
    }
    let defaults = format!("```toml\n{DEFAULTS}```\n");
    let manual = std::fs::read_to_string(MANUAL).unwrap();
    for part in [table, defaults] {
        assert!(manual.contains(&part), "put this into docs/settings.md:\n\n{part}");
    }
}
