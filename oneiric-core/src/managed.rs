//! The everyday adapter: a value built from secrets that is replaced under its running users.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::hook::{DrainReport, HookError, LifecycleHook, Prepared, Retired, SecretSet};
use crate::id::AdapterId;
use crate::reference::SecretRef;

/// How long a release may take, and how long users may take to notice that they were cut off.
const RELEASE_GRACE: Duration = Duration::from_secs(5);

type Build<T> = dyn Fn(SecretSet) -> BoxFuture<'static, Result<T, HookError>> + Send + Sync;
type Prove<T> = dyn Fn(Arc<T>) -> BoxFuture<'static, Result<(), HookError>> + Send + Sync;
type Close<T> = dyn Fn(Arc<T>) -> BoxFuture<'static, ()> + Send + Sync;

/// A reader of the current generation of something built from secrets.
///
/// There always is one: a `Managed` exists only after the first generation was built, proven and
/// committed. Clones are cheap and follow the same generations.
pub struct Managed<T>(Arc<ArcSwap<Generation<T>>>);

impl<T> Managed<T> {
    /// The current generation. It serves for as long as the guard lives, so take one per request
    /// and let go of it after: the old generation ends when its last guard is gone.
    pub fn load(&self) -> ManagedGuard<T> {
        ManagedGuard(self.0.load())
    }
}

impl<T> Clone for Managed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Managed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managed").field("generation", &self.0.load().number).finish()
    }
}

/// The use of one generation. While it lives, the generation is not released.
pub struct ManagedGuard<T>(arc_swap::Guard<Arc<Generation<T>>>);

impl<T> ManagedGuard<T> {
    /// Which generation this is, counted from 1.
    pub fn generation(&self) -> u64 {
        self.0.number
    }
}

impl<T> Deref for ManagedGuard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> fmt::Debug for ManagedGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedGuard").field("generation", &self.0.number).finish()
    }
}

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
    current: Arc<OnceLock<Managed<T>>>,
}

impl<T: Send + Sync + 'static> ManagedHook<T> {
    /// An adapter that builds its generations with `build`.
    pub fn new<B, F>(id: AdapterId, secrets: impl Into<Vec<SecretRef>>, build: B) -> Self
    where
        B: Fn(SecretSet) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, HookError>> + Send + 'static,
    {
        Self {
            id,
            secrets: secrets.into(),
            build: Arc::new(move |secrets| Box::pin(build(secrets))),
            prove: None,
            close: None,
            current: Arc::default(),
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
            close: self.close.clone(),
            current: Arc::clone(&self.current),
        };
        if let (Some(prove), Some(value)) = (&self.prove, &candidate.value) {
            prove(Arc::clone(value)).await?;
        }
        Ok(Box::new(candidate))
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

struct Generation<T> {
    number: u64,
    value: Arc<T>,
    /// Dropped with the last guard, which the one who drains hears.
    _in_use: oneshot::Sender<()>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl<T> Generation<T> {
    fn new(number: u64, value: Arc<T>) -> Arc<Self> {
        let (in_use, ended) = oneshot::channel();
        Arc::new(Self { number, value, _in_use: in_use, ended: Some(ended).into() })
    }
}

/// A built generation; dropped uncommitted, it is closed.
struct Candidate<T: Send + Sync + 'static> {
    value: Option<Arc<T>>,
    close: Option<Arc<Close<T>>>,
    current: Arc<OnceLock<Managed<T>>>,
}

impl<T: Send + Sync + 'static> Prepared for Candidate<T> {
    fn commit(mut self: Box<Self>) -> Box<dyn Retired> {
        let value = self.value.take().expect("a candidate holds its value until it is committed");
        let mut value = Some(value);
        let managed = self.current.get_or_init(|| {
            let first =
                Generation::new(1, value.take().expect("the first generation is made once"));
            Managed(Arc::new(ArcSwap::new(first)))
        });
        // `value` is gone exactly when this was the first generation, which replaces nothing.
        let Some(value) = value else { return Box::new(NothingRetired) };
        let next = Generation::new(managed.0.load().number + 1, value);
        let old = managed.0.swap(next);
        let ended = old.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::new(RetiredGeneration {
            value: Arc::clone(&old.value),
            users: Arc::downgrade(&old),
            ended,
            close: self.close.clone(),
        })
    }
}

impl<T: Send + Sync + 'static> Drop for Candidate<T> {
    fn drop(&mut self) {
        if let (Some(value), Some(close)) = (self.value.take(), self.close.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(RELEASE_GRACE, close(value)));
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
    ended: Option<oneshot::Receiver<()>>,
    close: Option<Arc<Close<T>>>,
}

#[async_trait]
impl<T: Send + Sync + 'static> Retired for RetiredGeneration<T> {
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport {
        let mut ended = self.ended.expect("a generation is retired once");
        let in_time = timeout_at(deadline, &mut ended).await.is_ok();
        let in_flight = self.users.strong_count();

        // What users took out of it, such as a connection of a pool, may outlive their guards, so
        // an early end of the guards leaves the rest of the time to the close.
        let closed = match &self.close {
            None => true,
            Some(close) => {
                let until = deadline.max(Instant::now() + RELEASE_GRACE);
                timeout_at(until, close(Arc::clone(&self.value))).await.is_ok()
            }
        };
        // Closing may have made the rest of the users end; give them a moment to let go.
        let let_go = in_time || (closed && timeout(RELEASE_GRACE, &mut ended).await.is_ok());
        if closed && let_go {
            let forced = !in_time && self.close.is_some();
            return if forced { DrainReport::forced(in_flight) } else { DrainReport::drained() };
        }
        let report = if closed {
            DrainReport::leaked(self.users.strong_count())
        } else {
            DrainReport::leaked(self.users.strong_count().max(1))
                .with_error("closing the old generation did not end; something of it is in use")
        };
        let (value, close) = (self.value, self.close);
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

#[cfg(test)]
mod tests;
