//! Two login roles of a private PostgreSQL alternate under a pool that is queried without pause.

use std::sync::Arc;
use std::time::Duration;

use oneiric_adapter_postgres::PostgresPool;
use oneiric_core::Managed;
use oneiric_testkit::live::Postgres;
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::load::{Counts, Load};
use crate::operator::{Operator, new_credential};
use crate::report::{Report, Spread, seconds};
use crate::service::Service;

const KEY: &str = "db.json";
const ROLES: [&str; 2] = ["app_a", "app_b"];
/// How many connections a pool has.
const POOL: u32 = 4;
/// How long the server may take to forget a connection that its client has closed.
const FORGET: Duration = Duration::from_secs(5);
/// How long a connection of the plain pool lives. Both pools that are in wide use say 30 minutes;
/// nobody wants to wait that long to see it fail.
const NAIVE_LIFETIME: Duration = Duration::from_millis(300);
/// How long the plain cache believes a login.
const NAIVE_TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old role is closed.
const NAIVE_GRACE: Duration = Duration::from_millis(500);

/// The server, and which role is in use.
struct Database {
    server: Postgres,
}

impl Database {
    fn start() -> Result<Self, String> {
        let server = block_in_place(Postgres::start)?;
        let database = Self { server };
        database
            .sql("CREATE TABLE greetings (text text); INSERT INTO greetings VALUES ('hello')")?;
        for role in ROLES {
            database
                .sql(&format!("CREATE ROLE {role} NOLOGIN; GRANT SELECT ON greetings TO {role}"))?;
        }
        Ok(database)
    }

    fn sql(&self, statements: &str) -> Result<String, String> {
        block_in_place(|| self.server.psql(statements))
    }

    /// Opens a role under a new password.
    fn open(&self, role: &str) -> Result<String, String> {
        let password = new_credential();
        self.sql(&format!("ALTER ROLE {role} LOGIN PASSWORD '{password}'"))?;
        Ok(password)
    }

    fn close(&self, role: &str) -> Result<(), String> {
        self.sql(&format!("ALTER ROLE {role} NOLOGIN")).map(drop)
    }

    /// How many sessions the server has of a role.
    fn sessions(&self, role: &str) -> Result<u64, String> {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        let answer = self.sql(&count)?;
        answer.trim().parse().map_err(|_| format!("`{answer}` is not a number of sessions"))
    }

    /// The same once the server has noticed what its clients have closed.
    async fn sessions_left(&self, role: &str) -> Result<u64, String> {
        let until = Instant::now() + FORGET;
        loop {
            let sessions = self.sessions(role)?;
            if sessions == 0 || Instant::now() > until {
                return Ok(sessions);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn address(&self) -> PgConnectOptions {
        PgConnectOptions::new().host("127.0.0.1").port(self.server.port()).database("postgres")
    }
}

fn login(role: &str, password: &str) -> String {
    serde_json::json!({ "user": role, "password": password }).to_string()
}

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let service = Service::start()?;
    let mut operator = Operator::new(&service.socket(), &service.secrets())?;
    operator.store(KEY, &login(ROLES[0], &database.open(ROLES[0])?))?;
    let managed = adapter(&service, &database).await?;
    let load = Load::start(plan.clients, |counts| client(counts, managed.clone()));

    let mut old_uses = 0;
    let mut serving = 0;
    for round in 1..=plan.rotations {
        let next = 1 - serving;
        let password = database.open(ROLES[next])?;
        operator.store(KEY, &login(ROLES[next], &password))?;
        operator.rotate(KEY).await?;
        // Every adapter has drained: no session of the old role is left to be cut off.
        let left = database.sessions_left(ROLES[serving]).await?;
        database.close(ROLES[serving])?;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        old_uses += left.max(database.sessions(ROLES[serving])?);
        serving = next;
    }

    let (requests, failed, failures) = load.stop().await?;
    service.stop().await?;
    let (swap_ms, drain_ms, command_ms) = operator.times();
    Ok(Report {
        scenario: "postgres",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: old_uses,
        old_credential_uses_after_commit: old_uses,
        swap_ms,
        drain_ms,
        command_ms,
        trials: Vec::new(),
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

async fn adapter(service: &Service, database: &Database) -> Result<Managed<PgPool>, String> {
    let id = "pool".parse().expect("it is a valid adapter id");
    let field = |name| format!("files:{KEY}#/{name}").parse().expect("it is a valid reference");
    let options = PgPoolOptions::new().max_connections(POOL).min_connections(1);
    let hook = PostgresPool::new(database.address(), field("user"), field("password"))
        .pool_options(options)
        .proof("SELECT text FROM greetings")
        .into_hook(id);
    service.runtime.manage(hook).await.map_err(|error| error.chain())
}

async fn client(counts: Arc<Counts>, managed: Managed<PgPool>) {
    while counts.goes_on() {
        let pool = managed.load();
        counts.count(query(&pool).await);
    }
}

async fn query(pool: &PgPool) -> Result<(), String> {
    let greeting: Result<(String,), _> =
        sqlx::query_as("SELECT text FROM greetings").fetch_one(pool).await;
    match greeting {
        Ok((text,)) if text == "hello" => Ok(()),
        Ok(_) => Err("the answer was another one".into()),
        Err(sqlx::Error::Database(error)) => Err(format!("refused: {}", error.message())),
        Err(error) => Err(format!("the query failed: {error}")),
    }
}

/// The same load on one pool whose login is read again now and then, and an operator who waits a
/// while. Nothing fails at the rotation: it fails when the pool connects again.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let database = Database::start()?;
    let password = database.open(ROLES[0])?;
    let options = database.address().username(ROLES[0]).password(&password);
    let pool = PgPoolOptions::new()
        .max_connections(POOL)
        .max_lifetime(NAIVE_LIFETIME)
        .acquire_timeout(Duration::from_secs(2))
        .connect_with(options)
        .await
        .map_err(|error| format!("the pool cannot connect: {error}"))?;
    pool.execute("SELECT 1").await.map_err(|error| error.to_string())?;
    let load = Load::start(plan.clients, |counts| naive_client(counts, pool.clone()));

    let mut old_uses = 0;
    let mut serving = 0;
    for round in 1..=plan.rotations {
        let next = 1 - serving;
        let password = database.open(ROLES[next])?;
        // The cache notices when its time is over, and the pool uses it for new connections.
        let (later, options) =
            (pool.clone(), database.address().username(ROLES[next]).password(&password));
        let notices = tokio::spawn(async move {
            sleep(NAIVE_TTL).await;
            later.set_connect_options(options);
        });
        sleep(NAIVE_GRACE).await;
        database.close(ROLES[serving])?;
        old_uses += database.sessions(ROLES[serving])?;
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        notices.await.map_err(|error| error.to_string())?;
        serving = next;
    }

    let (requests, failed, failures) = load.stop().await?;
    pool.close().await;
    Ok(Report {
        scenario: "postgres, a plain pool with a cached login",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: old_uses,
        old_credential_uses_after_commit: old_uses,
        swap_ms: Spread::default(),
        drain_ms: Spread::default(),
        command_ms: Spread::default(),
        trials: Vec::new(),
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

async fn naive_client(counts: Arc<Counts>, pool: PgPool) {
    while counts.goes_on() {
        counts.count(query(&pool).await);
    }
}
