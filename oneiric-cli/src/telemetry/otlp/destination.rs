//! Where a signal goes: the standard variables first, then the settings.

use std::time::Duration;

use oneiric_core::settings::{OtlpProtocol, TelemetrySettings};

/// How long one request may take, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of telemetry, as the names of variables and the paths of OTLP have it.
pub(super) struct Signal {
    name: &'static str,
    path: &'static str,
}

/// Traces.
pub(super) const TRACES: Signal = Signal { name: "TRACES", path: "/v1/traces" };
/// Metrics.
pub(super) const METRICS: Signal = Signal { name: "METRICS", path: "/v1/metrics" };

/// Where a signal goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) transport: Transport,
    /// A URL; for HTTP with its path.
    pub(super) endpoint: String,
    pub(super) timeout: Duration,
}

/// In what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Grpc,
    Http,
}

impl Destination {
    /// The destination of a signal, if it has one.
    ///
    /// # Errors
    /// If what is asked for is not known here, as a sentence.
    pub(super) fn of(
        signal: &Signal,
        settings: &TelemetrySettings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let otlp = |what: &str| {
            let own = variable(&format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name));
            own.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = format!("OTEL_{}_EXPORTER", signal.name);
        let asked = match variable(&exporter).as_deref() {
            None => false,
            Some("otlp") => true,
            Some("none") => return Ok(None),
            Some(other) => return Err(format!("{exporter} names `{other}`; there is `otlp`")),
        };
        let transport = match otlp("PROTOCOL").as_deref() {
            Some("grpc") => Transport::Grpc,
            Some("http/protobuf") => Transport::Http,
            Some(other) => {
                return Err(format!(
                    "OTEL_EXPORTER_OTLP_PROTOCOL is `{other}`; there is `grpc` and `http/protobuf`"
                ));
            }
            None => match settings.otlp_protocol {
                Some(OtlpProtocol::Grpc) => Transport::Grpc,
                // The default of the OpenTelemetry specification.
                _ => Transport::Http,
            },
        };
        if transport == Transport::Grpc && cfg!(not(feature = "otlp-grpc")) {
            return Err("`grpc` is asked for, and this program was built without it: take \
                        `http/protobuf`, or build it with the feature `otlp-grpc`"
                .into());
        }
        let whole = variable(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name));
        let base = variable("OTEL_EXPORTER_OTLP_ENDPOINT")
            .or_else(|| settings.otlp_endpoint.clone())
            .or_else(|| asked.then(|| transport.usual_endpoint().to_owned()));
        let Some(endpoint) = whole.or_else(|| base.map(|base| transport.at(&base, signal))) else {
            return Ok(None);
        };
        let millis = otlp("TIMEOUT").and_then(|text| text.parse().ok());
        let timeout = millis.map_or(TIMEOUT, Duration::from_millis);
        Ok(Some(Self { transport, endpoint, timeout }))
    }
}

impl Transport {
    fn usual_endpoint(self) -> &'static str {
        match self {
            Self::Grpc => "http://localhost:4317",
            Self::Http => "http://localhost:4318",
        }
    }

    /// The place of a signal at an endpoint for all of them.
    fn at(self, endpoint: &str, signal: &Signal) -> String {
        match self {
            Self::Grpc => endpoint.to_owned(),
            Self::Http => format!("{}{}", endpoint.trim_end_matches('/'), signal.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use oneiric_core::settings::{Settings, Sources};

    use super::*;

    fn of(
        signal: &Signal,
        settings: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Result<Option<Destination>, String> {
        let flags = settings.iter().map(|(key, value)| (format!("telemetry.{key}"), *value));
        let settings = Settings::load(&Sources::new().with_flags(flags)).unwrap().telemetry;
        Destination::of(signal, &settings, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoint(settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Option<String> {
        of(&TRACES, settings, variables).unwrap().map(|to| to.endpoint)
    }

    #[test]
    fn nothing_goes_anywhere_unless_somebody_said_where() {
        assert_eq!(endpoint(&[], &[]), None);
        assert_eq!(endpoint(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(endpoint(&[], &[protocol]), None);
    }

    #[test]
    fn grpc_is_told_where_it_is_there_and_refused_where_it_is_not() {
        let settings = [("otlp_endpoint", "http://settings:1/"), ("otlp_protocol", "grpc")];
        let found = of(&TRACES, &settings, &[]);
        #[cfg(feature = "otlp-grpc")]
        {
            let found = found.unwrap().unwrap();
            assert_eq!(found.transport, Transport::Grpc);
            assert_eq!(found.endpoint, "http://settings:1/");
        }
        #[cfg(not(feature = "otlp-grpc"))]
        assert!(found.unwrap_err().contains("the feature `otlp-grpc`"));
    }

    #[test]
    fn variables_are_stronger_than_settings() {
        let settings = [("otlp_endpoint", "http://settings:1/"), ("otlp_protocol", "grpc")];
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:2/");
        let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let found = of(&TRACES, &settings, &[general, protocol]).unwrap().unwrap();
        assert_eq!(found.transport, Transport::Http);
        assert_eq!(found.endpoint, "http://all:2/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:3/as-it-is");
        let found = of(&METRICS, &settings, &[general, own, protocol]).unwrap().unwrap();
        assert_eq!(found.endpoint, "http://metrics:3/as-it-is");
    }

    #[test]
    fn telemetry_can_be_asked_for_and_turned_off_by_name() {
        let asked = ("OTEL_TRACES_EXPORTER", "otlp");
        assert_eq!(endpoint(&[], &[asked]).unwrap(), "http://localhost:4318/v1/traces");
        let settings = [("otlp_endpoint", "http://settings:1")];
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(endpoint(&settings, &[off]), None, "{off:?}");
        }
    }

    #[test]
    fn what_is_not_linked_is_said() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:2");
        let problem = of(&TRACES, &[], &[all, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        assert!(problem.unwrap_err().contains("`http/json`"));
        let problem = of(&TRACES, &[], &[all, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert!(problem.unwrap_err().contains("`zipkin`"));
    }

    #[test]
    fn a_request_has_ten_seconds_unless_told_otherwise() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:2");
        let timeout = |variables: &[_]| of(&TRACES, &[], variables).unwrap().unwrap().timeout;
        assert_eq!(timeout(&[all]), TIMEOUT);
        let short = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500");
        assert_eq!(timeout(&[all, short]), Duration::from_millis(500));
    }
}
