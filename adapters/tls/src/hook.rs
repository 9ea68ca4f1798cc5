//! The adapter: generations of TLS, and the question whether they are what is served.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::join_all;
use oneiric_core::{
    AdapterId, DrainOutcome, DrainReport, HookError, LifecycleHook, Managed, ManagedAdapter,
    ManagedHook, Prepared, RefusalStream, Retired, SecretRef, SecretSet,
};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::probe::{Served, served};
use crate::tally::Expiry;

/// The first pause between two questions to a listener. Each is twice as long as the one before, up
/// to the longest before the drain deadline, or after it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_AFTER_DEADLINE: Duration = Duration::from_secs(60);

/// A listener that is asked for what it serves.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) address: String,
    pub(crate) name: ServerName<'static>,
}

/// What a generation says of itself.
pub(crate) struct Facts<T> {
    /// When the first of its certificates ends, if it has one.
    pub(crate) ends: fn(&T) -> Option<SystemTime>,
    /// The certificate that it presents to those who ask for a name.
    pub(crate) presents: fn(&T, &ServerName<'_>) -> Option<CertificateDer<'static>>,
}

impl<T> Clone for Facts<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Facts<T> {}

/// The [`LifecycleHook`] of TLS. `Runtime::manage` takes it, and hands out its
/// [reader](Self::managed).
///
/// # Drain
/// It waits for the connections of the old generation, and asks each listener that is
/// [read back](crate::TlsServer::read_back), all of them side by side, until it presents the
/// committed certificate. Each listener that does not by the deadline, or cannot be asked, makes the
/// report *leaked*, counts as one user and is quoted in it; the asking goes on, at pauses of up to a
/// minute.
pub struct TlsHook<T> {
    hook: Arc<ManagedHook<T>>,
    /// Set by the first commit, for those who build the next generation.
    current: Arc<OnceLock<Managed<T>>>,
    points: Arc<[Point]>,
    facts: Facts<T>,
    expiry: Arc<Expiry>,
    /// The newest generation that every listener was seen to serve.
    served: Arc<watch::Sender<u64>>,
}

impl<T: Send + Sync + 'static> TlsHook<T> {
    pub(crate) fn new(
        hook: ManagedHook<T>,
        current: Arc<OnceLock<Managed<T>>>,
        points: Vec<Point>,
        facts: Facts<T>,
    ) -> Self {
        let expiry = Expiry::of(hook.id());
        let (hook, points, served) = (Arc::new(hook), points.into(), Arc::default());
        Self { hook, current, points, facts, expiry, served }
    }

    /// One proof more, by a real use, before a generation serves. See [`ManagedHook::prove`].
    #[must_use]
    pub fn prove<P, F>(self, prove: P) -> Self
    where
        P: Fn(Arc<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.map(|hook| hook.prove(prove))
    }

    /// Gives the connections of an old generation this long to end, where a rotation would give
    /// them more. See [`ManagedHook::drain_within`].
    #[must_use]
    pub fn drain_within(self, within: Duration) -> Self {
        self.map(|hook| hook.drain_within(within))
    }

    /// The reader, once the first generation was committed.
    pub fn managed(&self) -> Option<Managed<T>> {
        self.hook.managed()
    }

    fn map(self, change: impl FnOnce(ManagedHook<T>) -> ManagedHook<T>) -> Self {
        let hook = Arc::into_inner(self.hook).expect("only what is prepared shares the hook");
        Self { hook: Arc::new(change(hook)), ..self }
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> LifecycleHook for TlsHook<T> {
    fn id(&self) -> &AdapterId {
        self.hook.id()
    }

    fn secrets(&self) -> &[SecretRef] {
        self.hook.secrets()
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let inner = self.hook.prepare(next).await?;
        Ok(Box::new(Candidate {
            inner,
            hook: Arc::clone(&self.hook),
            current: Arc::clone(&self.current),
            points: Arc::clone(&self.points),
            facts: self.facts,
            expiry: Arc::clone(&self.expiry),
            served: Arc::clone(&self.served),
        }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        self.hook.refusals()
    }

    async fn release(&self, deadline: Instant) {
        self.hook.release(deadline).await;
    }
}

impl<T: Send + Sync + 'static> ManagedAdapter for TlsHook<T> {
    type Value = T;

    fn managed(&self) -> Option<Managed<T>> {
        self.managed()
    }
}

impl<T> fmt::Debug for TlsHook<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsHook").field("hook", &self.hook).field("points", &self.points).finish()
    }
}

struct Candidate<T> {
    inner: Box<dyn Prepared>,
    hook: Arc<ManagedHook<T>>,
    current: Arc<OnceLock<Managed<T>>>,
    points: Arc<[Point]>,
    facts: Facts<T>,
    expiry: Arc<Expiry>,
    served: Arc<watch::Sender<u64>>,
}

impl<T: Send + Sync + 'static> Prepared for Candidate<T> {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let retired = self.inner.commit();
        let mut is_first = false;
        let managed = self.current.get_or_init(|| {
            is_first = true;
            self.hook.managed().expect("there is a reader after the first commit")
        });
        let committed = managed.load();
        self.expiry.set((self.facts.ends)(&committed));
        if is_first || self.points.is_empty() {
            return retired;
        }
        Box::new(Replaced {
            retired,
            question: Question {
                managed: managed.clone(),
                generation: committed.generation(),
                points: self.points,
                facts: self.facts,
                expiry: self.expiry,
                served: self.served,
            },
        })
    }
}

/// A generation that was replaced, and listeners that may not know it.
struct Replaced<T> {
    retired: Box<dyn Retired>,
    question: Question<T>,
}

#[async_trait]
impl<T: Send + Sync + 'static> Retired for Replaced<T> {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let Self { retired, question } = *self;
        let (mut report, wrong) =
            tokio::join!(retired.drain(deadline), question.until(Some(deadline)));
        if wrong.is_empty() {
            return report;
        }
        let held = match report.outcome {
            DrainOutcome::Leaked => report.in_flight,
            _ => 0,
        };
        // The listeners are among those who still use the old generation.
        let held = held + wrong.len();
        let error = wrong.into_iter().chain(report.error.take()).collect::<Vec<_>>().join("; ");
        let later = report.take_later();
        DrainReport::leaked(held).with_error(error).ended_by(async move {
            question.until_served().await;
            if let Some(later) = later {
                later.await;
            }
        })
    }
}

/// Whether the listeners serve what is committed.
struct Question<T> {
    managed: Managed<T>,
    /// The one whose commit it is about.
    generation: u64,
    points: Arc<[Point]>,
    facts: Facts<T>,
    expiry: Arc<Expiry>,
    served: Arc<watch::Sender<u64>>,
}

/// When what each listener presented last ends, as far as it is known.
type Ends = Mutex<Vec<Option<SystemTime>>>;

impl<T> Question<T> {
    /// Asks for as long as it takes. Once there is a newer generation, that one's question asks for
    /// both.
    async fn until_served(&self) {
        tokio::select! {
            _ = self.until(None) => return,
            () = self.newer() => {}
        }
        // The sender is ours.
        let _ = self.served.subscribe().wait_for(|served| *served > self.generation).await;
    }

    /// Resolves when a newer generation serves.
    async fn newer(&self) {
        let retired = {
            let current = self.managed.load();
            (current.generation() == self.generation).then(|| current.retired())
        };
        if let Some(retired) = retired {
            retired.await;
        }
    }

    /// Asks every listener until it does, or until the deadline, and each at least once. Says why
    /// of those that do not.
    async fn until(&self, deadline: Option<Instant>) -> Vec<String> {
        let ends = Mutex::new(vec![None; self.points.len()]);
        let ask = |place| self.ask_until(place, deadline, &ends);
        let answers = join_all((0..self.points.len()).map(ask)).await;
        let wrong: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() {
            self.expiry.set((self.facts.ends)(&self.managed.load()));
            self.served.send_if_modified(|served| {
                let is_newer = *served < self.generation;
                *served = (*served).max(self.generation);
                is_newer
            });
        }
        wrong
    }

    /// The same for the listener at one place.
    async fn ask_until(
        &self,
        place: usize,
        deadline: Option<Instant>,
        ends: &Ends,
    ) -> Result<(), String> {
        let longest = if deadline.is_some() { LONGEST_PAUSE } else { LONGEST_AFTER_DEADLINE };
        let mut pause = FIRST_PAUSE;
        while let Err(why) = self.ask(place, ends).await {
            match deadline {
                None => sleep(pause).await,
                Some(deadline) if Instant::now() >= deadline => return Err(why),
                Some(deadline) => sleep_until(deadline.min(Instant::now() + pause)).await,
            }
            pause = longest.min(2 * pause);
        }
        Ok(())
    }

    async fn ask(&self, place: usize, ends: &Ends) -> Result<(), String> {
        let Point { address, name } = &self.points[place];
        let seen = served(address, name.clone()).await.map_err(|error| {
            format!("what the listener at {address} serves could not be asked: {error}")
        })?;
        // A newer generation may have been committed meanwhile; then that one counts.
        let Some(leaf) = (self.facts.presents)(&self.managed.load(), name) else { return Ok(()) };
        let first = {
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends[place] = Some(seen.not_after());
            ends.iter().flatten().min().copied()
        };
        self.expiry.set(first);
        if seen.leaf() == &leaf {
            return Ok(());
        }
        let committed = Served::of(leaf).map(|committed| format!(" instead of {committed}"));
        let committed = committed.unwrap_or_default();
        Err(format!("the listener at {address} does not serve what is stored: {seen}{committed}"))
    }
}
