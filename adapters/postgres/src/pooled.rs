//! What the pools have in common, as their users see it: connections of a known generation.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use futures_util::future::BoxFuture;
use oneiric_core::{Managed, ManagedGuard};

/// A pool that [`acquire`] takes connections from: sqlx's `PgPool`, or `PgDeadpool`. Nobody else
/// implements it.
pub trait Pooled: Pool {}

impl<P: Pool> Pooled for P {}

/// What is asked of a pool. It cannot be named outside, so that it may change.
pub trait Pool: Clone + Send + Sync + 'static {
    /// What it hands out.
    type Connection: Send + 'static;
    /// Why it hands out none.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Takes a connection, or opens one.
    fn connection(&self) -> BoxFuture<'_, Result<Self::Connection, Self::Error>>;
    /// Whether the server did not accept the login.
    fn is_refusal(error: &Self::Error) -> bool;
    /// Whether the pool had been stopped.
    fn is_end(error: &Self::Error) -> bool;

    /// How many connections it has.
    fn size(&self) -> usize;
    /// How many of them somebody uses.
    fn in_use(&self) -> usize;
    /// Closes one that nobody uses, if there is one that it can spare.
    fn shed(&self) -> BoxFuture<'_, bool>;
    /// From now on it hands out none, and closes what comes back. It needs no runtime.
    fn stop(&self);
    fn is_stopped(&self) -> bool;
    /// Ends what is in use, where that can be done from here.
    fn cut(&self);
    /// Closes what comes back, once it was stopped, until there are no connections.
    fn ended(&self) -> BoxFuture<'_, ()>;
}

/// Takes a connection of the generation that serves.
///
/// Where the server does not accept its login, which a pool meets when it connects anew, that is
/// [reported](ManagedGuard::report_refused), so that the store is asked for a newer one. If a newer
/// generation serves while the pool of the old one is waited for, the connection is one of the
/// newer: nothing was done with the old one yet.
///
/// # Errors
/// Those of the pool.
///
/// # Cancellation
/// Dropping the future takes nothing.
#[cfg_attr(debug_assertions, track_caller)]
pub fn acquire<P: Pooled>(
    pool: &Managed<P>,
) -> impl Future<Output = Result<Lease<P>, P::Error>> + Send + use<P> {
    let (pool, mut guard) = (pool.clone(), pool.load());
    async move {
        loop {
            let taken = tokio::select! {
                biased;
                taken = guard.connection() => taken.map_err(Some),
                () = async { guard.retired().await } => Err(None),
            };
            let error = match taken {
                Ok(connection) => return Ok(Lease { connection, guard }),
                Err(error) => error,
            };
            let now = pool.load();
            let Some(error) = error else {
                guard = now;
                continue;
            };
            let is_refusal = P::is_refusal(&error);
            if now.generation() == guard.generation() {
                if is_refusal {
                    guard.report_refused();
                }
                return Err(error);
            }
            if !is_refusal && !P::is_end(&error) {
                return Err(error);
            }
            guard = now;
        }
    }
}

/// A connection with the guard of its generation: the generation is not over before it is back.
/// A pool of sqlx cannot end a connection that is in use, so long work listens to
/// [`cut_off`](Self::cut_off):
///
/// ```
/// # #[cfg(feature = "sqlx")]
/// # async fn example(pool: &oneiric_core::Managed<sqlx::PgPool>) -> sqlx::Result<()> {
/// let mut lease = oneiric_adapter_postgres::acquire(pool).await?;
/// let cut_off = lease.cut_off();
/// tokio::select! {
///     done = sqlx::query("VACUUM").execute(&mut **lease) => drop(done?),
///     () = cut_off => {}
/// }
/// # Ok(())
/// # }
/// ```
pub struct Lease<P: Pooled> {
    // The order matters: the connection goes back while its generation is still held.
    connection: P::Connection,
    guard: ManagedGuard<P>,
}

impl<P: Pooled> Lease<P> {
    /// The generation of the connection.
    pub fn generation(&self) -> u64 {
        self.guard.generation()
    }

    /// As [`ManagedGuard::retired`].
    pub fn retired(&self) -> BoxFuture<'static, ()> {
        self.guard.retired()
    }

    /// As [`ManagedGuard::cut_off`].
    pub fn cut_off(&self) -> BoxFuture<'static, ()> {
        self.guard.cut_off()
    }
}

impl<P: Pooled> Deref for Lease<P> {
    type Target = P::Connection;

    fn deref(&self) -> &P::Connection {
        &self.connection
    }
}

impl<P: Pooled> DerefMut for Lease<P> {
    fn deref_mut(&mut self) -> &mut P::Connection {
        &mut self.connection
    }
}

impl<P: Pooled> fmt::Debug for Lease<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
