//! An agent and those who talk to it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, wait_until};

/// A service that takes its secrets over as it is told. It counts how often it is asked to try
/// new ones, and refuses those that end in `-bad`, quoting them as careless programs do.
pub(crate) const SHOP: &str = r#"
[adapters.shop]
kind = "command"
secrets = { a = "files:a", b = "files:b" }
prove = [
  "sh", "-c",
  "echo tried >> proofs; in=$(cat); case $in in *-bad*) echo \"no login with $in\" >&2; exit 1;; esac",
]
apply = ["sh", "-c", "cat > served"]
"#;

/// One whose proofs last until there is a file `go`, or a minute.
const PATIENT_SHOP: &str = r#"
[adapters.shop]
kind = "command"
secrets = { a = "files:a" }
prove = [
  "sh", "-c",
  "echo tried >> proofs; for i in $(seq 3000); do [ -e go ] && break; sleep 0.02; done; echo ended >> proofs",
]
"#;

/// So that nothing happens but what is asked for.
const UNWATCHED: &str = "secrets_watch_interval=0s";

fn shop() -> Sandbox {
    let sandbox = Sandbox::new(SHOP);
    sandbox.put("a");
    sandbox.put("b");
    sandbox
}

fn proofs(sandbox: &Sandbox) -> usize {
    sandbox.read("proofs").matches("tried").count()
}

#[test]
fn a_running_service_is_moved_by_the_alias_of_its_secret() {
    let sandbox = Sandbox::new(
        "[secrets.password]\nref = \"files:a\"\n[adapters.shop]\nkind = \"command\"\n\
         secrets = { a = \"password\" }\napply = [\"sh\", \"-c\", \"cat > served\"]\n",
    );
    sandbox.put("a");
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    assert_eq!(sandbox.status()["adapters"][0]["versions"][0]["reference"], "password");
    let a = sandbox.put("a");
    let (ran, report) = sandbox.rotate(&["--keys", "password"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(sandbox.read("served"), json!({ "a": a }).to_string());
    let key = &report["keys"][0];
    assert_eq!((&key["alias"], &key["key"]), (&json!("password"), &json!("files:a")));
    let ran = sandbox.run(&["secrets", "rotate", "--keys", "pasword"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("did you mean `password`?"), "{ran:?}");
    let again = sandbox.run(&["secrets", "rotate", "--keys", "password"]);
    assert!(again.stdout.contains("password (files:a)"), "{again:?}");
}

#[test]
fn a_running_service_is_moved_to_new_secrets() {
    let sandbox = shop();
    let agent = sandbox.agent(&["--set", UNWATCHED]);
    assert!(sandbox.status()["adapters"][0]["generation"] == 1);
    let (a, b) = (sandbox.put("a"), sandbox.put("b"));
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "a,b"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");

    assert_eq!(sandbox.read("served"), json!({"a": a, "b": b}).to_string());
    let fields = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut expected = ["rotation_id", "outcome", "provider", "keys", "instances", "duration_ms"];
    expected.sort_unstable();
    let mut found = fields(&report);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(report["outcome"], "done");
    assert_eq!(report["provider"], "files");
    assert_eq!(report["keys"][0]["key"], "a");
    assert_ne!(report["keys"][0]["from_version"], report["keys"][0]["to_version"]);
    let instance = &report["instances"][0];
    assert_eq!(instance["instance"], "web-1");
    let adapter = &instance["adapters"][0];
    assert_eq!(adapter["adapter"], "shop");
    assert_eq!((&adapter["outcome"], &adapter["generation"]), (&json!("drained"), &json!(2)));
    assert!(adapter["prepare_ms"].is_f64() && adapter["drain_ms"].is_f64(), "{report}");
    assert_eq!(adapter["error"], Value::Null);

    let again = sandbox.run(&["secrets", "rotate", "--all"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("web-1: shop unchanged, generation 2"), "{again:?}");
    assert!(again.stdout.contains("unchanged"), "{again:?}");
    assert_eq!(proofs(&sandbox), 2, "unchanged secrets are not tried again");

    assert_eq!(agent.stdout(), "");
    assert_eq!(agent.stop(), 0);
}

#[test]
fn nobody_to_be_reached_is_a_failure_of_its_own() {
    let sandbox = shop();
    let (ran, report) = sandbox.rotate(&["--all"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert_eq!((&report["outcome"], &report["instances"]), (&json!("unreached"), &json!([])));
    let looked = sandbox.path("run").display().to_string();
    assert!(ran.stderr.contains(&looked) && ran.stderr.contains("oneiric agent"), "{ran:?}");
    assert_eq!(sandbox.run(&["status"]).code, Some(7));
    assert_eq!(sandbox.run(&["secrets", "watch"]).code, Some(7));
}

#[test]
fn a_target_that_is_not_there_is_in_the_report() {
    let sandbox = shop();
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    let socket = sandbox.path("nobody.sock").display().to_string();
    let (ran, report) =
        sandbox.rotate(&["--all", "--target", "web-1", "--target", "web-2", "--target", &socket]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let outcomes: Vec<_> =
        report["instances"].as_array().unwrap().iter().map(|of| &of["outcome"]).collect();
    assert_eq!(outcomes, ["done", "unreached", "unreached"]);
    assert_eq!(report["instances"][1]["instance"], "web-2");
    assert!(report["instances"][2]["error"].as_str().unwrap().contains(&socket), "{report}");
}

#[test]
fn a_key_that_does_not_exist_is_named_and_nothing_changes() {
    let sandbox = shop();
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    sandbox.put("a");
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "a,nope"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("files:nope"), "{ran:?}");
    assert!(report["instances"][0]["error"].as_str().unwrap().contains("files:nope"));
    assert_eq!(sandbox.status()["adapters"][0]["generation"], 1);
}

#[test]
fn a_proof_that_fails_leaves_the_old_generation_serving() {
    let sandbox = shop();
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    let served = sandbox.read("served");
    sandbox.put_ending("a", "-bad");
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "a"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(report["outcome"], "rolled_back");
    assert_eq!(report["instances"][0]["adapters"][0]["outcome"], "refused");
    assert!(ran.stderr.contains("no login with"), "{ran:?}");
    assert!(ran.stderr.contains("help: the old secrets serve on"), "{ran:?}");
    let adapter = &sandbox.status()["adapters"][0];
    assert_eq!(adapter["generation"], 1);
    assert!(adapter["error"].is_string());
    assert_eq!(sandbox.read("served"), served);
}

#[test]
fn an_old_generation_that_does_not_end_is_told() {
    let sandbox = Sandbox::new(&format!("{SHOP}drain = [\"false\"]\n"));
    sandbox.put("a");
    sandbox.put("b");
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    sandbox.put("a");
    let (ran, report) =
        sandbox.rotate(&["--provider", "files", "--keys", "a", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert_eq!(report["outcome"], "not_drained");
    let adapter = &report["instances"][0]["adapters"][0];
    assert_eq!((&adapter["outcome"], &adapter["generation"]), (&json!("leaked"), &json!(2)));
}

#[test]
fn a_second_rotation_of_the_same_key_joins_the_first() {
    let sandbox = Sandbox::new(PATIENT_SHOP);
    sandbox.put("a");
    fs::write(sandbox.path("go"), "").unwrap();
    let _agent = sandbox.agent(&["--set", UNWATCHED]);
    fs::remove_file(sandbox.path("go")).unwrap();
    sandbox.put("a");
    let rotate = ["secrets", "rotate", "--provider", "files", "--keys", "a"];
    let mut first = sandbox.start(&rotate);
    wait_until("the first proof", || proofs(&sandbox) == 2);
    let mut second = sandbox.start(&rotate);
    second.wait_for("web-1: waiting");
    fs::write(sandbox.path("go"), "").unwrap();
    assert_eq!((first.wait(), second.wait()), (0, 0));
    assert_eq!(proofs(&sandbox), 2, "one version is tried once");
    assert_eq!(sandbox.status()["adapters"][0]["generation"], 2);
}

#[test]
fn an_agent_that_cannot_start_says_which_adapter_and_why() {
    let sandbox = Sandbox::new(SHOP);
    sandbox.put("a");
    let ran = sandbox.run(&["agent"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    for part in ["adapter `shop` needs `files:b`", "files:b", "does not exist"] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
}

#[test]
fn a_first_signal_waits_and_a_second_does_not() {
    let sandbox = Sandbox::new(PATIENT_SHOP);
    sandbox.put("a");
    fs::write(sandbox.path("go"), "").unwrap();
    let mut agent = sandbox.agent(&["--set", UNWATCHED, "--set", "agent.shutdown_grace=1h"]);
    fs::remove_file(sandbox.path("go")).unwrap();
    sandbox.put("a");
    let mut rotation = sandbox.start(&["secrets", "rotate", "--all"]);
    wait_until("the proof", || proofs(&sandbox) == 2);
    agent.signal("TERM");
    agent.wait_for("shutting down");
    agent.signal("TERM");
    assert_eq!(agent.wait(), 128 + 15);
    assert_eq!(rotation.wait(), 6, "what became of it is not known");
    fs::write(sandbox.path("go"), "").unwrap();
    wait_until("the end of the proof", || sandbox.read("proofs").matches("ended").count() == 2);
}

#[test]
fn changes_are_watched_in_instances_and_from_here() {
    let sandbox = shop();
    let _agent = sandbox.agent(&[]);
    let instances = sandbox.start(&["secrets", "watch", "--json", "files:a"]);
    let here = sandbox.start(&["secrets", "watch", "--local", "files:a"]);
    // Nobody says when they have begun to listen, so there are changes until they have seen one.
    wait_until("both to see a change", || {
        sandbox.put("a");
        sandbox.put("b");
        std::thread::sleep(std::time::Duration::from_millis(200));
        instances.stdout().contains('\n') && here.stdout().contains('\n')
    });
    let line = instances.stdout().lines().next().unwrap().to_owned();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&event["instance"], &event["key"]), (&json!("web-1"), &json!("a")));
    assert!(event["version"].is_string(), "{event}");
    for line in here.stdout().lines() {
        assert!(line.starts_with("files:a changed to version "), "{line}");
    }
    for mut watch in [instances, here] {
        watch.signal("INT");
        assert_eq!(watch.wait(), 0);
    }
}

#[test]
fn the_status_says_when_a_change_is_noticed_and_what_that_costs() {
    let sandbox = shop();
    let agent = sandbox.agent(&[]);
    let status = sandbox.status();
    let files = &status["providers"][0];
    assert_eq!((files["provider"].as_str(), files["kind"].as_str()), (Some("files"), Some("file")));
    assert_eq!(files["mode"], "push+sweep", "{files}");
    assert_eq!(
        (files["worst_case_s"].as_f64(), files["usd_a_month"].as_f64()),
        (Some(33.0), Some(0.0))
    );
    let table = sandbox.run(&["status"]);
    let row = table.stdout.lines().find(|line| line.contains(" push+sweep ")).unwrap();
    assert!(row.contains(" 33s "), "{table:?}");
    assert_eq!(agent.stop(), 0);

    let _unwatched = sandbox.agent(&["--set", UNWATCHED]);
    let status = sandbox.status();
    let files = &status["providers"][0];
    assert_eq!(
        (files["mode"].as_str(), files["worst_case_s"].as_f64()),
        (Some("ttl"), Some(600.0))
    );
    assert_eq!(files["calls_a_day"], 0.0);
}
