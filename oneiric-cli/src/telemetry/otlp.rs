//! Traces and metrics over OTLP, by gRPC or HTTP, to where the standard `OTEL_*` variables or the
//! settings say. Without either nothing is exported.

mod client;
mod destination;
mod noted;

use std::time::Duration;

use oneiric_core::InstanceId;
use oneiric_core::settings::TelemetrySettings;
use oneiric_core::telemetry::SCOPE;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue, global};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use client::Client;
use destination::{Destination, METRICS, Signal, TRACES, Transport};
use noted::Noted;

/// How long the end of the program waits for a collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What is exported. Dropping it loses what is buffered.
pub(super) struct Export {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    problems: Vec<String>,
}

impl Export {
    /// Installs what is configured, for a process of this name, and in any case the propagation
    /// of W3C trace contexts.
    pub(super) fn start(settings: &TelemetrySettings, exporter: Option<&InstanceId>) -> Self {
        global::set_text_map_propagator(TraceContextPropagator::new());
        let mut export = Self { traces: None, metrics: None, problems: Vec::new() };
        let Some(instance) = exporter else { return export };
        let resource = resource(settings, instance);
        if let Some(to) = export.destination(&TRACES, settings) {
            match span_exporter(&to) {
                Ok(exporter) => {
                    let traces = SdkTracerProvider::builder()
                        .with_resource(resource.clone())
                        .with_batch_exporter(Noted::new(exporter, "traces"))
                        .build();
                    export.traces = Some(traces);
                }
                Err(error) => export.problems.push(format!("no traces are exported: {error}")),
            }
        }
        if let Some(to) = export.destination(&METRICS, settings) {
            match metric_exporter(&to) {
                Ok(exporter) => {
                    let metrics = SdkMeterProvider::builder()
                        .with_resource(resource)
                        .with_periodic_exporter(Noted::new(exporter, "metrics"))
                        .build();
                    global::set_meter_provider(metrics.clone());
                    export.metrics = Some(metrics);
                }
                Err(error) => export.problems.push(format!("no metrics are exported: {error}")),
            }
        }
        export
    }

    /// What makes spans of ours out of those of `tracing`.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.traces.as_ref()?.tracer(SCOPE);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        // Only ours: those of the exporter's own HTTP client would beget each other.
        let ours = filter_fn(|of| of.target().starts_with("oneiric") && *of.level() <= Level::INFO);
        Some(layer.with_filter(ours))
    }

    /// Says in the log what could not be set up.
    pub(super) fn say_problems(&self) {
        for problem in &self.problems {
            tracing::warn!(target: "oneiric", "{problem}");
        }
    }

    /// Sends what is buffered, for a bounded time.
    pub(super) async fn finish(self) {
        if self.traces.is_none() && self.metrics.is_none() {
            return;
        }
        // The shutdown blocks, and what it waits for needs this runtime.
        let traces = tokio::task::spawn_blocking(move || {
            self.traces.map(|traces| traces.shutdown_with_timeout(FLUSH_TIMEOUT))
        });
        let metrics = tokio::task::spawn_blocking(move || {
            self.metrics.map(|metrics| metrics.shutdown_with_timeout(FLUSH_TIMEOUT))
        });
        let both = async { [traces.await, metrics.await] };
        let in_time = tokio::time::timeout(FLUSH_TIMEOUT, both).await.is_ok_and(|ended| {
            // What else can go wrong was said by the exporter.
            !ended.iter().any(|of| matches!(of, Ok(Some(Err(OTelSdkError::Timeout(_))))))
        });
        if !in_time {
            tracing::warn!(target: "oneiric", "the last telemetry could not be sent in time");
        }
    }

    fn destination(
        &mut self,
        signal: &Signal,
        settings: &TelemetrySettings,
    ) -> Option<Destination> {
        let variable = |name: &str| std::env::var(name).ok();
        Destination::of(signal, settings, &variable).unwrap_or_else(|problem| {
            self.problems.push(problem);
            None
        })
    }
}

/// Who we are. What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say is stronger.
fn resource(settings: &TelemetrySettings, instance: &InstanceId) -> Resource {
    let said = Resource::builder().build();
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let name = said.get(&Key::new("service.name"));
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        attributes.push(KeyValue::new("service.name", settings.service_name.clone()));
    }
    attributes.push(KeyValue::new("service.instance.id", instance.to_string()));
    attributes.retain(|of| of.key.as_str() == "service.name" || said.get(&of.key).is_none());
    Resource::builder().with_attributes(attributes).build()
}

fn span_exporter(to: &Destination) -> Result<SpanExporter, ExporterBuildError> {
    let builder = SpanExporter::builder();
    match to.transport {
        #[cfg(feature = "otlp-grpc")]
        Transport::Grpc => builder.with_tonic().with_endpoint(&to.endpoint).build(),
        #[cfg(not(feature = "otlp-grpc"))]
        Transport::Grpc => Err(without_grpc()),
        Transport::Http => {
            builder.with_http().with_http_client(client(to)?).with_endpoint(&to.endpoint).build()
        }
    }
}

fn metric_exporter(to: &Destination) -> Result<MetricExporter, ExporterBuildError> {
    let builder = MetricExporter::builder();
    match to.transport {
        #[cfg(feature = "otlp-grpc")]
        Transport::Grpc => builder.with_tonic().with_endpoint(&to.endpoint).build(),
        #[cfg(not(feature = "otlp-grpc"))]
        Transport::Grpc => Err(without_grpc()),
        Transport::Http => {
            builder.with_http().with_http_client(client(to)?).with_endpoint(&to.endpoint).build()
        }
    }
}

/// A destination is not made for it either, where a person is told.
#[cfg(not(feature = "otlp-grpc"))]
fn without_grpc() -> ExporterBuildError {
    ExporterBuildError::InternalFailure("this program was built without gRPC".into())
}

fn client(to: &Destination) -> Result<Client, ExporterBuildError> {
    Client::new(&to.endpoint, to.timeout)
        .map_err(|error| ExporterBuildError::InternalFailure(error.to_string()))
}
