//! A program of the protocol whose store is the double of the kit. It is in this process, so that
//! a test can put it out of order; a relay carries its lines.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use oneiric_core::{
    Change, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretLister,
    SecretProvider, SecretValue, SecretWriter, Snapshot, Stamp, Version,
};
use oneiric_testkit::MemoryProvider;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Speaks for a store as long as it lives.
pub(crate) struct Program {
    pub(crate) store: Arc<MemoryProvider>,
    dir: tempfile::TempDir,
    starts: Arc<AtomicUsize>,
}

impl Program {
    pub(crate) fn new(store: Arc<MemoryProvider>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("program")).unwrap();
        let program = Self { store, dir, starts: Arc::default() };
        let (store, starts) = (Arc::clone(&program.store), Arc::clone(&program.starts));
        tokio::spawn(async move {
            let names = Arc::new(Names::default());
            while let Ok((stream, _)) = listener.accept().await {
                starts.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(run(stream, Arc::clone(&store), Arc::clone(&names)));
            }
        });
        program
    }

    /// What starts it.
    pub(crate) fn command(&self) -> [String; 2] {
        let socket = self.dir.path().join("program").display().to_string();
        [env!("CARGO_BIN_EXE_oneiric-exec-relay").to_owned(), socket]
    }

    pub(crate) fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }
}

/// Words for what the double gives and does not print.
#[derive(Default)]
struct Names {
    stamps: Mutex<HashMap<Stamp, usize>>,
    snapshots: Mutex<HashMap<Snapshot, usize>>,
}

fn name<T: Eq + Hash>(names: &Mutex<HashMap<T, usize>>, of: T) -> String {
    let mut names = names.lock().unwrap();
    let next = names.len();
    names.entry(of).or_insert(next).to_string()
}

/// One process. It ends when a reply is to be lost.
async fn run(stream: UnixStream, store: Arc<MemoryProvider>, names: Arc<Names>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let (answers, mut queue) = unbounded_channel::<Option<Value>>();
    let write = async {
        while let Some(Some(line)) = queue.recv().await {
            if writer.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Value = serde_json::from_str(&line).unwrap();
            let (answers, store, names) = (answers.clone(), Arc::clone(&store), Arc::clone(&names));
            if request["op"] == "hello" {
                greet(&request, &store, &answers);
            } else if request["cancel"].is_null() {
                tokio::spawn(async move { answer(&request, &store, &names, &answers).await });
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

fn greet(request: &Value, store: &Arc<MemoryProvider>, answers: &UnboundedSender<Option<Value>>) {
    assert_eq!(request["oneiric"], 1);
    let of = store.descriptor().capabilities;
    let mut capabilities = vec!["list", "something of the future"];
    for (can, token) in [
        (of.versions, "versions"),
        (of.stamps, "stamps"),
        (of.push, "push"),
        (of.snapshots, "snapshots"),
        (of.binary, "binary"),
        (store.writer().is_some(), "write"),
    ] {
        capabilities.extend(can.then_some(token));
    }
    let hello = json!({
        "id": request["id"], "oneiric": 1, "kind": "memory", "uri": "memory:",
        "capabilities": capabilities, "max_value": of.max_value,
    });
    let _ = answers.send(Some(hello));
    if let Some(mut changes) = store.changes() {
        let answers = answers.clone();
        tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                let change = match change {
                    Change::Secret { key, version } => {
                        json!({"key": key.as_str(), "version": version.as_ref().map(id)})
                    }
                    _ => json!({}),
                };
                if answers.send(Some(json!({ "change": change }))).is_err() {
                    break;
                }
            }
        });
    }
}

async fn answer(
    request: &Value,
    store: &MemoryProvider,
    names: &Names,
    answers: &UnboundedSender<Option<Value>>,
) {
    let say = |mut answer: Value| {
        answer["id"] = request["id"].clone();
        let _ = answers.send(Some(answer));
    };
    if request["op"] == "fetch_many" {
        let items = request["items"].as_array().unwrap();
        let requests: Vec<_> = items.iter().map(|item| fetch_request(item, request)).collect();
        let fetched = store.fetch_many(&requests).await;
        // In any order.
        for (at, fetched) in fetched.into_iter().enumerate().rev() {
            let mut part = fetched.map_or_else(|error| failure(&error), |it| value(it, names));
            part["at"] = at.into();
            say(part);
        }
        return;
    }
    match one(request, store, names).await {
        Ok(answer) => say(answer),
        Err(error) if error.kind() == ErrorKind::Ambiguous => _ = answers.send(None),
        Err(error) => say(failure(&error)),
    }
}

async fn one(request: &Value, store: &MemoryProvider, names: &Names) -> Result<Value> {
    let text = |name: &str| request[name].as_str();
    let key = || -> SecretKey { text("key").unwrap().parse().unwrap() };
    let version = || text("version").unwrap();
    let writer: Option<&dyn SecretWriter> = store.writer();
    let done = |()| json!({});
    match text("op").unwrap() {
        "fetch" => store.fetch(&fetch_request(request, request)).await.map(|it| value(it, names)),
        "stamps" => {
            let keys = request["keys"].as_array().unwrap().iter();
            let keys: Vec<_> = keys.map(|key| key.as_str().unwrap().parse().unwrap()).collect();
            let stamps = store.stamps(&keys).await.into_iter().map(|stamp| match stamp {
                Ok(stamp) => json!({"stamp": name(&names.stamps, stamp)}),
                Err(error) => failure(&error),
            });
            Ok(json!({"stamps": stamps.collect::<Vec<_>>()}))
        }
        "list" => {
            // Two on each page.
            let after = text("after").unwrap_or_default();
            let keys = store.list().await?.into_iter().map(|key| key.to_string());
            let mut keys: Vec<_> = keys.filter(|key| key.as_str() > after).collect();
            let more = keys.len() > 2;
            keys.truncate(2);
            Ok(json!({"keys": keys, "more": more}))
        }
        "versions" => {
            let versions = store.versions(&key()).await?;
            let versions = versions.iter().map(|info| {
                let (state, current) = (info.state.token(), info.current);
                json!({"version": id(&info.version), "state": state, "current": current})
            });
            Ok(json!({"versions": versions.collect::<Vec<_>>()}))
        }
        "create_secret" => writer.unwrap().create_secret(&key()).await.map(done),
        "create_version" => {
            let value = match (text("value"), text("base64")) {
                (Some(text), None) => SecretValue::from(text),
                (None, Some(text)) => STANDARD.decode(text).unwrap().into(),
                _ => panic!("a value is text or base64"),
            };
            let token = text("token").unwrap();
            let version = writer.unwrap().create_version(&key(), &value, token).await?;
            Ok(json!({"version": id(&version)}))
        }
        "promote" => writer.unwrap().promote(&key(), version(), text("expected")).await.map(done),
        "disable" => writer.unwrap().disable(&key(), version()).await.map(done),
        "enable" => writer.unwrap().enable(&key(), version()).await.map(done),
        "destroy" => writer.unwrap().destroy(&key(), version()).await.map(done),
        op => Err(Error::new(ErrorKind::Unsupported, op)),
    }
}

fn fetch_request(item: &Value, request: &Value) -> FetchRequest {
    let mut asked = FetchRequest::new(item["key"].as_str().unwrap().parse().unwrap());
    asked.version = item["version"].as_str().map(Into::into);
    let left = Duration::from_millis(request["deadline_ms"].as_u64().unwrap());
    asked.deadline = Some((Instant::now() + left).into());
    asked
}

fn value(fetched: Fetched, names: &Names) -> Value {
    let mut answer = match fetched.value.expose_str() {
        Some(text) => json!({"value": text}),
        None => json!({"base64": STANDARD.encode(fetched.value.expose())}),
    };
    answer["version"] = id(&fetched.version);
    answer["stamp"] = fetched.stamp.map(|stamp| name(&names.stamps, stamp)).into();
    let snapshot = fetched.snapshot.map(|snapshot| json!({"id": name(&names.snapshots, snapshot)}));
    answer["snapshot"] = snapshot.into();
    answer
}

fn id(version: &Version) -> Value {
    version.id().parse::<u64>().map_or_else(|_| version.id().into(), Into::into)
}

fn failure(error: &Error) -> Value {
    let mut failure = json!({"kind": error.kind().token(), "message": error.chain()});
    if let ErrorKind::Throttled { retry_after: Some(wait) } = error.kind() {
        failure["retry_after_ms"] = u64::try_from(wait.as_millis()).unwrap().into();
    }
    json!({ "error": failure })
}
