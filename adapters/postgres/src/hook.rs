//! One pool per generation: built beside the old one, which is then let go of at a pace.

use std::fmt;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainOutcome, DrainReport, HookError, LifecycleHook, Managed, ManagedAdapter,
    ManagedHook, Prepared, RefusalStream, Retired, SecretRef, SecretSet,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::pace::Pacer;
use crate::pooled::{Pool, Pooled};

/// How many connections of an old pool are closed a second, unless it is said.
pub(crate) const PACE: u32 = 50;
/// For how long a next pool opens connections before it serves, after the first. It is for users
/// that need not wait, and they wait for the swap, too.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long users have to end by themselves when they were cut off, before a pool ends them that
/// can.
const TO_END: Duration = Duration::from_millis(250);

/// The adapter of a PostgreSQL pool, as [`LifecycleHook`].
///
/// # Connections
/// A next pool opens, one after the other and before it is committed, as many connections as the
/// old one has, or as it can within a second, so that users do not all connect at once when they
/// move. While the old one drains,
/// those of its connections that nobody uses are closed at a pace. The server must allow twice the
/// size of the pool, and one connection more for the proof.
///
/// # What draining waits for
/// For the last guard, and then for every connection that is checked out of the old pool, so that
/// `drained` means that this process has closed every connection of the old login. The server takes
/// a moment longer to forget them. At the deadline the users that remain are told by
/// [`cut_off`](oneiric_core::ManagedGuard::cut_off), and the pool is closed: one of deadpool ends
/// their connections a moment later; one of sqlx cannot. What is in use after that is *leaked*, and
/// counted.
pub struct PostgresHook<P: Pooled> {
    inner: ManagedHook<P>,
    shared: Arc<Shared<P>>,
}

/// What the steps of a rotation tell each other.
pub(crate) struct Shared<P> {
    /// How many connections the next pool is to open before it serves.
    wanted: AtomicUsize,
    /// The next pool, until it is committed or given up.
    built: Mutex<Option<P>>,
    pacer: Pacer,
}

impl<P: Pool> Shared<P> {
    fn take_built(&self) -> Option<P> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Opens as many connections as the next pool is to have before it serves. The first one must
    /// be had; the rest only saves time.
    pub(crate) async fn warm(&self, pool: P) -> Result<P, P::Error> {
        *self.built.lock().unwrap_or_else(PoisonError::into_inner) = Some(pool.clone());
        let mut open = vec![pool.connection().await?];
        let wanted = self.wanted.load(Ordering::Relaxed);
        let _ = timeout(WARM_UP, async {
            while open.len() < wanted {
                match pool.connection().await {
                    Ok(connection) => open.push(connection),
                    Err(_) => break,
                }
            }
        })
        .await;
        drop(open);
        Ok(pool)
    }
}

impl<P: Pooled> PostgresHook<P> {
    /// An adapter that builds its pools with `build`.
    pub(crate) fn new<B, F>(id: AdapterId, secrets: [SecretRef; 2], pace: u32, build: B) -> Self
    where
        B: Fn(SecretSet, Arc<Shared<P>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<P, HookError>> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            wanted: AtomicUsize::new(1),
            built: Mutex::default(),
            pacer: Pacer::new(pace),
        });
        let (building, closing) = (Arc::clone(&shared), Arc::clone(&shared));
        let inner =
            ManagedHook::new(id, secrets, move |secrets| build(secrets, Arc::clone(&building)))
                .close(move |pool: Arc<P>| {
                    let shared = Arc::clone(&closing);
                    async move { release(&*pool, &shared.pacer).await }
                });
        Self { inner, shared }
    }

    /// Adds a proof of one's own, on the pool that is to serve: see [`ManagedHook::prove`].
    #[must_use]
    pub fn prove<W, F>(mut self, prove: W) -> Self
    where
        W: Fn(Arc<P>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.inner = self.inner.prove(prove);
        self
    }

    /// The reader, once the first generation was committed: see [`ManagedHook::managed`].
    pub fn managed(&self) -> Option<Managed<P>> {
        self.inner.managed()
    }
}

#[async_trait]
impl<P: Pooled> LifecycleHook for PostgresHook<P> {
    fn id(&self) -> &AdapterId {
        self.inner.id()
    }

    fn secrets(&self) -> &[SecretRef] {
        self.inner.secrets()
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let serving = self.managed();
        let wanted = serving.as_ref().map_or(1, |serving| serving.load().size());
        self.shared.wanted.store(wanted, Ordering::Relaxed);
        // From here on a pool is stopped if anything stops us, a drop included.
        let given_up = GivenUp(Arc::clone(&self.shared));
        let prepared = self.inner.prepare(next).await?;
        Ok(Box::new(Candidate { prepared, given_up, serving }))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        self.inner.refusals()
    }

    async fn release(&self, deadline: Instant) {
        self.inner.release(deadline).await;
    }
}

impl<P: Pooled> ManagedAdapter for PostgresHook<P> {
    type Value = P;

    fn managed(&self) -> Option<Managed<P>> {
        self.managed()
    }
}

impl<P: Pooled> fmt::Debug for PostgresHook<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Stops a pool that is not committed, so that it is closed at once and not at a pace.
struct GivenUp<P: Pool>(Arc<Shared<P>>);

impl<P: Pool> Drop for GivenUp<P> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take_built() {
            pool.stop();
        }
    }
}

struct Candidate<P: Pooled> {
    // Stopped before it is given up.
    given_up: GivenUp<P>,
    prepared: Box<dyn Prepared>,
    serving: Option<Managed<P>>,
}

impl<P: Pooled> Prepared for Candidate<P> {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        let Self { prepared, given_up, serving } = *self;
        given_up.0.take_built();
        let old = serving.map(|serving| P::clone(&serving.load()));
        let retired = prepared.commit();
        match old {
            None => retired,
            Some(old) => Box::new(Old { retired, old, shared: Arc::clone(&given_up.0) }),
        }
    }
}

struct Old<P: Pooled> {
    retired: Box<dyn Retired>,
    old: P,
    shared: Arc<Shared<P>>,
}

#[async_trait]
impl<P: Pooled> Retired for Old<P> {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let Self { retired, old, shared } = *self;
        let in_use = AtomicUsize::new(0);
        let cut = async {
            sleep_until(deadline).await;
            in_use.store(old.in_use(), Ordering::Relaxed);
            old.stop();
            sleep(TO_END).await;
            if old.in_use() > 0 {
                old.cut();
            }
            pending::<()>().await;
        };
        // There are users, and what they do not need is closed meanwhile.
        let spare = async {
            while !old.is_stopped() {
                shared.pacer.turn().await;
                old.shed().await;
            }
            pending::<()>().await;
        };
        let mut report = tokio::select! {
            report = retired.drain(deadline) => report,
            () = cut => unreachable!("it never ends"),
            () = spare => unreachable!("it never ends"),
        };
        let in_use = in_use.into_inner();
        match report.outcome {
            DrainOutcome::Drained if in_use > 0 => DrainReport::forced(in_use),
            DrainOutcome::Leaked => {
                let left = old.in_use();
                report.in_flight = report.in_flight.max(left);
                if left > 0 {
                    let error = report.error.take().map(|error| format!("; {error}"));
                    let error = error.unwrap_or_default();
                    report.error = Some(format!("{left} connections are in use{error}"));
                }
                report
            }
            _ => {
                report.in_flight = report.in_flight.max(in_use);
                report
            }
        }
    }
}

/// Closes what nobody uses at a pace, then waits for the rest.
async fn release<P: Pool>(pool: &P, pacer: &Pacer) {
    while !pool.is_stopped() {
        pacer.turn().await;
        if !pool.shed().await {
            pool.stop();
        }
    }
    pool.ended().await;
}

/// The protocol sends names and passwords as text that ends at the first NUL.
pub(crate) fn text<'a>(
    secrets: &'a SecretSet,
    reference: &SecretRef,
) -> Result<&'a str, HookError> {
    secrets
        .get(reference)
        .and_then(|value| value.expose_str())
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| HookError::failed(format!("`{reference}` is not a text without NUL")))
}
