//! Telemetry as independent receivers get it: `oteltap` over HTTP, `rotel` over gRPC.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oneiric_core::telemetry::{metric, span};
use oneiric_testkit::live;
use serde_json::Value;

use crate::rotation::SHOP;
use crate::support::{Sandbox, wait_until};

/// The three that every rotation moves.
const COUNTERS: [&str; 3] = [metric::CACHE_HITS, metric::CACHE_MISSES, metric::INVALIDATE_TOTAL];

/// The Python with the receivers in it, or why there is none.
fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("ONEIRIC_PYTHON").ok_or("ONEIRIC_PYTHON is not set")?;
    Ok(python.into())
}

/// A receiver that writes what it gets into a file.
struct Receiver {
    process: Child,
    port: u16,
    written: PathBuf,
}

impl Receiver {
    /// Starts one that is given its port by `arguments` and says `ready` when it has it.
    fn start(
        program: &Path,
        written: &Path,
        ready: &str,
        arguments: impl Fn(u16, &mut Command),
    ) -> Result<Self, String> {
        // A free port may be taken by somebody else before it is used, so that who answers there
        // need not be ours: only its own word counts.
        for _ in 0..5 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let mut command = Command::new(program);
            arguments(port, &mut command);
            let output = File::create(written).unwrap();
            command.env("PYTHONUNBUFFERED", "1").stdin(Stdio::null());
            command.stdout(output.try_clone().unwrap()).stderr(output);
            let process = command
                .spawn()
                .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
            let mut receiver = Self { process, port, written: written.to_owned() };
            let mut has_ended = false;
            wait_until("the receiver to listen or to end", || {
                has_ended = receiver.process.try_wait().unwrap().is_some();
                has_ended || receiver.received().contains(ready)
            });
            if !has_ended {
                return Ok(receiver);
            }
        }
        Err(format!("{} does not listen: {}", program.display(), read(written)))
    }

    fn received(&self) -> String {
        read(&self.written)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A sandbox whose programs send their telemetry to a port.
fn sandbox(port: u16, protocol: &str) -> Sandbox {
    let sandbox = Sandbox::new(SHOP)
        .with_env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .with_env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .with_env("OTEL_METRIC_EXPORT_INTERVAL", "100");
    sandbox.put("a");
    sandbox.put("b");
    sandbox
}

/// One rotation from its trigger to the end of the agent; returns its name.
fn rotate_once(sandbox: &Sandbox) -> String {
    let agent = sandbox.agent(&["--set", "secrets_watch_interval=0s"]);
    sandbox.put("a");
    let (ran, report) = sandbox.rotate(&["--provider", "files", "--keys", "a"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("collector does not take"), "{ran:?}");
    assert_eq!(agent.stop(), 0);
    report["rotation_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_rotation_is_one_trace_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let started = python().and_then(|python| {
        let oteltap = python.with_file_name("oteltap");
        let arguments = |port: u16, command: &mut Command| {
            command.args(["--port", &port.to_string()]);
        };
        Receiver::start(&oteltap, &folder.path().join("received"), "Listening for", arguments)
    });
    let receiver = match started {
        Ok(receiver) => receiver,
        Err(why) => return live::require("otlp", &why),
    };
    let sandbox = sandbox(receiver.port, "http/protobuf");
    let rotation = rotate_once(&sandbox);

    let received = || -> Vec<Value> {
        receiver.received().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let spans = || -> Vec<Value> {
        received().into_iter().filter(|of| of.get("spanId").is_some()).collect()
    };
    let trigger = |spans: &[Value]| {
        let mut triggers = spans.iter().filter(|of| of["name"] == span::TRIGGER);
        triggers.find(|of| of.to_string().contains(&rotation)).cloned()
    };
    wait_until("the trigger's span", || trigger(&spans()).is_some());
    let trace = trigger(&spans()).unwrap()["traceId"].clone();
    let of_trace =
        || -> Vec<Value> { spans().into_iter().filter(|of| of["traceId"] == trace).collect() };
    wait_until("all spans of the rotation", || {
        let names: BTreeSet<String> =
            of_trace().iter().map(|of| of["name"].as_str().unwrap().to_owned()).collect();
        span::ALL.iter().all(|name| names.contains(*name))
    });
    let ids: Vec<Value> = of_trace().iter().map(|of| of["spanId"].clone()).collect();
    for of in of_trace().iter().filter(|of| of["name"] != span::TRIGGER) {
        assert!(ids.contains(&of["parentSpanId"]), "{of} hangs in the air");
    }
    wait_until("the counters", || {
        let received = received();
        COUNTERS.iter().all(|name| {
            received.iter().any(|of| of["name"] == *name && of["sum"]["isMonotonic"] == true)
        })
    });
    sandbox.search(receiver.received());
}

#[test]
#[cfg(feature = "otlp-grpc")]
fn a_rotation_is_told_over_grpc() {
    let folder = tempfile::tempdir().unwrap();
    let started = python().and_then(|python| {
        let found = Command::new(&python)
            .args(["-c", "import os, rotel; print(os.path.dirname(rotel.__file__))"])
            .output()
            .map_err(|error| format!("{} cannot be run: {error}", python.display()))?;
        let place = String::from_utf8_lossy(&found.stdout);
        let agent = Path::new(place.trim()).join("rotel-agent");
        let arguments = |port: u16, command: &mut Command| {
            command.args(["start", "--otlp-grpc-endpoint", &format!("127.0.0.1:{port}")]);
            // It always has both; the port is the system's choice.
            command.args(["--otlp-http-endpoint", "127.0.0.1:0", "--exporter", "blackhole"]);
            command.args(["--debug-log", "traces", "--debug-log", "metrics"]);
            command.args(["--debug-log-verbosity", "detailed"]);
            command.current_dir(folder.path());
        };
        Receiver::start(&agent, &folder.path().join("received"), "Starting Rotel", arguments)
    });
    let receiver = match started {
        Ok(receiver) => receiver,
        Err(why) => return live::require("otlp", &why),
    };
    let sandbox = sandbox(receiver.port, "grpc");
    rotate_once(&sandbox);
    let names = span::ALL.iter().chain(&COUNTERS);
    for name in names {
        wait_until(name, || receiver.received().contains(&format!(": {name}\n")));
    }
    assert!(receiver.received().contains("service.instance.id: Str(web-1)"));
    sandbox.search(receiver.received());
}

#[test]
fn a_collector_that_is_not_there_fails_nothing_and_is_said_once() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let protocols = ["http/protobuf", "grpc"];
    let there = if cfg!(feature = "otlp-grpc") { 2 } else { 1 };
    for protocol in protocols.into_iter().take(there) {
        let sandbox = sandbox(nobody, protocol);
        let agent = sandbox.agent(&[]);
        agent.wait_for(r#""signal":"metrics""#);
        std::thread::sleep(Duration::from_millis(300));
        let said = agent.stderr().matches(r#""signal":"metrics""#).count();
        assert_eq!(said, 1, "{}", agent.stderr());
        assert_eq!(agent.stop(), 0);
    }
}

#[test]
#[cfg(not(feature = "otlp-grpc"))]
fn what_this_program_was_built_without_is_said() {
    let sandbox = sandbox(1, "grpc");
    let agent = sandbox.agent(&[]);
    agent.wait_for("the feature `otlp-grpc`");
    assert_eq!(agent.stop(), 0);
}

#[test]
fn nothing_is_sent_where_it_is_turned_off() {
    let collector = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    collector.set_nonblocking(true).unwrap();
    let port = collector.local_addr().unwrap().port();
    let sandbox = sandbox(port, "http/protobuf").with_env("OTEL_SDK_DISABLED", "true");
    rotate_once(&sandbox);
    assert!(collector.accept().is_err(), "somebody connected");
}
