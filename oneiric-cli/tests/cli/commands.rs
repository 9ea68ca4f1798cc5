//! Everything that needs no running instance.

use std::io::Read as _;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::support::{Sandbox, assert_snapshot};

const COMMANDS: [&[&str]; 19] = [
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
