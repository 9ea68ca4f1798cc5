//! The lifecycle manager: one loop that knows every adapter and decides what is rotated when.
//!
//! All state is here and is touched by this loop alone. The work itself (reading, preparing,
//! draining) runs in tasks that report back as events.

mod refusals;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oneiric_core::telemetry::event;
use oneiric_core::{
    AdapterId, AliasId, Error, ErrorKind, LifecycleHook, ProviderId, Refusal, Result, SecretKey,
    SecretRef, Version,
};
use oneiric_secrets::{Handle, Mode, Resolver, Scope, SecretEvent};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::gate::{Ask, Gate, JobId, Reach};
use crate::needs::Needs;
use crate::report::{AdapterStatus, InstanceReport, Outcome, Progress};
use crate::rotation::{Adopted, Leak, Rotation, Step};
use crate::runtime::{RotateRequest, RuntimeOptions, new_rotation_id};
use crate::slot::{Known, Slot};
use crate::tally::Tally;

/// The pauses before an adapter that did not take new secrets over is tried again: from the
/// first, doubling, to the longest, each with full jitter.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Everything that the manager reacts to.
pub(crate) enum Event {
    /// An adapter is to be taken in.
    Register { hook: Arc<dyn LifecycleHook>, reply: oneshot::Sender<Result<()>> },
    /// An adapter has its first generation, or could not have it.
    Registered { adapter: AdapterId, answer: Result<()>, reply: oneshot::Sender<Result<()>> },
    /// The secrets of an adapter are followed from now on.
    Following { adapter: AdapterId, handles: Vec<Handle> },
    /// Somebody wants a rotation.
    Trigger(Trigger),
    /// A watcher has noticed that these are not what they were.
    Noticed { provider: ProviderId, keys: Vec<SecretKey> },
    /// The cache holds another version than before.
    Changed { provider: ProviderId, key: SecretKey, version: Version },
    /// The first candidate of an alias answers again.
    Moved { alias: AliasId },
    /// The cache may hold other versions than before.
    Lagged,
    /// It is time to try again what was not taken over.
    Retry { ask: Ask },
    /// The users of an adapter report that a credential was not accepted.
    Refused { adapter: AdapterId, refusal: Refusal },
    /// What was served before may no longer be gone back to.
    Forget { adapter: AdapterId },
    /// A job can read anew before it commits, and takes over who waits for that.
    Absorb { ask: Ask, reply: oneshot::Sender<Absorbed> },
    /// Adapters stand on new ground.
    Adopted(Vec<Adopted>),
    /// The adapters of a job are free for the next.
    Released { job: JobId },
    /// An old generation has ended, or its time has.
    Drained { adapter: AdapterId, leak: Option<Leak> },
    /// One that had leaked has ended after all.
    EndedAfterAll { adapter: AdapterId, leak: u64 },
    /// A job is over.
    Ended { job: JobId, ask: Ask, report: InstanceReport },
    /// Somebody wants to know how things stand.
    Status { reply: oneshot::Sender<Vec<AdapterStatus>> },
}

/// A wish for a rotation, and where its course is told.
pub(crate) struct Trigger {
    pub(crate) request: RotateRequest,
    pub(crate) progress: mpsc::UnboundedSender<Progress>,
    pub(crate) span: tracing::Span,
}

/// What a job has taken over.
#[derive(Default)]
pub(crate) struct Absorbed {
    /// How to invalidate before it reads anew.
    pub(crate) invalidate: Option<Mode>,
    pub(crate) progress: Vec<mpsc::UnboundedSender<Progress>>,
}

/// See the module's documentation.
pub(crate) struct LifecycleManager {
    options: RuntimeOptions,
    resolver: Resolver,
    inbox: mpsc::UnboundedReceiver<Event>,
    /// What jobs report; the manager holds a sender, so that it never closes.
    work: mpsc::UnboundedReceiver<Event>,
    back: mpsc::UnboundedSender<Event>,
    secrets: broadcast::Receiver<SecretEvent>,
    slots: BTreeMap<AdapterId, Slot>,
    gate: Gate<Waiter>,
    /// What was to change together and did not: it is tried again together, or not at all.
    unsettled: Vec<Ask>,
    jobs: JoinSet<()>,
    /// Tells those jobs that have not committed of what has come since.
    nudges: BTreeMap<JobId, Arc<Notify>>,
    /// What waits for its time, and who listens to adapters.
    timers: JoinSet<()>,
    /// When secrets were read anew because they were refused.
    asked_anew: HashMap<(ProviderId, SecretKey), Instant>,
    prepares: Arc<Semaphore>,
    last_leak: u64,
    tally: Arc<Tally>,
}

/// Who waits for a job.
enum Waiter {
    Trigger(Trigger),
    Registration {
        adapter: AdapterId,
        reply: oneshot::Sender<Result<()>>,
    },
    /// The manager itself.
    Nobody,
}

impl LifecycleManager {
    pub(crate) fn new(
        options: RuntimeOptions,
        resolver: Resolver,
        inbox: mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        let (back, work) = mpsc::unbounded_channel();
        let secrets = resolver.subscribe();
        let prepares = Arc::new(Semaphore::new(options.prepares_at_once.get()));
        Self {
            options,
            resolver,
            inbox,
            work,
            back,
            secrets,
            slots: BTreeMap::new(),
            gate: Gate::default(),
            unsettled: Vec::new(),
            jobs: JoinSet::new(),
            nudges: BTreeMap::new(),
            timers: JoinSet::new(),
            asked_anew: HashMap::new(),
            prepares,
            last_leak: 0,
            tally: Arc::new(Tally::new()),
        }
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        self.options.shutdown_grace
    }

    pub(crate) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// The loop. After `shutdown` nothing new is begun, and what runs has the grace time to end.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let event = tokio::select! {
                // What the cache learned during a job is heard before that the job is over.
                biased;
                () = shutdown.cancelled() => break,
                event = self.secrets.recv() => match event {
                    Ok(SecretEvent::Changed { provider, key, version }) => {
                        Event::Changed { provider, key, version }
                    }
                    Ok(SecretEvent::Moved { alias, fallback: false, .. }) => Event::Moved { alias },
                    Ok(_) => continue,
                    Err(broadcast::error::RecvError::Lagged(_)) => Event::Lagged,
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                Some(event) = self.work.recv() => event,
                Some(event) = self.inbox.recv() => event,
                Some(_) = self.jobs.join_next() => continue,
                Some(_) = self.timers.join_next() => continue,
            };
            self.handle(event);
            self.admit();
        }
        self.inbox.close();
        self.timers.shutdown().await;
        for waiter in self.gate.dismiss() {
            if let Waiter::Registration { reply, .. } = waiter {
                let message = "the runtime is shutting down";
                let _ = reply.send(Err(Error::new(ErrorKind::Unavailable, message)));
            }
        }
        let jobs = &mut self.jobs;
        let all = async { while jobs.join_next().await.is_some() {} };
        if timeout(self.options.shutdown_grace, all).await.is_err() {
            tracing::warn!(target: "oneiric", "rotations are cut off by the shutdown");
            self.jobs.shutdown().await;
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Register { hook, reply } => self.register(hook, reply),
            Event::Registered { adapter, answer, reply } => {
                if answer.is_err() {
                    self.slots.remove(&adapter);
                }
                let _ = reply.send(answer);
            }
            Event::Following { adapter, handles } => {
                if let Some(slot) = self.slots.get_mut(&adapter) {
                    slot.handles = handles;
                }
            }
            Event::Trigger(trigger) => {
                let _ = trigger.progress.send(Progress::Waiting);
                let request = &trigger.request;
                let ask = self.ask(request.scope.clone(), Some(request.mode));
                self.submit(ask, Waiter::Trigger(trigger));
            }
            Event::Noticed { provider, keys } => {
                self.follow_up(&Ask::new(Scope::Keys(provider, keys), Some(Mode::Soft)));
            }
            Event::Changed { provider, key, version } => {
                let of = SecretRef::new(provider.clone(), key.clone());
                let is_behind = |slot: &Slot| slot.is_behind(&of, &version, &self.resolver);
                let behind = self.slots.values().any(is_behind);
                // Where nothing is watched, only who asks for a rotation gets one.
                if behind && !self.options.watch_interval.is_zero() {
                    self.follow_up(&Ask::new(Scope::Keys(provider, vec![key]), None));
                }
            }
            Event::Moved { alias } => {
                let alias = SecretRef::from(alias);
                // One that has a valid secret does not move to a fallback by itself, but back.
                let behind = self.slots.values().any(|slot| slot.serves_fallback(&alias));
                if behind && !self.options.watch_interval.is_zero() {
                    self.follow_up(&self.ask(Scope::Secrets(vec![alias]), None));
                }
            }
            Event::Lagged => self.submit(Ask::new(Scope::All, None), Waiter::Nobody),
            Event::Retry { ask } => {
                if self.unsettled.contains(&ask) {
                    self.submit(ask, Waiter::Nobody);
                }
            }
            Event::Refused { adapter, refusal } => self.refused(&adapter, &refusal),
            Event::Forget { adapter } => {
                if let Some(slot) = self.slots.get_mut(&adapter) {
                    slot.forget_previous(false);
                }
            }
            Event::Absorb { ask, reply } => {
                // The job has gone with its runtime if nobody listens.
                let _ = reply.send(self.absorb(&ask));
            }
            Event::Adopted(adopted) => adopted.into_iter().for_each(|adopted| self.adopt(adopted)),
            Event::Released { job } => self.release(job),
            Event::Drained { adapter, leak } => self.drained(adapter, leak),
            Event::EndedAfterAll { adapter, leak } => {
                if let Some(slot) = self.slots.get_mut(&adapter) {
                    slot.ended_after_all(leak);
                }
            }
            Event::Ended { job, ask, report } => {
                self.release(job);
                self.conclude(&ask, &report);
                self.go_back_where_refused(&ask);
            }
            Event::Status { reply } => {
                let status = self.slots.iter().map(|(id, slot)| slot.status(id)).collect();
                let _ = reply.send(status);
            }
        }
    }

    fn register(&mut self, hook: Arc<dyn LifecycleHook>, reply: oneshot::Sender<Result<()>>) {
        let adapter = hook.id().clone();
        if self.slots.contains_key(&adapter) {
            let message = format!("there is an adapter `{adapter}` already");
            let _ = reply.send(Err(Error::new(ErrorKind::Invalid, message)));
            return;
        }
        if hook.secrets().is_empty() {
            let message = format!("the adapter `{adapter}` depends on no secret");
            let _ = reply.send(Err(Error::new(ErrorKind::Invalid, message)));
            return;
        }
        let needs = match Needs::of(hook.as_ref(), &self.resolver) {
            Ok(needs) => needs,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        self.slots.insert(adapter.clone(), Slot::new(hook, needs));
        let ask = Ask::first_generation(adapter.clone());
        self.submit(ask, Waiter::Registration { adapter, reply });
    }

    /// Queues what is to be rotated, and tells those that run and could still take it in.
    fn submit(&mut self, ask: Ask, waiter: Waiter) {
        if !self.nudges.is_empty() {
            for job in self.gate.in_the_way(&reach(&self.slots, &ask)) {
                if let Some(nudge) = self.nudges.get(&job) {
                    nudge.notify_one();
                }
            }
        }
        self.gate.submit(ask, waiter);
    }

    /// Hands those who wait to a job that reads anew.
    fn absorb(&mut self, ask: &Ask) -> Absorbed {
        let mut absorbed = Absorbed::default();
        for (waiting, waiters) in self.gate.absorb(ask) {
            if waiting.invalidate.is_some() {
                absorbed.invalidate = ask.invalidate.or(waiting.invalidate);
            }
            for waiter in waiters {
                if let Waiter::Trigger(trigger) = waiter {
                    absorbed.progress.push(trigger.progress);
                }
            }
        }
        absorbed
    }

    fn release(&mut self, job: JobId) {
        self.gate.leave(job);
        self.nudges.remove(&job);
    }

    /// Does something when its time has come, unless the runtime has ended by then.
    fn later(&mut self, pause: Duration, event: Event) {
        let back = self.back.clone();
        self.timers.spawn(async move {
            sleep(pause).await;
            let _ = back.send(event);
        });
    }

    /// An ask that knows who may answer for its aliases. What is not defined is said by the
    /// rotation.
    fn ask(&self, scope: Scope, invalidate: Option<Mode>) -> Ask {
        let who = |of: &SecretRef| self.resolver.candidates(of).unwrap_or_default();
        Ask::new(scope, invalidate).knowing(who)
    }

    /// Starts whatever may start.
    fn admit(&mut self) {
        let slots = &self.slots;
        let mut admitted = Vec::new();
        while let Some(next) = self.gate.admit(|ask| reach(slots, ask)) {
            admitted.push(next);
        }
        for (job, ask, waiters) in admitted {
            self.start(job, ask, waiters);
        }
    }

    fn start(&mut self, job: JobId, ask: Ask, waiters: Vec<Waiter>) {
        let nudge = Arc::<Notify>::default();
        self.nudges.insert(job, Arc::clone(&nudge));
        let mut meant: Vec<_> = self.slots.values_mut().filter(|of| of.is_meant(&ask)).collect();
        if ask.invalidate == Some(Mode::Hard) {
            meant.iter_mut().for_each(|slot| slot.forget_previous(true));
        }
        let targets: Vec<_> = meant.iter().map(|slot| slot.target()).collect();
        let instead = ask.back.then(|| meant.iter().find_map(|slot| slot.previous().cloned()));
        let mut rotation = Rotation {
            job,
            id: new_rotation_id(),
            targets,
            instead: instead.flatten(),
            shunned: self.slots.values().flat_map(Slot::shunned).cloned().collect(),
            nudge,
            prepares: Arc::clone(&self.prepares),
            ask,
            instance: self.options.instance.clone(),
            resolver: self.resolver.clone(),
            prepare_timeout: self.options.prepare_timeout,
            drain_timeout: self.options.drain_timeout,
            events: self.back.clone(),
            progress: Vec::new(),
            tally: Arc::clone(&self.tally),
        };
        let mut span = tracing::Span::none();
        let mut registration = None;
        for waiter in waiters {
            match waiter {
                Waiter::Trigger(trigger) => {
                    // Joined triggers share the name, the trace and the patience of the first.
                    if rotation.progress.is_empty() {
                        rotation.id = trigger.request.rotation;
                        span = trigger.span;
                        if let Some(drain_timeout) = trigger.request.drain_timeout {
                            rotation.drain_timeout = drain_timeout;
                        }
                    }
                    rotation.progress.push(trigger.progress);
                }
                Waiter::Registration { adapter, reply } => registration = Some((adapter, reply)),
                Waiter::Nobody => {}
            }
        }
        if let Some((adapter, reply)) = registration {
            let (progress, steps) = mpsc::unbounded_channel();
            rotation.progress.push(progress);
            let back = self.back.clone();
            self.jobs.spawn(async move {
                rotation.run().await;
                let answer = first_generation(&adapter, steps).await;
                // In this order: whoever registers again after a failure finds the name free.
                let _ = back.send(Event::Registered { adapter, answer, reply });
            });
        } else {
            self.jobs.spawn(rotation.run().instrument(span));
        }
    }

    fn adopt(&mut self, adopted: Adopted) {
        let Some(slot) = self.slots.get_mut(&adopted.adapter) else { return };
        let adapter = adopted.adapter.clone();
        let keep = self.options.fall_back_within;
        let keep = (!keep.is_zero() && !adopted.forget).then_some(keep);
        let back = adopted.step == Step::Back;
        let first = slot.adopt(adopted, keep.map(|keep| Instant::now() + keep));
        if back {
            self.tally.went_back(&adapter);
            tracing::warn!(
                target: "oneiric",
                event = event::ADAPTER_WENT_BACK,
                %adapter,
                error = slot.error.as_deref(),
                "an adapter serves the secrets of the generation before"
            );
        }
        if let Some(keep) = keep.filter(|_| slot.previous().is_some()) {
            self.later(keep, Event::Forget { adapter: adapter.clone() });
        }
        if first {
            self.listen(&adapter);
            if !self.options.watch_interval.is_zero() {
                self.follow(&adapter);
            }
        }
    }

    fn drained(&mut self, adapter: AdapterId, leak: Option<Leak>) {
        let Some(slot) = self.slots.get_mut(&adapter) else { return };
        let Some(Leak { error, later }) = leak else { return slot.drained(None) };
        self.last_leak += 1;
        let id = self.last_leak;
        slot.drained(Some(Known { id, error, tells: later.is_some() }));
        if let Some(later) = later {
            let back = self.back.clone();
            self.timers.spawn(async move {
                // A panic in it is as good as never.
                if AssertUnwindSafe(later).catch_unwind().await.is_ok() {
                    let _ = back.send(Event::EndedAfterAll { adapter, leak: id });
                }
            });
        }
    }

    /// Keeps the adapter's secrets fresh, and hears of their changes.
    fn follow(&mut self, adapter: &AdapterId) {
        let Some(slot) = self.slots.get(adapter) else { return };
        let references = slot.hook.secrets().to_vec();
        let (resolver, back, adapter) = (self.resolver.clone(), self.back.clone(), adapter.clone());
        self.jobs.spawn(async move {
            let mut handles = Vec::with_capacity(references.len());
            for reference in references {
                match resolver.handle(&reference).await {
                    Ok(handle) => handles.push(handle),
                    Err(error) => tracing::warn!(
                        target: "oneiric",
                        %adapter,
                        error = error.chain(),
                        "a secret of an adapter cannot be followed"
                    ),
                }
            }
            let _ = back.send(Event::Following { adapter, handles });
        });
    }

    /// Submits what was noticed rather than asked for. A part of something that failed to change
    /// as a whole waits for the rest of it, so that all of its adapters commit or none does.
    fn follow_up(&mut self, ask: &Ask) {
        let mut whole: Vec<Ask> = self.unsettled.clone();
        whole.retain(|unsettled| unsettled.touches(ask));
        if !whole.iter().any(|unsettled| unsettled.includes(ask)) {
            whole.push(ask.clone());
        }
        for part in whole {
            self.submit(part.with(ask.invalidate), Waiter::Nobody);
        }
    }

    /// Notes how a rotation ended, and has what was not taken over tried again later: the store
    /// may have been ahead of the service that the secret is for.
    fn conclude(&mut self, ask: &Ask, report: &InstanceReport) {
        if ask.only.is_some() {
            return;
        }
        if matches!(report.outcome, Outcome::Done | Outcome::NotDrained) {
            self.unsettled.retain(|unsettled| !ask.includes(unsettled));
            return;
        }
        let mut failures = 0;
        for slot in self.slots.values_mut().filter(|slot| slot.is_meant(ask)) {
            let own = report.adapters.iter().find(|of| of.adapter == *slot.hook.id());
            slot.error = own.and_then(|of| of.error.clone()).or_else(|| report.error.clone());
            slot.failures += 1;
            failures = failures.max(slot.failures);
        }
        if failures == 0 || self.options.watch_interval.is_zero() {
            return;
        }
        let retry = self.needed_part(ask);
        let waiting = self
            .gate
            .withdraw(|ask, waiter| retry.includes(ask) && matches!(waiter, Waiter::Nobody));
        if !self.unsettled.contains(&retry) {
            self.unsettled.push(retry.clone());
        }
        // What could not be read is found again by the watcher; what was refused is not.
        if report.outcome == Outcome::RolledBack {
            let bound = FIRST_RETRY.saturating_mul(1 << failures.min(10)).min(LONGEST_RETRY);
            let pause = FIRST_RETRY.max(bound.mul_f64(fastrand::f64()));
            self.later(pause, Event::Retry { ask: retry });
        }
        // Parts of it that were waiting: what the cache learned by this very job waits for the
        // retry, what was noticed since goes on as a whole.
        for part in waiting.iter().filter(|part| part.invalidate.is_some()) {
            self.follow_up(part);
        }
    }

    /// The part of an ask that some adapter needs: a name that nobody uses must not stand in the
    /// way of the others for ever.
    fn needed_part(&self, ask: &Ask) -> Ask {
        let needed = |of: &SecretRef| self.slots.values().any(|slot| slot.needs.have(of));
        ask.part(|reference| match reference.alias() {
            None => needed(reference),
            Some(_) => self.resolver.candidates(reference).iter().flatten().any(needed),
        })
    }
}

/// The secrets that an ask touches.
fn reach(slots: &BTreeMap<AdapterId, Slot>, ask: &Ask) -> Reach {
    let dependent = slots.values().filter(|slot| slot.is_meant(ask));
    ask.reach(dependent.flat_map(|slot| slot.needs.iter()))
}

impl fmt::Debug for LifecycleManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapters: Vec<_> = self.slots.keys().collect();
        f.debug_struct("LifecycleManager").field("adapters", &adapters).finish_non_exhaustive()
    }
}

/// What came of an adapter's first generation.
async fn first_generation(
    adapter: &AdapterId,
    mut steps: mpsc::UnboundedReceiver<Progress>,
) -> Result<()> {
    let mut finished = None;
    while let Some(step) = steps.recv().await {
        if let Progress::Finished(report) = step {
            finished = Some(report);
        }
    }
    let refuse = |why: &str| {
        let message = format!("the adapter `{adapter}` could not be started: {why}");
        Err(Error::new(ErrorKind::Invalid, message))
    };
    match finished {
        None => refuse("the runtime is shutting down"),
        Some(report) => match report.outcome {
            // It serves, even if what it replaced could not be ended.
            Outcome::Done | Outcome::NotDrained => Ok(()),
            _ => {
                let own = report.adapters.into_iter().find_map(|of| of.error);
                refuse(own.or(report.error).as_deref().unwrap_or("it is not known why"))
            }
        },
    }
}
