//! Which instances are found and reached: those that run, wherever they are, and not the dead.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::rotation::SHOP;
use crate::support::{Ran, Sandbox, wait_until};

/// So that nothing happens but what is asked for.
const UNWATCHED: &str = "secrets_watch_interval=0s";

fn shop() -> Sandbox {
    let sandbox = Sandbox::new(SHOP);
    sandbox.put("a");
    sandbox.put("b");
    sandbox
}

/// The names of the instances that answered.
fn instances(ran: &Ran) -> Vec<String> {
    let statuses: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let name = |of: &Value| of["instance"].as_str().unwrap().to_owned();
    statuses.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn what_was_killed_is_told_apart_and_its_socket_is_swept_out() {
    let sandbox = shop();
    let _serving = sandbox.agent(&["--set", UNWATCHED]);
    let mut killed = sandbox.agent(&["--set", UNWATCHED, "--set", "agent.instance=web-2"]);
    assert_eq!(instances(&sandbox.run(&["status", "--json"])), ["web-1", "web-2"]);
    killed.signal("KILL");
    assert_eq!(killed.wait(), 128 + 9);
    assert!(sandbox.path("run/web-2.sock").exists());

    let status = sandbox.run(&["status", "--json"]);
    assert_eq!((status.code, instances(&status)), (Some(0), vec!["web-1".to_owned()]));
    assert!(status.stderr.contains("`web-2` has ended and left unix:"), "{status:?}");
    sandbox.put("a");
    let (ran, report) = sandbox.rotate(&["--all"]);
    assert_eq!(ran.code, Some(0), "who has ended serves nothing old: {ran:?}");
    assert_eq!(report["instances"].as_array().unwrap().len(), 1, "{report}");
    let (ran, report) = sandbox.rotate(&["--all", "--target", "web-2"]);
    assert_eq!((ran.code, &report["outcome"]), (Some(7), &json!("unreached")), "{ran:?}");

    let _next = sandbox.agent(&["--set", UNWATCHED, "--set", "agent.instance=web-3"]);
    assert!(!sandbox.path("run/web-2.sock").exists(), "the next start removes it");
    let status = sandbox.run(&["status", "--json"]);
    assert_eq!(instances(&status), ["web-1", "web-3"]);
    assert!(!status.stderr.contains("web-2"), "{status:?}");
}

#[test]
fn one_that_hangs_is_named_and_holds_up_nobody_for_ever() {
    let sandbox = shop();
    let _serving = sandbox.agent(&["--set", UNWATCHED]);
    let hung = sandbox.agent(&["--set", UNWATCHED, "--set", "agent.instance=web-2"]);
    hung.signal("STOP");
    let status = sandbox.run(&["status", "--json"]);
    hung.signal("CONT");
    assert_eq!((status.code, instances(&status)), (Some(1), vec!["web-1".to_owned()]));
    assert!(status.stderr.contains("web-2.sock"), "{status:?}");
    assert_eq!(hung.stop(), 0);
}

#[test]
fn one_that_dies_while_it_is_asked_is_not_called_done() {
    let sandbox = Sandbox::new(
        "[adapters.shop]\nkind = \"command\"\nsecrets = { a = \"files:a\" }\nprove = [\n\
         \"sh\", \"-c\",\n\"echo $ONEIRIC_GENERATION >> tried; \
         for i in $(seq 3000); do [ -e go ] && break; sleep 0.02; done\"]\n",
    );
    sandbox.put("a");
    fs::write(sandbox.path("go"), "").unwrap();
    let _serving = sandbox.agent(&["--set", UNWATCHED]);
    let mut dying = sandbox.agent(&["--set", UNWATCHED, "--set", "agent.instance=web-2"]);
    fs::remove_file(sandbox.path("go")).unwrap();
    sandbox.put("a");
    let mut rotation = sandbox.start(&["secrets", "rotate", "--all", "--json"]);
    wait_until("both to try", || sandbox.read("tried").lines().count() == 4);
    dying.signal("KILL");
    dying.wait();
    fs::write(sandbox.path("go"), "").unwrap();
    assert_eq!(rotation.wait(), 6, "what became of one of them is not known");
    let report: Value = serde_json::from_str(&rotation.stdout()).unwrap();
    let outcomes: Vec<_> =
        report["instances"].as_array().unwrap().iter().map(|of| of["outcome"].clone()).collect();
    assert_eq!(outcomes, [json!("done"), json!("ambiguous")], "{report}");
}

#[test]
fn several_runtime_directories_are_looked_at() {
    let sandbox = shop();
    let other = sandbox.path("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let elsewhere = format!("agent.runtime_dir={}", other.display());
    let _here = sandbox.agent(&["--set", UNWATCHED]);
    let _there =
        sandbox.agent(&["--set", UNWATCHED, "--set", "agent.instance=web-2", "--set", &elsewhere]);
    fs::write(sandbox.path("bare.toml"), "").unwrap();
    let ask = |places: &str, args: &[&str]| {
        let mut command = sandbox.oneiric(&[&["--config", "bare.toml"], args].concat());
        sandbox.finish(command.env("ONEIRIC_RUNTIME_DIR", places))
    };
    let both = format!("{}:{}", sandbox.path("run").display(), other.display());
    assert_eq!(instances(&ask(&both, &["status", "--json"])), ["web-1", "web-2"]);
    sandbox.put("a");
    let ran = ask(&both, &["secrets", "rotate", "--all", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let named = ask(&both, &["secrets", "rotate", "--all", "--target", "web-2", "--json"]);
    assert_eq!(named.code, Some(0), "a name is looked for in all of them: {named:?}");

    // One that others may write to is passed over, and said; as the only one it is refused.
    fs::set_permissions(&other, fs::Permissions::from_mode(0o777)).unwrap();
    let ran = ask(&both, &["status", "--json"]);
    assert_eq!((ran.code, instances(&ran)), (Some(0), vec!["web-1".to_owned()]));
    assert!(ran.stderr.contains("others than its owner may write to it"), "{ran:?}");
    let ran = ask(other.to_str().unwrap(), &["status"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let none = sandbox.path("none");
    let ran = ask(none.to_str().unwrap(), &["status"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert!(ran.stderr.contains(none.to_str().unwrap()), "{ran:?}");
}
