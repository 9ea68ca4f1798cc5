//! Logins to PostgreSQL that OpenBao leases, under a load that logs in without pause: no login
//! fails over a hundred leases of four seconds, nor while the store is sealed for less than a lease
//! lives, and when the service has ended no lease and no role is left.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_adapter_postgres::PostgresPool;
use oneiric_core::{Managed, SecretRef};
use oneiric_provider_vault::{AppRole, Config, Engine};
use oneiric_runtime::{Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::live::{OpenBao, Postgres, require};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const SWEEP: Duration = Duration::from_secs(1);
const CLIENTS: usize = 2;
const QUERY: &str = "SELECT text FROM greetings";
/// A role that may read one table, until its end.
const MAKE: &str = "creation_statements=CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' \
                    VALID UNTIL '{{expiration}}'; GRANT SELECT ON greetings TO \"{{name}}\"";
/// What the service may do. What is not here is in the policy `default`.
const POLICY: &str = r#"
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"#;

/// The servers.
struct Servers {
    bao: OpenBao,
    postgres: Postgres,
}

impl Servers {
    fn start() -> Result<Self, String> {
        let (bao, postgres) = (OpenBao::start()?, Postgres::start()?);
        postgres.psql("CREATE TABLE greetings (text text)")?;
        postgres.psql("INSERT INTO greetings VALUES ('hello')")?;
        bao.bao(&["secrets", "enable", "database"])?;
        let connection = format!(
            "connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres\
             ?sslmode=disable",
            postgres.port()
        );
        let password = format!("password={}", postgres.admin_password());
        bao.bao(&[
            "write",
            "database/config/pg",
            "plugin_name=postgresql-database-plugin",
            "allowed_roles=*",
            "username=admin",
            &connection,
            &password,
        ])?;
        bao.bao(&["auth", "enable", "approle"])?;
        Ok(Self { bao, postgres })
    }

    fn role(&self, name: &str, ttl: &str, max_ttl: &str) {
        let (ttl, max_ttl) = (format!("default_ttl={ttl}"), format!("max_ttl={max_ttl}"));
        let path = format!("database/roles/{name}");
        self.bao.bao(&["write", &path, "db_name=pg", MAKE, &ttl, &max_ttl]).unwrap();
    }

    /// The login of the service, whose tokens live so long.
    fn login(&self, folder: &Path, life: &[&str]) -> AppRole {
        let run = |arguments: &[&str]| self.bao.bao(arguments).unwrap();
        let policy = folder.join("policy.hcl");
        std::fs::write(&policy, POLICY).unwrap();
        run(&["policy", "write", "service", policy.to_str().unwrap()]);
        let path = "auth/approle/role/service";
        run(&[&["write", path, "token_policies=service"], life].concat());
        let role_id = run(&["read", "-field=role_id", &format!("{path}/role-id")]);
        let secret_id = run(&["write", "-f", "-field=secret_id", &format!("{path}/secret-id")]);
        std::fs::write(folder.join("secret-id"), secret_id).unwrap();
        AppRole::new(role_id, folder.join("secret-id"))
    }

    /// How many roles of leases the database has, and of how many kinds the server has leases.
    fn left(&self) -> (usize, usize) {
        let roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'";
        let roles = self.postgres.psql(roles).unwrap().lines().count();
        let kinds = match self.bao.bao(&["list", "sys/leases/lookup/database/creds"]) {
            // A head, a line, and then one for each.
            Ok(table) => table.lines().skip(2).count(),
            // An empty list is a failure to the command line, and so is every other failure.
            Err(why) => {
                assert!(why.starts_with("No value found at "), "{why}");
                0
            }
        };
        (roles, kinds)
    }
}

/// What the load counts.
#[derive(Default)]
struct Counts {
    logins: AtomicU64,
    failed: AtomicU64,
    queries: AtomicU64,
    slowest_us: AtomicU64,
    users: Mutex<HashSet<String>>,
}

impl Counts {
    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn leases(&self) -> usize {
        self.users.lock().unwrap().len()
    }

    fn row(&self) -> String {
        format!(
            "{} leases, {} logins and {} statements of pools, {} failed, slowest {:.0} ms",
            self.leases(),
            self.logins.load(Ordering::Relaxed),
            self.queries.load(Ordering::Relaxed),
            self.failed(),
            self.slowest_us.load(Ordering::Relaxed) as f64 / 1e3,
        )
    }

    fn fail(&self, what: &str, error: &sqlx::Error) {
        if self.failed.fetch_add(1, Ordering::Relaxed) < 5 {
            say(&format!("{what} failed: {error}"));
        }
    }

    /// One login over a fresh connection, and one statement through the pool.
    async fn use_once(&self, pool: &PgPool) {
        let options = pool.connect_options();
        let began = Instant::now();
        match fresh(&options).await {
            Ok(()) => _ = self.logins.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.fail("a login", &error),
        }
        match sqlx::query(QUERY).fetch_one(pool).await {
            Ok(_) => _ = self.queries.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.fail("a statement", &error),
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(took, Ordering::Relaxed);
        let user = options.get_username();
        let mut users = self.users.lock().unwrap();
        if !users.contains(user) {
            users.insert(user.to_owned());
        }
    }
}

async fn fresh(options: &PgConnectOptions) -> sqlx::Result<()> {
    let mut connection: PgConnection = options.connect().await?;
    sqlx::query(QUERY).fetch_one(&mut connection).await?;
    connection.close().await
}

/// A service with one pool for each role, under load from the start.
struct Service {
    pools: Vec<Managed<PgPool>>,
    counts: Arc<Counts>,
    resolver: Resolver,
    load: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Service {
    async fn start(servers: &Servers, login: AppRole, roles: &[String]) -> Self {
        let mut config = Config::new(servers.bao.address());
        config.engine = Engine::Leases;
        config.auth.approle = Some(login);
        let provider = Arc::new(config.build().unwrap());
        let providers = [("db".parse().unwrap(), provider as _)];
        let resolver = Resolver::new(providers, ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = SWEEP;
        let (runtime, task) = options.build(resolver.clone()).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));
        let (counts, done) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let mut pools = Vec::new();
        for role in roles {
            pools.push(pool(&runtime, servers, role).await);
        }
        // Each goes round all pools. More of them would not log in more often: they would wait for
        // each other.
        let load = (0..CLIENTS).map(|client| {
            let (counts, done) = (Arc::clone(&counts), Arc::clone(&done));
            let mut pools: Vec<_> = pools.clone();
            pools.rotate_left(client * roles.len() / CLIENTS);
            tokio::spawn(async move {
                for pool in pools.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    counts.use_once(&pool.load()).await;
                }
            })
        });
        let load = load.collect();
        Self { pools, counts, resolver, load, done, stop, running }
    }

    /// Ends the load, then the runtime, and last gives back the leases. Answers with how long
    /// that took.
    async fn end(self) -> Duration {
        self.done.store(true, Ordering::Relaxed);
        for client in self.load {
            client.await.unwrap();
        }
        self.stop.cancel();
        self.running.await.unwrap();
        // What serves goes on serving until it is told that it is over.
        for pool in &self.pools {
            sqlx::query(QUERY).fetch_one(&*pool.load()).await.unwrap();
            pool.load().close().await;
        }
        let began = Instant::now();
        assert!(self.resolver.release(began + Duration::from_secs(5)).await);
        began.elapsed()
    }
}

async fn pool(runtime: &Runtime, servers: &Servers, role: &str) -> Managed<PgPool> {
    let server = PgConnectOptions::new()
        .host("127.0.0.1")
        .port(servers.postgres.port())
        .database("postgres");
    let part = |name| -> SecretRef { format!("db:creds/{role}#{name}").parse().unwrap() };
    let hook = PostgresPool::new(server, part("username"), part("password"))
        .pool_options(PgPoolOptions::new().max_connections(2).min_connections(1))
        .proof(QUERY)
        .into_hook(role.parse().unwrap());
    runtime.manage(hook).await.unwrap()
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen")]
fn say(line: &str) {
    eprintln!("{line}");
}

async fn servers(suite: &str) -> Option<Servers> {
    match tokio::task::spawn_blocking(Servers::start).await.unwrap() {
        Ok(servers) => Some(servers),
        Err(why) => {
            require(suite, &why);
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_fails_over_a_hundred_leases_of_four_seconds() {
    let Some(servers) = servers("rehearsal-leases").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let roles: Vec<String> = (0..10).map(|role| format!("app-{role}")).collect();
    // Tokens are replaced in between, and each takes its leases along.
    let life = ["token_ttl=20s", "token_max_ttl=30s"];
    let login = block_in_place(|| {
        roles.iter().for_each(|role| servers.role(role, "4s", "6s"));
        servers.login(folder.path(), &life)
    });
    let began = Instant::now();
    let service = Service::start(&servers, login, &roles).await;
    while service.counts.leases() < 100 {
        assert!(began.elapsed() < Duration::from_secs(240), "{}", service.counts.row());
        sleep(Duration::from_millis(100)).await;
    }
    let counts = Arc::clone(&service.counts);
    let (users, kinds) = block_in_place(|| servers.left());
    assert!(
        users >= roles.len() && kinds == roles.len(),
        "what is in use is seen: {users} {kinds}"
    );
    let released = service.end().await;
    say(&format!(
        "leases of 4 s: {}; in {:.0} s, given back in {:.0} ms",
        counts.row(),
        began.elapsed().as_secs_f64(),
        released.as_secs_f64() * 1e3,
    ));
    assert_eq!(counts.failed(), 0);
    assert_eq!(block_in_place(|| servers.left()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_store_fails_no_login_and_a_revoked_lease_is_replaced_at_once() {
    let Some(servers) = servers("rehearsal-leases-outage").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let roles: Vec<String> = (0..3).map(|role| format!("app-{role}")).collect();
    let login = block_in_place(|| {
        roles.iter().for_each(|role| servers.role(role, "12s", "1h"));
        servers.login(folder.path(), &["token_ttl=1h"])
    });
    let began = Instant::now();
    let service = Service::start(&servers, login, &roles).await;
    // Each lease is to be renewed between 7.2 and 8 s after it was taken or renewed.
    sleep((began + Duration::from_millis(6800)).duration_since(Instant::now())).await;
    for _ in 0..2 {
        block_in_place(|| servers.bao.seal()).unwrap();
        sleep(Duration::from_millis(2500)).await;
        block_in_place(|| servers.bao.unseal()).unwrap();
        sleep(Duration::from_secs(5)).await;
    }
    let counts = Arc::clone(&service.counts);
    say(&format!("sealed twice at the time to renew: {}", counts.row()));
    assert_eq!(counts.failed(), 0);
    assert_eq!(counts.leases(), roles.len(), "they were renewed and not replaced");

    // An operator ends one. Its logins fail until that is noticed: nobody can promise more.
    let user = service.pools[0].load().connect_options().get_username().to_owned();
    let prefix = format!("database/creds/{}", roles[0]);
    block_in_place(|| servers.bao.bao(&["lease", "revoke", "-sync", "-prefix", &prefix])).unwrap();
    let revoked = Instant::now();
    let replaced = async {
        while service.pools[0].load().connect_options().get_username() == user {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SWEEP * 3, replaced).await.unwrap();
    let noticed = revoked.elapsed();
    // What was begun with the old login has ended.
    sleep(Duration::from_secs(1)).await;
    let failed = counts.failed();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(counts.failed(), failed, "nothing fails any more");
    say(&format!(
        "revoked by an operator: replaced after {:.0} ms, in which {failed} logins or statements \
         failed",
        noticed.as_secs_f64() * 1e3,
    ));
    let released = service.end().await;
    say(&format!("given back in {:.0} ms", released.as_secs_f64() * 1e3));
    assert_eq!(block_in_place(|| servers.left()), (0, 0));
}
