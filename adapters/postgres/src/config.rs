//! What a pool is made of: where the server is, which secrets are the login, how it is proven.

use std::fmt;

use oneiric_core::{AdapterId, ManagedHook, SecretRef};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use crate::hook;

/// A PostgreSQL pool in the making.
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
/// Take a guard per unit of work: `sqlx::query(…).execute(&*managed.load())`. A pool that is
/// cloned out of its guard is closed with its generation, and then answers
/// [`PoolClosed`](sqlx::Error::PoolClosed).
///
/// # What draining waits for
/// For the last guard, and then for every connection that is checked out of the old pool, so that
/// `drained` means that this process has closed every connection of the old login. The server
/// takes a moment longer to forget them: see `pg_stat_activity`. A connection that was
/// [detached](sqlx::pool::PoolConnection::detach) is out of the pool's sight. Long work ends early
/// if it listens to [`PgPool::close_event`].
///
/// # Connections
/// While an old generation drains both pools exist, and the proof needs one connection more: the
/// server must allow twice `max_connections` and one.
#[must_use]
pub struct PostgresPool {
    pub(crate) server: PgConnectOptions,
    pub(crate) user: SecretRef,
    pub(crate) password: SecretRef,
    pub(crate) pool: PgPoolOptions,
    pub(crate) proof: &'static str,
}

impl PostgresPool {
    /// A pool on this server, with these secrets as login. A login in `server` is replaced. Two
    /// fields of one secret change together, so prefer them over two secrets.
    pub fn new(server: PgConnectOptions, user: SecretRef, password: SecretRef) -> Self {
        Self { server, user, password, pool: PgPoolOptions::new(), proof: "SELECT 1" }
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

    /// The adapter. More proofs can be added to it with [`ManagedHook::prove`].
    ///
    /// # Errors
    /// Its `prepare` is *refused* where the server does not accept the login (SQLSTATE class 28)
    /// or the role may not run the proof (42501), and *failed* for everything else. Neither shows
    /// more of the driver's error than its SQLSTATE or kind.
    pub fn into_hook(self, id: AdapterId) -> ManagedHook<PgPool> {
        hook::managed(id, self)
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
