//! How generations are built, proven, closed, and replaced one by the next.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::Managed;
use super::generation::{Generation, Phase};
use crate::hook::{
    DrainReport, HookError, LifecycleHook, Prepared, Refusal, RefusalStream, Retired, SecretSet,
};
use crate::id::AdapterId;
use crate::provider::Version;
use crate::reference::SecretRef;

/// How long a release may take, and how long users may take to notice that they were cut off.
pub(super) const RELEASE_GRACE: Duration = Duration::from_secs(5);

/// An adapter whose generations are read through a [`Managed`]: a [`ManagedHook`], or one built
/// around it.
pub trait ManagedAdapter: LifecycleHook {
    /// What a generation is.
    type Value: Send + Sync + 'static;

    /// The reader, once the first generation was committed.
    fn managed(&self) -> Option<Managed<Self::Value>>;
}

type Build<T> = dyn Fn(SecretSet) -> BoxFuture<'static, Result<T, HookError>> + Send + Sync;
type Prove<T> = dyn Fn(Arc<T>) -> BoxFuture<'static, Result<(), HookError>> + Send + Sync;
type Close<T> = dyn Fn(Arc<T>) -> BoxFuture<'static, ()> + Send + Sync;

/// The [`LifecycleHook`] behind a [`Managed`]: how a generation is built, proven and closed.
///
/// ```
/// use oneiric_core::{HookError, ManagedHook, SecretRef};
///
/// struct Client { token: String }
///
/// let token: SecretRef = "files:token".parse()?;
/// let hook = ManagedHook::new("api".parse()?, [token.clone()], move |secrets| {
///     let token = secrets.get(&token).and_then(|value| value.expose_str()).map(str::to_owned);
///     async move { Ok(Client { token: token.ok_or(HookError::failed("the token is not text"))? }) }
/// })
/// .prove(|client| async move {
///     // A real, harmless use with a fresh connection belongs here.
///     if client.token.is_empty() { Err(HookError::refused("the token is empty")) } else { Ok(()) }
/// });
/// # Ok::<(), oneiric_core::ParseError>(())
/// ```
pub struct ManagedHook<T> {
    id: AdapterId,
    secrets: Vec<SecretRef>,
    build: Arc<Build<T>>,
    prove: Option<Arc<Prove<T>>>,
    close: Option<Arc<Close<T>>>,
    drain_within: Option<Duration>,
    current: Arc<OnceLock<Managed<T>>>,
    refusals: mpsc::Sender<Refusal>,
    /// Until somebody listens.
    reported: Mutex<Option<mpsc::Receiver<Refusal>>>,
}

impl<T: Send + Sync + 'static> ManagedHook<T> {
    /// An adapter that builds its generations with `build`.
    pub fn new<B, F>(id: AdapterId, secrets: impl Into<Vec<SecretRef>>, build: B) -> Self
    where
        B: Fn(SecretSet) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, HookError>> + Send + 'static,
    {
        let (refusals, reported) = mpsc::channel(1);
        Self {
            id,
            secrets: secrets.into(),
            build: Arc::new(move |secrets| Box::pin(build(secrets))),
            prove: None,
            close: None,
            drain_within: None,
            current: Arc::default(),
            refusals,
            reported: Some(reported).into(),
        }
    }

    /// Proves a built generation by a real use over a fresh connection, before it serves.
    #[must_use]
    pub fn prove<P, F>(mut self, prove: P) -> Self
    where
        P: Fn(Arc<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.prove = Some(Arc::new(move |value| Box::pin(prove(value))));
        self
    }

    /// Closes a generation: an old one when its last user is done or at the drain deadline (then
    /// it must make the remaining users end), and a new one that was given up. Its end means that
    /// nothing of the generation is in use any more. It may run until the drain deadline, and for
    /// 5 s in any case; one that does not end by then counts as a leak.
    #[must_use]
    pub fn close<C, F>(mut self, close: C) -> Self
    where
        C: Fn(Arc<T>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.close = Some(Arc::new(move |value| Box::pin(close(value))));
        self
    }

    /// Gives the users of an old generation this long to end, where a rotation would give them
    /// more. For what must not be served for long after it was replaced.
    #[must_use]
    pub fn drain_within(mut self, within: Duration) -> Self {
        self.drain_within = Some(within);
        self
    }

    /// The reader, once the first generation was committed.
    pub fn managed(&self) -> Option<Managed<T>> {
        self.current.get().cloned()
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> LifecycleHook for ManagedHook<T> {
    fn id(&self) -> &AdapterId {
        &self.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        let value = Arc::new((self.build)(next.clone()).await?);
        // From here on the value is given up with a close if anything stops us, a drop included.
        let candidate = Candidate {
            value: Some(value),
            versions: next.versions().map(|(of, version)| (of.clone(), version.clone())).collect(),
            close: self.close.clone(),
            drain_within: self.drain_within,
            current: Arc::clone(&self.current),
            refusals: self.refusals.clone(),
            runtime: Handle::try_current().ok(),
        };
        if let (Some(prove), Some(value)) = (&self.prove, &candidate.value) {
            prove(Arc::clone(value)).await?;
        }
        Ok(Box::new(candidate))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let next = |mut reported: mpsc::Receiver<Refusal>| async {
            Some((reported.recv().await?, reported))
        };
        Some(unfold(reported, next).boxed())
    }

    async fn release(&self, _deadline: Instant) {}
}

impl<T: Send + Sync + 'static> ManagedAdapter for ManagedHook<T> {
    type Value = T;

    fn managed(&self) -> Option<Managed<T>> {
        self.managed()
    }
}

impl<T> fmt::Debug for ManagedHook<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedHook")
            .field("id", &self.id)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

/// A built generation; dropped uncommitted, it is closed.
struct Candidate<T: Send + Sync + 'static> {
    value: Option<Arc<T>>,
    versions: Vec<(SecretRef, Version)>,
    close: Option<Arc<Close<T>>>,
    drain_within: Option<Duration>,
    current: Arc<OnceLock<Managed<T>>>,
    refusals: mpsc::Sender<Refusal>,
    /// Where it is closed if it is given up, by whomever and wherever that is.
    runtime: Option<Handle>,
}

impl<T: Send + Sync + 'static> Prepared for Candidate<T> {
    fn commit(mut self: Box<Self>) -> Box<dyn Retired> {
        let value = self.value.take().expect("a candidate holds its value until it is committed");
        let generation = |number| {
            let versions = self.versions.clone();
            Generation::new(number, Arc::clone(&value), versions, self.refusals.clone())
        };
        let mut is_first = false;
        let managed = self.current.get_or_init(|| {
            is_first = true;
            Managed(Arc::new(ArcSwap::new(generation(1))))
        });
        if is_first {
            return Box::new(NothingRetired);
        }
        let old = managed.0.swap(generation(managed.0.load().number + 1));
        Box::new(RetiredGeneration {
            value: Arc::clone(&old.value),
            ended: old.retire(),
            users: Arc::downgrade(&old),
            close: self.close.clone(),
            drain_within: self.drain_within,
        })
    }
}

impl<T: Send + Sync + 'static> Drop for Candidate<T> {
    fn drop(&mut self) {
        if let (Some(value), Some(close)) = (self.value.take(), self.close.take())
            && let Some(runtime) = self.runtime.take()
        {
            runtime.spawn(async move { timeout(RELEASE_GRACE, close(value)).await });
        }
    }
}

struct NothingRetired;

#[async_trait]
impl Retired for NothingRetired {
    async fn drain(self: Box<Self>, _deadline: Instant) -> DrainReport {
        DrainReport::drained()
    }
}

struct RetiredGeneration<T> {
    value: Arc<T>,
    users: Weak<Generation<T>>,
    ended: oneshot::Receiver<()>,
    close: Option<Arc<Close<T>>>,
    drain_within: Option<Duration>,
}

impl<T> RetiredGeneration<T> {
    /// How many users there are, and what is known of where they are.
    fn held(&self) -> (usize, Option<String>) {
        let Some(generation) = self.users.upgrade() else { return (0, None) };
        let places = generation.held_at();
        let places = (!places.is_empty()).then(|| format!("taken at {}", places.join(", ")));
        // Less the one that looks.
        (Arc::strong_count(&generation) - 1, places)
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> Retired for RetiredGeneration<T> {
    async fn drain(mut self: Box<Self>, deadline: Instant) -> DrainReport {
        let own = self.drain_within.map(|within| Instant::now() + within);
        let deadline = own.map_or(deadline, |own| own.min(deadline));
        let in_time = timeout_at(deadline, &mut self.ended).await.is_ok();
        let (in_flight, _) = self.held();
        // The last of them may have ended a moment after the deadline, by itself.
        let in_time = in_time || in_flight == 0;
        if let Some(generation) = self.users.upgrade() {
            generation.enter(Phase::CutOff);
        }

        // What users took out of it, such as a connection of a pool, may outlive their guards, so
        // an early end of the guards leaves the rest of the time to the close.
        let closed = match &self.close {
            None => true,
            Some(close) => {
                let until = deadline.max(Instant::now() + RELEASE_GRACE);
                timeout_at(until, closed(close, &self.value)).await.unwrap_or(false)
            }
        };
        // Being cut off or closed may have made the rest of the users end; give them a moment.
        let let_go = in_time || (closed && timeout(RELEASE_GRACE, &mut self.ended).await.is_ok());
        if closed && let_go {
            return if in_time { DrainReport::drained() } else { DrainReport::forced(in_flight) };
        }
        let (held, places) = self.held();
        let report = if closed {
            let report = DrainReport::leaked(held);
            match places {
                None => report,
                Some(places) => report.with_error(format!("guards are held that were {places}")),
            }
        } else {
            let error = "closing the old generation came to no end; something of it is in use";
            let places = places.map(|places| format!(", by guards {places}")).unwrap_or_default();
            DrainReport::leaked(held.max(1)).with_error(format!("{error}{places}"))
        };
        let Self { value, close, ended, .. } = *self;
        report.ended_by(async move {
            if !let_go {
                // However it ends, the last guard is gone.
                let _ = ended.await;
            }
            if let Some(close) = close.filter(|_| !closed) {
                close(value).await;
            }
        })
    }
}

/// Closes a generation. Whether that came to its end: one that panics has not.
async fn closed<T>(close: &Arc<Close<T>>, value: &Arc<T>) -> bool {
    let closing = async { close(Arc::clone(value)).await };
    AssertUnwindSafe(closing).catch_unwind().await.is_ok()
}
