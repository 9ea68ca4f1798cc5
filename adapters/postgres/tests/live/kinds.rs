//! The two pools, as these tests use them.

use std::future::Future;
use std::time::Duration;

use deadpool_postgres::{Object, PoolConfig};
use oneiric_adapter_postgres::{
    PgDeadpool, Pooled, PostgresDeadpool, PostgresHook, PostgresPool, acquire,
};
use oneiric_core::{DrainReport, LifecycleHook as _, Managed};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::time::Instant;

use crate::server::{login, password, user};

/// How many connections a pool has.
pub(crate) const SIZE: usize = 4;

/// How a pool of these tests is made.
#[derive(Clone, Copy)]
pub(crate) struct Make {
    pub(crate) port: u16,
    pub(crate) patience: Duration,
    pub(crate) lifetime: Duration,
    pub(crate) pace: u32,
    pub(crate) proof: &'static str,
}

impl Make {
    pub(crate) fn at(port: u16) -> Self {
        let (patience, lifetime) = (Duration::from_secs(20), Duration::from_secs(1800));
        Self { port, patience, lifetime, pace: 50, proof: "SELECT 1" }
    }
}

pub(crate) trait Kind: Pooled {
    /// Whether it can end a connection that is in use.
    const CUTS: bool;

    fn hook(make: Make) -> PostgresHook<Self>;

    /// The plain pool, without us.
    fn plain(make: Make, name: &str, secret: &str) -> Self::Plain;
    type Plain: Clone + Send + Sync + 'static;

    /// Tells a plain pool of a new login, where that is possible.
    fn tell(plain: &Self::Plain, make: Make, name: &str, secret: &str);

    fn plain_user(plain: &Self::Plain) -> impl Future<Output = Result<String, String>> + Send;

    /// The role of a connection and the number of its session.
    fn who(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(String, i32), String>> + Send;
}

const WHO: &str = "SELECT current_user::text, pg_backend_pid()";

fn address(make: Make) -> PgConnectOptions {
    PgConnectOptions::new().host("127.0.0.1").port(make.port).database("postgres")
}

fn options(make: Make) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(u32::try_from(SIZE).unwrap())
        .acquire_timeout(make.patience)
        .max_lifetime(make.lifetime)
}

fn config(make: Make) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(make.port).dbname("postgres");
    config
}

impl Kind for PgPool {
    const CUTS: bool = false;
    type Plain = PgPool;

    fn hook(make: Make) -> PostgresHook<Self> {
        PostgresPool::new(address(make), user(), password())
            .pool_options(options(make).min_connections(1))
            .proof(make.proof)
            .paced(make.pace)
            .into_hook("db".parse().unwrap())
    }

    fn plain(make: Make, name: &str, secret: &str) -> PgPool {
        options(make).connect_lazy_with(address(make).username(name).password(secret))
    }

    fn tell(plain: &PgPool, make: Make, name: &str, secret: &str) {
        plain.set_connect_options(address(make).username(name).password(secret));
    }

    async fn plain_user(plain: &PgPool) -> Result<String, String> {
        let mut connection = plain.acquire().await.map_err(|error| error.to_string())?;
        Self::who(&mut connection).await.map(|(name, _)| name)
    }

    async fn who(connection: &mut PoolConnection<Postgres>) -> Result<(String, i32), String> {
        let row = sqlx::query_as(WHO).fetch_one(&mut **connection).await;
        row.map_err(|error| error.to_string())
    }
}

impl Kind for PgDeadpool {
    const CUTS: bool = true;
    type Plain = deadpool_postgres::Pool;

    fn hook(make: Make) -> PostgresHook<Self> {
        let mut pool = PoolConfig::new(SIZE);
        pool.timeouts.create = Some(make.patience);
        PostgresDeadpool::new(config(make), user(), password())
            .pool_config(pool)
            .max_lifetime(make.lifetime)
            .proof(make.proof)
            .paced(make.pace)
            .into_hook("db".parse().unwrap())
    }

    fn plain(make: Make, name: &str, secret: &str) -> deadpool_postgres::Pool {
        use deadpool_postgres::{Hook, HookError, Manager};
        let mut config = config(make);
        config.user(name).password(secret);
        let manager = Manager::new(config, tokio_postgres::NoTls);
        deadpool_postgres::Pool::builder(manager)
            .max_size(SIZE)
            .pre_recycle(Hook::sync_fn(move |_, metrics| match metrics.age() < make.lifetime {
                true => Ok(()),
                false => Err(HookError::message("it is old")),
            }))
            .build()
            .unwrap()
    }

    /// Its login is for ever.
    fn tell(_: &deadpool_postgres::Pool, _: Make, _: &str, _: &str) {}

    async fn plain_user(plain: &deadpool_postgres::Pool) -> Result<String, String> {
        let mut connection = plain.get().await.map_err(|error| error.to_string())?;
        Self::who(&mut connection).await.map(|(name, _)| name)
    }

    async fn who(connection: &mut Object) -> Result<(String, i32), String> {
        let row = connection.query_one(WHO, &[]).await.map_err(|error| error.to_string())?;
        Ok((row.get(0), row.get(1)))
    }
}

/// Does a unit of work.
pub(crate) async fn who<K: Kind>(pool: &Managed<K>) -> Result<(String, i32), String> {
    let mut lease = acquire(pool).await.map_err(|error| error.to_string())?;
    K::who(&mut lease).await
}

pub(crate) async fn serving<K: Kind>(pool: &Managed<K>) -> String {
    who(pool).await.unwrap().0
}

pub(crate) async fn first<K: Kind>(hook: &PostgresHook<K>, name: &str, secret: &str) -> Managed<K> {
    rotate(hook, name, secret, Duration::ZERO).await;
    hook.managed().unwrap()
}

pub(crate) async fn rotate<K: Kind>(
    hook: &PostgresHook<K>,
    name: &str,
    secret: &str,
    patience: Duration,
) -> DrainReport {
    let retired = hook.prepare(&login(name, secret)).await.unwrap().commit();
    retired.drain(Instant::now() + patience).await
}
