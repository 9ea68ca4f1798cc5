//! The runtime of one process: a handle for those who use it, and the task that does the work.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oneiric_core::{
    Error, ErrorKind, InstanceId, LifecycleHook, Managed, ManagedAdapter, ProviderId, Result,
    RotationId, SecretProvider, SecretRef,
};
use oneiric_secrets::{Mode, Resolver, Scope};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::{AdminOptions, AdminServer};
use crate::manager::{Event, LifecycleManager, Trigger};
use crate::outlook::{Bound, Pace, Watching};
use crate::report::{InstanceReport, InstanceStatus, Outcome, Progress, ProviderStatus};
use crate::watcher::{SecretRefreshWatcher, Sight};

/// How a runtime behaves. The defaults are those of the settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// The name of this process among all that are asked to rotate.
    pub instance: InstanceId,
    /// How often providers are swept for changes; zero watches nothing.
    pub watch_interval: Duration,
    /// How often one that tells of changes by itself is swept, where each question costs something;
    /// less than `watch_interval` has no effect.
    pub push_sweep_interval: Duration,
    /// How long an adapter may take to build and prove a generation, from when it is its turn.
    pub prepare_timeout: Duration,
    /// How many adapters do so at a time.
    pub prepares_at_once: NonZeroUsize,
    /// For how long after a swap an adapter may go back to the secrets from before it, where those
    /// that it was given are refused in use and the store has none newer. They stay in memory for
    /// that long; zero keeps none.
    pub fall_back_within: Duration,
    /// How long users of an old generation have to end, unless a rotation says otherwise.
    pub drain_timeout: Duration,
    /// How long a shutdown waits for what is running.
    pub shutdown_grace: Duration,
    /// Where rotations are asked for from outside, if anywhere.
    pub admin: Option<AdminOptions>,
}

impl RuntimeOptions {
    /// The defaults, without an admin endpoint.
    pub fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            watch_interval: Duration::from_secs(30),
            push_sweep_interval: Duration::from_secs(600),
            prepare_timeout: Duration::from_secs(30),
            prepares_at_once: const { NonZeroUsize::new(64).unwrap() },
            fall_back_within: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(10),
            admin: None,
        }
    }

    /// Makes the runtime: a handle to use it with and the task that does its work. Binds the
    /// admin endpoint; nothing runs before [`RuntimeTask::run`].
    ///
    /// # Errors
    /// If the admin endpoint cannot be bound, saying where and why.
    pub fn build(self, resolver: Resolver) -> Result<(Runtime, RuntimeTask)> {
        let (events, inbox) = mpsc::unbounded_channel();
        let runtime = Runtime {
            resolver: resolver.clone(),
            instance: self.instance.clone(),
            started: Instant::now(),
            sights: Arc::new(
                resolver.providers().map(|(id, _)| (id.clone(), Arc::default())).collect(),
            ),
            pace: Pace::new(self.watch_interval, self.push_sweep_interval, resolver.ttl()),
            events,
        };
        let admin = self.admin.clone().map(|admin| admin.bind(&self.instance)).transpose()?;
        let manager = LifecycleManager::new(self, resolver, inbox);
        Ok((runtime.clone(), RuntimeTask { runtime, manager, admin }))
    }
}

/// A handle to the runtime of this process. Clones are cheap and reach the same one.
#[derive(Clone)]
pub struct Runtime {
    resolver: Resolver,
    instance: InstanceId,
    started: Instant,
    pace: Pace,
    /// What the watchers see of each provider.
    sights: Arc<BTreeMap<ProviderId, Arc<Sight>>>,
    events: mpsc::UnboundedSender<Event>,
}

/// What is to be rotated, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RotateRequest {
    /// The name of the rotation, the same in every instance that is asked.
    pub rotation: RotationId,
    /// Which secrets.
    pub scope: Scope,
    /// Soft, hard or a roll-back.
    pub mode: Mode,
    /// How long users of old generations have to end; the runtime's own time if `None`.
    pub drain_timeout: Option<Duration>,
}

impl RotateRequest {
    /// A soft rotation under a new name.
    pub fn new(scope: Scope) -> Self {
        Self { rotation: new_rotation_id(), scope, mode: Mode::Soft, drain_timeout: None }
    }
}

/// A new name for a rotation, in the order of time.
pub fn new_rotation_id() -> RotationId {
    let id = uuid::Uuid::now_v7().to_string();
    id.parse().expect("a UUID is a valid rotation id")
}

impl Runtime {
    /// The door to secrets.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The name of this process.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Takes an adapter in: builds, proves and commits its first generation, and from then on
    /// carries every change of its secrets through to it.
    ///
    /// # Errors
    /// Those of reading its secrets; `Invalid` if its first generation could not be built or
    /// proven, or its id is taken; `Unavailable` if the runtime is not running.
    pub async fn register(&self, hook: Arc<dyn LifecycleHook>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Register { hook, reply })?;
        answer.await.map_err(|_| not_running())?
    }

    /// Takes several adapters in, one after the other, once everything that they need was read: each
    /// secret once, in as few calls as the stores allow.
    ///
    /// # Errors
    /// If a secret cannot be had that is required: every one of them, with the adapters that need it,
    /// and then none was taken in. As [`register`](Self::register) for the first adapter that could not be taken
    /// in; the error names those before it, which serve.
    pub async fn register_all(
        &self,
        hooks: impl IntoIterator<Item = Arc<dyn LifecycleHook>>,
    ) -> Result<()> {
        let hooks: Vec<_> = hooks.into_iter().collect();
        let needs = |hook: &Arc<dyn LifecycleHook>| {
            let id = hook.id().clone();
            hook.secrets().iter().map(move |of| (id.clone(), of.clone())).collect::<Vec<_>>()
        };
        let (adapters, secrets): (Vec<_>, Vec<_>) = hooks.iter().flat_map(needs).unzip();
        let answers = self.resolver.prefetch(&secrets).await;
        let mut missing = Vec::new();
        let mut kind = None;
        for ((adapter, secret), answer) in adapters.iter().zip(&secrets).zip(answers) {
            if let Err(error) = answer
                && !self.resolver.may_be_absent(secret, &error)
            {
                kind = kind.or(Some(error.kind()));
                let what = self.described(secret);
                missing.push(format!("adapter `{adapter}` needs {what}: {}", error.chain()));
            }
        }
        if let Some(kind) = kind {
            return Err(Error::new(kind, missing.join("; ")));
        }
        let mut serving: Vec<String> = Vec::new();
        for hook in hooks {
            let id = hook.id().clone();
            if let Err(error) = self.register(hook).await {
                let message = match serving.as_slice() {
                    [] => format!("adapter `{id}` cannot start"),
                    before => {
                        let before = before.join(", ");
                        format!("adapter `{id}` cannot start, while {before} serve already")
                    }
                };
                return Err(error.context(message));
            }
            serving.push(format!("`{id}`"));
        }
        Ok(())
    }

    /// A secret in words: of an alias also where it is and what it is for.
    fn described(&self, secret: &SecretRef) -> String {
        let Some(settings) = self.resolver.alias(secret) else { return format!("`{secret}`") };
        let places: Vec<_> = settings.candidates.iter().map(|of| format!("`{of}`")).collect();
        let places = places.join(" or ");
        match &settings.description {
            Some(description) => format!("`{secret}` ({places}, {description})"),
            None => format!("`{secret}` ({places})"),
        }
    }

    /// The same as [`register`](Self::register) for a [`ManagedAdapter`], such as a
    /// [`ManagedHook`](oneiric_core::ManagedHook), giving the reader of its generations.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub async fn manage<A: ManagedAdapter>(&self, hook: A) -> Result<Managed<A::Value>> {
        let hook = Arc::new(hook);
        self.register(Arc::clone(&hook) as _).await?;
        Ok(hook.managed().expect("a registered hook has a first generation"))
    }

    /// Rotates: invalidates, reads the new versions, prepares every adapter that depends on them,
    /// commits all or none, and drains the old generations. Returns when that is over. Dropping
    /// the future does not stop it.
    pub async fn rotate(&self, request: RotateRequest) -> InstanceReport {
        let mut progress = self.rotate_with_progress(request);
        while let Some(step) = progress.recv().await {
            if let Progress::Finished(report) = step {
                return report;
            }
        }
        self.broken_off(Outcome::Ambiguous)
    }

    /// The same, told step by step; the last one is [`Progress::Finished`], unless the runtime
    /// ends before.
    pub fn rotate_with_progress(
        &self,
        request: RotateRequest,
    ) -> mpsc::UnboundedReceiver<Progress> {
        let (progress, steps) = mpsc::unbounded_channel();
        let span = tracing::Span::current();
        let trigger = Trigger { request, progress: progress.clone(), span };
        if self.send(Event::Trigger(trigger)).is_err() {
            let _ = progress.send(Progress::Finished(self.broken_off(Outcome::Failed)));
        }
        steps
    }

    /// The state of this instance and its adapters.
    ///
    /// # Errors
    /// `Unavailable` if the runtime is not running.
    pub async fn status(&self) -> Result<InstanceStatus> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Status { reply })?;
        let adapters = answer.await.map_err(|_| not_running())?;
        Ok(InstanceStatus {
            instance: self.instance.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            adapters,
            providers: self.providers(),
        })
    }

    /// How each provider is watched at this moment.
    fn providers(&self) -> Vec<ProviderStatus> {
        let status = |(id, provider): (&ProviderId, &Arc<dyn SecretProvider>)| {
            let descriptor = provider.descriptor();
            let sight = self.sights.get(id);
            let live = sight.is_some_and(|sight| sight.live.load(Ordering::Relaxed));
            let watching = Watching {
                capabilities: descriptor.capabilities,
                detection: descriptor.detection,
                keys: self.resolver.cached(id).len() + self.resolver.awaited(id).len(),
                pace: self.pace,
                live,
            };
            let outlook = watching.outlook();
            let (worst_case_s, at_least_s) = match outlook.noticed {
                Some(Bound::Within(duration)) => (Some(duration.as_secs_f64()), None),
                Some(Bound::AtLeast(duration)) => (None, Some(duration.as_secs_f64())),
                None => (None, None),
            };
            ProviderStatus {
                provider: id.clone(),
                kind: descriptor.kind.to_owned(),
                mode: outlook.mode.token().to_owned(),
                push_lost: descriptor.capabilities.push && !self.pace.interval.is_zero() && !live,
                keys: watching.keys,
                worst_case_s,
                at_least_s,
                calls_a_day: outlook.calls_a_day.round(),
                usd_a_month: outlook.usd_a_month,
                missed_events: sight.map_or(0, |sight| sight.missed.load(Ordering::Relaxed)),
            }
        };
        self.resolver.providers().map(status).collect()
    }

    pub(crate) fn send(&self, event: Event) -> Result<()> {
        self.events.send(event).map_err(|_| not_running())
    }

    fn broken_off(&self, outcome: Outcome) -> InstanceReport {
        InstanceReport {
            instance: self.instance.clone(),
            outcome,
            error: Some(not_running().to_string()),
            keys: Vec::new(),
            adapters: Vec::new(),
            duration_ms: 0.0,
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// The work of a runtime: the lifecycle manager, a watcher for each provider, the admin endpoint.
#[derive(Debug)]
pub struct RuntimeTask {
    runtime: Runtime,
    manager: LifecycleManager,
    admin: Option<AdminServer>,
}

impl RuntimeTask {
    /// Does the work until `shutdown`, then ends everything in order: no new rotation is taken,
    /// those that run end or are cut off at the grace time, the admin endpoint closes, and every
    /// task that was spawned is awaited. Generations that serve go on serving.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { runtime, manager, admin } = self;
        let grace = manager.shutdown_grace();
        let tasks = tokio_util::task::TaskTracker::new();
        let resolver = runtime.resolver.clone();
        if !runtime.pace.interval.is_zero() {
            for (id, provider) in resolver.providers() {
                let watcher = SecretRefreshWatcher::new(
                    id.clone(),
                    Arc::clone(provider),
                    runtime.clone(),
                    runtime.pace,
                    manager.tally(),
                    runtime.sights.get(id).map(Arc::clone).unwrap_or_default(),
                );
                tasks.spawn(watcher.run(shutdown.clone()));
            }
        }
        if let Some(admin) = admin {
            tasks.spawn(admin.run(runtime.clone(), shutdown.clone()));
        }
        drop(runtime);
        manager.run(shutdown.clone()).await;
        tasks.close();
        let deadline = Instant::now() + grace;
        if tokio::time::timeout_at(deadline, tasks.wait()).await.is_err() {
            tracing::warn!(target: "oneiric", "the shutdown grace time has passed");
        }
        resolver.shutdown(deadline).await;
    }
}

fn not_running() -> Error {
    Error::new(ErrorKind::Unavailable, "the runtime is not running")
}
