//! The fake as a test sees it: an address to talk to, a back door to the store, and the books.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::books::{self, Entry, Quota};
use crate::fault::{Fault, Plan, PushFault};
use crate::pubsub::{Feed, PubSub};
use crate::server::{Inner, Shared, serve};
use crate::store::{Meta, Place, State, Store};

/// A fake Secret Manager and Pub/Sub on a free port of 127.0.0.1, for one project.
///
/// What a test does through its methods is done at once and without faults, checks or quotas, and
/// is told to topics and sinks like any change. Ids are of global secrets; those of a location are
/// written `LOCATION/ID`. It ends when it is dropped.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Fake {
    /// The id of its project.
    pub const PROJECT: &'static str = "demo-project";
    /// The number by which its project answers.
    pub const NUMBER: &'static str = "471100000042";

    /// Starts one that is empty.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("there is a free port on the loopback address");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::new(Inner {
            store: Store::new(Self::PROJECT, Self::NUMBER),
            pubsub: PubSub::new(),
            books: Vec::new(),
            plans: Vec::new(),
            latency: Duration::ZERO,
            unreachable: false,
            hold: Duration::from_secs(5),
        }));
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, server }
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes room for a secret; nothing if there is room.
    pub fn create(&self, id: &str) {
        let place = place(id);
        let mut inner = self.shared.lock();
        if inner.store.secrets.contains_key(&place) {
            return;
        }
        let global = place.0.is_none();
        let replication = global.then(|| serde_json::json!({"automatic": {}}));
        inner.store.insert(place.clone(), Meta { replication, ..Meta::default() });
        let (_, happened) = inner.store.told(&place, "SECRET_CREATE", "CreateSecret");
        inner.pubsub.tell(&happened.expect("it is told"));
        self.shared.stirred.notify_waiters();
    }

    /// Adds a version, and the secret if need be; answers with its number.
    pub fn add(&self, id: &str, value: impl Into<Vec<u8>>) -> u64 {
        self.create(id);
        let place = place(id);
        let mut inner = self.shared.lock();
        let number = inner.store.push(&place, value.into(), true);
        let told = inner.store.told_version(
            &place,
            number,
            "SECRET_VERSION_ADD",
            "AddSecretVersion",
            false,
        );
        if let Ok((_, Some(happened))) = told {
            inner.pubsub.tell(&happened);
        }
        self.shared.stirred.notify_waiters();
        u64::try_from(number).unwrap_or(u64::MAX)
    }

    /// Sets an alias.
    pub fn alias(&self, id: &str, alias: &str, number: u64) {
        self.change(id, |meta| {
            meta.aliases.insert(alias.into(), i64::try_from(number).unwrap_or(i64::MAX));
        });
    }

    /// Sets an annotation.
    pub fn annotate(&self, id: &str, key: &str, value: &str) {
        self.change(id, |meta| {
            meta.annotations.insert(key.into(), value.into());
        });
    }

    /// Has the changes of a secret published to this topic, `projects/P/topics/T`.
    pub fn topic(&self, id: &str, topic: &str) {
        self.change(id, |meta| meta.topics.push(topic.into()));
    }

    /// Has versions of a secret be destroyed only after a time.
    pub fn delay_destruction(&self, id: &str, delay: Duration) {
        self.change(id, |meta| meta.destroy_ttl = Some(delay));
    }

    /// Disables a version.
    pub fn disable(&self, id: &str, number: u64) {
        self.turn(id, number, State::Disabled);
    }

    /// Enables a version.
    pub fn enable(&self, id: &str, number: u64) {
        self.turn(id, number, State::Enabled);
    }

    /// Destroys a version.
    pub fn destroy(&self, id: &str, number: u64) {
        self.turn(id, number, State::Destroyed);
    }

    /// Takes a secret away. Whether there was one.
    pub fn delete(&self, id: &str) -> bool {
        let place = place(id);
        let mut inner = self.shared.lock();
        if !inner.store.secrets.contains_key(&place) {
            return false;
        }
        let (_, happened) = inner.store.told(&place, "SECRET_DELETE", "DeleteSecret");
        inner.store.secrets.remove(&place);
        inner.store.order.retain(|other| *other != place);
        inner.pubsub.tell(&happened.expect("it is told"));
        self.shared.stirred.notify_waiters();
        true
    }

    /// The values of all versions, those that were destroyed empty; nothing if there is no secret.
    pub fn values(&self, id: &str) -> Vec<Vec<u8>> {
        let inner = self.shared.lock();
        let secret = inner.store.secrets.get(&place(id));
        let versions = secret.into_iter().flat_map(|secret| &secret.versions);
        versions.map(|version| version.payload.clone()).collect()
    }

    /// What an annotation of a secret says.
    pub fn annotation(&self, id: &str, key: &str) -> Option<String> {
        self.shared.lock().store.secrets.get(&place(id))?.meta.annotations.get(key).cloned()
    }

    /// Which version an alias of a secret names.
    pub fn aliased(&self, id: &str, alias: &str) -> Option<i64> {
        self.shared.lock().store.secrets.get(&place(id))?.meta.aliases.get(alias).copied()
    }

    /// How long `latest`, aliases, lists and metadata show the old state.
    pub fn lag(&self, lag: Duration) {
        self.shared.lock().store.lag = lag;
    }

    /// Lets nothing show that changes from now on, but by number; or all of it again.
    pub fn freeze(&self, frozen: bool) {
        self.shared.lock().store.frozen = frozen.then(Instant::now);
    }

    /// The most that one page has.
    pub fn page_limit(&self, most: usize) {
        self.shared.lock().store.page_limit = most;
    }

    /// How long every answer takes.
    pub fn latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// Ends connections as they come, or takes them again.
    pub fn unreachable(&self, unreachable: bool) {
        self.shared.lock().unreachable = unreachable;
    }

    /// Puts calls out of order: those of this method or all, so many times or until it is mended.
    pub fn play(&self, fault: Fault, method: Option<&'static str>, times: Option<u32>) {
        self.shared.lock().plans.push(Plan { fault, method, times });
    }

    /// Makes a subscription, `projects/P/subscriptions/S`, or makes it anew.
    pub fn subscribe(&self, name: &str, feed: Feed) {
        self.shared.lock().pubsub.subscribe(name.into(), feed);
    }

    /// Publishes a message of the test's own; the data as it stands in JSON, in base64.
    pub fn publish(&self, topic: &str, data: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let feed = Feed::Topic(topic.into());
        self.shared.lock().pubsub.publish(&feed, data, &attributes);
        self.shared.stirred.notify_waiters();
    }

    /// Puts subscriptions out of order.
    pub fn play_push(&self, fault: PushFault) {
        self.shared.lock().pubsub.fault = Some(fault);
        self.shared.stirred.notify_waiters();
    }

    /// How long a message that was handed out may stay without an acknowledgement.
    pub fn ack_deadline(&self, deadline: Duration) {
        self.shared.lock().pubsub.ack_deadline = deadline;
    }

    /// How many messages of a subscription are not acknowledged yet.
    pub fn backlog(&self, subscription: &str) -> usize {
        self.shared.lock().pubsub.backlog(subscription)
    }

    /// Ends every fault.
    pub fn mend(&self) {
        let mut inner = self.shared.lock();
        inner.plans.clear();
        inner.unreachable = false;
        inner.latency = Duration::ZERO;
        inner.store.frozen = None;
        inner.pubsub.mend();
        drop(inner);
        self.shared.mended.notify_waiters();
        self.shared.stirred.notify_waiters();
    }

    /// Every call so far.
    pub fn books(&self) -> Vec<Entry> {
        self.shared.lock().books.clone()
    }

    /// How many calls of this method there were.
    pub fn calls(&self, method: &str) -> usize {
        self.shared.lock().books.iter().filter(|entry| entry.method == method).count()
    }

    /// The most calls of this quota that any minute has seen, refused ones included.
    pub fn busiest_minute(&self, quota: Quota) -> usize {
        books::busiest_minute(&self.shared.lock().books, quota)
    }

    /// Begins new books.
    pub fn forget_calls(&self) {
        self.shared.lock().books.clear();
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Meta)) {
        self.create(id);
        let place = place(id);
        let mut inner = self.shared.lock();
        let etag = inner.store.etag();
        let secret = inner.store.secrets.get_mut(&place).expect("it was just made");
        change(&mut secret.meta);
        secret.meta.etag = etag;
        secret.note();
        let (_, happened) = inner.store.told(&place, "SECRET_UPDATE", "UpdateSecret");
        inner.pubsub.tell(&happened.expect("it is told"));
        self.shared.stirred.notify_waiters();
    }

    fn turn(&self, id: &str, number: u64, to: State) {
        let (query, body) = (std::collections::HashMap::new(), serde_json::Value::Null);
        let asked = crate::secrets::Asked { query: &query, body: &body, ints: false };
        let mut inner = self.shared.lock();
        let done = inner.store.turn(&place(id), &number.to_string(), to, &asked);
        if let Ok((_, Some(happened))) = &done {
            inner.pubsub.tell(happened);
        }
        assert!(done.is_ok(), "there is no version {number} of `{id}` that can be changed");
        self.shared.stirred.notify_waiters();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Where a secret is: `ID` or `LOCATION/ID`.
fn place(id: &str) -> Place {
    match id.split_once('/') {
        Some((location, id)) => (Some(location.into()), id.into()),
        None => (None, id.into()),
    }
}
