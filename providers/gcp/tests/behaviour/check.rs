//! The script that an owner of a real project runs, on the fake: it must find there what the
//! provider was written for, or one of the three is wrong.

use std::path::Path;

use oneiric_gcp_fake::Fake;
use oneiric_testkit::live::require;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_for_owners_of_a_project_finds_what_we_believe() {
    let Some(python) = std::env::var_os("ONEIRIC_PYTHON") else {
        return require("gcp with the check for owners", "ONEIRIC_PYTHON is not set");
    };
    let fake = Fake::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers/gcp-check.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--project", Fake::PROJECT, "--token", "none", "--patience", "20"]);
    command.args(["--endpoint", &fake.endpoint(), "--pubsub", &fake.endpoint()]);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{wrong}");
    assert!(said.ends_with("every belief holds\n"), "{wrong}");
    for number in 1..=25 {
        assert!(said.contains(&format!("ok      {number:>2} ")), "{number} is missing: {wrong}");
    }
}
