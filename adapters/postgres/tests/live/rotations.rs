//! Rotations under load, and logins that do not work.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_adapter_postgres::PostgresHook;
use oneiric_core::{DrainReport, HookError, LifecycleHook as _};
use oneiric_testkit::scan_for_canary;
use tokio::time::sleep;

use crate::kinds::{Kind, Make, first, rotate, serving};
use crate::server::{login, server, sql, until_gone};

const CLIENTS: usize = 8;
const ROTATIONS: usize = 20;

crate::with_both_pools!(
    roles_alternate_under_load_and_no_query_fails,
    a_login_that_does_not_work_is_refused_and_the_old_pool_serves_on,
    a_server_that_cannot_be_asked_is_no_refusal,
);

async fn roles_alternate_under_load_and_no_query_fails<K: Kind>() {
    let Some(server) = server() else { return };
    sql(&server, "CREATE ROLE app_a NOLOGIN; CREATE ROLE app_b NOLOGIN");
    sql(&server, "ALTER ROLE app_a LOGIN PASSWORD 'pw-0'");
    let hook = K::hook(Make::at(server.port()));
    let managed = first(&hook, "app_a", "pw-0").await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (managed, stop, served) = (managed.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    crate::kinds::who(&managed).await?;
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), String>(())
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
        assert_eq!(serving(&managed).await, new);
    }

    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(managed.load().generation(), ROTATIONS as u64 + 1);
}

async fn refused<K: Kind>(hook: &PostgresHook<K>, name: &str, secret: &str) -> HookError {
    hook.prepare(&login(name, secret)).await.err().unwrap()
}

async fn a_login_that_does_not_work_is_refused_and_the_old_pool_serves_on<K: Kind>() {
    let Some(server) = server() else { return };
    let right = "canary-right-5eed-b921";
    sql(&server, &format!("CREATE ROLE app_a LOGIN PASSWORD '{right}'"));
    sql(&server, &format!("CREATE ROLE app_b NOLOGIN PASSWORD '{right}'"));
    sql(&server, &format!("CREATE ROLE stranger LOGIN PASSWORD '{right}'"));
    sql(&server, "CREATE TABLE ours (); GRANT SELECT ON ours TO app_a");
    let hook = K::hook(Make { proof: "SELECT FROM ours", ..Make::at(server.port()) });
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

    assert_eq!(serving(&managed).await, "app_a");
    assert_eq!(managed.load().generation(), 1);
}

async fn a_server_that_cannot_be_asked_is_no_refusal<K: Kind>() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let make = Make::at(silent.local_addr().unwrap().port());
    let hook = K::hook(Make { patience: Duration::from_millis(200), ..make });
    let error = refused(&hook, "app_a", "right").await;
    assert!(!error.is_refused() && error.to_string().contains("in time"), "{error}");

    drop(silent);
    let hook = K::hook(make);
    let error = refused(&hook, "app_a", "right").await;
    assert!(!error.is_refused() && error.to_string().contains("ConnectionRefused"), "{error}");
    assert!(hook.managed().is_none());
}
