//! What the client of a cloud knows of a value is in no log record, whatever the filter asks for.
//! The binary is the real one; the store is a fake of the few calls that it makes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use oneiric_testkit::scan_for_canary;
use serde_json::{Value, json};

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf";
const CURRENT: &str = "AWSCURRENT";

/// A version of the one secret: its id, its value and its labels.
type Version = (String, String, Vec<String>);

/// The store, in memory. The first version of a secret is current at once.
#[derive(Default)]
struct Store(Mutex<Vec<Version>>);

impl Store {
    fn answer(&self, call: &str, body: &Value) -> (u16, Value) {
        let mut versions = self.0.lock().unwrap();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let head = json!({ "ARN": ARN, "Name": "db" });
        let with = |more: Value| {
            let mut answer = head.clone();
            answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (200, answer)
        };
        match call {
            "CreateSecret" => (400, json!({ "__type": "ResourceExistsException" })),
            "PutSecretValue" => {
                let id = text("ClientRequestToken");
                let first = versions.is_empty().then(|| CURRENT.to_owned());
                let label =
                    first.unwrap_or_else(|| body["VersionStages"][0].as_str().unwrap().into());
                versions.push((id.clone(), text("SecretString"), vec![label]));
                with(json!({ "VersionId": id }))
            }
            "UpdateSecretVersionStage" => {
                for (id, _, labels) in &mut *versions {
                    labels.retain(|label| label != CURRENT);
                    if *id == text("MoveToVersionId") {
                        labels.push(CURRENT.into());
                    }
                }
                with(json!({}))
            }
            "GetSecretValue" => {
                let is_it = |(id, _, labels): &&Version| match body["VersionId"].as_str() {
                    Some(wanted) => id == wanted,
                    None => labels.iter().any(|label| label == CURRENT),
                };
                match versions.iter().find(is_it) {
                    Some((id, value, labels)) => with(json!({
                        "VersionId": id, "SecretString": value, "VersionStages": labels,
                    })),
                    None => (400, json!({ "__type": "ResourceNotFoundException" })),
                }
            }
            "DescribeSecret" => {
                let labels = versions.iter().map(|(id, _, labels)| (id.clone(), json!(labels)));
                with(json!({ "VersionIdsToStages": Value::Object(labels.collect()) }))
            }
            "ListSecretVersionIds" => {
                let version =
                    |(id, _, labels): &Version| json!({ "VersionId": id, "VersionStages": labels });
                with(json!({ "Versions": versions.iter().map(version).collect::<Vec<_>>() }))
            }
            other => panic!("{other} was called"),
        }
    }

    /// Serves one connection until it ends.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let (mut call, mut length, mut line) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).ok()? > 2 {
                if let Some((name, value)) = line.split_once(':') {
                    match name.to_ascii_lowercase().as_str() {
                        "x-amz-target" => call = value.trim().rsplit('.').next()?.to_owned(),
                        "content-length" => length = value.trim().parse().ok()?,
                        _ => {}
                    }
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            if call.is_empty() {
                return None;
            }
            let (status, answer) = self.answer(&call, &serde_json::from_slice(&body).ok()?);
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\n\
                 content-length: {}\r\n\r\n",
                answer.len()
            );
            writer.write_all(head.as_bytes()).ok()?;
            writer.write_all(answer.as_bytes()).ok()?;
        }
    }
}

/// Starts a store; answers with its port. It ends with the process.
fn store() -> (Arc<Store>, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let store = Arc::new(Store::default());
    let all = Arc::clone(&store);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&all);
            thread::spawn(move || store.serve(stream));
        }
    });
    (store, port)
}

/// The real binary in a folder, with nothing of the environment that concerns it.
fn oneiric(folder: &Path, words: &str, input: &str) -> Output {
    fs::write(folder.join("input"), input).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneiric"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["ONEIRIC_", "OTEL_", "AWS_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    // Somebody has asked Amazon's client to print whole answers.
    command.env("LOG_SENSITIVE_BODIES", "true");
    let input = fs::File::open(folder.join("input")).unwrap();
    command.args(words.split_whitespace()).current_dir(folder).env("HOME", folder);
    command.stdin(Stdio::from(input)).output().unwrap()
}

#[test]
fn no_filter_shows_a_value_that_goes_to_a_cloud_and_comes_back() {
    let token = "canary-5e551047-of-a-session";
    for (format, filter) in [
        ("human", "trace"),
        ("json", "trace"),
        (
            "json",
            "aws_smithy_runtime=trace,aws_sigv4=trace,aws_sdk_secretsmanager=trace,hyper=trace,oneiric=trace",
        ),
    ] {
        let (store, port) = store();
        let folder = tempfile::tempdir().unwrap();
        let credentials = folder.path().join("credentials");
        let keys = "[default]\naws_access_key_id = a\naws_secret_access_key = canary-of-a-key\n";
        fs::write(&credentials, format!("{keys}aws_session_token = {token}\n")).unwrap();
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
        let settings = format!(
            "[providers.aws]\nkind = \"aws\"\nregion = \"eu-west-1\"\n\
             credentials_file = {credentials:?}\nendpoint = \"http://127.0.0.1:{port}\"\n\
             [telemetry]\nlog_filter = \"{filter}\"\nlog_format = \"{format}\"\n"
        );
        fs::write(folder.path().join("oneiric.toml"), settings).unwrap();
        let values = ["canary-0f8e2a71-first", "canary-93b1c6d4-second"];
        let searched = |output: &Output| {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            let is_detailed = said.contains("connecting to");
            assert!(is_detailed || filter != "trace", "a filter is good for something: {said}");
            for canary in values.iter().chain(&[token, "canary-of-a-key"]) {
                let found = scan_for_canary(&output.stderr, canary);
                assert_eq!(found, None, "{filter}: {said}");
            }
        };
        for value in values {
            searched(&oneiric(folder.path(), "secrets set aws:db", value));
        }
        assert_eq!(store.0.lock().unwrap().len(), 2);
        let got = oneiric(folder.path(), "secrets get aws:db", "");
        searched(&got);
        assert_eq!(got.stdout, values[1].as_bytes());
    }
}
