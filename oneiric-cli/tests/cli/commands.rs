//! Everything that needs no running instance.

use std::io::Read as _;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::support::{Sandbox, assert_snapshot};

const COMMANDS: [&[&str]; 21] = [
    &[],
    &["secrets"],
    &["secrets", "rotate"],
    &["secrets", "get"],
    &["secrets", "list"],
    &["secrets", "set"],
    &["secrets", "versions"],
    &["secrets", "promote"],
    &["secrets", "disable"],
    &["secrets", "enable"],
    &["secrets", "destroy"],
    &["secrets", "watch"],
    &["run"],
    &["agent"],
    &["status"],
    &["config"],
    &["config", "show"],
    &["config", "check"],
    &["template"],
    &["template", "check"],
    &["completions"],
];

#[test]
fn help_says_what_each_command_does() {
    let sandbox = Sandbox::new("");
    for words in COMMANDS {
        let ran = sandbox.finish(sandbox.oneiric(words).arg("--help"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let name = [&["help"], words].concat().join("-");
        assert_snapshot(&format!("{name}.txt"), &ran.stdout);
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_2() {
    let sandbox = Sandbox::new("");
    for words in [
        "",
        "secrets rotate",
        "secrets rotate --keys A",
        "secrets rotate --all --hard --rollback",
        "secrets rotate --all --target sockets/a.sock",
        "secrets get files@1",
        "secrets set",
        "secrets set files:a value",
        "secrets set files:a --token=",
        "secrets set files:a --no-promote --expect 1",
        "secrets set files:a@1",
        "secrets set files:a#field",
        "secrets versions files:a@1",
        "secrets promote files:a",
        "secrets disable files:a",
        "secrets enable files:a@1#field",
        "secrets destroy files:a --yes",
        "--set profile config show",
    ] {
        let ran = sandbox.run(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ran.code, Some(2), "{words}: {ran:?}");
    }
}

#[test]
fn a_value_is_printed_and_nothing_else() {
    let sandbox = Sandbox::new("");
    let value = sandbox.put("db");
    let ran = sandbox.run_unsearched(&["secrets", "get", "files:db"]);
    assert_eq!((ran.code, ran.stdout, ran.stderr), (Some(0), value, String::new()));
}

#[test]
fn a_secret_that_is_not_there_is_named() {
    let sandbox = Sandbox::new("");
    for (reference, why) in
        [("files:none", "cannot get `files:none`"), ("other:a", "there is no provider `other`")]
    {
        let ran = sandbox.run(&["secrets", "get", reference]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    let ran = sandbox.run(&["secrets", "get", "files:none"]);
    assert!(ran.stderr.contains("\n  caused by: "), "{ran:?}");
}

/// An alias for `files:db`, and one that a store which hangs about nowhere stands before.
const ALIASES: &str = r#"
[providers.gone]
kind = "exec"
command = ["/bin/false"]
[secrets.db-password]
ref = "files:db"
[secrets.elsewhere]
ref = "gone:db"
fallback = ["files"]
"#;

#[test]
fn a_value_is_read_by_its_alias_and_a_fallback_is_said() {
    let sandbox = Sandbox::new(ALIASES);
    let value = sandbox.put("db");
    let ran = sandbox.run_unsearched(&["secrets", "get", "db-password"]);
    assert_eq!((ran.code, ran.stdout, ran.stderr), (Some(0), value.clone(), String::new()));
    let ran = sandbox.run_unsearched(&["secrets", "get", "elsewhere"]);
    assert_eq!((ran.code, &ran.stdout), (Some(0), &value), "{ran:?}");
    assert!(ran.stderr.contains("`elsewhere` is from its fallback `files`"), "{ran:?}");
    let ran = sandbox.run(&["secrets", "get", "db-pasword"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("did you mean `db-password`?"), "{ran:?}");
    let ran = sandbox.run_with(&["secrets", "set", "elsewhere"], "value");
    assert_eq!(ran.code, Some(2), "whoever changes a store says which one: {ran:?}");
    assert!(ran.stderr.contains("it stands for `gone:db`, `files:db`"), "{ran:?}");
}

#[test]
fn a_check_finds_an_adapter_that_needs_an_alias_which_is_not_there() {
    let shop = "[adapters.shop]\nkind = \"command\"\nsecrets = { a = \"db-pasword\" }\n\
                prove = [\"true\"]\n";
    let sandbox = Sandbox::new(&format!("{ALIASES}{shop}"));
    let ran = sandbox.run(&["config", "check"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let wanted = "`adapters.shop` needs `db-pasword`, and there is no such alias; did you mean \
                  `db-password`?";
    assert!(ran.stderr.contains(wanted), "{ran:?}");
    let ran = Sandbox::new(ALIASES).run(&["config", "check"]);
    assert_eq!(ran.stdout, "OK: 2 providers, 0 adapters, 2 aliases\n");
}

#[test]
fn a_terminal_sees_a_value_only_on_request() {
    let sandbox = Sandbox::new("");
    let value = sandbox.put("db");
    let on_terminal = |args: &[&str]| {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let open = || {
            let path = name.to_str().unwrap();
            std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
        };
        let ours = open();
        let output = sandbox.oneiric(args).stdout(open()).stderr(Stdio::piped()).output().unwrap();
        // A mark of our own ends what is read: a terminal has no end while it is open.
        rustix::io::write(&ours, b"|").unwrap();
        let mut shown = String::new();
        let mut terminal = std::fs::File::from(terminal);
        while !shown.ends_with('|') {
            let mut byte = [0];
            terminal.read_exact(&mut byte).unwrap();
            shown.push(char::from(byte[0]));
        }
        (output.status.code(), shown, String::from_utf8(output.stderr).unwrap())
    };
    let (code, shown, said) = on_terminal(&["secrets", "get", "files:db"]);
    assert_eq!((code, shown.as_str()), (Some(2), "|"), "{said}");
    assert!(said.contains("--reveal"), "{said}");
    let (code, shown, _) = on_terminal(&["secrets", "get", "files:db", "--reveal"]);
    assert_eq!((code, shown), (Some(0), format!("{value}\r\n|")));
}

#[test]
fn keys_are_listed_without_values() {
    let sandbox = Sandbox::new("[providers.env]\nkind = \"env\"\n");
    sandbox.put("a");
    sandbox.put("b");
    let ran = sandbox.run(&["secrets", "list", "--provider", "files"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "files:a\nfiles:b\n"), "{ran:?}");
    let ran = sandbox.run(&["secrets", "list", "-p", "files", "--json"]);
    let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(listed[1]["reference"], "files:b", "{ran:?}");
    let ran = sandbox.run(&["secrets", "list", "-p", "nope"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("the settings have: env, files"), "{ran:?}");
}

#[test]
fn nobody_reading_is_no_error() {
    let sandbox = Sandbox::new("");
    sandbox.put("a");
    let mut command = sandbox.oneiric(&["secrets", "list"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn a_mistyped_setting_is_named_with_the_nearest() {
    let sandbox = Sandbox::new("");
    let ran = sandbox.run(&["config", "check", "--set", "agent.drain_timout=1s"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("did you mean `agent.drain_timeout`?"), "{ran:?}");
    let mut command = sandbox.oneiric(&["config", "check"]);
    let ran = sandbox.finish(command.env("ONEIRIC_SECRETS_CACHE_TLL", "1m"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("did you mean ONEIRIC_SECRETS_CACHE_TTL?"), "{ran:?}");
}

#[test]
fn profile_serverless_refuses_what_needs_a_long_life() {
    let sandbox = Sandbox::new("");
    for (name, value, why) in [
        ("ONEIRIC_SECRETS_CACHE_TTL", "61s", "allows 60s at most"),
        ("ONEIRIC_SECRETS_WATCH_INTERVAL", "30s", "asks for watching"),
    ] {
        let mut command = sandbox.oneiric(&["agent"]);
        command.env("ONEIRIC_PROFILE", "serverless").env(name, value);
        let ran = sandbox.finish(&mut command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        for part in [name, why, "new revision"] {
            assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        }
    }
}

#[test]
fn settings_are_shown_with_their_origin() {
    let sandbox = Sandbox::new("");
    let ran = sandbox.run(&["config", "show", "--json", "--set", "secrets_cache_ttl=007s"]);
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    let find = |key| shown.as_array().unwrap().iter().find(|of| of["key"] == key).unwrap();
    assert_eq!(find("secrets_cache_ttl")["value"], "007s");
    assert_eq!(find("secrets_cache_ttl")["origin"], "command line");
    assert_eq!(find("profile")["origin"], "default");
    assert!(find("agent.instance")["origin"].as_str().unwrap().ends_with("oneiric.toml"));
    let ran = sandbox.run(&["config", "show"]);
    assert!(ran.stdout.contains("\nprofile "), "{ran:?}");
}

#[test]
fn a_check_says_every_problem() {
    let good = Sandbox::new("").run(&["config", "check"]);
    assert_eq!((good.code, good.stdout.as_str()), (Some(0), "OK: 1 providers, 0 adapters\n"));
    let sandbox = Sandbox::new(
        "[providers.vault]\nkind = \"vault\"\n\
         [adapters.shop]\nkind = \"command\"\nsecrets = { a = \"other:a\" }\napply = [\"true\"]\n",
    );
    let ran = sandbox.run(&["config", "check"]);
    assert_eq!(ran.code, Some(1));
    for part in
        ["`providers.vault.kind` is `vault`", "linked: env, exec, file", "no provider `other`"]
    {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    let sandbox = Sandbox::new("[telemetry]\nlog_filter = \"loud=very\"\n");
    let ran = sandbox.finish(&mut sandbox.oneiric(&["config", "check"]));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("`telemetry.log_filter`"), "{ran:?}");
}

#[test]
fn every_shell_has_its_completions() {
    let sandbox = Sandbox::new("");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = sandbox.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for command in ["rotate", "versions", "promote", "destroy"] {
            assert!(ran.stdout.contains(command), "{shell}: {command}");
        }
    }
}

/// An alias of each sort, and one that a store which is nowhere has.
const EXPECTED: &str = r#"
[providers.gone]
kind = "exec"
command = ["/bin/false"]
[secrets.must]
ref = "files:must"
description = "what nothing goes without"
[secrets.extra]
ref = "files:extra"
required = false
[secrets.level]
ref = "files:level"
default = "info"
[secrets.url]
ref = "files:url"
kind = "url"
[secrets.out]
ref = "gone:out"
required = false
default = "never used"
"#;

#[test]
fn a_check_of_the_secrets_says_how_each_stands() {
    let sandbox = Sandbox::new(EXPECTED);
    let url = sandbox.put_ending("url", " is no url");
    let ran = sandbox.run(&["config", "check"]);
    assert_eq!(ran.code, Some(0), "without a flag nothing is read: {ran:?}");
    let ran = sandbox.run(&["config", "check", "--secrets", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
    let status = |alias: &str| {
        let all = listed.as_array().unwrap();
        all.iter().find(|of| of["alias"] == alias).unwrap()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!((status("must"), status("extra")), ("missing".into(), "absent".into()));
    assert_eq!((status("level"), status("url")), ("default".into(), "invalid".into()));
    assert_eq!(status("out"), "unavailable", "a default is for what is not there");
    assert!(ran.stderr.contains("not good: `must`, `out`, `url`"), "{ran:?}");

    let aliases = sandbox.run(&["secrets", "list", "--aliases"]);
    let row = aliases.stdout.lines().find(|line| line.starts_with("level ")).unwrap_or_default();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(words[..3], ["level", "files:level", "LEVEL"], "{aliases:?}");
    let aliases = sandbox.run(&["secrets", "list", "--aliases", "--json"]);
    let aliases: Value = serde_json::from_str(&aliases.stdout).unwrap();
    assert_eq!((&aliases[4]["alias"], &aliases[4]["kind"]), (&"url".into(), &"url".into()));

    let table = sandbox.run(&["config", "check", "--secrets"]);
    assert_eq!(table.code, Some(1), "{table:?}");
    let row = |alias: &str| {
        table.stdout.lines().find(|line| line.starts_with(alias)).unwrap_or_default().to_owned()
    };
    assert!(row("must ").contains("what nothing goes without"), "{table:?}");
    assert!(row("url ").contains("is not of kind `url`"), "{table:?}");
    assert!(!table.stdout.contains(&url), "{table:?}");

    sandbox.put("must");
    sandbox.put_ending("url", "://host");
    let canary = sandbox.canary();
    std::fs::write(sandbox.path("secrets/url"), format!("http://u:{canary}@host")).unwrap();
    let good = sandbox.run(&[
        "config",
        "check",
        "--secrets",
        "--json",
        "--set",
        "secrets.out.ref=files:out",
    ]);
    assert_eq!(good.code, Some(0), "{good:?}");
}

#[test]
fn a_secretspec_is_read_and_what_it_says_in_vain_is_noted() {
    let settings = "[secrets.api-key]\nkind = \"password\"\n";
    let sandbox = Sandbox::new(settings)
        .with_env("ONEIRIC_SECRETS_FROM", ".")
        .with_env("ONEIRIC_SECRETS_FROM_PROVIDER", "files");
    let declared = "[project]\nname = \"shop\"\nrevision = \"1.0\"\n[profiles.default]\n\
                    API_KEY = { description = \"the key\", as_path = true }\n\
                    LEVEL = { description = \"how much\", default = \"info\" }\n";
    std::fs::write(sandbox.path("secretspec.toml"), declared).unwrap();
    let ran = sandbox.run(&["config", "check"]);
    assert_eq!(ran.stdout, "OK: 1 providers, 0 adapters, 2 aliases\n", "{ran:?}");
    assert!(ran.stderr.contains("secretspec.toml:5: `API_KEY` has `as_path`"), "{ran:?}");
    let value = sandbox.put("API_KEY");
    let ran = sandbox.run_unsearched(&["secrets", "get", "api-key"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), value));
    let ran = sandbox.run(&["secrets", "get", "level"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "info"));
    let shown = sandbox.run(&["config", "show"]);
    let row = shown.stdout.lines().find(|line| line.starts_with("secrets.level.default ")).unwrap();
    assert!(row.contains("info") && row.contains("secretspec.toml:6"), "{row}");
}

#[test]
fn a_value_that_an_alias_does_not_want_is_not_written() {
    let kind = "write = true\n[secrets.db]\nref = \"files:db\"\nkind = \"password\"\n";
    let sandbox = Sandbox::new(kind);
    let ran = sandbox.run_with(&["secrets", "set", "files:db"], "s3cr3t\n");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("the alias `db` wants it to be"), "{ran:?}");
    let ran = sandbox.run_with(&["secrets", "set", "files:db", "--trim"], "s3cr3t\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
}
