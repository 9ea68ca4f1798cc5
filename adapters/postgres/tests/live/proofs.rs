//! A proof that is given up: nothing of it goes on at the server.

use std::time::Duration;

use oneiric_adapter_postgres::PgDeadpool;
use oneiric_core::LifecycleHook as _;
use oneiric_testkit::live::Postgres;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::time::{Instant, sleep};

use crate::kinds::{Kind as _, Make};
use crate::server::{login, sql, until_gone, with_roles};

/// The statement of a proof waits for a lock at the server, which is not given while this is held.
async fn locked(server: &Postgres) -> PgConnection {
    sql(server, "CREATE TABLE locked (); ALTER TABLE locked OWNER TO app_b");
    sql(server, "GRANT SELECT ON locked TO app_a");
    let address = PgConnectOptions::new().host("127.0.0.1").port(server.port());
    let address = address.database("postgres").username("app_b").password("b");
    let mut holder = PgConnection::connect_with(&address).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE locked").execute(&mut holder).await.unwrap();
    holder
}

async fn until_it_waits(server: &Postgres, role: &str) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let give_up = Instant::now() + Duration::from_secs(20);
    while sql(server, &format!("{waits} AND usename = '{role}'")) != "1" {
        assert!(Instant::now() < give_up, "no session of {role} waits for the lock");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_deadpool_that_is_given_up_ends_at_the_server() {
    let Some(server) = with_roles() else { return };
    let _holder = locked(&server).await;
    let make = Make { proof: "SELECT FROM locked", ..Make::at(server.port()) };
    let hook = PgDeadpool::hook(make);
    let secrets = login("app_a", "a");
    let proving = tokio::spawn(async move { hook.prepare(&secrets).await.map(drop) });
    until_it_waits(&server, "app_a").await;
    proving.abort();
    until_gone(&server, "app_a").await;

    // It gives itself up where it takes too long.
    let hook = PgDeadpool::hook(Make { patience: Duration::from_millis(100), ..make });
    let error = hook.prepare(&login("app_a", "a")).await.err().unwrap();
    assert!(!error.is_refused() && error.to_string().contains("in time"), "{error}");
    until_gone(&server, "app_a").await;
}
