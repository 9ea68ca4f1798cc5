//! The same load on plain pools whose login is read again now and then, and an operator who waits
//! a while. Nothing fails at the rotation: it fails when the pools connect again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{
    ConfigConnectImpl, Connect, Hook, HookError, Manager, ManagerConfig, Pool,
};
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Config, NoTls};

use crate::Plan;
use crate::database::{Database, QUERY, ROLES};
use crate::load::{Counts, Load};
use crate::pools::{SIZE, config, greeted, of_deadpool, said};
use crate::report::Report;

/// How long a connection of a plain pool lives. Pools that are in wide use say 30 minutes; nobody
/// wants to wait that long to see it fail.
const LIFETIME: Duration = Duration::from_millis(300);
/// How long the plain cache believes a login.
const TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old role is closed.
const GRACE: Duration = Duration::from_millis(500);

/// Both pools, and the login that is used for new connections.
#[derive(Clone)]
pub(crate) struct Plain {
    sqlx: PgPool,
    deadpool: Pool,
    login: Login,
}

/// The login that a pool of deadpool connects with.
#[derive(Clone)]
struct Login(Arc<Mutex<Config>>);

impl Connect for Login {
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let config = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move { ConfigConnectImpl { tls: NoTls }.connect(&config).await })
    }
}

impl Plain {
    pub(crate) fn new(database: &Database, role: &str, password: &str) -> Result<Self, String> {
        let sqlx = PgPoolOptions::new()
            .max_connections(SIZE)
            .max_lifetime(LIFETIME)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy_with(database.address().username(role).password(password));
        let mut now = config(database);
        now.user(role).password(password);
        let login = Login(Arc::new(now.clone().into()));
        let manager = Manager::from_connect(now, login.clone(), ManagerConfig::default());
        let deadpool = Pool::builder(manager)
            .max_size(SIZE as usize)
            .pre_recycle(Hook::sync_fn(|_, metrics| match metrics.age() < LIFETIME {
                true => Ok(()),
                false => Err(HookError::message("it is old")),
            }))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { sqlx, deadpool, login })
    }

    /// The cache notices when its time is over; the login is for new connections.
    pub(crate) fn notice(&self, database: &Database, role: &str, password: &str) {
        self.sqlx.set_connect_options(database.address().username(role).password(password));
        let mut now = self.login.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.user(role).password(password);
    }

    pub(crate) async fn close(&self) {
        self.sqlx.close().await;
        self.deadpool.close();
    }

    async fn ask(&self, sqlx: bool) -> Result<(), String> {
        let text: String = if sqlx {
            let asked = sqlx::query_scalar(QUERY).fetch_one(&self.sqlx).await;
            asked.map_err(|error| said(&error))?
        } else {
            let client = self.deadpool.get().await.map_err(|error| of_deadpool(&error))?;
            let row =
                client.query_one(QUERY, &[]).await.map_err(|error| of_deadpool(&error.into()))?;
            row.get(0)
        };
        greeted(&text)
    }
}

pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let first = database.open(ROLES[1]).await?;
    let password = |login: &oneiric_adapter_postgres::NewLogin| {
        login.password().expose_str().unwrap_or_default().to_owned()
    };
    let plain = Plain::new(&database, first.user(), &password(&first))?;
    let number = AtomicU32::new(0);
    let load = Load::start(plan.clients, |counts| {
        client(counts, plain.clone(), number.fetch_add(1, Ordering::Relaxed).is_multiple_of(2))
    });

    let mut old_uses = 0;
    let mut serving = first.user().to_owned();
    for round in 1..=plan.rotations {
        // A role that is idle by the book may have sessions, which this operator does not look at.
        let next = ROLES[usize::from(serving == ROLES[0])];
        let new = crate::operator::new_credential();
        database.sql(&format!("ALTER ROLE {next} LOGIN PASSWORD '{new}'"))?;
        let stored = Instant::now();
        sleep(GRACE).await;
        old_uses += database.close_at_once(&serving)?;
        sleep(TTL.saturating_sub(stored.elapsed())).await;
        plain.notice(&database, next, &new);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        serving = next.to_owned();
    }

    let loaded = load.stop().await?;
    plain.close().await;
    let report = Report::of("postgres, plain pools with a cached login", plan, started, loaded);
    Ok(report.old_uses((old_uses, old_uses)))
}

pub(crate) async fn client(counts: Arc<Counts>, plain: Plain, sqlx: bool) {
    while counts.goes_on() {
        counts.count(plain.ask(sqlx).await);
    }
}
