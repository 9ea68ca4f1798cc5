//! Pools of sqlx.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oneiric_core::{AdapterId, HookError, SecretRef, SecretSet};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Postgres};
use tokio::time::timeout;

use crate::error::{Trouble, no_answer};
use crate::hook::{PACE, PostgresHook, Shared, text};
use crate::pooled::Pool;

/// How many steps of a login are taken in one turn: less than a millisecond.
const STEPS: usize = 128;

/// A PostgreSQL pool of sqlx in the making.
///
/// ```no_run
/// use oneiric_adapter_postgres::PostgresPool;
/// use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
///
/// let server = PgConnectOptions::new().host("db.internal").database("shop");
/// let hook = PostgresPool::new(server, "vault:shop#user".parse()?, "vault:shop#password".parse()?)
///     .pool_options(PgPoolOptions::new().max_connections(20))
///     .proof("SELECT 1 FROM orders LIMIT 1")
///     .into_hook("orders-db".parse()?);
/// # let _ = hook;
/// # Ok::<(), oneiric_core::ParseError>(())
/// ```
///
/// # Use
/// Take a connection by [`acquire`](crate::acquire), or a guard per unit of work:
/// `sqlx::query(…).execute(&*managed.load())`. A pool that is cloned out of its guard is closed
/// with its generation, and then answers [`PoolClosed`](sqlx::Error::PoolClosed).
///
/// # What cannot be ended from here
/// A connection that somebody uses. Long work ends early if it listens to
/// [`cut_off`](oneiric_core::ManagedGuard::cut_off) or to [`PgPool::close_event`]. What does not is
/// *leaked*; `pg_terminate_backend` ends it from the server's side. A connection that was
/// [detached](sqlx::pool::PoolConnection::detach) is out of the pool's sight. A proof that is given
/// up has hung up, but the server notices only when its statement is over: where that may wait for a
/// lock, give the role a `statement_timeout`.
///
/// Encrypted connections need one of sqlx's `tls-…` features in your own `Cargo.toml`.
#[must_use]
pub struct PostgresPool {
    server: PgConnectOptions,
    user: SecretRef,
    password: SecretRef,
    pool: PgPoolOptions,
    proof: &'static str,
    pace: u32,
}

impl PostgresPool {
    /// A pool on this server, with these secrets as login. A login in `server` is replaced. Two
    /// fields of one secret change together, so prefer them over two secrets.
    pub fn new(server: PgConnectOptions, user: SecretRef, password: SecretRef) -> Self {
        Self { server, user, password, pool: PgPoolOptions::new(), proof: "SELECT 1", pace: PACE }
    }

    /// How each generation's pool is sized and timed. Its `acquire_timeout` bounds the proof too.
    pub fn pool_options(mut self, options: PgPoolOptions) -> Self {
        self.pool = options;
        self
    }

    /// The statement that proves a login on a fresh connection, `SELECT 1` by default. One that
    /// reads a table of the application also proves that the role has its rights.
    pub fn proof(mut self, statement: &'static str) -> Self {
        self.proof = statement;
        self
    }

    /// How many idle connections of an old pool are closed a second, 50 by default. At the drain
    /// deadline the rest is closed at once.
    pub fn paced(mut self, per_second: u32) -> Self {
        self.pace = per_second;
        self
    }

    /// The adapter.
    ///
    /// # Errors
    /// Its `prepare` is *refused* where the server does not accept the login (SQLSTATE class 28)
    /// or the role may not run the proof (42501), and *failed* for everything else. Neither shows
    /// more of the driver's error than its SQLSTATE or kind.
    pub fn into_hook(self, id: AdapterId) -> PostgresHook<PgPool> {
        let secrets = [self.user.clone(), self.password.clone()];
        let (pace, config) = (self.pace, Arc::new(self));
        PostgresHook::new(id, secrets, pace, move |secrets, shared| {
            let config = Arc::clone(&config);
            async move { build(&config, &secrets, &shared).await }
        })
    }
}

impl fmt::Debug for PostgresPool {
    /// Without the options, which may hold a password of their own and would print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresPool")
            .field("user", &self.user)
            .field("password", &self.password)
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

/// The login is proven before there is a pool, since a pool with `min_connections` would go on
/// trying one that does not work.
async fn build(
    config: &PostgresPool,
    secrets: &SecretSet,
    shared: &Shared<PgPool>,
) -> Result<PgPool, HookError> {
    let login = config
        .server
        .clone()
        .username(text(secrets, &config.user)?)
        .password(text(secrets, &config.password)?);
    let within = config.pool.get_acquire_timeout();
    timeout(within, prove(&login, config.proof))
        .await
        .map_err(|_| no_answer())?
        .map_err(|error| Trouble::from(&error).of_proof())?;
    let pool = config.pool.clone().connect_lazy_with(login);
    shared.warm(pool).await.map_err(|error| Trouble::from(&error).of_proof())
}

async fn prove(login: &PgConnectOptions, statement: &'static str) -> sqlx::Result<()> {
    let mut fresh = eagerly(PgConnection::connect_with(login)).await?;
    sqlx::raw_sql(statement).execute(&mut fresh).await?;
    // It has served its purpose; how it ends proves nothing.
    let _ = fresh.close().await;
    Ok(())
}

/// Takes several steps of a login in one turn.
///
/// A login hashes 4,096 times, and sqlx gives up its turn after every fifth: 819 turns. On a busy
/// runtime each is a wait for all other tasks, so that a login took seconds under load.
async fn eagerly<F: Future>(login: F) -> F::Output {
    let mut login = pin!(login);
    poll_fn(|cx| {
        // One that has given up its turn goes on when it is asked again, and one that waits for
        // the server says so again at next to no cost.
        for _ in 0..STEPS {
            if let Poll::Ready(done) = login.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

impl Pool for PgPool {
    type Connection = PoolConnection<Postgres>;
    type Error = sqlx::Error;

    fn connection(&self) -> BoxFuture<'_, sqlx::Result<PoolConnection<Postgres>>> {
        eagerly(self.acquire()).boxed()
    }

    fn is_refusal(error: &sqlx::Error) -> bool {
        Trouble::from(error).is_refusal()
    }

    fn is_end(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::PoolClosed)
    }

    fn size(&self) -> usize {
        self.size() as usize
    }

    fn in_use(&self) -> usize {
        (self.size() as usize).saturating_sub(self.num_idle())
    }

    /// With fewer than its minimum the pool would open another one.
    fn shed(&self) -> BoxFuture<'_, bool> {
        async {
            if self.size() <= self.options().get_min_connections() {
                return false;
            }
            let Some(idle) = self.try_acquire() else { return false };
            let _ = idle.close().await;
            true
        }
        .boxed()
    }

    fn stop(&self) {
        // It is stopped by the call; to await it is to wait for the connections.
        drop(self.close());
    }

    fn is_stopped(&self) -> bool {
        self.is_closed()
    }

    fn cut(&self) {}

    fn ended(&self) -> BoxFuture<'_, ()> {
        self.close().boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join;

    use super::*;

    #[tokio::test]
    async fn a_login_among_busy_tasks_takes_few_turns() {
        let (turns, done) = (Cell::new(0), Cell::new(false));
        let login = async {
            eagerly(async {
                for _ in 0..819 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            done.set(true);
        };
        let busy = async {
            while !done.get() {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        join(login, busy).await;
        assert!(turns.get() <= 819 / STEPS + 1, "it took {} turns", turns.get());
    }
}
