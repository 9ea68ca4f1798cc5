//! How instances are moved to a generation that was committed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use oneiric_core::telemetry::event;
use oneiric_core::{DrainReport, HookError, Retired};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::OnChange;
use crate::generation::Generation;
use crate::hook::{Leaving, Shared};
use crate::ready::Watch;
use crate::slot::{Content, Running, Slot};

/// The first pause before a move that failed is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What it takes to see the end of what was killed at the deadline.
const KILLED: Duration = Duration::from_secs(2);

/// What is left to do for a generation that was committed: those that it has replaced end, and the
/// instances that have older secrets move.
pub(crate) struct Move {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: Arc<Generation>,
    pub(crate) old: Vec<Leaving>,
}

#[async_trait]
impl Retired for Move {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let (first, told) = oneshot::channel();
        let (shared, generation) = (Arc::clone(&self.shared), Arc::clone(&self.generation));
        // It goes on if nobody waits any more: between two children there must be no end.
        shared.spawn(self.carry_out(deadline, first));
        let report = match timeout_at(deadline + KILLED, told).await {
            Ok(Ok(Ok(0))) => return DrainReport::drained(),
            Ok(Ok(Ok(forced))) => return DrainReport::forced(forced),
            Ok(Ok(Err(error))) => DrainReport::leaked(1).with_error(error.to_string()),
            Ok(Err(_)) => DrainReport::leaked(1).with_error("the process was not moved"),
            Err(_) => {
                DrainReport::leaked(1).with_error("the process has not moved by the deadline")
            }
        };
        report.ended_by(have_all(shared, generation.number))
    }
}

impl Move {
    async fn carry_out(self, deadline: Instant, first: oneshot::Sender<Result<usize, HookError>>) {
        let Self { shared, generation, old } = self;
        let stopped = join_all(old.into_iter().map(|old| old.stop(deadline))).await;
        let mut forced = stopped.into_iter().filter(|forced| *forced).count();
        let mut first = Some(first);
        let mut pause = FIRST_PAUSE;
        let mut deadline = deadline;
        loop {
            let tried = tokio::select! {
                () = shared.closing.cancelled() => return,
                tried = attempt(&shared, &generation, deadline, &mut forced) => tried,
            };
            let done = tried.is_ok();
            if let Err(error) = &tried {
                let (adapter, number) = (&shared.id, generation.number);
                tracing::warn!(
                    target: "oneiric",
                    event = event::PROCESS_NOT_MOVED,
                    %adapter,
                    generation = number,
                    %error,
                    "a child process was not moved"
                );
            }
            if let Some(first) = first.take() {
                let _ = first.send(tried.map(|()| forced));
            }
            if done {
                return;
            }
            let mut newest = shared.newest.subscribe();
            tokio::select! {
                () = shared.closing.cancelled() => return,
                () = sleep(pause) => {}
                _ = newest.wait_for(|newest| is_newer(newest.as_ref(), &generation)) => return,
            }
            pause = LONGEST_PAUSE.min(2 * pause);
            // The rotation is over: from here on a child has all of its own time to end.
            deadline = Instant::now() + shared.config.kill_timeout;
        }
    }
}

/// Moves every instance that has older secrets, as many at a time as is set.
async fn attempt(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    deadline: Instant,
    forced: &mut usize,
) -> Result<(), HookError> {
    let moving = shared.moving.lock().await;
    if is_newer(shared.newest.borrow().as_ref(), generation) {
        drop(moving);
        // Whoever is newer moves them, past these.
        have_all(Arc::clone(shared), generation.number).await;
        return Ok(());
    }
    if shared.closing.is_cancelled() || shared.have_all(generation.number) {
        return Ok(());
    }
    match shared.on_change {
        OnChange::Keep => {
            return Err(HookError::failed(
                "the process keeps the secrets that it was started with (`on_change = \"keep\"`)",
            ));
        }
        OnChange::Signal => shared.turn_to(generation).await.map_err(|error| {
            HookError::failed(format!("the new files cannot be put in place ({error})"))
        })?,
        OnChange::Overlap | OnChange::Restart => {}
    }
    let older = shared.slots.iter().filter_map(|slot| {
        let running = slot.child()?;
        (running.generation().number < generation.number).then_some((slot, running))
    });
    let older: Vec<_> = older.collect();
    for batch in older.chunks(shared.at_once()) {
        let moves = batch.iter().map(|(slot, running)| async move {
            match shared.on_change {
                OnChange::Signal => signal(shared, generation, slot, running).await.map(|()| false),
                OnChange::Restart => restart(shared, generation, slot, running, deadline).await,
                _ => overlap(shared, generation, slot, running, deadline).await,
            }
        });
        for moved in join_all(moves).await {
            *forced += usize::from(moved?);
        }
    }
    // One that was being started again when it was its turn has missed it.
    if shared.have_all(generation.number) || shared.closing.is_cancelled() {
        Ok(())
    } else {
        Err(HookError::failed("an instance was being started again while it was to be moved"))
    }
}

/// Starts a new child, and then stops the old one.
async fn overlap(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    slot: &Slot,
    old: &Arc<Running>,
    deadline: Instant,
) -> Result<bool, HookError> {
    let started = shared.start_ready(generation, std::iter::once(slot)).await?;
    for (_, next) in started {
        if !slot.replace(old, Content::Child(Arc::clone(next.get()))) {
            return Err(HookError::failed("the old process ended while a new one was started"));
        }
        next.keep();
    }
    shared.moved.send_replace(());
    Ok(Leaving::new(Arc::clone(shared), Arc::clone(old)).stop(deadline).await)
}

/// Stops the old child, and then starts a new one; and one with the old secrets if that does not
/// come up.
async fn restart(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    slot: &Slot,
    old: &Arc<Running>,
    deadline: Instant,
) -> Result<bool, HookError> {
    if !slot.replace(old, Content::Nothing) {
        return Err(HookError::failed("the old process ended when it was to be stopped"));
    }
    let before = old.generation();
    let forced = Leaving::new(Arc::clone(shared), Arc::clone(old)).stop(deadline).await;
    match shared.start_ready(generation, std::iter::once(slot)).await {
        Ok(started) => {
            for (_, next) in started {
                slot.put(Content::Child(next.keep()));
            }
            shared.moved.send_replace(());
            Ok(forced)
        }
        Err(error) if shared.closing.is_cancelled() => Err(error),
        Err(error) => {
            let what = match shared.start(&before, slot.number).await {
                Ok(running) => {
                    slot.put(Content::Child(running));
                    "so one with the old secrets was started again".to_owned()
                }
                Err(again) => {
                    // It is looked after like one that has ended.
                    slot.put(Content::Child(Arc::clone(old)));
                    format!("and one with the old secrets cannot be started again ({again})")
                }
            };
            Err(HookError::failed(format!("the new process did not come up, {what}: {error}")))
        }
    }
}

/// Signals the child, and waits until it has acknowledged.
async fn signal(
    shared: &Arc<Shared>,
    generation: &Arc<Generation>,
    slot: &Slot,
    running: &Arc<Running>,
) -> Result<(), HookError> {
    let signal = shared.config.signal.expect("it was checked that there is one");
    let watch = Watch::of_a_signal(&shared.config);
    running.child.signal(signal.0);
    watch.wait(&running.child, generation, slot.number).await.map_err(|error| {
        HookError::failed(format!("the process has not acknowledged `{signal}`: {error}"))
    })?;
    running.took(Arc::clone(generation));
    shared.log(&running.child, slot.number, generation.number, event::PROCESS_READY);
    shared.moved.send_replace(());
    Ok(())
}

fn is_newer(newest: Option<&Arc<Generation>>, generation: &Generation) -> bool {
    newest.is_some_and(|newest| newest.number > generation.number)
}

/// Resolves when no instance has older secrets than these.
async fn have_all(shared: Arc<Shared>, number: u64) {
    let mut moved = shared.moved.subscribe();
    loop {
        moved.borrow_and_update();
        if shared.have_all(number) || moved.changed().await.is_err() {
            return;
        }
    }
}
