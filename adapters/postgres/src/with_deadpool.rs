//! Pools of deadpool, of connections by tokio-postgres.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Connect, Hook, HookError as NotRecycled, Manager, ManagerConfig, Object, Pool as Deadpool,
    PoolConfig, PoolError, Runtime,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oneiric_core::{AdapterId, HookError, SecretRef, SecretSet};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use crate::error::{Trouble, no_answer};
use crate::hook::{PACE, PostgresHook, Shared, text};
use crate::pooled::Pool;

/// How long a login may take, unless it is said.
const CREATE: Duration = Duration::from_secs(30);
/// How long the server may take to hear that a statement is to end.
const CANCEL: Duration = Duration::from_secs(1);

type Connector = Arc<dyn Fn(Arc<Sessions>) -> Arc<dyn Connect> + Send + Sync>;

/// A PostgreSQL pool of deadpool in the making.
///
/// ```no_run
/// use std::time::Duration;
///
/// use deadpool_postgres::PoolConfig;
/// use oneiric_adapter_postgres::PostgresDeadpool;
///
/// let mut server = tokio_postgres::Config::new();
/// server.host("db.internal").dbname("shop");
/// let (user, password) = ("vault:shop#user".parse()?, "vault:shop#password".parse()?);
/// let hook = PostgresDeadpool::new(server, user, password)
///     .pool_config(PoolConfig::new(20))
///     .max_lifetime(Duration::from_secs(30 * 60))
///     .proof("SELECT 1 FROM orders LIMIT 1")
///     .into_hook("orders-db".parse()?);
/// # let _ = hook;
/// # Ok::<(), oneiric_core::ParseError>(())
/// ```
///
/// # Use
/// Take a connection by [`acquire`](crate::acquire), or by `managed.load().get()`, and keep the
/// guard as long as the connection.
///
/// # Users that remain at the drain deadline
/// Their connections are ended, and the server is told to cancel what runs on them: what they do
/// next fails. A connection that was taken out of its pool with `Object::take` is ended too.
#[must_use]
pub struct PostgresDeadpool {
    server: Config,
    user: SecretRef,
    password: SecretRef,
    pool: PoolConfig,
    manager: ManagerConfig,
    max_lifetime: Option<Duration>,
    proof: &'static str,
    pace: u32,
    connector: Connector,
}

impl PostgresDeadpool {
    /// A pool on this server, with these secrets as login. A login in `server` is replaced. Two
    /// fields of one secret change together, so prefer them over two secrets.
    pub fn new(server: Config, user: SecretRef, password: SecretRef) -> Self {
        Self {
            server,
            user,
            password,
            pool: PoolConfig::default(),
            manager: ManagerConfig::default(),
            max_lifetime: None,
            proof: "SELECT 1",
            pace: PACE,
            connector: connector(NoTls),
        }
    }

    /// How each generation's pool is sized and timed. Its `timeouts.create` bounds the proof too:
    /// 30 s where it is not set.
    pub fn pool_config(mut self, config: PoolConfig) -> Self {
        self.pool = config;
        self
    }

    /// How connections are made fit for their next user.
    pub fn manager_config(mut self, config: ManagerConfig) -> Self {
        self.manager = config;
        self
    }

    /// How old a connection may become until it is replaced by a new one when it is taken; without
    /// it as old as its generation.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = Some(lifetime);
        self
    }

    /// How connections are encrypted. They are not by default.
    pub fn tls<T>(mut self, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.connector = connector(tls);
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
    pub fn into_hook(self, id: AdapterId) -> PostgresHook<PgDeadpool> {
        let secrets = [self.user.clone(), self.password.clone()];
        let (pace, config) = (self.pace, Arc::new(self));
        PostgresHook::new(id, secrets, pace, move |secrets, shared| {
            let config = Arc::clone(&config);
            async move { build(&config, &secrets, &shared).await }
        })
    }
}

impl fmt::Debug for PostgresDeadpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDeadpool")
            .field("user", &self.user)
            .field("password", &self.password)
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

/// A pool of deadpool, whose connections can be ended. It is used like the pool itself.
#[derive(Clone)]
pub struct PgDeadpool {
    pool: Deadpool,
    sessions: Arc<Sessions>,
}

impl Deref for PgDeadpool {
    type Target = Deadpool;

    fn deref(&self) -> &Deadpool {
        &self.pool
    }
}

impl fmt::Debug for PgDeadpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgDeadpool").field("status", &self.pool.status()).finish_non_exhaustive()
    }
}

async fn build(
    config: &PostgresDeadpool,
    secrets: &SecretSet,
    shared: &Shared<PgDeadpool>,
) -> Result<PgDeadpool, HookError> {
    let mut login = config.server.clone();
    login.user(text(secrets, &config.user)?).password(text(secrets, &config.password)?);
    let mut options = config.pool;
    let within = *options.timeouts.create.get_or_insert(CREATE);
    timeout(within, prove(&config.connector, &login, config.proof))
        .await
        .map_err(|_| no_answer())?
        .map_err(|error| Trouble::from(&error).of_proof())?;

    let sessions = Arc::<Sessions>::default();
    let connect = Pooling((config.connector)(Arc::clone(&sessions)));
    let manager = Manager::from_connect(login, connect, config.manager.clone());
    let mut builder = Deadpool::builder(manager).config(options).runtime(Runtime::Tokio1);
    if let Some(lifetime) = config.max_lifetime {
        builder = builder.pre_recycle(Hook::sync_fn(move |_, metrics| {
            let old = metrics.age() >= lifetime;
            if old { Err(NotRecycled::message("it is old")) } else { Ok(()) }
        }));
    }
    let pool = builder.build().map_err(|_| HookError::failed("the pool cannot be made"))?;
    let pool = PgDeadpool { pool, sessions };
    shared.warm(pool).await.map_err(|error| Trouble::from(&error).of_proof())
}

async fn prove(
    connector: &Connector,
    login: &Config,
    statement: &str,
) -> Result<(), tokio_postgres::Error> {
    let fresh = GivenUp(Arc::default());
    let (client, session) = connector(Arc::clone(&fresh.0)).connect(login).await?;
    let proven = client.batch_execute(statement).await;
    // It has served its purpose; how it ends proves nothing.
    drop(client);
    let _ = session.await;
    proven
}

/// Cuts a proof that nobody waits for any more: its statement may wait for a lock, and would go on
/// at the server for as long.
struct GivenUp(Arc<Sessions>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.cut.send_replace(true);
    }
}

impl Pool for PgDeadpool {
    type Connection = Object;
    type Error = PoolError;

    fn connection(&self) -> BoxFuture<'_, Result<Object, PoolError>> {
        self.pool.get().boxed()
    }

    fn is_refusal(error: &PoolError) -> bool {
        Trouble::from(error).is_refusal()
    }

    fn is_end(error: &PoolError) -> bool {
        matches!(error, PoolError::Closed)
    }

    fn size(&self) -> usize {
        self.pool.status().size
    }

    fn in_use(&self) -> usize {
        let status = self.pool.status();
        status.size - status.available
    }

    fn shed(&self) -> BoxFuture<'_, bool> {
        let mut spared = false;
        self.pool.retain(|_, _| std::mem::replace(&mut spared, true));
        // The first one was let go of if it was asked for one at all.
        std::future::ready(spared).boxed()
    }

    fn stop(&self) {
        self.pool.close();
    }

    fn is_stopped(&self) -> bool {
        self.pool.is_closed()
    }

    fn cut(&self) {
        self.sessions.cut.send_replace(true);
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        async {
            self.pool.close();
            let mut live = self.sessions.live.subscribe();
            // The sender is ours.
            let _ = live.wait_for(|live| *live == 0).await;
        }
        .boxed()
    }
}

/// The connections of one pool.
#[derive(Debug, Default)]
struct Sessions {
    live: watch::Sender<usize>,
    cut: watch::Sender<bool>,
}

/// One of them, until it is closed.
struct Live(Arc<Sessions>);

impl Live {
    fn new(sessions: Arc<Sessions>) -> Self {
        sessions.live.send_modify(|live| *live += 1);
        Self(sessions)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.send_modify(|live| *live -= 1);
    }
}

/// Opens connections that end when their pool is cut.
struct Cuttable<T> {
    tls: T,
    sessions: Arc<Sessions>,
}

fn connector<T>(tls: T) -> Connector
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Arc::new(move |sessions| Arc::new(Cuttable { tls: tls.clone(), sessions }))
}

type Connecting<'a> = BoxFuture<'a, Result<(Client, JoinHandle<()>), tokio_postgres::Error>>;

impl<T> Connect for Cuttable<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn connect(&self, config: &Config) -> Connecting<'_> {
        let (tls, config, sessions) =
            (self.tls.clone(), config.clone(), Arc::clone(&self.sessions));
        async move {
            let (client, connection) = config.connect(tls.clone()).await?;
            let cancel = client.cancel_token();
            let (live, mut cut) = (Live::new(Arc::clone(&sessions)), sessions.cut.subscribe());
            let task = tokio::spawn(async move {
                let _live = live;
                let is_cut = tokio::select! {
                    // How it ended is its user's to hear; it may quote what was sent.
                    _ = connection => false,
                    cut = cut.wait_for(|cut| *cut) => cut.is_ok(),
                };
                if is_cut {
                    // Else the server notices only when the statement is over.
                    let _ = timeout(CANCEL, cancel.cancel_query(tls)).await;
                }
            });
            Ok((client, task))
        }
        .boxed()
    }
}

/// The same as a pool takes it.
struct Pooling(Arc<dyn Connect>);

impl Connect for Pooling {
    fn connect(&self, config: &Config) -> Connecting<'_> {
        self.0.connect(config)
    }
}
