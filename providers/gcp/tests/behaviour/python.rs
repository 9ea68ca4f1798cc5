//! The fake, driven by Google's own Python clients: what we believe of the API must be what they
//! believe of it, or they would not understand it. And what they wrote, the provider reads.

use std::path::Path;

use oneiric_core::{FetchRequest, SecretProvider, VersionState};
use oneiric_gcp_fake::Fake;
use oneiric_testkit::live::require;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_python_clients_understand_the_fake() {
    let Some(python) = std::env::var_os("ONEIRIC_PYTHON") else {
        return require("gcp with the python clients", "ONEIRIC_PYTHON is not set");
    };
    let fake = Fake::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/drive.py");
    let host = fake.endpoint().trim_start_matches("http://").to_owned();
    let mut command = Command::new(python);
    command.arg(script).arg(host).arg(Fake::PROJECT).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let saw: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = format!("projects/{}/secrets/python", Fake::NUMBER);
    let versions: Vec<Value> = (1..=12)
        .rev()
        .map(|number| match number {
            12 => json!([12, "DISABLED"]),
            1 => json!([1, "DESTROYED"]),
            _ => json!([number, "ENABLED"]),
        })
        .collect();
    let mut events = vec!["SECRET_CREATE"];
    events.extend(["SECRET_VERSION_ADD"; 12]);
    events.extend(["SECRET_UPDATE", "SECRET_VERSION_DISABLE", "SECRET_VERSION_DESTROY"]);
    // Over REST the Python clients know the HTTP status; the code is in the answer's body.
    let (missing, precondition) =
        (json!(["NotFound", "NOT_FOUND"]), json!(["BadRequest", "FAILED_PRECONDITION"]));
    let expected = json!({
        "created": name,
        "created_again": ["Conflict", "ALREADY_EXISTS"],
        "empty_latest": missing,
        "added": format!("{name}/versions/12"),
        "checksum_specified": true,
        "wrong_checksum": ["BadRequest", "INVALID_ARGUMENT"],
        "latest": [format!("{name}/versions/12"), "value-12"],
        "checksum_matches": true,
        "aliases": {"current": 7},
        "stale_etag": precondition,
        "by_alias": "value-7",
        "disabled_latest": precondition,
        "stale_version_etag": precondition,
        "destroyed": precondition,
        "missing": missing,
        "versions": versions,
        "newest_enabled": "11",
        "secrets": [name],
        "events": events,
        "event_version": format!("{name}/versions/12"),
        "event_resource": format!("{name}/versions/12"),
    });
    assert_eq!(saw, expected);

    let mut config = support::config(&fake);
    config.current = "alias:current".parse().unwrap();
    let provider = config.build().unwrap();
    let key: oneiric_core::SecretKey = "python".parse().unwrap();
    let fetched = provider.fetch(&FetchRequest::new(key.clone())).await.unwrap();
    assert_eq!(fetched.value.expose(), b"value-7");
    let listed = provider.lister().unwrap().versions(&key).await.unwrap();
    assert_eq!(listed[0].state, VersionState::Disabled);
    assert_eq!(listed[5].labels, ["current"]);
}
