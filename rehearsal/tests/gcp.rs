//! Google Cloud Secret Manager, from a new version in the store to a service that uses it: noticed
//! by push, by one list of pointers, by stamps, and with push cut off half-way. The store is a
//! fake whose answers take 50 ms; the service never has a failed request.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{Managed, ManagedHook, SecretRef, SecretSet};
use oneiric_gcp_fake::{Fake, Feed, PushFault, Quota};
use oneiric_provider_gcp::{Config, Push};
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const LATENCY: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);
const ARRIVAL: Duration = Duration::from_secs(30);
const TOPIC: &str = "projects/demo-project/topics/changes";
const SUBSCRIPTION: &str = "projects/demo-project/subscriptions/changes";
/// The secret that is rotated stands among others, so that one list of pointers is worth it.
const SECRETS: [&str; 6] = ["token", "a", "b", "c", "d", "e"];

/// The server behind the service: it takes the newest credential and the one before.
#[derive(Default)]
struct Server {
    accepted: Mutex<HashSet<u64>>,
    failed: AtomicU64,
    served: AtomicU64,
}

impl Server {
    fn request(&self, credential: u64) {
        let accepted = self.accepted.lock().unwrap().contains(&credential);
        let count = if accepted { &self.served } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one more, and the one before it; no other.
    fn take(&self, credential: u64) {
        *self.accepted.lock().unwrap() = HashSet::from([credential, credential - 1]);
    }
}

/// A service on a fake store, under load from the start.
struct Service {
    fake: Fake,
    pointer: bool,
    server: Arc<Server>,
    managed: Managed<u64>,
    load: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
    number: u64,
}

impl Service {
    async fn start(current: &str, feed: Option<Feed>, watch_interval: Duration) -> Self {
        let fake = Fake::start().await;
        let pointer = current.starts_with("alias:");
        for id in SECRETS {
            fake.topic(id, TOPIC);
            fake.add(id, "credential-1");
            fake.alias(id, "current", 1);
        }
        let mut config = Config::new(Fake::PROJECT);
        config.project_number = Some(Fake::NUMBER.into());
        config.current = current.parse().unwrap();
        config.endpoint = Some(fake.endpoint());
        config.identity.anonymous = true;
        if let Some(feed) = feed {
            fake.subscribe(SUBSCRIPTION, feed);
            let mut push = Push::new(SUBSCRIPTION);
            push.endpoint = Some(fake.endpoint());
            config.push = Some(push);
        }
        let provider = Arc::new(config.build().unwrap());
        let resolver =
            Resolver::new([("gcp".parse().unwrap(), provider as _)], ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = watch_interval;
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));

        let refs: Vec<SecretRef> =
            SECRETS.iter().map(|id| format!("gcp:{id}").parse().unwrap()).collect();
        let token = refs[0].clone();
        let hook = ManagedHook::new("client".parse().unwrap(), refs, move |set: SecretSet| {
            let value = set.get(&token).unwrap().expose_str().unwrap();
            let number = value.strip_prefix("credential-").unwrap().parse().unwrap();
            async move { Ok(number) }
        });
        fake.latency(LATENCY);
        let managed = runtime.manage(hook).await.unwrap();

        let (server, done) = (Arc::new(Server::default()), Arc::new(AtomicBool::new(false)));
        server.take(1);
        let load = (0..4)
            .map(|_| {
                let (server, managed, done) =
                    (Arc::clone(&server), managed.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        server.request(*managed.load());
                        sleep(Duration::from_micros(500)).await;
                    }
                })
            })
            .collect();
        Self { fake, pointer, server, managed, load, done, stop, running, number: 1 }
    }

    /// A new credential; answers with how long the service took to use it.
    async fn rotate(&mut self) -> Duration {
        self.number += 1;
        self.server.take(self.number);
        let start = Instant::now();
        let version = self.fake.add("token", format!("credential-{}", self.number));
        if self.pointer {
            self.fake.alias("token", "current", version);
        }
        let used = async {
            while *self.managed.load() != self.number {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(ARRIVAL, used).await;
        assert!(in_time.is_ok(), "version {version} was not noticed");
        start.elapsed()
    }

    async fn rotations(&mut self, count: usize) -> Vec<Duration> {
        let mut took = Vec::new();
        for _ in 0..count {
            took.push(self.rotate().await);
        }
        took
    }

    /// Ends it, and says what it came to.
    async fn end(self, name: &str, mut took: Vec<Duration>) -> Fake {
        self.done.store(true, Ordering::Relaxed);
        for task in self.load {
            task.await.unwrap();
        }
        self.stop.cancel();
        self.running.await.unwrap();
        took.sort();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let (served, failed) = (&self.server.served, &self.server.failed);
        let (served, failed) = (served.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        say(&format!(
            "{name}: {} rotations, {served} requests, {failed} failed, event to use p50 {:.1} ms, \
             p99 {:.1} ms",
            took.len(),
            at(50),
            at(99),
        ));
        assert_eq!(failed, 0, "{name}");
        assert!(served > 100, "{name}: the service was under load");
        assert!(self.fake.busiest_minute(Quota::Read) <= 600);
        self.fake
    }
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen and is not asserted")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_committed_by_its_exact_version() {
    for (name, current, feed) in [
        ("push, topic", "latest", Feed::Topic(TOPIC.into())),
        ("push, audit log", "latest", Feed::AuditLog),
        ("push, pointer", "alias:current", Feed::Topic(TOPIC.into())),
    ] {
        let mut service = Service::start(current, Some(feed), NEVER).await;
        let (reads, lists) =
            (service.fake.calls("AccessSecretVersion"), service.fake.calls("ListSecrets"));
        let took = service.rotations(50).await;
        let fake = service.end(name, took).await;
        assert_eq!(fake.calls("AccessSecretVersion"), reads + 50, "each new version is read once");
        let read = fake.books().into_iter().rfind(|entry| entry.quota == Quota::Access).unwrap();
        assert!(read.resource.ends_with("/versions/51"), "{}", read.resource);
        let looks = ["GetSecretVersion", "ListSecretVersions"];
        assert_eq!(looks.map(|method| fake.calls(method)), [0, 0], "{name}");
        assert_eq!(fake.calls("ListSecrets"), lists, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_pointer_is_found_by_one_list() {
    let mut service = Service::start("alias:current", None, Duration::from_millis(300)).await;
    let took = service.rotations(10).await;
    let (reads, lists) =
        (service.fake.calls("AccessSecretVersion"), service.fake.calls("ListSecrets"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        service.fake.calls("AccessSecretVersion"),
        reads,
        "nothing changes, nothing is read"
    );
    assert!(service.fake.calls("ListSecrets") > lists);
    service.end("list of pointers every 300 ms", took).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_is_found_by_stamps() {
    let mut service = Service::start("latest", None, Duration::from_millis(500)).await;
    let took = service.rotations(10).await;
    let (reads, looks) =
        (service.fake.calls("AccessSecretVersion"), service.fake.calls("GetSecretVersion"));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        service.fake.calls("AccessSecretVersion"),
        reads,
        "nothing changes, nothing is read"
    );
    assert!(service.fake.calls("GetSecretVersion") > looks);
    service.end("stamps every 500 ms", took).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_push_cut_off_the_sweep_goes_on() {
    let feed = Some(Feed::Topic(TOPIC.into()));
    let mut service = Service::start("latest", feed, Duration::from_millis(500)).await;
    let mut took = service.rotations(5).await;
    service.fake.play_push(PushFault::Cut);
    let cut = service.rotations(5).await;
    say(&format!("while push is cut off: {cut:?}"));
    service.fake.mend();
    service.fake.latency(LATENCY);
    took.extend(service.rotations(5).await);
    service.end("push before and after it was cut off", took).await;
}
