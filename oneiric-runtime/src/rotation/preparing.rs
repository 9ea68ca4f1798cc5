//! The part of a rotation before anything changes: every adapter builds and proves its next
//! generation.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oneiric_core::telemetry::{event, span};
use oneiric_core::{AdapterId, HookError, Prepared, SecretSet};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::{Rotation, Target, adapter_report, millis};
use crate::report::{AdapterOutcome, AdapterReport, KeyReport, Progress};

/// How long those who come while adapters are being prepared are gathered before the store is looked
/// at again for all of them. Preparations that are quicker are simply followed by a next rotation.
const GATHER: Duration = Duration::from_millis(50);

/// What came of the preparations.
pub(super) enum Preparation {
    Ready(Vec<Ready>),
    Refused(Vec<AdapterReport>),
    /// There is something newer, and nothing has changed yet.
    Overtaken(SecretSet),
    /// There may be something newer, and it cannot be read.
    Failed(String),
}

/// A generation that is ready.
pub(super) struct Ready {
    pub(super) target: Target,
    pub(super) secrets: SecretSet,
    pub(super) prepared: Box<dyn Prepared>,
    pub(super) prepare: Duration,
}

impl Rotation {
    /// Prepares all side by side. At the first that fails the others are given up, and also, once,
    /// when something newer has come meanwhile.
    pub(super) async fn prepare_all(
        &mut self,
        changed: Vec<(Target, SecretSet)>,
        may_restart: &mut bool,
        keys: &mut Vec<KeyReport>,
    ) -> Preparation {
        let adapters: Vec<_> = changed.iter().map(|(of, _)| of.hook.id().clone()).collect();
        if !adapters.is_empty() {
            self.tell(&Progress::Preparing { adapters });
        }
        let mut open: BTreeMap<AdapterId, (Target, SecretSet)> =
            changed.iter().map(|part| (part.0.hook.id().clone(), part.clone())).collect();
        let mut preparing = JoinSet::new();
        for (target, secrets) in changed {
            let turn = Arc::clone(&self.prepares).acquire_owned();
            let within = self.prepare_timeout;
            let prepare = async move {
                let _turn = turn.await;
                prepare(target, secrets, within).await
            };
            preparing.spawn(prepare.in_current_span());
        }
        let mut ready: Vec<Ready> = Vec::new();
        let mut refused = Vec::new();
        let mut overtaken = pin!(gathered(Arc::clone(&self.nudge)));
        loop {
            let joined = tokio::select! {
                biased;
                joined = preparing.join_next() => joined,
                () = &mut overtaken, if *may_restart && refused.is_empty() => {
                    overtaken.set(gathered(Arc::clone(&self.nudge)));
                    let (asked, read) = self.look_again(keys).await;
                    // What we have read ourselves is news to the cache, too, and costs nothing.
                    *may_restart = !asked;
                    match read {
                        Err(error) => return Preparation::Failed(error),
                        Ok(newer) if is_newer(&newer, &ready, &open) => {
                            *may_restart = false;
                            preparing.shutdown().await;
                            return Preparation::Overtaken(newer);
                        }
                        Ok(_) => continue,
                    }
                }
            };
            let Some(joined) = joined else { break };
            // A prepare neither panics past its catch nor is aborted while it is awaited here.
            let Ok((target, outcome)) = joined else { continue };
            open.remove(target.hook.id());
            match outcome {
                Ok(generation) => {
                    self.tally.prepared(target.hook.id(), generation.prepare, "prepared");
                    tracing::info!(
                        target: "oneiric",
                        event = event::ADAPTER_PREPARED,
                        adapter = %target.hook.id(),
                        "an adapter is ready for its next generation"
                    );
                    ready.push(generation);
                }
                Err((error, took)) => {
                    refused.push(self.refuse(&target, &error, took));
                    preparing.abort_all();
                }
            }
        }
        if refused.is_empty() {
            ready.sort_by(|a, b| a.target.hook.id().cmp(b.target.hook.id()));
            return Preparation::Ready(ready);
        }
        let given_up = ready.iter().map(|ready| &ready.target);
        for target in given_up.chain(open.values().map(|(target, _)| target)) {
            let report = adapter_report(target, AdapterOutcome::RolledBack, target.generation);
            self.tell(&Progress::Adapter(report.clone()));
            refused.push(report);
        }
        Preparation::Refused(refused)
    }

    fn refuse(&self, target: &Target, error: &HookError, took: Duration) -> AdapterReport {
        let outcome =
            if error.is_refused() { AdapterOutcome::Refused } else { AdapterOutcome::Failed };
        let name = if error.is_refused() { "refused" } else { "failed" };
        self.tally.prepared(target.hook.id(), took, name);
        let mut report = adapter_report(target, outcome, target.generation);
        report.prepare_ms = Some(millis(took));
        report.error = Some(chain(error));
        tracing::warn!(
            target: "oneiric",
            event = event::ADAPTER_REFUSED,
            adapter = %target.hook.id(),
            error = report.error.as_deref(),
            "an adapter does not take the new secrets over; the old ones serve on"
        );
        self.tell(&Progress::Adapter(report.clone()));
        report
    }
}

/// Ends when somebody has come, and those who come with him have had the time to.
async fn gathered(nudge: Arc<Notify>) {
    nudge.notified().await;
    sleep(GATHER).await;
}

/// Whether these are other values than those that are being prepared.
fn is_newer(
    newer: &SecretSet,
    ready: &[Ready],
    open: &BTreeMap<AdapterId, (Target, SecretSet)>,
) -> bool {
    let ready = ready.iter().map(|ready| &ready.secrets);
    let mut prepared = ready.chain(open.values().map(|(_, secrets)| secrets));
    prepared.any(|secrets| {
        let mut parts = secrets.versions().map(|(of, _)| (secrets.get(of), newer.get(of)));
        // What is not there any more is no news: see `part_of`.
        !parts.all(|(old, new)| old.zip(new).is_none_or(|(old, new)| old.same_as(new)))
    })
}

/// Builds and proves one generation, within its time and safe from its panics.
async fn prepare(
    target: Target,
    secrets: SecretSet,
    within: Duration,
) -> (Target, Result<Ready, (HookError, Duration)>) {
    let started = Instant::now();
    let span = tracing::info_span!(
        target: "oneiric",
        "adapter.prepare",
        otel.name = span::PREPARE,
        adapter = %target.hook.id(),
        error = tracing::field::Empty,
    );
    let preparing = AssertUnwindSafe(target.hook.prepare(&secrets)).catch_unwind();
    let outcome = match timeout(within, preparing.instrument(span.clone())).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_panic)) => Err(HookError::failed("preparing it panicked")),
        Err(_elapsed) => {
            Err(HookError::failed(format!("it was not ready within {} s", within.as_secs_f64())))
        }
    };
    let took = started.elapsed();
    let outcome = match outcome {
        Ok(prepared) => Ok(Ready { target: target.clone(), secrets, prepared, prepare: took }),
        Err(error) => {
            span.record("error", tracing::field::display(&error));
            Err((error, took))
        }
    };
    (target, outcome)
}

fn chain(error: &HookError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
