//! An agent whose secrets come from a program: the folder of the manual.

use std::path::Path;

use oneiric_testkit::live;
use serde_json::json;

use crate::support::{Sandbox, wait_until};

/// The agent's settings for a program over the folder of the sandbox, and a service of it.
fn sandbox(capabilities: &str, interval: &str) -> Option<Sandbox> {
    let Some(python) = std::env::var_os("ONEIRIC_PYTHON") else {
        live::require("exec-agent", "ONEIRIC_PYTHON is not set");
        return None;
    };
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../providers/exec/examples/folder.py");
    let settings = format!(
        "[providers.program]\nkind = \"exec\"\ncommand = [{:?}, {:?}, \"secrets\"]\n\
         capabilities = {capabilities}\n\
         [adapters.shop]\nkind = \"command\"\nsecrets = {{ a = \"program:a\" }}\n\
         apply = [\"sh\", \"-c\", \"cat > served\"]\n",
        Path::new(&python),
        example,
    );
    let sandbox = Sandbox::new(&settings).with_env("ONEIRIC_SECRETS_WATCH_INTERVAL", interval);
    sandbox.put("a");
    Some(sandbox)
}

/// Changes the secret where the program reads it, and waits until the service has it.
fn is_noticed(capabilities: &str, interval: &str) {
    let Some(sandbox) = sandbox(capabilities, interval) else { return };
    let agent = sandbox.agent(&[]);
    agent.wait_for("the program of an exec provider is there");
    for generation in 2..=4 {
        let value = sandbox.put("a");
        let expected = json!({ "a": value }).to_string();
        wait_until("the service to have it", || sandbox.read("served") == expected);
        wait_until("the commit", || {
            sandbox.status()["adapters"][0]["generation"] == json!(generation)
        });
    }
    assert_eq!(agent.stop(), 0);
}

#[test]
fn a_change_in_a_program_is_noticed_by_its_push() {
    // The sweep comes too late for this test.
    is_noticed(r#"["stamps", "push", "binary", "list"]"#, "1h");
}

#[test]
fn a_change_in_a_program_is_noticed_by_the_sweep() {
    is_noticed(r#"["stamps"]"#, "200ms");
}

#[test]
fn a_program_that_cannot_do_what_the_settings_say_is_named() {
    let Some(sandbox) = sandbox(r#"["versions"]"#, "0s") else { return };
    let ran = sandbox.run(&["secrets", "get", "program:a"]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("of the settings have `versions`"), "{ran:?}");
    assert!(ran.stderr.contains("of the kind `folder`"), "{ran:?}");
}
