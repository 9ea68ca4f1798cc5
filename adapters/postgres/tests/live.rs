//! Against a private PostgreSQL: what users of the pool notice of a rotation, and what the server
//! sees of it.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_adapter_postgres::PostgresPool;
use oneiric_core::{
    DrainReport, HookError, LifecycleHook, Managed, ManagedHook, SecretRef, SecretSet, SecretValue,
    Version,
};
use oneiric_testkit::live::{Postgres, require};
use oneiric_testkit::scan_for_canary;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 8;
const ROTATIONS: usize = 20;

fn user() -> SecretRef {
    "files:db#user".parse().unwrap()
}

fn password() -> SecretRef {
    "files:db#password".parse().unwrap()
}

fn login(name: &str, secret: &str) -> SecretSet {
    let part = |reference, value: &str| (reference, SecretValue::from(value), Version::numbered(1));
    SecretSet::new([part(user(), name), part(password(), secret)])
}

/// The server, or `None` with a loud word where it cannot be had.
fn server() -> Option<Postgres> {
    match block_in_place(Postgres::start) {
        Ok(server) => Some(server),
        Err(why) => {
            require("postgres", &why);
            None
        }
    }
}

fn sql(server: &Postgres, statement: &str) -> String {
    block_in_place(|| server.psql(statement)).unwrap()
}

fn pool_at(port: u16) -> PostgresPool {
    let address = PgConnectOptions::new().host("127.0.0.1").port(port).database("postgres");
    PostgresPool::new(address, user(), password()).pool_options(
        PgPoolOptions::new()
            .max_connections(4)
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(20)),
    )
}

async fn first(hook: &ManagedHook<PgPool>, name: &str, secret: &str) -> Managed<PgPool> {
    rotate(hook, name, secret, Duration::ZERO).await;
    hook.managed().unwrap()
}

async fn rotate(
    hook: &ManagedHook<PgPool>,
    name: &str,
    secret: &str,
    patience: Duration,
) -> DrainReport {
    let retired = hook.prepare(&login(name, secret)).await.unwrap().commit();
    retired.drain(Instant::now() + patience).await
}

async fn refused(hook: &ManagedHook<PgPool>, name: &str, secret: &str) -> HookError {
    hook.prepare(&login(name, secret)).await.err().unwrap()
}

async fn current_user(pool: &PgPool) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT current_user::text").fetch_one(pool).await
}

/// Waits until the server has forgotten every session of a role: it does so a moment after the
/// client closed them.
async fn until_gone(server: &Postgres, role: &str) {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    let give_up = Instant::now() + Duration::from_secs(20);
    while sql(server, &count) != "0" {
        assert!(Instant::now() < give_up, "sessions of {role} remain");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_alternate_under_load_and_no_query_fails() {
    let Some(server) = server() else { return };
    sql(&server, "CREATE ROLE app_a NOLOGIN; CREATE ROLE app_b NOLOGIN");
    sql(&server, "ALTER ROLE app_a LOGIN PASSWORD 'pw-0'");
    let hook = pool_at(server.port()).into_hook("db".parse().unwrap());
    let managed = first(&hook, "app_a", "pw-0").await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (managed, stop, served) = (managed.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    current_user(&managed.load()).await?;
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), sqlx::Error>(())
            })
        })
        .collect();

    for round in 1..=ROTATIONS {
        let (old, new) = if round % 2 == 0 { ("app_b", "app_a") } else { ("app_a", "app_b") };
        let secret = format!("pw-{round}");
        sql(&server, &format!("ALTER ROLE {new} LOGIN PASSWORD '{secret}'"));
        let before = served.load(Ordering::Relaxed);
        let report = rotate(&hook, new, &secret, Duration::from_secs(20)).await;
        assert_eq!(report, DrainReport::drained(), "round {round}");
        until_gone(&server, old).await;
        sql(&server, &format!("ALTER ROLE {old} NOLOGIN PASSWORD NULL"));
        while served.load(Ordering::Relaxed) == before {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(current_user(&managed.load()).await.unwrap(), new);
    }

    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(managed.load().generation(), ROTATIONS as u64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_does_not_work_is_refused_and_the_old_pool_serves_on() {
    let Some(server) = server() else { return };
    let right = "canary-right-5eed-b921";
    sql(&server, &format!("CREATE ROLE app_a LOGIN PASSWORD '{right}'"));
    sql(&server, &format!("CREATE ROLE app_b NOLOGIN PASSWORD '{right}'"));
    sql(&server, &format!("CREATE ROLE stranger LOGIN PASSWORD '{right}'"));
    sql(&server, "CREATE TABLE ours (); GRANT SELECT ON ours TO app_a");
    let hook = pool_at(server.port()).proof("SELECT FROM ours").into_hook("db".parse().unwrap());
    let managed = first(&hook, "app_a", right).await;

    for (name, secret, sqlstate) in [
        ("app_a", "canary-wrong-c0ffee-17", "28P01"),
        ("app_b", right, "28000"),
        ("stranger", right, "42501"),
    ] {
        let error = refused(&hook, name, secret).await;
        assert!(error.is_refused(), "{error}");
        assert!(error.to_string().contains(sqlstate), "{error}");
        let printed = format!("{error} {error:?} {hook:?}");
        assert_eq!(scan_for_canary(&printed, secret), None, "{printed}");
    }
    let nul = refused(&hook, "app_a", "a\0b").await;
    assert!(!nul.is_refused() && nul.to_string().contains("files:db#/password"), "{nul}");

    assert_eq!(current_user(&managed.load()).await.unwrap(), "app_a");
    assert_eq!(managed.load().generation(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_asked_is_no_refusal() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let short = PgPoolOptions::new().acquire_timeout(Duration::from_millis(200));
    let hook = pool_at(silent_port).pool_options(short).into_hook("db".parse().unwrap());
    let error = refused(&hook, "app_a", "right").await;
    assert!(!error.is_refused() && error.to_string().contains("in time"), "{error}");

    drop(silent);
    let hook = pool_at(silent_port).into_hook("db".parse().unwrap());
    let error = refused(&hook, "app_a", "right").await;
    assert!(!error.is_refused() && error.to_string().contains("ConnectionRefused"), "{error}");
    assert!(hook.managed().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_outlives_its_guard_is_waited_for() {
    let Some(server) = server() else { return };
    sql(&server, "CREATE ROLE app_a LOGIN PASSWORD 'a'; CREATE ROLE app_b LOGIN PASSWORD 'b'");
    let hook = pool_at(server.port()).into_hook("db".parse().unwrap());
    let managed = first(&hook, "app_a", "a").await;

    let mut checked_out = managed.load().acquire().await.unwrap();
    let retired = hook.prepare(&login("app_b", "b")).await.unwrap().commit();
    let drain = tokio::spawn(retired.drain(Instant::now() + Duration::from_secs(20)));
    let late: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *checked_out).await.unwrap();
    assert_eq!(late, 1);
    assert!(!drain.is_finished());
    drop(checked_out);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until_gone(&server, "app_a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_never_returned_is_reported() {
    let Some(server) = server() else { return };
    sql(&server, "CREATE ROLE app_a LOGIN PASSWORD 'a'; CREATE ROLE app_b LOGIN PASSWORD 'b'");
    let hook = pool_at(server.port()).into_hook("db".parse().unwrap());
    let managed = first(&hook, "app_a", "a").await;

    let kept = managed.load().acquire().await.unwrap();
    let mut report = rotate(&hook, "app_b", "b", Duration::ZERO).await;
    assert!(report.error.is_some(), "{report:?}");
    assert_eq!(current_user(&managed.load()).await.unwrap(), "app_b");
    // The runtime waits for its late end, which closes what the first attempt left open.
    let later = tokio::spawn(report.take_later().unwrap());
    drop(kept);
    later.await.unwrap();
    until_gone(&server, "app_a").await;
}
