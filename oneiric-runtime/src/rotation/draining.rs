//! The part of a rotation after everything has changed: the old generations end.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oneiric_core::telemetry::{event, span};
use oneiric_core::{DrainOutcome, DrainReport, Retired, SecretSet};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

use super::{Replaced, Rotation, Target, adapter_report, millis};
use crate::manager::Event;
use crate::report::{AdapterOutcome, AdapterReport, Progress};

/// How much longer than its deadline a drain may take to say that it is over.
const DRAIN_GRACE: Duration = Duration::from_secs(15);

impl Rotation {
    /// Adapters that hold these values already. Done is said of one only when its old generations
    /// have ended: a rotation before may not have seen to that.
    pub(super) async fn settle_all(
        &self,
        unchanged: Vec<(Target, SecretSet)>,
        deadline: Instant,
    ) -> Vec<AdapterReport> {
        // What the cache has learned by itself is nobody's question.
        let asked = self.ask.invalidate.is_some();
        let mut reports = Vec::with_capacity(unchanged.len());
        for (mut target, _) in unchanged {
            if asked {
                let drained = target.old.wait_for(|old| old.draining == 0);
                // Either way the state says how it stands.
                let _ = timeout_at(deadline, drained).await;
            }
            let old = *target.old.borrow();
            let held = old.draining + old.leaked;
            let mut report = adapter_report(&target, AdapterOutcome::Unchanged, target.generation);
            if asked && held > 0 {
                hold_back(&mut report, held);
            }
            self.tell(&Progress::Adapter(report.clone()));
            reports.push(report);
        }
        reports
    }

    pub(super) async fn drain_all(
        &self,
        replaced: Vec<Replaced>,
        deadline: Instant,
    ) -> Vec<AdapterReport> {
        let mut draining = JoinSet::new();
        for Replaced { report, retired, old } in replaced {
            let running = self.tally.drain();
            let drain = async move {
                let (mut report, leak) = drain(report, retired, deadline).await;
                drop(running);
                let held = old.borrow().telling;
                if held > 0 && report.outcome == AdapterOutcome::Drained {
                    hold_back(&mut report, held);
                }
                (report, leak)
            };
            draining.spawn(drain.in_current_span());
        }
        let mut reports = Vec::new();
        while let Some(joined) = draining.join_next().await {
            let Ok((report, leak)) = joined else { continue };
            self.tally.old_credential_uses(&report.adapter, report.in_flight);
            let _ = self.events.send(Event::Drained { adapter: report.adapter.clone(), leak });
            self.tell(&Progress::Adapter(report.clone()));
            reports.push(report);
        }
        reports.sort_by(|a, b| a.adapter.cmp(&b.adapter));
        reports
    }
}

/// Says of an adapter that somebody still holds what was before.
fn hold_back(report: &mut AdapterReport, held: usize) {
    report.outcome = AdapterOutcome::Leaked;
    report.in_flight = held;
    report.error = Some("a generation from before has not ended".into());
}

/// An old generation that was still held at its deadline.
pub(crate) struct Leak {
    pub(crate) error: String,
    /// Tells when it has ended after all, if the adapter can.
    pub(crate) later: Option<BoxFuture<'static, ()>>,
}

/// Ends one old generation. Whatever happens here, the new one serves.
async fn drain(
    mut report: AdapterReport,
    retired: Box<dyn Retired>,
    deadline: Instant,
) -> (AdapterReport, Option<Leak>) {
    let started = Instant::now();
    let span = tracing::info_span!(
        target: "oneiric",
        "adapter.drain",
        otel.name = span::DRAIN,
        adapter = %report.adapter,
        outcome = tracing::field::Empty,
    );
    let draining = AssertUnwindSafe(retired.drain(deadline)).catch_unwind();
    let patience = deadline.saturating_duration_since(started) + DRAIN_GRACE;
    let mut drained = match timeout(patience, draining.instrument(span.clone())).await {
        Ok(Ok(drained)) => drained,
        Ok(Err(_panic)) => DrainReport::leaked(0).with_error("draining it panicked"),
        Err(_elapsed) => DrainReport::leaked(0).with_error("draining it did not end"),
    };
    report.outcome = match drained.outcome {
        DrainOutcome::Drained => AdapterOutcome::Drained,
        DrainOutcome::Forced => AdapterOutcome::Forced,
        _ => AdapterOutcome::Leaked,
    };
    report.in_flight = drained.in_flight;
    report.error = drained.error.clone();
    let leak = (report.outcome == AdapterOutcome::Leaked).then(|| Leak {
        error: drained.error.clone().unwrap_or_else(|| "an old generation is still held".into()),
        later: drained.take_later(),
    });
    report.drain_ms = Some(millis(started.elapsed()));
    span.record("outcome", drained.outcome.token());
    span.in_scope(|| {
        tracing::info!(
            target: "oneiric",
            event = event::ADAPTER_DRAINED,
            adapter = %report.adapter,
            outcome = drained.outcome.token(),
            in_flight = report.in_flight,
            error = report.error.as_deref(),
            "an adapter's old generation was drained"
        );
    });
    (report, leak)
}
