//! The socket from its first moment to its last.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use oneiric_core::ErrorKind;
use oneiric_runtime::RuntimeOptions;
use oneiric_runtime::admin::{AdminClient, AdminOptions, ClientError, discover};
use oneiric_runtime::report::{Outcome, Progress};
use oneiric_secrets::{Resolver, ResolverOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::{Rig, bind, in_time, late, options_in, rotate_db, until};

#[tokio::test]
async fn the_socket_goes_at_shutdown() {
    let rig = Rig::start();
    rig.client().status().await.unwrap();
    rig.close.cancel();
    let socket = rig.socket();
    until(async || !socket.exists()).await;
    let error = rig.client().status().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreached { .. }), "{error:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_socket_that_was_never_served_goes_with_its_server() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options_in(home.path());
    options.socket = Some(home.path().join("own/place.sock"));
    let admin = bind(options).unwrap();
    assert!(home.path().join("own/place.sock").exists());
    drop(admin);
    assert!(!home.path().join("own/place.sock").exists());
}

#[tokio::test]
async fn a_second_instance_of_a_name_is_refused_and_the_first_serves_on() {
    let rig = Rig::start();
    let error = bind(options_in(rig.home.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("instance `test` is already running"), "{error}");
    rig.client().status().await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(home.path().join("test.sock")).unwrap());
    let found = discover(home.path()).unwrap();
    assert!(!found[0].live);
    let _admin = bind(options_in(home.path())).unwrap();
    assert!(discover(home.path()).unwrap()[0].live);
}

#[tokio::test]
async fn a_runtime_brings_a_socket_of_its_owners_alone_and_takes_it_away() {
    let home = tempfile::tempdir().unwrap();
    let mut options = RuntimeOptions::new("web-1".parse().unwrap());
    let mut admin = AdminOptions::default();
    admin.runtime_dir = Some(home.path().join("run"));
    options.admin = Some(admin);
    let (_runtime, task) = options.build(Resolver::new([], ResolverOptions::default())).unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("run"), mode("run/web-1.sock")), (0o700, 0o600));
    let found = discover(&home.path().join("run")).unwrap();
    assert_eq!(found.len(), 1);
    let client = AdminClient::new(found[0].endpoint.clone());
    assert_eq!(client.status().await.unwrap().instance.as_str(), "web-1");
    stop.cancel();
    in_time(running).await.unwrap();
    assert!(discover(&home.path().join("run")).unwrap().is_empty());
}

#[tokio::test]
async fn a_request_that_runs_at_shutdown_is_answered() {
    let rig = Rig::start();
    let (_pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = rig.client();
    let asked = tokio::spawn(async move {
        client.rotate(&rotate_db(), late(), |step| tell.send(step.clone()).unwrap()).await
    });
    until(async || matches!(told.recv().await, Some(Progress::Preparing { .. }))).await;
    rig.close.cancel();
    let socket = rig.socket();
    until(async || !socket.exists()).await;
    gate.send_replace(true);
    assert_eq!(in_time(asked).await.unwrap().unwrap().outcome, Outcome::Done);
    rig.stop().await;
}

#[tokio::test]
async fn a_request_that_outlives_the_grace_time_is_cut_off() {
    let rig = Rig::with(|options| options.shutdown_grace = Duration::from_millis(200));
    let (pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = rig.client();
    let asked = tokio::spawn(async move {
        client.rotate(&rotate_db(), late(), |step| tell.send(step.clone()).unwrap()).await
    });
    until(async || matches!(told.recv().await, Some(Progress::Preparing { .. }))).await;
    rig.close.cancel();
    let error = in_time(asked).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { .. }), "{error:?}");
    gate.send_replace(true);
    until(async || *pool.load() == "second").await;
    rig.stop().await;
}

#[tokio::test]
async fn two_runtimes_of_one_process_are_two_instances() {
    let home = tempfile::tempdir().unwrap();
    let build = |name: &str| {
        let mut options = RuntimeOptions::new(name.parse().unwrap());
        let mut admin = AdminOptions::default();
        admin.runtime_dir = Some(home.path().to_owned());
        options.admin = Some(admin);
        options.build(Resolver::new([], ResolverOptions::default()))
    };
    let stop = CancellationToken::new();
    let running = ["web-a", "web-b"].map(|name| {
        let (_, task) = build(name).unwrap();
        tokio::spawn(task.run(stop.clone()))
    });
    let mut answered = Vec::new();
    for found in discover(home.path()).unwrap() {
        assert!(found.live);
        let status = AdminClient::new(found.endpoint).status().await.unwrap();
        assert_eq!(status.pid, std::process::id());
        answered.push(status.instance.to_string());
    }
    assert_eq!(answered, ["web-a", "web-b"]);
    // Of one name there is one, also within a process.
    assert_eq!(build("web-a").unwrap_err().kind(), ErrorKind::Conflict);
    stop.cancel();
    for task in running {
        in_time(task).await.unwrap();
    }
}

#[tokio::test]
async fn one_that_dies_between_being_found_and_being_asked_is_not_reached() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("web-1.sock");
    let dying = UnixListener::bind(&path).unwrap();
    let found = discover(home.path()).unwrap().pop().unwrap();
    assert!(found.live);
    drop(dying);
    let client = AdminClient::new(found.endpoint);
    let error = client.rotate(&rotate_db(), late(), |_| {}).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unreached, "{error:?}");
    assert!(matches!(client.status().await.unwrap_err(), ClientError::Unreached { .. }));
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_not_waited_for_until_the_deadline_of_the_work() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("web-1.sock");
    let _hung = UnixListener::bind(&path).unwrap();
    let client = AdminClient::new(discover(home.path()).unwrap().pop().unwrap().endpoint);
    let started = tokio::time::Instant::now();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { .. }), "{error:?}");
    let deadline = started + Duration::from_secs(3600);
    let error = client.rotate(&rotate_db(), deadline, |_| {}).await.unwrap_err();
    // The clock is held: it moves by what is waited for and by nothing else.
    assert!(tokio::time::Instant::now() < started + Duration::from_secs(600));
    assert_eq!(error.outcome(), Outcome::Ambiguous, "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("hangs"), "{source}");
}
