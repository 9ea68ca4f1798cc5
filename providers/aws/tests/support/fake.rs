//! A small fake of Secrets Manager, from its documentation, for what no other server here does: it
//! sorts the list, shows old states for as long as it is told, refuses more calls than the quota
//! allows, and counts. It knows nothing of Oneiric.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::gate;

/// Account and region.
pub(crate) const PLACE: &str = "arn:aws:secretsmanager:eu-west-1:123456789012";
/// How many calls a second has room for. That for others is larger than a test could reach.
const QUOTAS: [(&str, usize); 2] = [("BatchGetSecretValue", 100), ("ListSecrets", 100)];

/// The fake on a free port of 127.0.0.1.
pub(crate) struct Fake {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    running: AtomicUsize,
    most: AtomicUsize,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, History>,
    calls: Vec<(String, Instant)>,
    /// For how long each kind of call shows what was before.
    lags: HashMap<String, Duration>,
    /// Secrets of which the list shows what was at that time.
    held: HashMap<String, Instant>,
    denied: Vec<String>,
    latency: Duration,
    throttled: usize,
}

/// All states of a secret, with the moments from which they are the true ones.
type History = Vec<(Instant, Secret)>;

#[derive(Debug, Clone, Default)]
struct Secret {
    /// In the order in which they were made: id, value, date.
    versions: Vec<(String, String, f64)>,
    labels: BTreeMap<String, String>,
    changed: f64,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&all);
                let handle = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let shared = Arc::clone(&shared);
                    async move {
                        let target = request.headers().get("x-amz-target").cloned();
                        let name = target
                            .and_then(|of| Some(of.to_str().ok()?.rsplit('.').next()?.to_owned()));
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body = serde_json::from_slice(&body).unwrap_or_default();
                        let answer = shared.answer(&name.unwrap_or_default(), &body).await;
                        Ok::<_, Infallible>(match answer {
                            Ok(answer) => gate::json(StatusCode::OK, answer.to_string().into()),
                            Err(code) => gate::refusal(400, code, None),
                        })
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(client), handle);
                tokio::spawn(connection);
            }
        });
        Self { port, shared, task }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a version and makes it current; answers with its id.
    pub(crate) fn put(&self, name: &str, value: &str) -> String {
        self.put_at(name, value, now())
    }

    /// The same with another date than that of now.
    pub(crate) fn put_at(&self, name: &str, value: &str, date: f64) -> String {
        let id = self.add(name, value, date);
        self.label(name, "AWSCURRENT", &id, date);
        id
    }

    /// Adds a version without a label.
    pub(crate) fn add(&self, name: &str, value: &str, date: f64) -> String {
        let id: String = (0..36).map(|_| fastrand::alphanumeric()).collect();
        self.change(name, |secret| {
            secret.versions.push((id.clone(), value.to_owned(), date));
            secret.changed = date;
        });
        id
    }

    /// Puts a label on a version, and takes it from where it was.
    pub(crate) fn label(&self, name: &str, label: &str, id: &str, date: f64) {
        self.change(name, |secret| {
            let before = secret.labels.insert(label.into(), id.into());
            if let (Some(before), "AWSCURRENT") = (before, label) {
                secret.labels.insert("AWSPREVIOUS".into(), before);
            }
            secret.changed = date;
        });
    }

    /// Changes what is no version: tags, a description.
    pub(crate) fn touch(&self, name: &str) {
        self.change(name, |secret| secret.changed = now());
    }

    fn change(&self, name: &str, with: impl FnOnce(&mut Secret)) {
        self.state(|state| {
            let history = state.secrets.entry(name.into()).or_default();
            let mut secret = history.last().map(|(_, secret)| secret.clone()).unwrap_or_default();
            with(&mut secret);
            history.push((Instant::now(), secret));
        });
    }

    /// From now on these calls show what was so long ago.
    pub(crate) fn lag(&self, calls: &[&str], by: Duration) {
        self.state(|state| state.lags.extend(calls.iter().map(|&call| (call.into(), by))));
    }

    /// From now on the list shows of this secret what it shows now.
    pub(crate) fn hold(&self, name: &str) {
        self.state(|state| _ = state.held.insert(name.into(), Instant::now()));
    }

    /// The list shows all as it is.
    pub(crate) fn release(&self, name: &str) {
        self.state(|state| _ = state.held.remove(name));
    }

    pub(crate) fn deny(&self, call: &str) {
        self.state(|state| state.denied.push(call.into()));
    }

    pub(crate) fn allow(&self, call: &str) {
        self.state(|state| state.denied.retain(|denied| denied != call));
    }

    /// From now on each answer takes so long.
    pub(crate) fn latency(&self, latency: Duration) {
        self.state(|state| state.latency = latency);
    }

    /// How many calls of this name have come.
    pub(crate) fn calls(&self, name: &str) -> usize {
        self.state(|state| state.calls.iter().filter(|(call, _)| call == name).count())
    }

    /// How many calls of any name have come.
    pub(crate) fn all_calls(&self) -> usize {
        self.state(|state| state.calls.len())
    }

    /// How many calls were refused for their number, and how many ran at once at most.
    pub(crate) fn pressure(&self) -> (usize, usize) {
        (self.state(|state| state.throttled), self.shared.most.load(Ordering::SeqCst))
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.shared.state.lock().unwrap())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The date of now, in milliseconds, as AWS has it.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (since.as_secs_f64() * 1e3).round() / 1e3
}

impl Shared {
    async fn answer(&self, name: &str, body: &Value) -> Result<Value, &'static str> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let (answer, latency) = {
            let mut state = self.state.lock().unwrap();
            (state.answer(name, body), state.latency)
        };
        tokio::time::sleep(latency).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl State {
    fn answer(&mut self, name: &str, body: &Value) -> Result<Value, &'static str> {
        let now = Instant::now();
        self.calls.push((name.into(), now));
        let lately = |(call, at): &&(String, Instant)| {
            call == name && now.duration_since(*at) < Duration::from_secs(1)
        };
        let quota = QUOTAS.iter().find(|(of, _)| *of == name).map(|(_, quota)| *quota);
        if quota.is_some_and(|quota| self.calls.iter().filter(lately).count() > quota) {
            self.throttled += 1;
            return Err("ThrottlingException");
        }
        if self.denied.iter().any(|denied| denied == name) {
            return Err("AccessDeniedException");
        }
        let lag = self.lags.get(name).copied().unwrap_or_default();
        let then = now.checked_sub(lag).unwrap();
        match name {
            "GetSecretValue" => {
                let (name, secret) = self.find(text(body, "SecretId"), then)?;
                let label = text(body, "VersionStage").unwrap_or("AWSCURRENT");
                let id = text(body, "VersionId").or(secret.labels.get(label).map(String::as_str));
                value(name, secret, id.ok_or("ResourceNotFoundException")?)
            }
            "BatchGetSecretValue" => self.batch(body, then),
            "DescribeSecret" => {
                let (name, secret) = self.find(text(body, "SecretId"), then)?;
                let mut answer = entry(name, secret);
                answer["VersionIdsToStages"] = answer["SecretVersionsToStages"].take();
                Ok(answer)
            }
            "ListSecrets" => self.list(body, then),
            "ListSecretVersionIds" => {
                let (_, secret) = self.find(text(body, "SecretId"), then)?;
                let version = |(id, _, date): &(String, String, f64)| json!({ "VersionId": id, "VersionStages": labels(secret, id), "CreatedDate": date });
                Ok(json!({ "Versions": secret.versions.iter().map(version).collect::<Vec<_>>() }))
            }
            "UpdateSecretVersionStage" => self.update_stage(body, now),
            _ => Err("InvalidAction"),
        }
    }

    /// A label moves only from the version that is said to bear it.
    fn update_stage(&mut self, body: &Value, now: Instant) -> Result<Value, &'static str> {
        let (name, secret) = self.find(text(body, "SecretId"), now)?;
        let (name, mut secret) = (name.to_owned(), secret.clone());
        let label = text(body, "VersionStage").ok_or("InvalidParameterException")?;
        let to = text(body, "MoveToVersionId").ok_or("InvalidParameterException")?;
        if !secret.versions.iter().any(|(id, ..)| id == to) {
            return Err("ResourceNotFoundException");
        }
        if secret.labels.get(label).map(String::as_str) != text(body, "RemoveFromVersionId") {
            return Err("InvalidParameterException");
        }
        secret.labels.insert(label.into(), to.into());
        secret.changed = self::now();
        self.secrets.entry(name.clone()).or_default().push((now, secret));
        Ok(json!({ "ARN": arn(&name), "Name": name }))
    }

    fn find(&self, id: Option<&str>, then: Instant) -> Result<(&str, &Secret), &'static str> {
        let id = id.ok_or("InvalidParameterException")?;
        let found = self.secrets.iter().find(|(name, _)| *name == id || arn(name) == id);
        let (name, history) = found.ok_or("ResourceNotFoundException")?;
        Ok((name, as_of(history, then).ok_or("ResourceNotFoundException")?))
    }

    fn batch(&self, body: &Value, then: Instant) -> Result<Value, &'static str> {
        let ids = body["SecretIdList"].as_array().ok_or("InvalidParameterException")?;
        if ids.len() > 20 {
            return Err("InvalidParameterException");
        }
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for id in ids {
            let read = self.find(id.as_str(), then).and_then(|(name, secret)| {
                let current = secret.labels.get("AWSCURRENT").ok_or("ResourceNotFoundException")?;
                value(name, secret, current)
            });
            match read {
                Ok(value) => values.push(value),
                Err(code) => {
                    errors.push(json!({ "SecretId": id, "ErrorCode": code, "Message": "no" }));
                }
            }
        }
        Ok(json!({ "SecretValues": values, "Errors": errors }))
    }

    fn list(&self, body: &Value, then: Instant) -> Result<Value, &'static str> {
        let mut all: Vec<(&String, &Secret)> = self
            .secrets
            .iter()
            .filter_map(|(name, history)| {
                let then = self.held.get(name).map_or(then, |held| then.min(*held));
                Some((name, as_of(history, then)?))
            })
            .collect();
        if let Some(prefix) = body["Filters"][0]["Values"][0].as_str() {
            all.retain(|(name, _)| name.starts_with(prefix));
        }
        if text(body, "SortBy") == Some("last-changed-date") {
            all.sort_by(|(_, one), (_, other)| other.changed.total_cmp(&one.changed));
        }
        let start: usize = text(body, "NextToken").map_or(0, |token| token.parse().unwrap());
        let size = usize::try_from(body["MaxResults"].as_u64().unwrap_or(100)).unwrap();
        let next = (start + size < all.len()).then(|| (start + size).to_string());
        let page = all.iter().skip(start).take(size);
        let page: Vec<Value> = page.map(|(name, secret)| entry(name, secret)).collect();
        Ok(json!({ "SecretList": page, "NextToken": next }))
    }
}

/// The state that was the true one then.
fn as_of(history: &History, then: Instant) -> Option<&Secret> {
    history.iter().rev().find(|(from, _)| *from <= then).map(|(_, secret)| secret)
}

fn value(name: &str, secret: &Secret, id: &str) -> Result<Value, &'static str> {
    let version = secret.versions.iter().find(|(of, ..)| of == id);
    let (_, value, date) = version.ok_or("ResourceNotFoundException")?;
    Ok(json!({
        "ARN": arn(name), "Name": name, "VersionId": id, "SecretString": value,
        "VersionStages": labels(secret, id), "CreatedDate": date,
    }))
}

fn entry(name: &str, secret: &Secret) -> Value {
    let mut stages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (label, id) in &secret.labels {
        stages.entry(id).or_default().push(label);
    }
    json!({
        "ARN": arn(name), "Name": name, "LastChangedDate": secret.changed,
        "SecretVersionsToStages": stages,
    })
}

fn labels<'s>(secret: &'s Secret, id: &str) -> Vec<&'s str> {
    secret.labels.iter().filter(|(_, of)| *of == id).map(|(label, _)| label.as_str()).collect()
}

pub(crate) fn arn(name: &str) -> String {
    format!("{PLACE}:secret:{name}-AbCdEf")
}

fn text<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json.get(key)?.as_str()
}
