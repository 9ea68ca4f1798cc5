//! One trace from whoever asks to the instance that does it.

use oneiric_core::telemetry::{SCOPE, span};
use opentelemetry::global::set_text_map_propagator;
use opentelemetry::trace::{SpanKind, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use crate::support::{Ask, Rig, late, rotate_db};

#[tokio::test]
async fn a_rotation_is_part_of_the_trace_of_whoever_asked() {
    set_text_map_propagator(TraceContextPropagator::new());
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(SCOPE));
    // Everything of this test runs on this thread.
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let rig = Rig::start();
    rig.store.put("db", "first");
    let trigger = tracing::info_span!("trigger", otel.name = span::TRIGGER);
    let client = rig.client();
    client.rotate(&rotate_db(), late(), |_| {}).instrument(trigger).await.unwrap();
    let foreign = Ask::rotate(r#"{"all":true}"#)
        .with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(foreign.send(&rig.unix).await.status, 200);
    rig.stop().await;

    let spans = exporter.get_finished_spans().unwrap();
    let trigger = spans.iter().find(|found| found.name == span::TRIGGER).unwrap();
    let served = |of: &str| {
        let mut served = spans.iter().filter(|found| found.span_kind == SpanKind::Server);
        served.find(|found| found.parent_span_id.to_string() == of).unwrap()
    };
    let ours = served(&trigger.span_context.span_id().to_string());
    assert_eq!(ours.name, span::REQUEST);
    assert_eq!(ours.span_context.trace_id(), trigger.span_context.trace_id());
    let theirs = served("b7ad6b7169203331");
    let trace = theirs.span_context.trace_id();
    assert_eq!(trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
    let rotations = spans.iter().filter(|found| found.name == span::ROTATION);
    let traces: Vec<_> = rotations.map(|found| found.span_context.trace_id()).collect();
    assert_eq!(traces, [trigger.span_context.trace_id(), trace]);
}
