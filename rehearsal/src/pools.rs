//! A pool of sqlx and one of deadpool, adapters of the same login, and those who use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::{PoolConfig, PoolError};
use oneiric_adapter_postgres::{PgDeadpool, PostgresDeadpool, PostgresPool, acquire};
use oneiric_core::{Managed, SecretRef};
use oneiric_runtime::Runtime;
use oneiric_runtime::report::AdapterOutcome;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::Plan;
use crate::database::{Database, QUERY};
use crate::load::{Counts, Load};

/// How many connections each pool has.
pub(crate) const SIZE: u32 = 4;

/// The pools of one service.
#[derive(Clone)]
pub(crate) struct Pools {
    pub(crate) sqlx: Managed<PgPool>,
    pub(crate) deadpool: Managed<PgDeadpool>,
}

impl Pools {
    pub(crate) async fn start(
        runtime: &Runtime,
        database: &Database,
        login: [&str; 2],
    ) -> Result<Self, String> {
        let login: [SecretRef; 2] =
            login.map(|part| part.parse().expect("it is a valid reference"));
        let id = |id: &str| id.parse().expect("it is a valid adapter id");
        let [user, password] = login.clone();
        let options = PgPoolOptions::new().max_connections(SIZE).min_connections(1);
        let sqlx = PostgresPool::new(database.address(), user, password)
            .pool_options(options)
            .proof(QUERY)
            .into_hook(id("sqlx"));
        let [user, password] = login;
        let deadpool = PostgresDeadpool::new(config(database), user, password)
            .pool_config(PoolConfig::new(SIZE as usize))
            .proof(QUERY)
            .into_hook(id("deadpool"));
        Ok(Self {
            sqlx: runtime.manage(sqlx).await.map_err(|error| error.chain())?,
            deadpool: runtime.manage(deadpool).await.map_err(|error| error.chain())?,
        })
    }

    /// The generation that both serve; 0 while they differ.
    pub(crate) fn generation(&self) -> u64 {
        let (one, other) = (self.sqlx.load().generation(), self.deadpool.load().generation());
        if one == other { one } else { 0 }
    }

    /// Waits until both serve this generation or a newer one.
    #[cfg(feature = "postgres-vault")]
    pub(crate) async fn reach(&self, generation: u64, within: Duration) -> Result<(), String> {
        let reached = async {
            while self.sqlx.load().generation().min(self.deadpool.load().generation()) < generation
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let late = |_| format!("generation {generation} does not serve after {within:?}");
        tokio::time::timeout(within, reached).await.map_err(late)
    }

    /// Half of the clients use one pool, half the other. Each rests this long after a request.
    pub(crate) fn load(&self, plan: Plan, rest: Duration) -> Load {
        let number = AtomicU32::new(0);
        Load::start(plan.clients, |counts| {
            let (pools, even) =
                (self.clone(), number.fetch_add(1, Ordering::Relaxed).is_multiple_of(2));
            client(counts, pools, even, rest)
        })
    }

    /// Takes a connection of one of the pools, and keeps it in this way.
    pub(crate) async fn keep(&self, what: Keep) -> Result<Kept, String> {
        let (end, ended) = oneshot::channel::<()>();
        let task = match what {
            Keep::Deadpool => {
                let lease = acquire(&self.deadpool).await.map_err(|error| error.to_string())?;
                // It listens to nothing, and works until it cannot.
                tokio::spawn(async move {
                    while lease.query_one(QUERY, &[]).await.is_ok() {
                        sleep(Duration::from_millis(1)).await;
                    }
                })
            }
            Keep::Sqlx | Keep::SqlxUntilCutOff => {
                let lease = acquire(&self.sqlx).await.map_err(|error| error.to_string())?;
                tokio::spawn(async move {
                    match what {
                        Keep::Sqlx => _ = ended.await,
                        _ => lease.cut_off().await,
                    }
                    drop(lease);
                })
            }
        };
        Ok(Kept { end, task })
    }
}

pub(crate) fn config(database: &Database) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(database.server.port()).dbname("postgres");
    config
}

/// Who keeps a connection, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    SqlxUntilCutOff,
    Sqlx,
    Deadpool,
}

impl Keep {
    pub(crate) const ALL: [Self; 3] = [Self::SqlxUntilCutOff, Self::Sqlx, Self::Deadpool];

    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::SqlxUntilCutOff => "sqlx: a user ends when cut off",
            Self::Sqlx => "sqlx: a user never ends",
            Self::Deadpool => "deadpool: a user never ends",
        }
    }

    /// What becomes of the old pool.
    pub(crate) fn expected(self) -> AdapterOutcome {
        match self {
            Self::SqlxUntilCutOff | Self::Deadpool => AdapterOutcome::Forced,
            Self::Sqlx => AdapterOutcome::Leaked,
        }
    }
}

/// A user that keeps a connection.
pub(crate) struct Kept {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Kept {
    pub(crate) async fn let_go(self) -> Result<(), String> {
        drop(self.end);
        self.task.await.map_err(|error| error.to_string())
    }
}

async fn client(counts: Arc<Counts>, pools: Pools, sqlx: bool, rest: Duration) {
    while counts.goes_on() {
        let asked = if sqlx { ask_sqlx(&pools).await } else { ask_deadpool(&pools).await };
        counts.count(asked.and_then(|text| greeted(&text)));
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
}

async fn ask_sqlx(pools: &Pools) -> Result<String, String> {
    let mut lease = acquire(&pools.sqlx).await.map_err(|error| said(&error))?;
    sqlx::query_scalar(QUERY).fetch_one(&mut **lease).await.map_err(|error| said(&error))
}

async fn ask_deadpool(pools: &Pools) -> Result<String, String> {
    let lease = acquire(&pools.deadpool).await.map_err(|error| of_deadpool(&error))?;
    let row = lease.query_one(QUERY, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| of_deadpool(&error.into()))
}

pub(crate) fn of_deadpool(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => match error.as_db_error() {
            Some(error) => format!("refused: {}", error.message()),
            None => format!("the query failed: {error}"),
        },
        error => format!("no connection: {error}"),
    }
}

pub(crate) fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("refused: {}", error.message()),
        error => format!("the query failed: {error}"),
    }
}

pub(crate) fn greeted(text: &str) -> Result<(), String> {
    if text == "hello" { Ok(()) } else { Err("the answer was another one".into()) }
}
