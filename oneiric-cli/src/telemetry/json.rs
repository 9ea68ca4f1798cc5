//! Log records as JSON, with the trace that they belong to.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// One JSON object a line: the fields of the record beside its time, level and spans, and
/// `trace_id` and `span_id` if it is part of a trace.
pub(super) struct Lines(Format<Json>);

/// The form of records.
pub(super) fn lines() -> Lines {
    Lines(Format::default().json().flatten_event(true))
}

/// The form of fields that goes with it.
pub(super) fn fields() -> JsonFields {
    JsonFields::new()
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end().strip_suffix('}');
        match (object, current_span()) {
            (Some(object), Some((trace, span))) => {
                writeln!(writer, r#"{object},"trace_id":"{trace}","span_id":"{span}"}}"#)
            }
            _ => writer.write_str(&line),
        }
    }
}

#[cfg(feature = "otlp")]
fn current_span() -> Option<(opentelemetry::TraceId, opentelemetry::SpanId)> {
    use opentelemetry::trace::TraceContextExt as _;

    let context = opentelemetry::Context::current();
    let span = context.span().span_context().clone();
    span.is_valid().then(|| (span.trace_id(), span.span_id()))
}

#[cfg(not(feature = "otlp"))]
fn current_span() -> Option<(String, String)> {
    None
}
