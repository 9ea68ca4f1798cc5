//! Which log records are written, whatever the filter asks for.

use std::sync::{Arc, Mutex};

use oneiric_testkit::scan_for_canary;
use serde_json::json;

use super::*;

const CANARY: &str = "canary-7d1f8e02b6";

/// Where everything is written in these tests.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written of what happens, with these settings.
fn written(format: LogFormat, filter: &str, verbose: u8, happens: fn()) -> String {
    let settings = json!({ "service_name": "x", "log_format": "human", "log_filter": filter });
    let settings: TelemetrySettings = serde_json::from_value(settings).unwrap();
    let written = Written::default();
    let to = written.clone();
    let filter = log_filter(&settings, verbose).unwrap();
    let logs = logs(format, false, filter, move || to.clone());
    let subscriber = tracing_subscriber::registry().with(logs);
    tracing::subscriber::with_default(subscriber, happens);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Libraries print what goes over the wire: in records, and in spans around records of ours.
fn bodies() {
    let span = tracing::debug_span!(target: "google_cloud_gax_internal", "call", body = CANARY);
    let _inside = span.enter();
    tracing::trace!(target: "aws_smithy_runtime::client::orchestrator", request = CANARY);
    tracing::debug!(target: "aws_smithy_runtime::client::interceptors", err = CANARY);
    tracing::trace!(target: "aws_sigv4::http_request::sign", canonical_request = CANARY);
    tracing::debug!(target: "h2::codec::framed_write", frame = CANARY);
    tracing::trace!(target: "hyper_util::client::legacy", CANARY);
    tracing::error!(target: "aws_smithy_runtime_api::client::interceptors::context", CANARY);
    tracing::debug!(target: "of_the_next_release", CANARY);
    tracing::trace!(target: "oneiric_secrets", "ours");
}

#[test]
fn what_libraries_print_of_the_wire_is_never_written() {
    for format in [LogFormat::Human, LogFormat::Json] {
        for (filter, verbose) in [
            ("trace", 0),
            ("aws_smithy_runtime=trace,aws_sigv4=trace,h2=trace,oneiric=trace", 0),
            ("[{body}]=trace", 0),
            ("[call]=trace,trace", 0),
            ("info", 2),
        ] {
            let text = written(format, filter, verbose, bodies);
            assert_eq!(scan_for_canary(text.as_bytes(), CANARY), None, "{filter}: {text}");
            assert!(filter.starts_with("[{") || text.contains("ours"), "{filter}: {text}");
        }
    }
}

#[test]
fn what_is_harmless_is_written_if_it_is_asked_for() {
    let happens = || {
        tracing::debug!(target: "hyper_util::client::legacy::connect::http", "connecting");
        tracing::info!(target: "aws_runtime::env_config", "a file is not there");
        tracing::info!(target: "aws_config::profile", "who we are");
    };
    let text = written(LogFormat::Human, "trace", 0, happens);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("connecting") && text.contains("a file is not there"), "{text}");
    let text = written(LogFormat::Human, "warn,aws_config=info", 0, happens);
    assert!(text.contains("who we are") && text.lines().count() == 1, "{text}");
    assert_eq!(written(LogFormat::Json, "off", 2, || ()), "");
}
