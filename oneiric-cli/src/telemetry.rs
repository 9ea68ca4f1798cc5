//! What the program emits about itself: logs on stderr, and, with the feature `otlp` and where
//! they are configured, traces and metrics over OTLP.
//!
//! Libraries only emit; this is the one place where something listens.

mod json;
#[cfg(feature = "otlp")]
mod otlp;

use std::io::{self, IsTerminal as _};

use oneiric_core::settings::{LogFormat, TelemetrySettings};
use oneiric_core::{Error, ErrorKind, InstanceId};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

use crate::failure::Result;

/// What listens, until the program ends.
#[must_use = "what is buffered is lost unless it is finished"]
pub(crate) struct Telemetry {
    #[cfg(feature = "otlp")]
    export: otlp::Export,
}

impl Telemetry {
    /// Starts logs on stderr, and for an `exporter` the export of traces and metrics under that
    /// name. To be called within a tokio runtime, and once.
    ///
    /// A collector that cannot be had never fails a command: it is said in the log.
    ///
    /// # Errors
    /// If the log filter is not one.
    pub(crate) fn start(
        settings: &TelemetrySettings,
        verbose: u8,
        exporter: Option<&InstanceId>,
    ) -> Result<Self> {
        let filter = log_filter(settings, verbose)?;
        let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let logs = logs(settings.log_format, ansi, filter, io::stderr);
        let subscriber = tracing_subscriber::registry().with(logs);
        #[cfg(feature = "otlp")]
        {
            let export = otlp::Export::start(settings, exporter);
            subscriber.with(export.layer()).init();
            export.say_problems();
            Ok(Self { export })
        }
        #[cfg(not(feature = "otlp"))]
        {
            let _ = exporter;
            subscriber.init();
            Ok(Self {})
        }
    }

    /// Sends what is buffered, for a bounded time, and ends the export.
    pub(crate) async fn finish(self) {
        #[cfg(feature = "otlp")]
        self.export.finish().await;
    }
}

/// What writes log records.
fn logs<S, W>(format: LogFormat, ansi: bool, filter: Targets, to: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // An error of writing has nowhere to be told.
    let lines = fmt::layer().with_writer(to).log_internal_errors(false);
    let lines = match format {
        LogFormat::Json => {
            lines.with_ansi(false).fmt_fields(json::fields()).event_format(json::lines()).boxed()
        }
        _ => lines.with_ansi(ansi).with_target(false).boxed(),
    };
    lines.with_filter(filter.and(without_bodies()))
}

/// How much of a log a filter may ask for, by who writes it: everything of ours, of others no more
/// than `info` unless it was read through. Below that a client of a cloud prints what goes over the
/// wire: Amazon's prints values if the environment has `LOG_SENSITIVE_BODIES`, and nobody knows what
/// the next release of a library prints.
const MOST: [(&str, LevelFilter); 3] = [
    ("oneiric", LevelFilter::TRACE),
    // Addresses, and connections that are made and kept.
    ("hyper_util", LevelFilter::DEBUG),
    // A refusal as the service worded it, which may quote the value that it refuses.
    ("aws_smithy_runtime_api::client::interceptors", LevelFilter::OFF),
];

/// Takes away what may show a secret, and adds nothing.
fn without_bodies() -> Targets {
    Targets::new().with_default(LevelFilter::INFO).with_targets(MOST)
}

/// Who says at `info` where a credential came from, with its id. A filter that names him goes before.
const QUIET: &str = "aws_config=warn";

/// Which log records are written: those of the settings, or more if that was asked for.
///
/// # Errors
/// If the settings have something that is not a filter.
pub(crate) fn log_filter(settings: &TelemetrySettings, verbose: u8) -> Result<Targets> {
    let filter = match verbose {
        0 => settings.log_filter.as_str(),
        1 => "info,oneiric=debug",
        _ => "debug,oneiric=trace",
    };
    let filter = format!("{QUIET},{filter}");
    filter.parse().map_err(|error: ParseError| {
        let message = "`telemetry.log_filter` is neither a level nor a list of directives such as \
                       `info,oneiric_runtime=debug`";
        Error::with_source(ErrorKind::Invalid, message, error).into()
    })
}

#[cfg(test)]
mod tests;
