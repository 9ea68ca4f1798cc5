//! One rotation: invalidate → read → prepare all → commit all or none → drain → report.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oneiric_core::telemetry::{event, span};
use oneiric_core::{
    AdapterId, DrainOutcome, DrainReport, HookError, InstanceId, LifecycleHook, Prepared, Retired,
    RotationId, SecretRef, SecretSet,
};
use oneiric_secrets::{Resolver, Scope};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

use crate::gate::{Ask, JobId};
use crate::manager::Event;
use crate::report::{AdapterOutcome, AdapterReport, InstanceReport, KeyReport, Outcome, Progress};
use crate::tally::Tally;

/// How much longer than its deadline a drain may take to say that it is over.
const DRAIN_GRACE: Duration = Duration::from_secs(15);

/// One rotation, with all that it needs.
pub(crate) struct Rotation {
    pub(crate) job: JobId,
    pub(crate) id: RotationId,
    pub(crate) ask: Ask,
    pub(crate) targets: Vec<Target>,
    pub(crate) instance: InstanceId,
    pub(crate) resolver: Resolver,
    pub(crate) prepare_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) progress: Vec<mpsc::UnboundedSender<Progress>>,
    pub(crate) tally: Arc<Tally>,
}

/// An adapter that depends on what is rotated, as it stands before.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) hook: Arc<dyn LifecycleHook>,
    pub(crate) generation: u64,
    /// What it serves; `None` before its first generation.
    pub(crate) current: Option<SecretSet>,
    /// How it stands with its old generations.
    pub(crate) old: watch::Receiver<Old>,
}

/// How many old generations of an adapter have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Old {
    /// They are draining.
    pub(crate) draining: usize,
    /// They were still held at their deadline, and are not known to have ended since.
    pub(crate) leaked: usize,
    /// Those of them that will tell of their own end.
    pub(crate) telling: usize,
}

/// An adapter that stands on other ground than before.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) adapter: AdapterId,
    pub(crate) generation: u64,
    pub(crate) secrets: SecretSet,
    /// Whether an old generation is now draining.
    pub(crate) drains: bool,
}

/// A generation that is ready.
struct Ready {
    target: Target,
    secrets: SecretSet,
    prepared: Box<dyn Prepared>,
    prepare: Duration,
}

/// A generation that has been replaced.
struct Replaced {
    report: AdapterReport,
    retired: Box<dyn Retired>,
    old: watch::Receiver<Old>,
}

impl Rotation {
    /// Runs it to its end. Nothing that serves changes before every adapter is ready.
    pub(crate) async fn run(self) {
        let started = Instant::now();
        let span = tracing::info_span!(
            target: "oneiric",
            "rotation",
            otel.name = span::ROTATION,
            rotation = %self.id,
            instance = %self.instance,
            outcome = tracing::field::Empty,
        );
        let running = self.tally.rotation();
        let mut report = self.carry_out().instrument(span.clone()).await;
        drop(running);
        report.duration_ms = millis(started.elapsed());
        span.record("outcome", report.outcome.token());
        span.in_scope(|| self.conclude(&report));
        for progress in &self.progress {
            // Whoever asked may have gone.
            let _ = progress.send(Progress::Finished(report.clone()));
        }
        let _ = self.events.send(Event::Ended { job: self.job, ask: self.ask, report });
    }

    async fn carry_out(&self) -> InstanceReport {
        let mut report = InstanceReport {
            instance: self.instance.clone(),
            outcome: Outcome::Done,
            error: None,
            keys: Vec::new(),
            adapters: Vec::new(),
            duration_ms: 0.0,
        };
        self.tell(&Progress::Reading);
        let secrets = match self.read(&mut report.keys).await {
            Ok(secrets) => secrets,
            Err(error) => {
                report.outcome = Outcome::Failed;
                report.error = Some(error);
                return report;
            }
        };

        let (changed, unchanged) = self.compare(&secrets);
        self.adopt(unchanged.iter().map(|(target, secrets)| Adopted {
            adapter: target.hook.id().clone(),
            generation: target.generation,
            secrets: secrets.clone(),
            drains: false,
        }));
        match self.prepare_all(changed).await {
            Ok(ready) => {
                let replaced = self.commit_all(ready);
                let deadline = Instant::now() + self.drain_timeout;
                let settled = self.settle_all(unchanged, deadline);
                let (settled, drained) = tokio::join!(settled, self.drain_all(replaced, deadline));
                report.adapters.extend(settled);
                report.adapters.extend(drained);
                let left = |adapter: &AdapterReport| {
                    matches!(adapter.outcome, AdapterOutcome::Forced | AdapterOutcome::Leaked)
                };
                if report.adapters.iter().any(left) {
                    report.outcome = Outcome::NotDrained;
                    report.error = Some("an old generation was not drained in time".into());
                }
            }
            Err(refusals) => {
                report.outcome = Outcome::RolledBack;
                report.error = Some("an adapter did not take the new secrets over".into());
                report.adapters.extend(unchanged.iter().map(|(target, _)| {
                    adapter_report(target, AdapterOutcome::Unchanged, target.generation)
                }));
                report.adapters.extend(refusals);
            }
        }
        report
    }

    /// Invalidates and reads everything that is needed, as one consistent set.
    async fn read(&self, keys: &mut Vec<KeyReport>) -> Result<SecretSet, String> {
        let references = self.references();
        let mut found: BTreeMap<String, KeyReport> = BTreeMap::new();
        for reference in &references {
            let key = self.key_name(reference);
            let from_version = self.version_before(reference);
            let to_version = None;
            found.entry(key.clone()).or_insert(KeyReport { key, from_version, to_version });
        }
        if let Some(mode) = self.ask.invalidate {
            let invalidated = self.resolver.invalidate_secrets(&self.ask.scope, mode);
            invalidated.map_err(|error| error.chain())?;
        }
        let answers = self.resolver.get_many(&references).await;
        let mut failures = Vec::new();
        for (reference, answer) in references.iter().zip(answers) {
            match answer {
                Ok(secret) if secret.stale_for().is_none() => {
                    if let Some(report) = found.get_mut(&self.key_name(reference)) {
                        report.to_version = Some(secret.version().to_string());
                    }
                }
                Ok(_) => {
                    let why = self.resolver.last_failure(reference);
                    let why = why.map(|error| format!(": {}", error.chain())).unwrap_or_default();
                    failures.push(format!("cannot read `{reference}` anew{why}"));
                }
                Err(error) => failures.push(error.chain()),
            }
        }
        keys.extend(found.into_values());
        failures.sort();
        failures.dedup();
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        let needed: Vec<SecretRef> =
            self.targets.iter().flat_map(|target| target.hook.secrets().to_vec()).collect();
        self.resolver.get_set(&needed).await.map_err(|error| error.chain())
    }

    /// What was asked for by name, and everything that the adapters need.
    fn references(&self) -> Vec<SecretRef> {
        let mut references: Vec<SecretRef> = match &self.ask.scope {
            Scope::Keys(provider, keys) => {
                keys.iter().map(|key| SecretRef::new(provider.clone(), key.clone())).collect()
            }
            Scope::Provider(_) | Scope::All => Vec::new(),
        };
        let needed = self.targets.iter().flat_map(|target| target.hook.secrets());
        references.extend(needed.cloned());
        references.sort();
        references.dedup();
        references
    }

    fn key_name(&self, reference: &SecretRef) -> String {
        match &self.ask.scope {
            Scope::Keys(provider, _) | Scope::Provider(provider)
                if reference.provider() == provider =>
            {
                reference.key().to_string()
            }
            _ => format!("{}:{}", reference.provider(), reference.key()),
        }
    }

    /// The version that an adapter serves, or else the one in the cache.
    fn version_before(&self, reference: &SecretRef) -> Option<String> {
        let served = |target: &Target| {
            let versions = target.current.as_ref()?.versions();
            let mut same = versions.filter(|(of, _)| {
                of.provider() == reference.provider() && of.key() == reference.key()
            });
            same.next().map(|(_, version)| version.to_string())
        };
        let served = self.targets.iter().find_map(served);
        served.or_else(|| self.resolver.held_version(reference).map(|version| version.to_string()))
    }

    /// Which adapters hold other values than these, each with its own part of them.
    #[expect(clippy::type_complexity, reason = "two lists of the same pairs")]
    fn compare(&self, secrets: &SecretSet) -> (Vec<(Target, SecretSet)>, Vec<(Target, SecretSet)>) {
        let part = |target: &Target| {
            let parts = target.hook.secrets().iter().filter_map(|reference| {
                let value = secrets.get(reference)?.clone();
                Some((reference.clone(), value, secrets.version(reference)?.clone()))
            });
            (target.clone(), SecretSet::new(parts))
        };
        self.targets.iter().map(part).partition(|(target, next)| {
            target.current.as_ref().is_none_or(|current| !current.same_values(next))
        })
    }

    /// Prepares all side by side. At the first that fails the others are given up.
    async fn prepare_all(
        &self,
        changed: Vec<(Target, SecretSet)>,
    ) -> Result<Vec<Ready>, Vec<AdapterReport>> {
        let adapters: Vec<_> = changed.iter().map(|(of, _)| of.hook.id().clone()).collect();
        if !adapters.is_empty() {
            self.tell(&Progress::Preparing { adapters });
        }
        let mut open: BTreeMap<AdapterId, Target> =
            changed.iter().map(|(of, _)| (of.hook.id().clone(), of.clone())).collect();
        let mut preparing = JoinSet::new();
        for (target, secrets) in changed {
            let within = self.prepare_timeout;
            preparing.spawn(prepare(target, secrets, within).in_current_span());
        }
        let mut ready: Vec<Ready> = Vec::new();
        let mut refused = Vec::new();
        while let Some(joined) = preparing.join_next().await {
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
            return Ok(ready);
        }
        let given_up = ready.iter().map(|ready| &ready.target).chain(open.values());
        for target in given_up {
            let report = adapter_report(target, AdapterOutcome::RolledBack, target.generation);
            self.tell(&Progress::Adapter(report.clone()));
            refused.push(report);
        }
        Err(refused)
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

    /// From here on nothing can fail: one after the other, each at once.
    fn commit_all(&self, ready: Vec<Ready>) -> Vec<Replaced> {
        let mut replaced = Vec::with_capacity(ready.len());
        let mut adopted = Vec::with_capacity(ready.len());
        for Ready { target, secrets, prepared, prepare } in ready {
            let adapter = target.hook.id().clone();
            let generation = target.generation + 1;
            let span = tracing::info_span!(
                target: "oneiric", "adapter.commit", otel.name = span::COMMIT, adapter = %adapter
            );
            let commit = AssertUnwindSafe(|| prepared.commit());
            let retired = span.in_scope(|| {
                std::panic::catch_unwind(commit).unwrap_or_else(|_| Box::new(CommitPanicked))
            });
            tracing::info!(
                target: "oneiric",
                event = event::ADAPTER_COMMITTED,
                adapter = %adapter,
                generation,
                "an adapter serves its next generation"
            );
            let mut report = adapter_report(&target, AdapterOutcome::Committed, generation);
            report.prepare_ms = Some(millis(prepare));
            self.tell(&Progress::Adapter(report.clone()));
            replaced.push(Replaced { report, retired, old: target.old });
            adopted.push(Adopted { adapter, generation, secrets, drains: true });
        }
        self.adopt(adopted);
        // The adapters are free for the next rotation while their old generations drain.
        let _ = self.events.send(Event::Released { job: self.job });
        replaced
    }

    /// Adapters that hold these values already. Done is said of one only when its old generations
    /// have ended: a rotation before may not have seen to that.
    async fn settle_all(
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

    async fn drain_all(&self, replaced: Vec<Replaced>, deadline: Instant) -> Vec<AdapterReport> {
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

    fn adopt(&self, adopted: impl IntoIterator<Item = Adopted>) {
        let adopted: Vec<_> = adopted.into_iter().collect();
        let _ = self.events.send(Event::Adopted(adopted));
    }

    fn tell(&self, step: &Progress) {
        for progress in &self.progress {
            let _ = progress.send(step.clone());
        }
    }

    fn conclude(&self, report: &InstanceReport) {
        let adapters = report.adapters.len();
        // What the cache learned by itself and no adapter cared for is not worth a line.
        let quiet = self.ask.invalidate.is_none()
            && report.adapters.iter().all(|of| of.outcome == AdapterOutcome::Unchanged);
        match report.outcome {
            Outcome::Done if quiet => {}
            Outcome::Done => tracing::info!(
                target: "oneiric",
                event = event::ROTATION_COMPLETE,
                rotation = %self.id,
                adapters,
                duration_ms = report.duration_ms,
                "a rotation is complete"
            ),
            _ => tracing::warn!(
                target: "oneiric",
                event = event::ROTATION_FAILED,
                rotation = %self.id,
                adapters,
                outcome = report.outcome.token(),
                error = report.error.as_deref(),
                "a rotation did not complete"
            ),
        }
    }
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

/// Stands for what an adapter's commit left behind when it broke its contract.
struct CommitPanicked;

#[async_trait::async_trait]
impl Retired for CommitPanicked {
    async fn drain(self: Box<Self>, _deadline: Instant) -> DrainReport {
        DrainReport::leaked(0).with_error("committing it panicked, which it never may")
    }
}

fn adapter_report(target: &Target, outcome: AdapterOutcome, generation: u64) -> AdapterReport {
    AdapterReport {
        adapter: target.hook.id().clone(),
        outcome,
        generation,
        prepare_ms: None,
        drain_ms: None,
        in_flight: 0,
        error: None,
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
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
