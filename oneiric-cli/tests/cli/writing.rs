//! Commands that change secrets, from the outside.

use serde_json::Value;

use crate::rotation::SHOP;
use crate::support::{Sandbox, wait_until};

#[test]
fn a_provider_that_cannot_write_says_so_with_its_kind_and_setting() {
    let sandbox = Sandbox::new("[providers.env]\nkind = \"env\"\n");
    for words in [
        "secrets set env:a",
        "secrets promote env:a@1",
        "secrets disable env:a@1",
        "secrets enable env:a@1",
        "secrets destroy env:a@1 --yes",
    ] {
        let value = sandbox.canary();
        let ran = sandbox.run_with(&words.split_whitespace().collect::<Vec<_>>(), &value);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{words}: {ran:?}");
        for part in ["provider `env` cannot change secrets", "kind `env`", "`providers.env`"] {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
    }
    let ran = sandbox.run(&["secrets", "versions", "env:a"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("cannot list the versions of a secret"), "{ran:?}");
    let ran = sandbox.run(&["secrets", "versions", "nope:a"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("the settings have: env, files"), "{ran:?}");
}

/// A tree of files that may be written to.
fn writable(settings: &str) -> Sandbox {
    Sandbox::new(&format!("write = true\n{settings}"))
}

/// What the store says of each version of `files:db`, the newest first.
fn versions(sandbox: &Sandbox) -> Vec<(String, String, bool)> {
    let ran = sandbox.run(&["secrets", "versions", "files:db", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let listed: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let shown = |of: &Value| (text(&of["version"]), text(&of["state"]), of["current"] == true);
    listed.iter().map(shown).collect()
}

fn known(version: &str, state: &str, current: bool) -> (String, String, bool) {
    (version.to_owned(), state.to_owned(), current)
}

#[test]
fn a_secret_is_written_kept_aside_promoted_and_taken_back() {
    let sandbox = writable("");
    let (first, second) = (sandbox.canary(), sandbox.canary());
    let ran = sandbox.run_with(&["secrets", "set", "files:db"], &first);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1\n"), "{ran:?}");
    assert!(ran.stderr.contains("`files:db@1` is the current version"), "{ran:?}");
    let served = || sandbox.run_unsearched(&["secrets", "get", "files:db"]).stdout;
    assert_eq!(served(), first);

    let ran = sandbox.run_with(&["secrets", "set", "files:db", "--no-promote"], &second);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "2\n"), "{ran:?}");
    assert_eq!(served(), first);
    let aside = sandbox.run_unsearched(&["secrets", "get", "files:db@2"]).stdout;
    assert_eq!(aside, second);
    let ran = sandbox.run(&["secrets", "promote", "files:db@2", "--expect", "1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(served(), second);
    let ran = sandbox.run(&["secrets", "promote", "files:db@1"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(served(), first);
    assert_eq!(versions(&sandbox), [known("2", "enabled", false), known("1", "enabled", true)]);
    let ran = sandbox.run(&["secrets", "versions", "files:db"]);
    assert!(ran.stdout.starts_with("VERSION  STATE    CURRENT"), "{ran:?}");
}

#[test]
fn another_version_than_expected_is_a_conflict_and_nothing_is_written() {
    let sandbox = writable("");
    for _ in 0..2 {
        let ran = sandbox.run_with(&["secrets", "set", "files:db"], &sandbox.canary());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let set = ["secrets", "set", "files:db", "--expect", "1"];
    let ran = sandbox.run_with(&set, &sandbox.canary());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""), "{ran:?}");
    assert!(ran.stderr.contains("nothing was written"), "{ran:?}");
    let ran = sandbox.run(&["secrets", "promote", "files:db@1", "--expect", "1"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stderr.contains("`oneiric secrets versions files:db`"), "{ran:?}");
    assert_eq!(versions(&sandbox).len(), 2);
}

#[test]
fn a_token_names_the_attempt() {
    let sandbox = writable("");
    let value = sandbox.canary();
    for _ in 0..2 {
        let set = ["secrets", "set", "files:db", "--token", "attempt-1"];
        let ran = sandbox.run_with(&set, &value);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1\n"), "{ran:?}");
    }
    assert_eq!(versions(&sandbox).len(), 1);
}

#[test]
fn a_value_that_cannot_be_meant_is_refused() {
    let sandbox = writable("");
    for (value, why) in [("", "it is empty"), ("changeme", "it is a placeholder")] {
        let ran = sandbox.run_with(&["secrets", "set", "files:db"], value);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.contains(why) && ran.stderr.contains("--allow-"), "{ran:?}");
    }
    let set = ["secrets", "set", "files:db", "--allow-placeholder"];
    assert_eq!(sandbox.run_with(&set, "changeme").code, Some(0));

    // `echo` adds a line end, which this store would not give back.
    let value = format!("{}\n", sandbox.canary());
    let ran = sandbox.run_with(&["secrets", "set", "files:db"], &value);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("--trim leaves it out"), "{ran:?}");
    let ran = sandbox.run_with(&["secrets", "set", "files:db", "--trim"], &value);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let served = sandbox.run_unsearched(&["secrets", "get", "files:db"]).stdout;
    assert_eq!(served, value.trim_end());

    let ran = sandbox.run(&["secrets", "set", "files:db", "--from-file", "nowhere"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("the value cannot be read from nowhere"), "{ran:?}");
}

#[test]
fn a_version_is_taken_away_step_by_step() {
    let sandbox = writable("");
    for _ in 0..2 {
        sandbox.run_with(&["secrets", "set", "files:db"], &sandbox.canary());
    }
    let run = |words: &str| sandbox.run(&words.split_whitespace().collect::<Vec<_>>());
    let refused = |words: &str, code: i32, why: &str| {
        let ran = run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
    };
    refused("secrets disable files:db@2", 1, "is the current version");
    refused("secrets destroy files:db@1 --yes", 1, "can still be read");
    refused("secrets destroy files:db@9 --yes", 1, "there is no version `files:db@9`");
    assert_eq!(run("secrets disable files:db@1").code, Some(0));
    assert_eq!(run("secrets get files:db@1").code, Some(1));
    assert_eq!(run("secrets enable files:db@1").code, Some(0));
    assert_eq!(versions(&sandbox)[1], known("1", "enabled", false));
    assert_eq!(run("secrets disable files:db@1").code, Some(0));
    refused("secrets destroy files:db@1", 2, "give --yes");
    for _ in 0..2 {
        assert_eq!(run("secrets destroy files:db@1 --yes").code, Some(0), "again is safe");
    }
    assert_eq!(versions(&sandbox)[1], known("1", "destroyed", false));
    assert_eq!(versions(&sandbox)[0], known("2", "enabled", true));
}

#[test]
fn what_is_set_reaches_a_running_service() {
    let sandbox = writable(SHOP);
    for key in ["files:a", "files:b"] {
        let ran = sandbox.run_with(&["secrets", "set", key], &sandbox.canary());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let agent = sandbox.agent(&[]);
    let value = sandbox.canary();
    let ran = sandbox.run_with(&["secrets", "set", "files:a"], &value);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "2\n"), "{ran:?}");
    wait_until("the service", || sandbox.read("served").contains(&value));
    assert_eq!(agent.stop(), 0);
}
