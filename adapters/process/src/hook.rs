//! The child at the moments of a rotation.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use oneiric_core::telemetry::event;
use oneiric_core::{
    AdapterId, HookError, LifecycleHook, Prepared, RefusalStream, Result, Retired, SecretRef,
    SecretSet,
};
use oneiric_subprocess::Step;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::child::{needs_launcher, needs_one};
use crate::config::{Config, OnChange, OnExit, Orphans, SignalName};
use crate::delivery::Delivery;
use crate::ending::Ending;
use crate::generation::Generation;
use crate::ground::Ground;
use crate::launcher::Launcher;
use crate::moves::Move;
use crate::ready::Watch;
use crate::slot::{Content, Running, Slot};
use crate::strangers;
use crate::supervise::supervise;

/// The adapter of a child process.
///
/// | moment | `overlap` | `restart` | `signal` |
/// |---|---|---|---|
/// | `prepare` | `prove` runs; a new child is started beside the old one and must become ready | `prove` runs | `prove` runs; the new files are there beside the old ones |
/// | `commit` | the new child counts | the generation is counted | the generation is counted |
/// | `drain` | the old child is stopped | the old child is stopped, a new one is started and must become ready | the files change at one moment; the child is signalled, and must acknowledge |
///
/// The first generation is started in `prepare`, whatever the mode: nothing serves before it. A
/// proof that exits with another code than 75, and a new child that exits before it is ready with
/// another than 0, 75, 126 and 127, *refuse* the secrets; everything else is *failed*. Either way it
/// is cleaned up.
///
/// With `restart` and `signal`, and for instances beyond `at_once`, the move is made right after the
/// commit. Where it fails, the report is *leaked* with the reason, since a child with the old secrets
/// may be running. It is tried again until it works or a newer generation takes over.
///
/// Dropping the hook kills what runs; [`release`](LifecycleHook::release) asks it to end first.
pub struct ProcessHook {
    secrets: Vec<SecretRef>,
    shared: Arc<Shared>,
}

impl ProcessHook {
    /// The adapter. Nothing runs yet.
    ///
    /// # Errors
    /// `Invalid` if the settings make no sense.
    pub fn new(id: AdapterId, config: Config) -> Result<Self> {
        config.check()?;
        let slots = (1..=config.instances).map(Slot::new).collect();
        let shared = Shared {
            id,
            on_change: config.on_change.expect("it was checked that it is there"),
            on_exit: config.on_exit.unwrap_or(OnExit::Restart),
            orphans: config.orphans.unwrap_or(Orphans::Stop),
            secrets: config.secrets(),
            config,
            launcher: None,
            ground: tokio::sync::Mutex::new(None),
            slots,
            numbers: AtomicU64::new(0),
            newest: watch::Sender::new(None),
            turned: Mutex::new(None),
            moving: tokio::sync::Mutex::new(()),
            moved: watch::Sender::new(()),
            runtime: OnceLock::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        Ok(Self { secrets: shared.secrets.clone(), shared: Arc::new(shared) })
    }

    /// How what needs a [launcher](crate::launcher) is started.
    ///
    /// # Panics
    /// If a generation was prepared before.
    #[must_use]
    pub fn with_launcher(mut self, launcher: Launcher) -> Self {
        let shared = Arc::get_mut(&mut self.shared);
        shared.expect("nothing was prepared before the launcher is there").launcher =
            Some(launcher);
        self
    }

    /// Resolves when the last instance has ended by itself and was left (`on_exit = "leave"`), with
    /// the first ending that is no success, or else a success. It may be dropped at any time.
    pub async fn ended(&self) -> Ending {
        let mut result = Ending::Exited(0);
        for slot in &self.shared.slots {
            let mut content = slot.watch();
            let ending = loop {
                if let Content::Left(ending) = &*content.borrow_and_update() {
                    break *ending;
                }
                content.changed().await.expect("the slot is there as long as the hook is");
            };
            if result == Ending::Exited(0) {
                result = ending;
            }
        }
        result
    }

    /// Sends a signal to the process group of each instance that runs.
    pub fn signal(&self, signal: SignalName) {
        for slot in &self.shared.slots {
            if let Some(running) = slot.child() {
                running.child.signal(signal.0);
            }
        }
    }
}

#[async_trait]
impl LifecycleHook for ProcessHook {
    fn id(&self) -> &AdapterId {
        &self.shared.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let shared = &self.shared;
        shared.runtime.get_or_init(Handle::current);
        let is_first = shared.newest.borrow().is_none();
        if !is_first {
            shared.wait_before_a_move().await;
        }
        let generation = shared.generation(next).await?;
        shared.prove(&generation).await?;
        let started = if is_first {
            if shared.on_change == OnChange::Signal {
                shared.turn_to(&generation).await.map_err(|error| cannot_deliver(&error))?;
            }
            shared.start_ready(&generation, shared.slots.iter()).await?
        } else if shared.on_change == OnChange::Overlap {
            let running = shared.slots.iter().filter(|slot| slot.left().is_none());
            shared.start_ready(&generation, running.take(shared.at_once())).await?
        } else {
            Vec::new()
        };
        let shared = Arc::clone(shared);
        Ok(Box::new(Candidate { shared, generation, started, is_first }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }

    async fn release(&self, deadline: Instant) {
        let shared = &self.shared;
        shared.closing.cancel();
        let running = shared.slots.iter().filter_map(|slot| slot.put(Content::Nothing));
        let running: Vec<_> = running.collect();
        join_all(running.iter().map(|running| shared.stop(running, deadline))).await;
        shared.tasks.close();
        // What ends in the background kills at its own time; at ours, dropping it does.
        let _ = timeout_at(deadline, shared.tasks.wait()).await;
        drop(running);
        *shared.turned.lock().unwrap_or_else(PoisonError::into_inner) = None;
        shared.newest.send_replace(None);
        shared.ground.lock().await.take();
    }
}

impl fmt::Debug for ProcessHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHook")
            .field("id", &self.shared.id)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Drop for ProcessHook {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

/// What the hook, its generations and its tasks share.
pub(crate) struct Shared {
    pub(crate) id: AdapterId,
    pub(crate) config: Config,
    secrets: Vec<SecretRef>,
    pub(crate) on_change: OnChange,
    pub(crate) on_exit: OnExit,
    orphans: Orphans,
    launcher: Option<Launcher>,
    /// What children are started from; there from the first `prepare` to the end.
    ground: tokio::sync::Mutex<Option<Arc<Ground>>>,
    pub(crate) slots: Vec<Slot>,
    numbers: AtomicU64,
    /// The generation that was committed last.
    pub(crate) newest: watch::Sender<Option<Arc<Generation>>>,
    /// The generation whose files are the current ones, where children are signalled.
    turned: Mutex<Option<Arc<Generation>>>,
    /// Held by who moves instances.
    pub(crate) moving: tokio::sync::Mutex<()>,
    /// Tells that some instance has other secrets than before.
    pub(crate) moved: watch::Sender<()>,
    /// Where its tasks run, whoever commits or drops something and wherever that is.
    runtime: OnceLock<Handle>,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl Shared {
    pub(crate) fn at_once(&self) -> usize {
        usize::try_from(self.config.at_once).unwrap_or(usize::MAX)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.runtime.get().expect("a generation was prepared in a runtime");
        self.tasks.spawn_on(task, runtime);
    }

    async fn wait_before_a_move(&self) {
        let splay = self.config.splay.mul_f64(fastrand::f64());
        sleep(self.config.quiet + splay).await;
    }

    async fn ground(&self) -> Result<Arc<Ground>, HookError> {
        if self.launcher.is_none() && needs_one(&self.config, self.orphans) {
            return Err(HookError::failed(needs_launcher(&self.config, self.orphans)));
        }
        let mut ground = self.ground.lock().await;
        if self.closing.is_cancelled() {
            return Err(HookError::failed("the adapter is ending"));
        }
        if let Some(ground) = &*ground {
            return Ok(Arc::clone(ground));
        }
        let made = Ground::make(&self.config, self.orphans, self.launcher.clone()).await;
        let made = Arc::new(made.map_err(|error| HookError::failed(error.to_string()))?);
        *ground = Some(Arc::clone(&made));
        self.spawn(strangers::bury(self.closing.clone()));
        Ok(made)
    }

    async fn generation(&self, secrets: &SecretSet) -> Result<Arc<Generation>, HookError> {
        let delivery = Delivery::new(&self.config, secrets)?;
        let ground = self.ground().await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let staged = ground.folder.stage(number, &delivery.files);
        let staged = staged.map_err(|error| cannot_deliver(&error))?;
        let signalled = self.on_change == OnChange::Signal;
        Ok(Arc::new(Generation {
            number,
            adapter: self.id.clone(),
            redactor: delivery.redactor(),
            delivery,
            staged,
            told: signalled.then(|| ground.folder.current()),
        }))
    }

    async fn prove(&self, generation: &Generation) -> Result<(), HookError> {
        let Some(argv) = &self.config.prove else { return Ok(()) };
        let limit = self.config.ready.as_ref().map_or(PROOF, |ready| ready.timeout);
        let step = Step { name: "prove", argv, limit, working_dir: None, pass_env: &[], env: &[] };
        generation.run(&step, &self.config, None).await
    }

    /// Starts a child in each of these places and waits until all of them are ready. If one is not,
    /// none is left.
    pub(crate) async fn start_ready<'a>(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        slots: impl Iterator<Item = &'a Slot>,
    ) -> Result<Vec<(usize, Leaving)>, HookError> {
        let started = slots.map(|slot| async move {
            let watch = Watch::of_a_start(&self.config).await;
            let running = self.start(generation, slot.number).await.map_err(|error| {
                HookError::failed(format!("the process could not be started: {error}"))
                    .caused_by(error)
            })?;
            let running = Leaving::new(Arc::clone(self), running);
            watch.wait(&running.get().child, generation, slot.number).await?;
            self.log(&running.get().child, slot.number, generation.number, event::PROCESS_READY);
            Ok::<_, HookError>((usize::try_from(slot.number - 1).expect("it is an index"), running))
        });
        try_join_all(started).await
    }

    /// Starts a child.
    pub(crate) async fn start(
        &self,
        generation: &Arc<Generation>,
        instance: u32,
    ) -> io::Result<Arc<Running>> {
        let ground = self.ground().await.map_err(io::Error::other)?;
        let child = ground.start(&self.config, generation, instance).await?;
        self.log(&child, instance, generation.number, event::PROCESS_STARTED);
        Ok(Arc::new(Running::new(child, instance, Arc::clone(generation))))
    }

    /// Ends a child, by force at the deadline or after its own time. Says whether it came to that.
    pub(crate) async fn stop(&self, running: &Running, deadline: Instant) -> bool {
        let deadline = deadline.min(Instant::now() + self.config.kill_timeout);
        let forced = running.child.stop(self.config.stop_signal.0, deadline).await;
        let event = if forced { event::PROCESS_KILLED } else { event::PROCESS_STOPPED };
        self.log(&running.child, running.instance, running.generation().number, event);
        forced
    }

    /// Makes the files of this generation the current ones.
    pub(crate) async fn turn_to(&self, generation: &Arc<Generation>) -> io::Result<()> {
        let ground = self.ground().await.map_err(io::Error::other)?;
        let mut turned = self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        ground.folder.turn_to(&generation.staged)?;
        *turned = Some(Arc::clone(generation));
        Ok(())
    }

    /// The secrets that a child gets which is started in the place of this one, which has ended by
    /// itself: those that it had, and where the newest are what it is told of, those.
    pub(crate) fn generation_after(&self, ended: &Running) -> Arc<Generation> {
        let newest = match self.on_change {
            OnChange::Signal => self.turned.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            OnChange::Keep => self.newest.borrow().clone(),
            OnChange::Overlap | OnChange::Restart => None,
        };
        newest.unwrap_or_else(|| ended.generation())
    }

    /// Whether no instance has older secrets than these.
    pub(crate) fn have_all(&self, number: u64) -> bool {
        self.slots.iter().all(|slot| match slot.child() {
            Some(running) => running.generation().number >= number,
            None => slot.left().is_some(),
        })
    }

    pub(crate) fn log(
        &self,
        child: &crate::leader::Leader,
        instance: u32,
        generation: u64,
        event: &'static str,
    ) {
        let pid = child.pid.as_raw_nonzero();
        let adapter = &self.id;
        tracing::info!(target: "oneiric", event, %adapter, instance, generation, pid, "{event}");
    }
}

/// How long a proof may take where nothing is said of how long a start may.
const PROOF: Duration = Duration::from_secs(30);

fn cannot_deliver(error: &io::Error) -> HookError {
    HookError::failed(format!("the files of the process cannot be written ({error})"))
}

/// A child that nobody has put anywhere. Dropping it ends it, as gently as is set, in the
/// background.
pub(crate) struct Leaving {
    shared: Arc<Shared>,
    running: Option<Arc<Running>>,
}

impl Leaving {
    pub(crate) fn new(shared: Arc<Shared>, running: Arc<Running>) -> Self {
        Self { shared, running: Some(running) }
    }

    pub(crate) fn get(&self) -> &Arc<Running> {
        self.running.as_ref().expect("it is taken out at the very end only")
    }

    pub(crate) fn keep(mut self) -> Arc<Running> {
        self.running.take().expect("it is taken out at the very end only")
    }

    /// Says whether it had to be killed.
    pub(crate) async fn stop(mut self, deadline: Instant) -> bool {
        let forced = self.shared.stop(self.get(), deadline).await;
        self.running = None;
        forced
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + shared.config.kill_timeout;
        self.shared.spawn(async move {
            shared.stop(&running, deadline).await;
        });
    }
}

/// A generation that is ready, and the children that were started with it.
struct Candidate {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    started: Vec<(usize, Leaving)>,
    is_first: bool,
}

impl Prepared for Candidate {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let Self { shared, generation, started, is_first } = *self;
        shared.newest.send_replace(Some(Arc::clone(&generation)));
        let mut old = Vec::new();
        for (index, running) in started {
            let slot = &shared.slots[index];
            if slot.left().is_some() {
                // It has ended meanwhile and was left: so is its place.
                continue;
            }
            let replaced = slot.put(Content::Child(running.keep()));
            old.extend(replaced.map(|replaced| Leaving::new(Arc::clone(&shared), replaced)));
        }
        if is_first {
            for (index, slot) in shared.slots.iter().enumerate() {
                shared.spawn(supervise(Arc::downgrade(&shared), index, slot.watch()));
            }
        }
        shared.moved.send_replace(());
        Box::new(Move { shared, generation, old })
    }
}
