//! How long what is served will last, as a collector gets it.

use std::time::{Duration, SystemTime};

use oneiric_adapter_tls::{Identity, TlsServer};
use oneiric_core::telemetry::metric::SECONDS_TO_EXPIRY;
use opentelemetry::{Value, global};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics,
};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use tokio::time::{Instant, sleep};

use crate::authority::{Authority, DAY, Issued, Wish};
use crate::parts::{NAME, commit, name, reference, rotate};
use crate::served::{PEM, listener as bound, loaded_once, secrets, serve_what_was_loaded};

/// No other adapter of this process has it.
const ID: &str = "expiry";

/// Days until the end, as they are exported now.
fn exported(provider: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> Option<f64> {
    exporter.reset();
    provider.force_flush().unwrap();
    let exported = exporter.get_finished_metrics().unwrap();
    let metrics = exported.iter().flat_map(ResourceMetrics::scope_metrics);
    let metrics = metrics.flat_map(ScopeMetrics::metrics);
    let mut found = None;
    for metric in metrics.filter(|metric| metric.name() == SECONDS_TO_EXPIRY) {
        let AggregatedMetrics::F64(MetricData::Gauge(gauge)) = metric.data() else {
            panic!("it is a gauge of seconds")
        };
        for point in gauge.data_points() {
            let adapter = point.attributes().next().unwrap();
            assert_eq!(adapter.key.as_str(), "adapter");
            if adapter.value == Value::from(ID) {
                found = Some((point.value() / DAY.as_secs_f64()).round());
            }
        }
    }
    found
}

/// E7 and the certificates of no. 7 and 12: what counts is the end of what is presented.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_left_is_that_of_what_is_presented() {
    let exporter = InMemoryMetricExporter::default();
    let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
    global::set_meter_provider(provider.clone());
    let authority = Authority::new("root");
    let lasting = |days: u32| -> Issued {
        authority.issue(Wish { end: SystemTime::now() + days * DAY, ..Wish::server(NAME) })
    };
    let (old, new) = (lasting(3), lasting(90));

    let (listener, address) = bound().await;
    let loaded = serve_what_was_loaded(listener, &old);
    let (listener, other_address) = bound().await;
    let other = serve_what_was_loaded(listener, &lasting(5));
    let hook = TlsServer::new(Identity::bundle(reference(PEM)))
        .read_back(other_address, name(NAME))
        .read_back(address, name(NAME))
        .into_hook(ID.parse().unwrap());
    assert_eq!(exported(&provider, &exporter), None);
    commit(&hook, &secrets(&old)).await;
    assert_eq!(exported(&provider, &exporter), Some(3.0));

    // The new one is stored and committed, and others are presented: that which ends first counts.
    let mut report = rotate(&hook, &secrets(&new), Duration::ZERO).await;
    assert_eq!(exported(&provider, &exporter), Some(3.0));
    let later = tokio::spawn(report.take_later().unwrap());
    *loaded.write().unwrap() = loaded_once(&new);
    let late = Instant::now() + Duration::from_secs(20);
    while exported(&provider, &exporter) != Some(5.0) {
        assert!(Instant::now() < late, "{:?}", exported(&provider, &exporter));
        sleep(Duration::from_millis(5)).await;
    }
    *other.write().unwrap() = loaded_once(&new);
    later.await.unwrap();
    assert_eq!(exported(&provider, &exporter), Some(90.0));

    drop(hook);
    assert_eq!(exported(&provider, &exporter), None);
}
