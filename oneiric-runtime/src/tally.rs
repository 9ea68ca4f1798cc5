//! What the runtime counts.

use std::time::Duration;

use oneiric_core::telemetry::{SCOPE, metric};
use oneiric_core::{AdapterId, ProviderId};
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};

/// Bounds for a swap, in seconds: an embedded client to a slow data base.
const SWAP_BOUNDS: [f64; 11] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

#[derive(Debug)]
pub(crate) struct Tally {
    swap: Histogram<f64>,
    drains: UpDownCounter<i64>,
    rotations: UpDownCounter<i64>,
    old_uses: Counter<u64>,
    refusals: Counter<u64>,
    returns: Counter<u64>,
    missed: Counter<u64>,
}

/// One more of something for as long as it lives.
pub(crate) struct Running(UpDownCounter<i64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        Self {
            swap: meter
                .f64_histogram(metric::SWAP_DURATION)
                .with_unit("s")
                .with_description("Building and proving a generation")
                .with_boundaries(SWAP_BOUNDS.to_vec())
                .build(),
            drains: meter
                .i64_up_down_counter(metric::DRAIN_INFLIGHT)
                .with_description("Old generations that are draining")
                .build(),
            rotations: meter
                .i64_up_down_counter(metric::ROTATION_STATE)
                .with_description("Rotations that are running")
                .build(),
            old_uses: meter
                .u64_counter(metric::OLD_CREDENTIAL_USES)
                .with_description("Users that held an old generation at the drain deadline")
                .build(),
            refusals: meter
                .u64_counter(metric::REFUSALS)
                .with_description("Generations whose credential was refused where it is used")
                .build(),
            returns: meter
                .u64_counter(metric::RETURNS)
                .with_description("Returns of an adapter to the generation before")
                .build(),
            missed: meter
                .u64_counter(metric::WATCH_MISSED_EVENTS)
                .with_description("Changes that only the sweep found")
                .build(),
        }
    }

    pub(crate) fn prepared(&self, adapter: &AdapterId, took: Duration, outcome: &'static str) {
        let attributes =
            [KeyValue::new("adapter", adapter.to_string()), KeyValue::new("outcome", outcome)];
        self.swap.record(took.as_secs_f64(), &attributes);
    }

    pub(crate) fn drain(&self) -> Running {
        self.drains.add(1, &[]);
        Running(self.drains.clone())
    }

    pub(crate) fn rotation(&self) -> Running {
        self.rotations.add(1, &[]);
        Running(self.rotations.clone())
    }

    pub(crate) fn old_credential_uses(&self, adapter: &AdapterId, users: usize) {
        let users = u64::try_from(users).unwrap_or(u64::MAX);
        self.old_uses.add(users, &[KeyValue::new("adapter", adapter.to_string())]);
    }

    pub(crate) fn refused(&self, adapter: &AdapterId) {
        self.refusals.add(1, &[KeyValue::new("adapter", adapter.to_string())]);
    }

    pub(crate) fn went_back(&self, adapter: &AdapterId) {
        self.returns.add(1, &[KeyValue::new("adapter", adapter.to_string())]);
    }

    pub(crate) fn missed(&self, provider: &ProviderId, changes: u64) {
        self.missed.add(changes, &[KeyValue::new("provider", provider.to_string())]);
    }
}
