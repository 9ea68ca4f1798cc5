//! Google Cloud Secret Manager, from a new version in the store to a service that uses it: noticed
//! by push, by one list of pointers, by stamps, and with push cut off half-way. The store is a
//! fake whose answers take 50 ms; the service never has a failed request.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use oneiric_gcp_fake::{Fake, Feed, PushFault, Quota};
use oneiric_provider_gcp::{Config, Push};
use tokio::time::sleep;

mod service;

use service::{Service, say};

const LATENCY: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);
const TOPIC: &str = "projects/demo-project/topics/changes";
const SUBSCRIPTION: &str = "projects/demo-project/subscriptions/changes";
/// The secret that is rotated stands among others, so that one list of pointers is worth it.
const SECRETS: [&str; 6] = ["token", "a", "b", "c", "d", "e"];

/// A service on a fake store, under load from the start.
struct Stand {
    fake: Fake,
    pointer: bool,
    service: Service,
    number: u64,
}

impl Stand {
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
        fake.latency(LATENCY);
        let refs = SECRETS.map(|id| format!("gcp:{id}"));
        let refs = refs.each_ref().map(String::as_str);
        let service = Service::over(provider, watch_interval, &refs[..1], &refs[1..]).await;
        Self { fake, pointer, service, number: 1 }
    }

    /// A new credential; answers with how long the service took to use it.
    async fn rotate(&mut self) -> Duration {
        self.number += 1;
        self.service.take(self.number);
        let version = self.fake.add("token", format!("credential-{}", self.number));
        if self.pointer {
            self.fake.alias("token", "current", version);
        }
        self.service.uses(self.number).await
    }

    async fn rotations(&mut self, count: usize) -> Vec<Duration> {
        let mut took = Vec::new();
        for _ in 0..count {
            took.push(self.rotate().await);
        }
        took
    }

    /// Ends it, and says what it came to.
    async fn end(self, name: &str, took: Vec<Duration>) -> Fake {
        self.service.end(name, took).await;
        assert!(self.fake.busiest_minute(Quota::Read) <= 600);
        self.fake
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_committed_by_its_exact_version() {
    for (name, current, feed) in [
        ("push, topic", "latest", Feed::Topic(TOPIC.into())),
        ("push, audit log", "latest", Feed::AuditLog),
        ("push, pointer", "alias:current", Feed::Topic(TOPIC.into())),
    ] {
        let mut stand = Stand::start(current, Some(feed), NEVER).await;
        let (reads, lists) =
            (stand.fake.calls("AccessSecretVersion"), stand.fake.calls("ListSecrets"));
        let took = stand.rotations(50).await;
        let fake = stand.end(name, took).await;
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
    let mut stand = Stand::start("alias:current", None, Duration::from_millis(300)).await;
    let took = stand.rotations(10).await;
    let (reads, lists) = (stand.fake.calls("AccessSecretVersion"), stand.fake.calls("ListSecrets"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stand.fake.calls("AccessSecretVersion"), reads, "nothing changes, nothing is read");
    assert!(stand.fake.calls("ListSecrets") > lists);
    stand.end("list of pointers every 300 ms", took).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_is_found_by_stamps() {
    let mut stand = Stand::start("latest", None, Duration::from_millis(500)).await;
    let took = stand.rotations(10).await;
    let (reads, looks) =
        (stand.fake.calls("AccessSecretVersion"), stand.fake.calls("GetSecretVersion"));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stand.fake.calls("AccessSecretVersion"), reads, "nothing changes, nothing is read");
    assert!(stand.fake.calls("GetSecretVersion") > looks);
    stand.end("stamps every 500 ms", took).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_push_cut_off_the_sweep_goes_on() {
    let feed = Some(Feed::Topic(TOPIC.into()));
    let mut stand = Stand::start("latest", feed, Duration::from_millis(500)).await;
    let mut took = stand.rotations(5).await;
    stand.fake.play_push(PushFault::Cut);
    let cut = stand.rotations(5).await;
    say(&format!("while push is cut off: {cut:?}"));
    stand.fake.mend();
    stand.fake.latency(LATENCY);
    took.extend(stand.rotations(5).await);
    stand.end("push before and after it was cut off", took).await;
}
