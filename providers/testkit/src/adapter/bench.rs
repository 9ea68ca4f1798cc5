//! What every case works with: the rig, its credentials, adapters that are driven as the runtime
//! drives them, and a record of everything that they let be printed.

use std::error::Error;
use std::fmt::{Debug, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use oneiric_core::{DrainOutcome, DrainReport, HookError, LifecycleHook, Prepared, Retired};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::rig::{
    AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
};
use crate::capture::Capture;
use crate::report::{Check, Stop, ensure, message};
use crate::rig::Ability;

/// How long a prepare and a unit of work may take where nothing is out of order.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A time limit that is meant to be too short, and a drain deadline that is meant to pass.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// A drain deadline that nothing is meant to wait for.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// How long something may take that has nothing left to wait for.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// How long after its deadline a drain may say how it ended: as long as the runtime waits for it.
const DRAIN_GRACE: Duration = Duration::from_secs(15);
/// How long the server may take to forget a session that has ended.
const SETTLING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// At which await something is dropped at the latest, unless it has ended before.
const LAST_AWAIT: usize = 4096;

pub(crate) struct Bench<'r> {
    pub(crate) rig: &'r dyn AdapterRig,
    /// Part of every value that can hold it. Nothing that is printed may show it.
    canary: String,
    capture: Option<Capture>,
    /// What is searched for.
    needles: Mutex<Vec<Vec<u8>>>,
    printed: Mutex<String>,
}

impl<'r> Bench<'r> {
    pub(crate) fn new(rig: &'r dyn AdapterRig) -> Self {
        let capture = Capture::start();
        let canary = (0..24).map(|_| fastrand::alphanumeric()).collect();
        Self { rig, canary, capture, needles: Mutex::default(), printed: Mutex::default() }
    }

    /// What the adapters of the rig are called.
    pub(crate) async fn name(&self) -> String {
        self.rig.adapter().await.hook().id().to_string()
    }

    /// A new credential.
    pub(crate) async fn mint(&self, kind: Credential) -> Check<Minted> {
        let minted = match self.rig.mint(kind, &self.canary).await {
            Ok(minted) => minted,
            Err(why) if kind == Credential::Accepted => {
                return Err(Stop::Fail(format!("the rig mints no credential: {why}")));
            }
            Err(why) => return Err(Stop::Skip(why)),
        };
        let canary = self.canary.as_bytes();
        let holds = |bytes: &[u8]| bytes.windows(canary.len()).any(|part| part == canary);
        let mut needles = self.needles.lock().unwrap_or_else(PoisonError::into_inner);
        if minted.secrets.values().any(|value| holds(value.expose())) {
            needles.push(canary.to_vec());
        }
        needles.extend(minted.parts.iter().cloned());
        needles.sort();
        needles.dedup();
        Ok(minted)
    }

    pub(crate) async fn accepted(&self) -> Check<Minted> {
        self.mint(Credential::Accepted).await
    }

    /// An adapter without a generation.
    pub(crate) async fn adapter(&self) -> Tried<'_, 'r> {
        let user = self.rig.adapter().await;
        let hook = user.hook();
        self.note(&hook);
        Tried { bench: self, user, hook }
    }

    /// An adapter that serves, with the credential that it has. It has done some work already.
    pub(crate) async fn serving(&self) -> Check<(Tried<'_, 'r>, Minted)> {
        let (tried, first) = (self.adapter().await, self.accepted().await?);
        tried.rotate(&first).await?;
        tried.works_at_once(&first, 3).await?;
        Ok((tried, first))
    }

    /// Skips what holds of those alone that have this habit.
    pub(crate) fn only_with(&self, habit: Habit) -> Check {
        done(self.rig.has(habit))
    }

    /// Whether work that begins after a commit is done with what was committed.
    pub(crate) fn moves_at_commit(&self) -> bool {
        self.rig.has(Habit::MovesAtCommit) == Ability::Done
    }

    /// Puts the server out of order; what the rig cannot play is skipped.
    pub(crate) async fn play(&self, fault: ServerFault) -> Check {
        done(self.rig.fault(fault).await)
    }

    pub(crate) async fn revoke(&self, credential: &Minted) -> Check {
        done(self.rig.revoke(credential.number).await)
    }

    pub(crate) async fn mended(&self) -> Check {
        self.rig.mend().await;
        Ok(())
    }

    /// How often the server was shown it.
    pub(crate) async fn shown(&self, credential: &Minted) -> Check<u64> {
        self.rig.shown(credential.number).await.map_err(Stop::Skip)
    }

    /// Fails if the server still has uses of it after a while; skipped if it cannot tell.
    pub(crate) async fn gone(&self, credential: &Minted, what: &str) -> Check {
        let late = Instant::now() + SETTLING;
        loop {
            let uses = self.rig.uses(credential.number).await.map_err(Stop::Skip)?;
            if uses == 0 {
                return Ok(());
            }
            ensure(Instant::now() < late, || format!("{what}: the server has {uses} uses of it"))?;
            sleep(PAUSE).await;
        }
    }

    /// The same as a part of a case about something else, which goes on where it cannot be told.
    pub(crate) async fn gone_if_told(&self, credential: &Minted, what: &str) -> Check {
        match self.gone(credential, what).await {
            Err(Stop::Skip(_)) => Ok(()),
            told => told,
        }
    }

    /// Remembers how something prints.
    pub(crate) fn note(&self, thing: &impl Debug) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(printed, "{thing:?}\n{thing:#?}").expect("a string takes any text");
    }

    fn note_error(&self, error: &HookError) {
        self.note(error);
        let mut next: Option<&dyn Error> = Some(error);
        while let Some(error) = next {
            self.note(&error.to_string());
            next = error.source();
        }
    }

    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was logged, unless this process has a subscriber of its own.
    pub(crate) fn logged(&self) -> Option<Vec<u8>> {
        self.capture.as_ref().map(Capture::lines)
    }

    pub(crate) fn needles(&self) -> Vec<Vec<u8>> {
        self.needles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn done(ability: Ability) -> Check {
    match ability {
        Ability::Done => Ok(()),
        Ability::Cannot(why) => Err(Stop::Skip(why)),
    }
}

/// The awaits at which something is dropped that ends well if it is not: each of the first ones, and
/// then fewer and fewer, so that its end is reached however many there are.
pub(crate) fn awaits(each: usize) -> impl Iterator<Item = usize> {
    let next = move |last: &usize| Some(last + if *last < each { 1 } else { last / 4 });
    std::iter::successors(Some(1), next).take_while(|of| *of <= LAST_AWAIT)
}

/// Fails unless an end was reached before the last of them.
pub(crate) fn ensure_reached(reached: bool, what: &str) -> Check {
    ensure(reached, || {
        format!("{what} has more than {LAST_AWAIT} awaits, so that its end was not tried")
    })
}

/// One adapter with its users.
pub(crate) struct Tried<'b, 'r> {
    pub(crate) bench: &'b Bench<'r>,
    pub(crate) user: Box<dyn AdapterInUse>,
    pub(crate) hook: Arc<dyn LifecycleHook>,
}

impl Tried<'_, '_> {
    /// Prepares as the runtime does: within a limit, and dropped when it has passed.
    pub(crate) async fn prepare_within(
        &self,
        limit: Duration,
        next: &Minted,
    ) -> Check<Result<Box<dyn Prepared>, HookError>> {
        let preparing = AssertUnwindSafe(self.hook.prepare(&next.secrets)).catch_unwind();
        let outcome = match timeout(limit, preparing).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                return Err(Stop::Fail(format!("prepare panicked: {}", message(panic.as_ref()))));
            }
            Err(_) => Err(HookError::failed("it was not ready in time")),
        };
        self.bench.note(&self.hook);
        if let Err(error) = &outcome {
            self.bench.note_error(error);
        }
        Ok(outcome)
    }

    pub(crate) async fn prepare(
        &self,
        next: &Minted,
    ) -> Check<Result<Box<dyn Prepared>, HookError>> {
        self.prepare_within(PATIENCE, next).await
    }

    /// Prepares what must be ready.
    pub(crate) async fn prepared(&self, next: &Minted) -> Check<Box<dyn Prepared>> {
        self.prepare(next).await?.map_err(|error| {
            Stop::Fail(format!("a good secret was not taken over: {}", chain(&error)))
        })
    }

    /// Prepares what must not be ready, and fails unless it is refused or not, as it should be.
    pub(crate) async fn not_prepared(
        &self,
        limit: Duration,
        next: &Minted,
        refused: bool,
    ) -> Check {
        match self.prepare_within(limit, next).await? {
            Ok(_) => Err(Stop::Fail("it was ready, and nothing can have proven it".into())),
            Err(error) => ensure(error.is_refused() == refused, || {
                let said = if error.is_refused() { "refused" } else { "failed" };
                format!("it is said to be {said}: {}", chain(&error))
            }),
        }
    }

    pub(crate) fn commit(&self, prepared: Box<dyn Prepared>) -> Check<Box<dyn Retired>> {
        let retired = catch_unwind(AssertUnwindSafe(|| prepared.commit())).map_err(|panic| {
            Stop::Fail(format!("the commit panicked: {}", message(panic.as_ref())))
        });
        self.bench.note(&self.hook);
        retired
    }

    /// Begins to drain, as the runtime does, in a task of its own.
    pub(crate) fn draining(&self, retired: Box<dyn Retired>, within: Duration) -> Draining {
        self.draining_until(retired, Instant::now() + within)
    }

    pub(crate) fn draining_until(&self, retired: Box<dyn Retired>, deadline: Instant) -> Draining {
        Draining { deadline, task: tokio::spawn(retired.drain(deadline)) }
    }

    /// How it ended, which must be known soon after the deadline at the latest.
    pub(crate) async fn report(&self, mut draining: Draining) -> Check<DrainReport> {
        let late = draining.deadline.max(Instant::now()) + DRAIN_GRACE;
        match timeout_at(late, &mut draining.task).await {
            Ok(Ok(report)) => {
                self.bench.note(&report);
                Ok(report)
            }
            Ok(Err(error)) => {
                let panic = error.into_panic();
                Err(Stop::Fail(format!("the drain panicked: {}", message(panic.as_ref()))))
            }
            Err(_) => Err(Stop::Fail(format!(
                "the drain had not ended {} s after its deadline",
                DRAIN_GRACE.as_secs()
            ))),
        }
    }

    /// What was drained, which must have been possible, and soon.
    pub(crate) async fn drained(&self, draining: Draining) -> Check<DrainReport> {
        let report = match timeout(SOON, self.report(draining)).await {
            Ok(report) => report?,
            Err(_) => {
                let limit = SOON.as_secs();
                return Err(Stop::Fail(format!(
                    "nobody uses the old one, and draining it takes more than {limit} s"
                )));
            }
        };
        ensure(report.outcome == DrainOutcome::Drained, || {
            format!("nobody uses the old one, and the report is {report:?}")
        })?;
        Ok(report)
    }

    /// Takes it through a whole rotation, which must be possible.
    pub(crate) async fn rotate(&self, next: &Minted) -> Check {
        let retired = self.commit(self.prepared(next).await?)?;
        self.drained(self.draining(retired, LONG)).await?;
        self.works_with(next).await
    }

    /// Does a unit of work.
    pub(crate) async fn work(&self) -> Result<u64, String> {
        let worked = timeout(PATIENCE, self.user.work()).await;
        let worked = worked.unwrap_or_else(|_| Err("it did not end".into()));
        if let Err(error) = &worked {
            self.bench.note(error);
        }
        worked
    }

    /// Does a unit of work, which must be done with this credential.
    pub(crate) async fn works_with(&self, expected: &Minted) -> Check {
        match self.work().await {
            Ok(number) => ensure_number(number, expected),
            Err(error) => Err(Stop::Fail(format!("a unit of work failed: {error}"))),
        }
    }

    /// Does several at once.
    pub(crate) async fn works_at_once(&self, expected: &Minted, units: usize) -> Check {
        let works = (0..units).map(|_| self.works_with(expected));
        join_all(works).await.into_iter().collect()
    }

    /// Works until it succeeds, as users do after an outage. What succeeds must have been done
    /// with this credential.
    pub(crate) async fn recovers(&self, expected: &Minted) -> Check {
        self.comes_to(expected, |number| ensure_number(number, expected)).await
    }

    /// Waits until work is done with this credential, which may take until the drain where the
    /// adapter moves only then.
    pub(crate) async fn moved(&self, expected: &Minted) -> Check {
        self.comes_to(expected, |_| Ok(())).await
    }

    async fn comes_to(&self, expected: &Minted, admits: impl Fn(u64) -> Check) -> Check {
        let late = Instant::now() + SOON;
        loop {
            let worked = self.work().await;
            if let Ok(number) = worked {
                admits(number)?;
                if number == expected.number {
                    return Ok(());
                }
            }
            ensure(Instant::now() < late, || {
                format!("{} s later a unit of work still comes to {worked:?}", SOON.as_secs())
            })?;
            sleep(PAUSE).await;
        }
    }

    /// Begins a unit of work that lasts; skipped where there is none.
    pub(crate) async fn begin(&self, manner: Manner) -> Check<Box<dyn LongWork>> {
        self.user.begin(manner).await.map_err(Stop::Skip)
    }
}

/// An old generation that is being drained.
pub(crate) struct Draining {
    deadline: Instant,
    task: JoinHandle<DrainReport>,
}

impl Draining {
    /// Fails if it says before its time that it is over.
    pub(crate) fn goes_on(&self, why: &str) -> Check {
        ensure(!self.task.is_finished(), || format!("the drain is over, and {why}"))
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn ensure_number(number: u64, expected: &Minted) -> Check {
    ensure(number == expected.number, || {
        let expected = expected.number;
        format!("a unit of work was done with credential {number} and not with {expected}")
    })
}

/// Ends a unit of work that nothing should have cut off.
pub(crate) async fn ensure_finishes(work: Box<dyn LongWork>, expected: &Minted) -> Check {
    match timeout(PATIENCE, work.finish()).await {
        Ok(Ok(number)) => ensure_number(number, expected),
        Ok(Err(error)) => Err(Stop::Fail(format!("a user was cut off: {error}"))),
        Err(_) => Err(Stop::Fail("a unit of work does not end".into())),
    }
}

/// All that an error says, from layer to layer.
fn chain(error: &HookError) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        said = format!("{said}: {error}");
        next = error.source();
    }
    said
}
