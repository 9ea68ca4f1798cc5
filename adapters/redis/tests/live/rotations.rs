//! Two passwords of one user take turns under load, and passwords that do not work.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_adapter_redis::acquire;
use oneiric_core::{DrainOutcome, DrainReport, HookError, LifecycleHook as _};
use oneiric_testkit::scan_for_canary;
use redis::AsyncCommands as _;
use tokio::time::{sleep, timeout};

use crate::server::{
    LONG, SHORT, acl, ask, clients, connection, first, hook, patient, rotate, secret, server,
    until, whoami,
};

const CLIENTS: usize = 8;
const ROTATIONS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_take_turns_under_load_and_no_request_is_lost() {
    let Some(server) = server().await else { return };
    let hook = hook(&server);
    let managed = first(&hook).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let users: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (managed, stop, served) = (managed.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut lease = acquire(&managed).await?;
                    // A command, and a transaction.
                    let _: u64 = lease.incr("served", 1).await?;
                    let mut both = redis::pipe();
                    both.atomic().incr("served", 1).incr("twice", 2);
                    let _: (u64, u64) = both.query_async(&mut lease).await?;
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), redis::RedisError>(())
            })
        })
        .collect();

    let mut old = "one".to_owned();
    for round in 2..=ROTATIONS + 1 {
        let new = format!("pw-{round}");
        acl(&server, &["app", &format!(">{new}")]).await;
        let before = served.load(Ordering::Relaxed);
        assert_eq!(rotate(&hook, &new, round, LONG).await, DrainReport::drained(), "{round}");
        // The server sees nobody any more who was let in by the old one.
        let name = format!(" name=oneiric:cache:{round} ");
        let moved = |clients: &[String]| clients.iter().all(|client| client.contains(&name));
        until(&server, "app", moved).await;
        acl(&server, &["app", &format!("<{old}")]).await;
        while served.load(Ordering::Relaxed) == before {
            sleep(Duration::from_millis(1)).await;
        }
        old = new;
    }

    stop.store(true, Ordering::Relaxed);
    for user in users {
        user.await.unwrap().unwrap();
    }
    // What was said to be done was done, and done once.
    let served = served.load(Ordering::Relaxed);
    let counted: (u64, u64) = ask(&server, redis::cmd("MGET").arg(&["served", "twice"])).await;
    assert_eq!(counted, (2 * served, 2 * served));
    assert_eq!(clients(&server, "app").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_keeps_its_connection_until_it_is_answered() {
    let Some(server) = server().await else { return };
    let hook = hook(&server);
    let managed = first(&hook).await;
    acl(&server, &["app", ">two"]).await;
    let mut lease = acquire(&managed).await.unwrap();
    let waiting = tokio::spawn(async move { lease.blpop::<_, (String, u64)>("jobs", 0.0).await });
    let blocked = |clients: &[String]| clients.iter().any(|client| client.contains(" cmd=blpop"));
    until(&server, "app", blocked).await;

    let retired = hook.prepare(&secret("two", 2)).await.unwrap().commit();
    let mut drain = tokio::spawn(retired.drain(tokio::time::Instant::now() + LONG));
    assert_eq!(whoami(&managed).await.unwrap(), "app");
    assert!(timeout(SHORT, &mut drain).await.is_err(), "a request is under way");
    ask::<()>(&server, redis::cmd("RPUSH").arg(&["jobs", "7"])).await;
    assert_eq!(waiting.await.unwrap().unwrap(), ("jobs".to_owned(), 7));
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until(&server, "app", |clients| clients.len() == 1).await;

    // What does not end by itself is cut at the deadline.
    acl(&server, &["app", ">three"]).await;
    let mut lease = acquire(&managed).await.unwrap();
    let waiting = tokio::spawn(async move { lease.blpop::<_, (String, u64)>("jobs", 0.0).await });
    until(&server, "app", blocked).await;
    let report = rotate(&hook, "three", 3, SHORT).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1));
    assert!(waiting.await.unwrap().unwrap_err().is_connection_dropped());
    until(&server, "app", |clients| clients.len() == 1).await;
    assert_eq!(whoami(&managed).await.unwrap(), "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_is_opened_anew_once_and_by_the_login_that_serves() {
    let Some(server) = server().await else { return };
    let hook = hook(&server);
    let managed = first(&hook).await;
    acl(&server, &["app", ">two"]).await;
    rotate(&hook, "two", 2, LONG).await;
    acl(&server, &["app", "<one"]).await;
    for _ in 0..3 {
        let id = acquire(&managed).await.unwrap().id().await.unwrap();
        ask::<u64>(&server, redis::cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await;
        until(&server, "app", <[String]>::is_empty).await;
        let users = (0..CLIENTS).map(|_| {
            let managed = managed.clone();
            tokio::spawn(async move {
                // One may have been under way when it was lost.
                while whoami(&managed).await.is_err() {}
            })
        });
        for user in users.collect::<Vec<_>>() {
            timeout(LONG, user).await.unwrap().unwrap();
        }
        let clients = clients(&server, "app").await;
        assert_eq!(clients.len(), 1, "{clients:#?}");
        assert!(clients[0].contains(" name=oneiric:cache:2 "), "{clients:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_restarted_is_found_again() {
    let Some(mut server) = server().await else { return };
    let hook = hook(&server);
    let managed = first(&hook).await;
    ask::<()>(&server, redis::cmd("ACL").arg("SAVE")).await;
    let mut waiting = oneiric_adapter_redis::dedicated(&managed).await.unwrap();
    waiting.subscribe("news").await.unwrap();
    tokio::task::block_in_place(|| server.stop());
    // It is told in time, and to nobody else.
    assert!(timeout(LONG, waiting.message()).await.unwrap().is_none());
    assert!(whoami(&managed).await.is_err());
    tokio::task::block_in_place(|| server.start_again()).unwrap();
    let again = async { while whoami(&managed).await.is_err() {} };
    timeout(LONG, again).await.unwrap();
    // What ended with the server is in nobody's way.
    acl(&server, &["app", ">two"]).await;
    assert_eq!(rotate(&hook, "two", 2, LONG).await, DrainReport::drained());
    assert!(waiting.subscribe("news").await.is_err());
}

async fn refused(connection: oneiric_adapter_redis::RedisConnection, value: &str) -> HookError {
    let hook = connection.into_hook("cache".parse().unwrap());
    let error = hook.prepare(&secret(value, 1)).await.err().unwrap();
    let printed = format!("{error} {error:?} {hook:?}");
    assert_eq!(scan_for_canary(&printed, value), None, "{printed}");
    assert!(hook.managed().is_none());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_does_not_work_is_refused_and_the_old_connection_serves_on() {
    let Some(server) = server().await else { return };
    let hook = hook(&server);
    let managed = first(&hook).await;
    let right = "canary-right-5eed-b921";
    acl(&server, &["off", &format!(">{right}"), "off", "~*", "+@all"]).await;
    acl(&server, &["stranger", &format!(">{right}"), "on", "~theirs:*", "+get"]).await;

    let port = server.port();
    for (user, value) in [("app", "canary-wrong-c0ffee-17"), ("off", right), ("nobody", right)] {
        let error = refused(connection(port, user), value).await;
        assert!(error.is_refused() && error.to_string().contains("WRONGPASS"), "{user}: {error}");
    }
    let ours = || redis::cmd("GET").arg("ours").to_owned();
    let error = refused(connection(port, "stranger").proof(ours()), right).await;
    assert!(error.is_refused() && error.to_string().contains("NOPERM"), "{error}");

    let error = hook.prepare(&secret("canary-wrong-c0ffee-17", 2)).await.err().unwrap();
    assert!(error.is_refused(), "{error}");
    assert_eq!(whoami(&managed).await.unwrap(), "app");
    assert_eq!(managed.load().generation(), 1);
    until(&server, "app", |clients| clients.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_few_rights_is_let_in_and_what_he_may_not_do_is_no_refusal() {
    use futures_util::FutureExt as _;
    let Some(server) = server().await else { return };
    acl(&server, &["few", ">one", "on", "~few:*", "+get"]).await;
    let hook = connection(server.port(), "few").into_hook("cache".parse().unwrap());
    let mut refusals = hook.refusals().unwrap();
    let managed = first(&hook).await;
    let mut lease = acquire(&managed).await.unwrap();
    assert_eq!(lease.get::<_, Option<String>>("few:a").await.unwrap(), None);
    let error = lease.set::<_, _, ()>("few:a", 1).await.unwrap_err();
    assert_eq!(error.code(), Some("NOPERM"));
    assert!(futures_util::StreamExt::next(&mut refusals).now_or_never().is_none());
    assert!(clients(&server, "few").await[0].contains(" name=oneiric:cache:1 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_that_every_server_has_is_rotated_like_any_other() {
    let Some(server) = server().await else { return };
    acl(&server, &["default", "on", ">one", ">two", "~*", "+@all"]).await;
    let address = redis::IntoConnectionInfo::into_connection_info(("127.0.0.1", server.port()));
    let hook =
        oneiric_adapter_redis::RedisConnection::new(address.unwrap(), crate::server::password())
            .connection_config(patient())
            .into_hook("cache".parse().unwrap());
    let managed = first(&hook).await;
    assert_eq!(rotate(&hook, "two", 2, LONG).await, DrainReport::drained());
    acl(&server, &["default", "<one"]).await;
    assert_eq!(whoami(&managed).await.unwrap(), "default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_asked_is_no_refusal() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let hurried = patient().set_connection_timeout(Some(Duration::from_millis(200)));
    let error = refused(connection(port, "app").connection_config(hurried), "right").await;
    assert!(!error.is_refused() && error.to_string().contains("in time"), "{error}");
    drop(silent);
    let error = refused(connection(port, "app"), "right").await;
    assert!(!error.is_refused() && error.to_string().contains("ConnectionRefused"), "{error}");

    let Some(server) = server().await else { return };
    acl(&server, &["app", ">canary-right-5eed-b921"]).await;
    ask::<()>(&server, redis::cmd("CONFIG").arg("SET").arg(&["maxclients", "1"])).await;
    // The one that asked may be counted a moment longer.
    let _kept = loop {
        match crate::server::connect_as(&server, "app", "one").await {
            Ok(kept) => break kept,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    // It hangs up after its answer, so that this may or may not be read.
    let right = "canary-right-5eed-b921";
    let error = refused(connection(server.port(), "app"), right).await;
    assert!(!error.is_refused(), "{error}");
}
