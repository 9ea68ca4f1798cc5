//! The HTTP side: which call a request is, what goes wrong with it, and the books.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::books::{Entry, Quota, is_full};
use crate::fault::{Fault, Plan, PushFault, due};
use crate::pubsub::{Feed, PubSub};
use crate::reply::Reply;
use crate::resource::Resource;
use crate::secrets::{Asked, Done};
use crate::store::{Place, State, Store};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) pubsub: PubSub,
    pub(crate) books: Vec<Entry>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) latency: Duration,
    /// Whether connections are ended as they come.
    pub(crate) unreachable: bool,
    /// How long an idle pull is held open.
    pub(crate) hold: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Something was published, or a fault has ended.
    pub(crate) stirred: Notify,
    pub(crate) mended: Notify,
}

impl Shared {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Mutex::new(inner), stirred: Notify::new(), mended: Notify::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if shared.lock().unreachable {
            continue;
        }
        connections.spawn(connection(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(request, &shared).await }
    });
    // A connection that was cut, by either side, needs no more words.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// One request, with what is known of it.
struct Call {
    method: &'static str,
    quota: Quota,
    verb: Verb,
    resource: String,
    query: HashMap<String, String>,
    body: Value,
    ints: bool,
}

/// What is to be done, and with what.
enum Verb {
    ListSecrets(Option<String>),
    CreateSecret(Option<String>),
    GetSecret(Place),
    UpdateSecret(Place),
    DeleteSecret(Place),
    AddVersion(Place),
    ListVersions(Place),
    GetVersion(Place, String),
    Access(Place, String),
    Turn(Place, String, State),
    Pull(String),
    Acknowledge(String),
    Publish(String),
    CreateTopic(String),
    CreateSubscription(String),
    DeleteTopic,
    DeleteSubscription(String),
}

async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    let (latency, unreachable) = {
        let inner = shared.lock();
        (inner.latency, inner.unreachable)
    };
    if unreachable {
        return Err(cut());
    }
    let Ok(call) = read(&parts.method, parts.uri.path(), parts.uri.query(), &body, shared) else {
        let reply = Reply::error(404, "NOT_FOUND", "there is no such method here");
        return Ok(reply.into_response());
    };
    let index = {
        let mut inner = shared.lock();
        let entry = Entry {
            at: Instant::now(),
            method: call.method,
            resource: call.resource.clone(),
            quota: call.quota,
            status: 0,
        };
        inner.books.push(entry);
        inner.books.len() - 1
    };
    if !latency.is_zero() {
        sleep(latency / 2).await;
    }
    let reply = outcome(&call, index, shared).await.map_err(|Cut| cut())?;
    if !latency.is_zero() {
        sleep(latency / 2).await;
    }
    if let Some(entry) = shared.lock().books.get_mut(index) {
        entry.status = reply.status;
    }
    Ok(reply.into_response())
}

/// The connection ends instead of an answer.
struct Cut;

async fn outcome(call: &Call, index: usize, shared: &Shared) -> Result<Reply, Cut> {
    let fault = {
        let mut inner = shared.lock();
        let now = Instant::now();
        if is_full(&inner.books[..index.min(inner.books.len())], call.quota, now) {
            return Ok(Reply::error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric."));
        }
        due(&mut inner.plans, call.method)
    };
    let mended = shared.mended.notified();
    match fault {
        Some(Fault::Status(status, code, retry)) => {
            return Ok(Reply::error(status, code, "the test said so").retry(retry));
        }
        Some(Fault::Page(status)) => return Ok(Reply::page(status)),
        Some(Fault::CutBefore) => return Err(Cut),
        Some(Fault::Hang) => {
            mended.await;
            return Err(Cut);
        }
        Some(Fault::HangAfter) => {
            perform(call, false, shared);
            mended.await;
            return Err(Cut);
        }
        Some(Fault::CutAfter) => {
            perform(call, false, shared);
            return Err(Cut);
        }
        Some(Fault::WrongChecksum) | None => {}
    }
    if let Verb::Pull(name) = &call.verb {
        return Ok(pull(name, &call.body, shared).await);
    }
    Ok(perform(call, fault.is_some(), shared))
}

/// Does what is asked, and tells the topics.
fn perform(call: &Call, damaged: bool, shared: &Shared) -> Reply {
    let asked = Asked { query: &call.query, body: &call.body, ints: call.ints };
    let mut inner = shared.lock();
    let store = &mut inner.store;
    let done: Done = match &call.verb {
        Verb::ListSecrets(location) => store.list_secrets(location.as_deref(), &asked),
        Verb::CreateSecret(location) => store.create(location.as_deref(), &asked),
        Verb::GetSecret(place) => store.get_secret(place),
        Verb::UpdateSecret(place) => store.update(place, &asked),
        Verb::DeleteSecret(place) => store.delete(place, &asked),
        Verb::AddVersion(place) => store.add(place, &asked),
        Verb::ListVersions(place) => store.list_versions(place, &asked),
        Verb::GetVersion(place, version) => store.get_version(place, version, &asked),
        Verb::Access(place, version) => store.access(place, version, damaged),
        Verb::Turn(place, version, to) => store.turn(place, version, *to, &asked),
        Verb::Pull(_) => Ok((json!({}), None)),
        Verb::Acknowledge(name) => {
            let ids = call.body.get("ackIds").and_then(Value::as_array);
            let ids: Vec<&str> = ids.into_iter().flatten().filter_map(Value::as_str).collect();
            inner.pubsub.acknowledge(name, &ids);
            Ok((json!({}), None))
        }
        Verb::Publish(topic) => {
            let messages = call.body.get("messages").and_then(Value::as_array);
            let ids = messages.into_iter().flatten().map(|message| {
                let data = message.get("data").and_then(Value::as_str).unwrap_or_default();
                let attributes = message.get("attributes").cloned().unwrap_or_default();
                let attributes = serde_json::from_value(attributes).unwrap_or_default();
                inner.pubsub.publish(&Feed::Topic(topic.clone()), data, &attributes).to_string()
            });
            let ids: Vec<String> = ids.collect();
            Ok((json!({"messageIds": ids}), None))
        }
        Verb::CreateTopic(name) => Ok((json!({"name": name}), None)),
        Verb::DeleteTopic => Ok((json!({}), None)),
        Verb::DeleteSubscription(name) => {
            inner.pubsub.unsubscribe(name);
            Ok((json!({}), None))
        }
        Verb::CreateSubscription(name) => match call.body.get("topic").and_then(Value::as_str) {
            Some(topic) => {
                inner.pubsub.subscribe(name.clone(), Feed::Topic(topic.into()));
                Ok((json!({"name": name, "topic": topic}), None))
            }
            None => Err(Reply::invalid("a subscription needs a topic")),
        },
    };
    if let Ok((_, Some(happened))) = &done {
        inner.pubsub.tell(happened);
    }
    drop(inner);
    shared.stirred.notify_waiters();
    done.map_or_else(|reply| reply, |(answer, _)| Reply::ok(answer))
}

/// Holds a pull open until there is something, or for as long as the fake holds one.
async fn pull(name: &str, body: &Value, shared: &Shared) -> Reply {
    let most = body.get("maxMessages").and_then(Value::as_u64).unwrap_or(1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let until = Instant::now() + shared.lock().hold;
    loop {
        let stirred = shared.stirred.notified();
        {
            let mut inner = shared.lock();
            if inner.pubsub.fault == Some(PushFault::Cut) {
                return Reply::error(503, "UNAVAILABLE", "the test said so");
            }
            if !inner.pubsub.knows(name) {
                return Reply::error(404, "NOT_FOUND", "Resource not found.");
            }
            let received = inner.pubsub.pull(name, most);
            if !received.is_empty() {
                return Reply::ok(json!({"receivedMessages": received}));
            }
        }
        if timeout_at(until, stirred).await.is_err() {
            return Reply::ok(json!({}));
        }
    }
}

/// Which call a request is.
fn read(
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
    shared: &Shared,
) -> Result<Call, ()> {
    let path = path.strip_prefix("/v1/").ok_or(())?;
    let (resource, action) = path.rsplit_once(':').unwrap_or((path, ""));
    let query: HashMap<String, String> =
        form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let ints = query.get("$alt").is_some_and(|alt| alt.contains("enum-encoding=int"));
    let body =
        if body.is_empty() { Value::Null } else { serde_json::from_slice(body).map_err(drop)? };
    let named = Resource::parse(resource).ok_or(())?;
    {
        let inner = shared.lock();
        let ours = [inner.store.project.as_str(), inner.store.number.as_str()];
        if !ours.contains(&named.project) {
            return Err(());
        }
    }
    let location = named.location.map(String::from);
    let place = |id: &str| (location.clone(), id.to_owned());
    let text = |text: &str| text.to_owned();
    let (method, quota, verb) = match (method.as_str(), &named.rest[..], action) {
        ("GET", ["secrets"], "") => ("ListSecrets", Quota::Read, Verb::ListSecrets(location)),
        ("POST", ["secrets"], "") => ("CreateSecret", Quota::Write, Verb::CreateSecret(location)),
        ("GET", ["secrets", id], "") => ("GetSecret", Quota::Read, Verb::GetSecret(place(id))),
        ("PATCH", ["secrets", id], "") => {
            ("UpdateSecret", Quota::Write, Verb::UpdateSecret(place(id)))
        }
        ("DELETE", ["secrets", id], "") => {
            ("DeleteSecret", Quota::Write, Verb::DeleteSecret(place(id)))
        }
        ("POST", ["secrets", id], "addVersion") => {
            ("AddSecretVersion", Quota::Write, Verb::AddVersion(place(id)))
        }
        ("GET", ["secrets", id, "versions"], "") => {
            ("ListSecretVersions", Quota::Read, Verb::ListVersions(place(id)))
        }
        ("GET", ["secrets", id, "versions", version], "") => {
            ("GetSecretVersion", Quota::Read, Verb::GetVersion(place(id), text(version)))
        }
        ("GET", ["secrets", id, "versions", version], "access") => {
            ("AccessSecretVersion", Quota::Access, Verb::Access(place(id), text(version)))
        }
        ("POST", ["secrets", id, "versions", version], turn) => {
            let (method, to) = match turn {
                "enable" => ("EnableSecretVersion", State::Enabled),
                "disable" => ("DisableSecretVersion", State::Disabled),
                "destroy" => ("DestroySecretVersion", State::Destroyed),
                _ => return Err(()),
            };
            (method, Quota::Write, Verb::Turn(place(id), text(version), to))
        }
        ("POST", ["subscriptions", _], "pull") => {
            ("Pull", Quota::PubSub, Verb::Pull(text(resource)))
        }
        ("POST", ["subscriptions", _], "acknowledge") => {
            ("Acknowledge", Quota::PubSub, Verb::Acknowledge(text(resource)))
        }
        ("POST", ["topics", _], "publish") => {
            ("Publish", Quota::PubSub, Verb::Publish(text(resource)))
        }
        ("PUT", ["topics", _], "") => {
            ("CreateTopic", Quota::PubSub, Verb::CreateTopic(text(resource)))
        }
        ("DELETE", ["topics", _], "") => ("DeleteTopic", Quota::PubSub, Verb::DeleteTopic),
        ("DELETE", ["subscriptions", _], "") => {
            ("DeleteSubscription", Quota::PubSub, Verb::DeleteSubscription(text(resource)))
        }
        ("PUT", ["subscriptions", _], "") => {
            ("CreateSubscription", Quota::PubSub, Verb::CreateSubscription(text(resource)))
        }
        _ => return Err(()),
    };
    Ok(Call { method, quota, verb, resource: text(resource), query, body, ints })
}
