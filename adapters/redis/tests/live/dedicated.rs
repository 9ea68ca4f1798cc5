//! Connections that wait or have subscribed: they live through rotations.

use std::time::Duration;

use oneiric_adapter_redis::{Dedicated, Redis, acquire, dedicated};
use oneiric_core::{DrainOutcome, DrainReport, LifecycleHook as _, Managed, ManagedHook};
use oneiric_testkit::live::Redis as Server;
use redis::AsyncCommands as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::server::{LONG, SHORT, acl, ask, first, hook, rotate, secret, server, until};

/// A server that accepts two passwords, and an adapter that has the first.
async fn with_two() -> Option<(Server, ManagedHook<Redis>, Managed<Redis>)> {
    let server = server().await?;
    acl(&server, &["app", ">two"]).await;
    let hook = hook(&server);
    let managed = first(&hook).await;
    Some((server, hook, managed))
}

async fn begun(hook: &ManagedHook<Redis>) -> JoinHandle<DrainReport> {
    let retired = hook.prepare(&secret("two", 2)).await.unwrap().commit();
    tokio::spawn(retired.drain(Instant::now() + LONG))
}

/// Waits until every connection of the user is known by the second password.
async fn until_moved(server: &Server) {
    let moved =
        |clients: &[String]| clients.iter().all(|client| client.contains(" name=oneiric:cache:2 "));
    until(server, "app", moved).await;
}

async fn lives_on(connection: &mut Dedicated, id: u64) {
    assert_eq!((connection.id(), connection.generation()), (id, 2));
    let now: u64 = redis::cmd("CLIENT").arg("ID").query_async(connection).await.unwrap();
    assert_eq!(now, id, "it is another connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_job_goes_on_waiting_and_is_authenticated_anew() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut worker = dedicated(&managed).await.unwrap();
    let id = worker.id();
    let waiting = tokio::spawn(async move {
        let job = worker.blpop::<_, (String, u64)>("jobs", 0.0).await;
        (worker, job)
    });
    let blocked = |clients: &[String]| clients.iter().any(|client| client.contains(" cmd=blpop"));
    until(&server, "app", blocked).await;

    let mut drain = begun(&hook).await;
    assert!(timeout(SHORT, &mut drain).await.is_err(), "it is known by the old password");
    ask::<()>(&server, redis::cmd("RPUSH").arg(&["jobs", "7"])).await;
    let (mut worker, job) = waiting.await.unwrap();
    assert_eq!(job.unwrap(), ("jobs".to_owned(), 7));
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until_moved(&server).await;
    lives_on(&mut worker, id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_is_cut_at_the_deadline_and_counted() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut worker = dedicated(&managed).await.unwrap();
    let waiting = tokio::spawn(async move {
        let job = worker.blpop::<_, (String, u64)>("jobs", 0.0).await;
        (worker, job)
    });
    let blocked = |clients: &[String]| clients.iter().any(|client| client.contains(" cmd=blpop"));
    until(&server, "app", blocked).await;
    let report = rotate(&hook, "two", 2, SHORT).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1), "{report:?}");
    let (mut worker, job) = waiting.await.unwrap();
    assert!(job.unwrap_err().is_connection_dropped());
    until_moved(&server).await;
    // It has ended, and does not come back by itself.
    assert!(worker.get::<_, Option<String>>("a").await.is_err());
    assert!(timeout(LONG, worker.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_without_losing_a_message() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut news = dedicated(&managed).await.unwrap();
    let id = news.id();
    news.subscribe("news").await.unwrap();
    let publisher = managed.clone();
    let publishing = tokio::spawn(async move {
        for number in 0..300_u64 {
            let mut lease = acquire(&publisher).await.unwrap();
            lease.publish::<_, _, ()>("news", number).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    });
    let hearing = tokio::spawn(async move {
        for expected in 0..300_u64 {
            let message = timeout(LONG, news.message()).await.unwrap().unwrap();
            assert_eq!(message.get_payload::<u64>().unwrap(), expected);
        }
        news
    });
    sleep(SHORT).await;
    assert_eq!(rotate(&hook, "two", 2, LONG).await, DrainReport::drained());
    until_moved(&server).await;
    acl(&server, &["app", "<one"]).await;
    publishing.await.unwrap();
    let mut news = hearing.await.unwrap();
    lives_on(&mut news, id).await;

    news.psubscribe("o*").await.unwrap();
    news.unsubscribe("news").await.unwrap();
    news.punsubscribe("n*").await.unwrap();
    let heard: u64 = ask(&server, redis::cmd("PUBLISH").arg(&["other", "x"])).await;
    assert_eq!(heard, 1);
    assert_eq!(timeout(LONG, news.message()).await.unwrap().unwrap().get_channel_name(), "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_comes_into_a_transaction() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut worker = dedicated(&managed).await.unwrap();
    let id = worker.id();
    worker.set::<_, _, ()>("watched", 1).await.unwrap();
    redis::cmd("WATCH").arg("watched").exec_async(&mut worker).await.unwrap();
    redis::cmd("MULTI").exec_async(&mut worker).await.unwrap();
    redis::cmd("SET").arg("a").arg(1).exec_async(&mut worker).await.unwrap();

    let mut drain = begun(&hook).await;
    assert!(timeout(SHORT, &mut drain).await.is_err(), "it is known by the old password");
    redis::cmd("SET").arg("b").arg(2).exec_async(&mut worker).await.unwrap();
    let done: Vec<String> = redis::cmd("EXEC").query_async(&mut worker).await.unwrap();
    assert_eq!(done, ["OK", "OK"]);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until_moved(&server).await;
    lives_on(&mut worker, id).await;

    // What is watched is watched through a rotation, too.
    redis::cmd("WATCH").arg("watched").exec_async(&mut worker).await.unwrap();
    acl(&server, &["app", ">three"]).await;
    assert_eq!(rotate(&hook, "three", 3, LONG).await, DrainReport::drained());
    assert_eq!((worker.id(), worker.generation()), (id, 3));
    ask::<()>(&server, redis::cmd("SET").arg(&["watched", "2"])).await;
    let mut both = redis::pipe();
    both.atomic().set("a", 3);
    assert_eq!(both.query_async::<Option<()>>(&mut worker).await.unwrap(), None);

    // One that is never ended is in the way until the deadline.
    redis::cmd("MULTI").exec_async(&mut worker).await.unwrap();
    acl(&server, &["app", ">four"]).await;
    let report = rotate(&hook, "four", 4, SHORT).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_one_is_authenticated_anew_and_is_in_nobodys_way_when_it_is_dropped() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut idle = dedicated(&managed).await.unwrap();
    let (id, gone) = (idle.id(), dedicated(&managed).await.unwrap());
    assert!(format!("{idle:?}").contains("generation: 1"));
    drop(gone);
    until(&server, "app", |clients| clients.len() == 2).await;
    assert_eq!(rotate(&hook, "two", 2, LONG).await, DrainReport::drained());
    // Not a moment later: what is drained may be revoked.
    acl(&server, &["app", "<one"]).await;
    until_moved(&server).await;
    lives_on(&mut idle, id).await;
    drop(idle);
    until(&server, "app", |clients| clients.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_server_lets_in_no_more_stays_with_its_old_generation() {
    let Some((server, hook, managed)) = with_two().await else { return };
    let mut refusals = hook.refusals().unwrap();
    let idle = dedicated(&managed).await.unwrap();
    let prepared = hook.prepare(&secret("two", 2)).await.unwrap();
    // It is revoked between the proof and the commit.
    acl(&server, &["app", "<two"]).await;
    let drain = tokio::spawn(prepared.commit().drain(Instant::now() + LONG));
    let refused = futures_util::StreamExt::next(&mut refusals);
    assert!(timeout(LONG, refused).await.unwrap().is_some(), "nobody is told");
    assert_eq!(idle.generation(), 1);
    assert!(!drain.is_finished());
    // The old one is gone back to, as a generation of its own.
    let retired = hook.prepare(&secret("one", 1)).await.unwrap().commit();
    let back = tokio::spawn(retired.drain(Instant::now() + LONG));
    assert_eq!(timeout(LONG, drain).await.unwrap().unwrap(), DrainReport::drained());
    assert_eq!(timeout(LONG, back).await.unwrap().unwrap(), DrainReport::drained());
    assert_eq!(idle.generation(), 3);
}
