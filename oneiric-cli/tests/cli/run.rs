//! `oneiric run`: a command with secrets, once and for long.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use crate::support::{Sandbox, wait_until};

const ALIASES: &str = "[secrets.db-password]\nref = \"files:db\"\n\
                       [secrets.token]\nref = \"files:token\"\n";

/// A sandbox in which two secrets have aliases. The commands note what they see in files, since
/// everything that is printed is searched for secrets.
fn shop() -> (Sandbox, String) {
    // What comes after `--` is the command's, so the log is set by a variable.
    let sandbox = Sandbox::new(ALIASES).with_env("ONEIRIC_TELEMETRY__LOG_FILTER", "trace");
    sandbox.put("token");
    let password = sandbox.put("db");
    (sandbox, password)
}

/// The arguments that run a script.
fn script<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["run"], options, &["--", "sh", "-c", script]].concat()
}

#[test]
fn every_alias_is_in_the_environment_under_its_variable() {
    let (sandbox, password) = shop();
    let ran = sandbox.run_unsearched(&script(&[], "printf %s \"$DB_PASSWORD\" >seen; env >all"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(sandbox.read("seen"), password);
    assert!(sandbox.read("all").contains("\nTOKEN=") || sandbox.read("all").starts_with("TOKEN="));
}

#[test]
fn what_is_named_is_given_and_nothing_else() {
    let (sandbox, password) = shop();
    let options = ["--env", "PGPASSWORD=db-password", "--file", "tls/key=files:db", "--fd"];
    let options = [&options[..], &["KEY_FD=files:db"]].concat();
    let seen = "printf %s \"$PGPASSWORD\" >by-env; cat \"$ONEIRIC_SECRETS_DIR/tls/key\" >by-file; \
                eval \"cat <&$KEY_FD\" >by-fd; printf %s \"$ONEIRIC_SECRETS_DIR\" >folder; \
                stat -c %a \"$ONEIRIC_SECRETS_DIR\" \"$ONEIRIC_SECRETS_DIR/tls/key\" >modes; env >all";
    let ran = sandbox.run_unsearched(&script(&options, seen));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for way in ["by-env", "by-file", "by-fd"] {
        assert_eq!(sandbox.read(way), password, "{way}");
    }
    assert_eq!(sandbox.read("modes"), "700\n400\n");
    assert!(!fs::exists(sandbox.read("folder")).unwrap(), "the files end with the command");
    assert!(!sandbox.read("all").contains("TOKEN="), "it was not asked for");
}

#[test]
fn the_end_of_the_command_is_ours() {
    let (sandbox, _) = shop();
    for (body, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        assert_eq!(sandbox.run(&script(&[], body)).code, Some(code), "{body}");
    }
    fs::write(sandbox.path("data"), "no program").unwrap();
    let data = sandbox.path("data");
    let ran = sandbox.run(&["run", "--", data.to_str().unwrap()]);
    assert_eq!(ran.code, Some(126), "{ran:?}");
    let ran = sandbox.run(&["run", "--", "no-such-command"]);
    assert_eq!(ran.code, Some(127), "{ran:?}");
    assert!(ran.stderr.contains("`no-such-command` cannot be run"), "{ran:?}");
    let ran = sandbox.run(&["run", "--on-change", "restart", "--", "no-such-command"]);
    assert_eq!(ran.code, Some(127), "{ran:?}");
}

#[test]
fn a_command_does_not_run_without_its_secrets() {
    let (sandbox, _) = shop();
    let ran = sandbox.run(&script(&["--env", "KEY=files:absent"], "touch ran"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("files:absent"), "{ran:?}");
    let none = Sandbox::new("");
    let ran = none.run(&script(&[], "touch ran"));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("help: name some by --env"), "{ran:?}");
    let ran = sandbox.run(&["run", "--adapter", "web"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("no adapter `web`"), "{ran:?}");
    assert!(!fs::exists(sandbox.path("ran")).unwrap());
}

#[test]
fn options_that_would_do_nothing_are_refused() {
    let (sandbox, _) = shop();
    for (options, part) in [
        (&["--signal", "USR1"][..], "goes with --on-change signal"),
        (&["--on-change", "restart", "--signal", "USR1"], "goes with --on-change signal"),
        (&["--ready-port", "80"], "say how by --on-change"),
        (&["--on-change", "signal", "--signal", "NO"], "`NO`"),
        (&["--adapter", "web", "--signal", "USR1"], "cannot be used with"),
    ] {
        let ran = sandbox.run(&script(options, "touch ran"));
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(part), "{ran:?}");
    }
    assert!(!fs::exists(sandbox.path("ran")).unwrap());
}

#[test]
fn without_a_path_the_system_has_one() {
    let (sandbox, _) = shop();
    for options in [&[][..], &["--on-change", "restart"]] {
        let mut command = sandbox.oneiric(&[&["run"], options, &["--", "sleep", "1.5"]].concat());
        let ran = sandbox.finish(command.env_remove("PATH"));
        assert_eq!(ran.code, Some(0), "{options:?}: {ran:?}");
    }
}

#[test]
fn what_is_not_heeded_of_a_declaration_is_said() {
    let (sandbox, _) = shop();
    let sandbox = sandbox.with_env("ONEIRIC_SECRETS_FROM", "secretspec.toml");
    fs::write(
        sandbox.path("secretspec.toml"),
        "[project]\nname = \"shop\"\nrevision = \"1.0\"\n\
         [profiles.default]\nTOKEN = { description = \"t\", as_path = true }\n",
    )
    .unwrap();
    for options in [&[][..], &["--on-change", "restart"]] {
        let ran = sandbox.run(&script(options, "sleep 1.5"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains("is not heeded in full"), "{ran:?}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (sandbox, _) = shop();
    let body = "trap '' TERM; echo $$ >pid; touch ready; while :; do sleep 0.1; done";
    let options = ["--on-change", "restart", "--kill-timeout", "10m"];
    let mut running = sandbox.start(&script(&options, body));
    wait_until("the command", || fs::exists(sandbox.path("ready")).unwrap());
    // While it is being started the first one gives up, and waits for what was begun.
    running.signal("TERM");
    running.wait_for("shutting down");
    running.signal("TERM");
    assert_eq!(running.wait(), 128 + 15);
    let command = sandbox.read("pid");
    wait_until("the end of the command", || {
        !fs::exists(format!("/proc/{}", command.trim())).unwrap()
    });
}

#[test]
fn arguments_and_variables_that_are_no_text_pass_through() {
    let (sandbox, _) = shop();
    let odd = OsStr::from_bytes(b"a\xffb");
    let mut command = sandbox.oneiric(&script(&[], "printf %s \"$1\" \"$ODD\" >seen"));
    let ran = sandbox.finish(command.arg("sh").arg(odd).env("ODD", odd));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fs::read(sandbox.path("seen")).unwrap(), b"a\xffba\xffb");
}

#[test]
fn the_command_finds_its_surroundings_as_they_were() {
    let (sandbox, _) = shop();
    let look = "ulimit -c >core; grep SigIgn /proc/self/status >ignored; echo $PPID >parent";
    let mut alone = Command::new("sh");
    sandbox.finish(alone.args(["-c", look]).current_dir(sandbox.path(".")));
    let before = (sandbox.read("core"), sandbox.read("ignored"));
    assert_eq!(sandbox.run(&script(&[], look)).code, Some(0));
    assert_eq!((sandbox.read("core"), sandbox.read("ignored")), before);
}

#[test]
fn what_is_ignored_stays_so_as_nohup_wants_it() {
    let (sandbox, _) = shop();
    for options in [&[][..], &["--on-change", "restart"]] {
        let _ = fs::remove_file(sandbox.path("ready"));
        let body = "grep SigIgn /proc/self/status >ignored; touch ready; \
                    while [ ! -e go ]; do sleep 0.05; done; exit 6";
        let inner = sandbox.oneiric(&script(options, body));
        let mut outer = Command::new("sh");
        outer.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program());
        outer.args(inner.get_args()).current_dir(sandbox.path("."));
        outer.env("ONEIRIC_TELEMETRY__LOG_FILTER", "trace");
        let mut running = sandbox.start_command(&mut outer);
        wait_until("the command", || fs::exists(sandbox.path("ready")).unwrap());
        if !options.is_empty() {
            running.wait_for("adapter-committed");
        }
        running.signal("HUP");
        std::thread::sleep(std::time::Duration::from_millis(200));
        fs::write(sandbox.path("go"), "").unwrap();
        assert_eq!(running.wait(), 6, "{options:?}");
        let mask = sandbox.read("ignored");
        let mask = u64::from_str_radix(mask.trim().rsplit('\t').next().unwrap(), 16).unwrap();
        assert_eq!(mask & 1, 1, "the command ignores HUP as well");
        fs::remove_file(sandbox.path("go")).unwrap();
    }
}

#[test]
fn signals_reach_the_command() {
    let (sandbox, _) = shop();
    for options in [&[][..], &["--on-change", "restart"]] {
        let _ = fs::remove_file(sandbox.path("heard"));
        let _ = fs::remove_file(sandbox.path("ready"));
        let body = "trap 'echo usr1 >>heard' USR1; trap 'echo term >>heard; exit 5' TERM; \
                    touch ready; while :; do sleep 0.05; done";
        let mut running = sandbox.start(&script(options, body));
        wait_until("the command", || fs::exists(sandbox.path("ready")).unwrap());
        if !options.is_empty() {
            running.wait_for("adapter-committed");
        }
        running.signal("USR1");
        wait_until("the signal", || sandbox.read("heard") == "usr1\n");
        running.signal("TERM");
        assert_eq!(running.wait(), 5, "{options:?}");
        assert_eq!(sandbox.read("heard"), "usr1\nterm\n");
    }
}

#[test]
fn a_command_that_is_looked_after_is_found_and_moved() {
    let (sandbox, _) = shop();
    let body = "printf %s \"$DB_PASSWORD\" >seen; exec sleep 600";
    let options = ["--on-change", "restart", "--set", "secrets_watch_interval=0s"];
    let running = sandbox.start(&script(&options, body));
    running.wait_for("adapter-committed");
    let status = sandbox.status();
    assert_eq!(status["adapters"][0]["adapter"], "sh");
    assert_eq!(status["adapters"][0]["generation"], 1);
    let next = sandbox.put("db");
    let (ran, report) = sandbox.rotate(&["--keys", "db-password"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(report["instances"][0]["adapters"][0]["outcome"], "drained");
    assert_eq!(sandbox.read("seen"), next);
    // The store is lost: what runs is not touched, and its end is still ours.
    fs::rename(sandbox.path("secrets"), sandbox.path("lost")).unwrap();
    let (ran, _) = sandbox.rotate(&["--keys", "db-password"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(sandbox.read("seen"), next);
    assert_eq!(running.stop(), 128 + 15);
}

#[test]
fn an_adapter_of_the_settings_says_how_it_is_run() {
    let sandbox = Sandbox::new(
        "[adapters.web]\nkind = \"process\"\ncommand = [\"false\"]\non_change = \"keep\"\n\
         env = { KEY = \"files:token\" }\n",
    );
    let token = sandbox.put("token");
    assert_eq!(sandbox.run(&["run", "--adapter", "web"]).code, Some(1), "its own command");
    let command = ["sh", "-c", "printf %s \"$KEY\" >seen; exit 3"];
    let ran = sandbox.run(&[&["run", "--adapter", "web", "--"], &command[..]].concat());
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(sandbox.read("seen"), token);
}
