//! The adapter: generations of TLS, and the question whether they are what is served.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainOutcome, DrainReport, HookError, LifecycleHook, Managed, ManagedAdapter,
    ManagedHook, Prepared, RefusalStream, Retired, SecretRef, SecretSet,
};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::time::{Instant, sleep, sleep_until};

use crate::probe::{Served, served};
use crate::tally::Expiry;

/// The pause between two questions to a listener before the drain deadline, and after it.
const PAUSE: Duration = Duration::from_millis(20);
const LONG_PAUSE: Duration = Duration::from_secs(1);

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
/// [read back](crate::TlsServer::read_back) until it presents the committed certificate. A listener
/// that does not by the deadline, or cannot be asked, makes the report *leaked* and is quoted in
/// it; the asking goes on.
pub struct TlsHook<T> {
    hook: Arc<ManagedHook<T>>,
    /// Set by the first commit, for those who build the next generation.
    current: Arc<OnceLock<Managed<T>>>,
    points: Arc<[Point]>,
    facts: Facts<T>,
    expiry: Arc<Expiry>,
}

impl<T: Send + Sync + 'static> TlsHook<T> {
    pub(crate) fn new(
        hook: ManagedHook<T>,
        current: Arc<OnceLock<Managed<T>>>,
        points: Vec<Point>,
        facts: Facts<T>,
    ) -> Self {
        let expiry = Expiry::of(hook.id());
        Self { hook: Arc::new(hook), current, points: points.into(), facts, expiry }
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
}

impl<T: Send + Sync + 'static> Prepared for Candidate<T> {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let retired = self.inner.commit();
        let mut is_first = false;
        let managed = self.current.get_or_init(|| {
            is_first = true;
            self.hook.managed().expect("there is a reader after the first commit")
        });
        self.expiry.set((self.facts.ends)(&managed.load()));
        if is_first || self.points.is_empty() {
            return retired;
        }
        Box::new(Replaced {
            retired,
            question: Question {
                managed: managed.clone(),
                points: self.points,
                facts: self.facts,
                expiry: self.expiry,
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
        let (mut report, answer) =
            tokio::join!(retired.drain(deadline), question.until(Some(deadline)));
        let Err(why) = answer else { return report };
        let held = match report.outcome {
            DrainOutcome::Leaked => report.in_flight,
            _ => 0,
        };
        let error = match &report.error {
            Some(error) => format!("{why}; {error}"),
            None => why,
        };
        let later = report.take_later();
        // The listener is one of those who still use the old generation.
        DrainReport::leaked(held + 1).with_error(error).ended_by(async move {
            let _ = question.until(None).await;
            if let Some(later) = later {
                later.await;
            }
        })
    }
}

/// Whether the listeners serve what is committed.
struct Question<T> {
    managed: Managed<T>,
    points: Arc<[Point]>,
    facts: Facts<T>,
    expiry: Arc<Expiry>,
}

impl<T> Question<T> {
    /// Asks until every listener does, or until the deadline, and each at least once.
    async fn until(&self, deadline: Option<Instant>) -> Result<(), String> {
        for point in &*self.points {
            while let Err(why) = self.ask(point).await {
                match deadline {
                    None => sleep(LONG_PAUSE).await,
                    Some(deadline) if Instant::now() >= deadline => return Err(why),
                    Some(deadline) => sleep_until(deadline.min(Instant::now() + PAUSE)).await,
                }
            }
        }
        self.expiry.set((self.facts.ends)(&self.managed.load()));
        Ok(())
    }

    async fn ask(&self, Point { address, name }: &Point) -> Result<(), String> {
        let seen = served(address, name.clone()).await.map_err(|error| {
            format!("what the listener at {address} serves could not be asked: {error}")
        })?;
        // A newer generation may have been committed meanwhile; then that one counts.
        let Some(leaf) = (self.facts.presents)(&self.managed.load(), name) else { return Ok(()) };
        if seen.leaf() == &leaf {
            return Ok(());
        }
        self.expiry.set(Some(seen.not_after()));
        let committed = Served::of(leaf).map(|committed| format!(" instead of {committed}"));
        let committed = committed.unwrap_or_default();
        Err(format!("the listener at {address} does not serve what is stored: {seen}{committed}"))
    }
}
