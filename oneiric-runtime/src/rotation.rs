//! One rotation: invalidate → read → prepare all → commit all or none → drain → report.

mod draining;
mod preparing;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use oneiric_core::telemetry::{event, span};
use oneiric_core::{
    AdapterId, DrainReport, InstanceId, LifecycleHook, Retired, RotationId, SecretRef, SecretSet,
    Version,
};
use oneiric_secrets::{Mode, Resolver, Scope};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Instrument;

pub(crate) use self::draining::Leak;
use self::preparing::{Preparation, Ready};
use crate::gate::{Ask, JobId, is_same};
use crate::keys::Keys;
use crate::manager::Event;
use crate::report::{AdapterOutcome, AdapterReport, InstanceReport, KeyReport, Outcome, Progress};
use crate::tally::Tally;

/// One rotation, with all that it needs.
pub(crate) struct Rotation {
    pub(crate) job: JobId,
    pub(crate) id: RotationId,
    pub(crate) ask: Ask,
    pub(crate) targets: Vec<Target>,
    /// What is taken over instead of what the store has.
    pub(crate) instead: Option<SecretSet>,
    /// What some adapter has gone back from.
    pub(crate) shunned: Vec<(SecretRef, Version)>,
    /// Tells that something has come since that may be newer.
    pub(crate) nudge: Arc<Notify>,
    /// The right to prepare, of which there are so many.
    pub(crate) prepares: Arc<Semaphore>,
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
    pub(crate) step: Step,
    /// Whether nothing of what it stood on may be kept.
    pub(crate) forget: bool,
}

/// How an adapter came to stand on other ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It holds the same values, under other names perhaps.
    Unchanged,
    /// It serves a new generation, and the old one is draining.
    Next,
    /// The same, with the secrets of the generation before.
    Back,
}

/// Adapters, each with its own part of what was read.
#[derive(Default)]
struct Compared {
    /// Those that hold other values.
    changed: Vec<(Target, SecretSet)>,
    /// Those that hold the same values already.
    unchanged: Vec<(Target, SecretSet)>,
    /// Those that are left where they are: what was read was refused in use.
    held_back: Vec<Target>,
}

/// A generation that has been replaced.
struct Replaced {
    report: AdapterReport,
    retired: Box<dyn Retired>,
    old: watch::Receiver<Old>,
}

impl Rotation {
    /// Runs it to its end. Nothing that serves changes before every adapter is ready.
    pub(crate) async fn run(mut self) {
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

    async fn carry_out(&mut self) -> InstanceReport {
        let mut report = InstanceReport {
            instance: self.instance.clone(),
            outcome: Outcome::Done,
            error: None,
            keys: Vec::new(),
            adapters: Vec::new(),
            duration_ms: 0.0,
        };
        self.tell(&Progress::Reading);
        let read = match self.instead.clone() {
            Some(secrets) => Ok(secrets),
            None => self.read(self.ask.invalidate, &mut report.keys).await,
        };
        let mut secrets = match read {
            Ok(secrets) => secrets,
            Err(error) => return failed(report, error),
        };
        let mut may_restart = self.instead.is_none();
        loop {
            let Compared { changed, unchanged, held_back } = self.compare(&secrets);
            // Whoever comes now may be somebody who asks for what is held back: not our answer.
            may_restart &= held_back.is_empty();
            self.adopt(unchanged.iter().map(|(target, secrets)| Adopted {
                adapter: target.hook.id().clone(),
                generation: target.generation,
                secrets: secrets.clone(),
                step: Step::Unchanged,
                forget: false,
            }));
            match self.prepare_all(changed, &mut may_restart, &mut report.keys).await {
                Preparation::Overtaken(newer) => secrets = newer,
                Preparation::Failed(error) => return failed(report, error),
                Preparation::Refused(refusals) => {
                    report.outcome = Outcome::RolledBack;
                    report.error = Some("an adapter did not take the new secrets over".into());
                    report.adapters.extend(unchanged.iter().map(|(target, _)| {
                        adapter_report(target, AdapterOutcome::Unchanged, target.generation)
                    }));
                    report.adapters.extend(refusals);
                    return report;
                }
                Preparation::Ready(ready) => {
                    let replaced = self.commit_all(ready);
                    let deadline = Instant::now() + self.drain_timeout;
                    let settled = self.settle_all(unchanged, deadline);
                    let drained = self.drain_all(replaced, deadline);
                    let (settled, drained) = tokio::join!(settled, drained);
                    report.adapters.extend(held_back.iter().map(hold_back_from));
                    report.adapters.extend(settled);
                    report.adapters.extend(drained);
                    let left = |adapter: &AdapterReport| {
                        matches!(adapter.outcome, AdapterOutcome::Forced | AdapterOutcome::Leaked)
                    };
                    if report.adapters.iter().any(left) {
                        report.outcome = Outcome::NotDrained;
                        report.error = Some("an old generation was not drained in time".into());
                    }
                    return report;
                }
            }
        }
    }

    /// Invalidates and reads everything that is needed, as one consistent set.
    async fn read(
        &self,
        invalidate: Option<Mode>,
        keys: &mut Vec<KeyReport>,
    ) -> Result<SecretSet, String> {
        let references = self.references();
        let mut found = Keys::new(&self.ask.scope, &self.resolver);
        for reference in &references {
            found.before(reference, self.version_before(reference));
        }
        if let Some(mode) = invalidate {
            let invalidated = self.resolver.invalidate_secrets(&self.ask.scope, mode);
            invalidated.map_err(|error| error.chain())?;
        }
        let answers = self.resolver.get_many(&references).await;
        let mut failures = Vec::new();
        for (reference, answer) in references.iter().zip(answers) {
            match answer {
                Ok(secret) if secret.stale_for().is_none() => {
                    found.found(reference, secret.version(), secret.fallback());
                }
                Ok(_) => {
                    let why = self.resolver.last_failure(reference);
                    let why = why.map(|error| format!(": {}", error.chain())).unwrap_or_default();
                    failures.push(format!("cannot read `{reference}` anew{why}"));
                }
                Err(error) if self.resolver.may_be_absent(reference, &error) => {}
                Err(error) => failures.push(error.chain()),
            }
        }
        failures.sort();
        failures.dedup();
        if !failures.is_empty() {
            *keys = found.into_reports().collect();
            return Err(failures.join("; "));
        }
        let needed: Vec<SecretRef> =
            self.targets.iter().flat_map(|target| target.hook.secrets().to_vec()).collect();
        let set = self.resolver.get_set(&needed).await.map_err(|error| error.chain());
        // Alone, a part may have been read from elsewhere than as a part of the set.
        for (reference, version) in set.iter().flat_map(SecretSet::versions) {
            let fallback = set.as_ref().ok().and_then(|set| set.fallback(reference));
            found.found(reference, version, fallback);
        }
        *keys = found.into_reports().collect();
        set
    }

    /// What was asked for by name, and everything that the adapters need.
    fn references(&self) -> Vec<SecretRef> {
        let mut references: Vec<SecretRef> = match &self.ask.scope {
            Scope::Keys(provider, keys) => {
                keys.iter().map(|key| SecretRef::new(provider.clone(), key.clone())).collect()
            }
            Scope::Secrets(references) => references.clone(),
            Scope::Provider(_) | Scope::All => Vec::new(),
        };
        let needed = self.targets.iter().flat_map(|target| target.hook.secrets());
        references.extend(needed.cloned());
        references.sort();
        references.dedup();
        references
    }

    /// The version that an adapter serves, or else the one in the cache.
    fn version_before(&self, reference: &SecretRef) -> Option<String> {
        let served = |target: &Target| {
            let versions = target.current.as_ref()?.versions();
            let mut same = versions.filter(|(of, _)| is_same(of, reference));
            same.next().map(|(_, version)| version.to_string())
        };
        let served = self.targets.iter().find_map(served);
        served.or_else(|| self.resolver.held_version(reference).map(|version| version.to_string()))
    }

    /// Reads again what may be newer than what is being prepared, for everybody who waits for it;
    /// and whether the store was asked, or only what the cache has learned meanwhile.
    async fn look_again(&mut self, keys: &mut Vec<KeyReport>) -> (bool, Result<SecretSet, String>) {
        let (reply, absorbed) = oneshot::channel();
        let _ = self.events.send(Event::Absorb { ask: self.ask.clone(), reply });
        let absorbed = absorbed.await.unwrap_or_default();
        self.progress.extend(absorbed.progress);
        (absorbed.invalidate.is_some(), self.read(absorbed.invalidate, keys).await)
    }

    /// Which adapters hold other values than these.
    fn compare(&self, secrets: &SecretSet) -> Compared {
        let mut compared = Compared::default();
        // Somebody who asks for it may have seen to it that it is accepted by now.
        let unasked = self.progress.is_empty() && self.instead.is_none();
        for target in &self.targets {
            let next = self.part_of(secrets, target);
            let same = target.current.as_ref().is_some_and(|current| current.same_values(&next));
            if same {
                compared.unchanged.push((target.clone(), next));
            } else if unasked && next.versions().any(|version| self.shuns(version)) {
                compared.held_back.push(target.clone());
            } else {
                compared.changed.push((target.clone(), next));
            }
        }
        compared
    }

    /// The part of a set that is an adapter's. A secret that is not there any more is taken from
    /// nobody who has it, unless everything from before is to go.
    fn part_of(&self, secrets: &SecretSet, target: &Target) -> SecretSet {
        let may_keep = self.instead.is_none() && self.ask.invalidate != Some(Mode::Hard);
        let kept = target.current.as_ref().filter(|_| may_keep);
        let mut parts = Vec::new();
        let (mut fallbacks, mut defaults) = (Vec::new(), Vec::new());
        for reference in target.hook.secrets() {
            let is_there = secrets.get(reference).is_some() && !secrets.is_default(reference);
            let has = |of: &&SecretSet| of.get(reference).is_some() && !of.is_default(reference);
            let from = kept.filter(has).filter(|_| !is_there).unwrap_or(secrets);
            let (Some(value), Some(version)) = (from.get(reference), from.version(reference))
            else {
                continue;
            };
            parts.push((reference.clone(), value.clone(), version.clone()));
            fallbacks.push(from.fallback(reference).cloned());
            defaults.push(from.is_default(reference));
        }
        SecretSet::new(parts).answered_by(fallbacks).with_defaults(defaults)
    }

    /// Whether some adapter was given this version, and has gone back from it.
    fn shuns(&self, (of, version): (&SecretRef, &Version)) -> bool {
        self.shunned.iter().any(|(shunned, from)| is_same(shunned, of) && from == version)
    }

    /// From here on nothing can fail: one after the other, each at once.
    fn commit_all(&self, ready: Vec<Ready>) -> Vec<Replaced> {
        let mut replaced = Vec::with_capacity(ready.len());
        let mut adopted = Vec::with_capacity(ready.len());
        for Ready { target, secrets, prepared, prepare } in ready {
            let adapter = target.hook.id().clone();
            let generation = target.generation + 1;
            let back = self.instead.is_some();
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
            let step = if back { Step::Back } else { Step::Next };
            let forget = self.ask.invalidate == Some(Mode::Hard);
            adopted.push(Adopted { adapter, generation, secrets, step, forget });
        }
        self.adopt(adopted);
        // The adapters are free for the next rotation while their old generations drain.
        let _ = self.events.send(Event::Released { job: self.job });
        replaced
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

/// The report of a rotation that has changed nothing.
fn failed(mut report: InstanceReport, error: String) -> InstanceReport {
    report.outcome = Outcome::Failed;
    report.error = Some(error);
    report
}

/// Of an adapter that is left where it is.
fn hold_back_from(target: &Target) -> AdapterReport {
    let mut report = adapter_report(target, AdapterOutcome::Unchanged, target.generation);
    report.error = Some("the store's version was refused in use; it is not taken over".into());
    report
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
