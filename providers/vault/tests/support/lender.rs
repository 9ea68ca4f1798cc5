//! A small server that leases what it is told to, for what no real engine does: the credential that
//! a test sets. It speaks of leases as OpenBao was seen to, and knows nothing of the provider.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How long its leases live, in seconds.
const TERM: u64 = 2;

/// The server, on a free port of 127.0.0.1.
pub(crate) struct Lender {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// What is leased at each path.
    secrets: HashMap<String, String>,
    /// The path of each lease that lives.
    leases: HashMap<String, String>,
    made: u64,
    token: String,
    denied: bool,
    kept: bool,
    throttled: bool,
}

impl Lender {
    pub(crate) async fn start(token: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { token: token.to_owned(), ..Shared::default() }));
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&all)));
            }
        });
        Self { port, shared, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sets what is leased at a path, or nothing; what was leased there before is revoked.
    pub(crate) fn set(&self, path: &str, value: Option<&str>) {
        let mut shared = self.shared.lock().unwrap();
        shared.leases.retain(|_, of| of != path);
        match value {
            Some(value) => _ = shared.secrets.insert(path.to_owned(), value.to_owned()),
            None => _ = shared.secrets.remove(path),
        }
    }

    /// How many leases live.
    pub(crate) fn leases(&self) -> usize {
        self.shared.lock().unwrap().leases.len()
    }

    pub(crate) fn deny(&self, denied: bool) {
        self.shared.lock().unwrap().denied = denied;
    }

    /// Whether nobody may end a lease.
    pub(crate) fn keep(&self, kept: bool) {
        self.shared.lock().unwrap().kept = kept;
    }

    pub(crate) fn throttle(&self, throttled: bool) {
        self.shared.lock().unwrap().throttled = throttled;
    }

    /// The one token that it knows.
    pub(crate) fn know(&self, token: &str) {
        self.shared.lock().unwrap().token = token.to_owned();
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Mutex<Shared>>) -> Option<()> {
    let mut held = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = held.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            let mut part = [0; 4096];
            let read = client.read(&mut part).await.ok().filter(|read| *read > 0)?;
            held.extend_from_slice(&part[..read]);
        };
        let text = String::from_utf8_lossy(&held[..head]).to_ascii_lowercase();
        let header = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().to_owned())
        };
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        while held.len() < head + length {
            let mut part = [0; 4096];
            let read = client.read(&mut part).await.ok().filter(|read| *read > 0)?;
            held.extend_from_slice(&part[..read]);
        }
        let first = String::from_utf8_lossy(&held[..head]).into_owned();
        let path = first.split(' ').nth(1)?.strip_prefix("/v1/")?.to_owned();
        let token = header("x-vault-token").unwrap_or_default();
        let body: Value = serde_json::from_slice(&held[head..head + length]).unwrap_or_default();
        held.drain(..head + length);
        let (status, answer) = shared.lock().unwrap().answer(&path, &token, &body);
        let answer = answer.map(|answer| answer.to_string()).unwrap_or_default();
        let length = answer.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(format!("{head}{answer}").as_bytes()).await.ok()?;
    }
}

impl Shared {
    fn answer(&mut self, path: &str, token: &str, body: &Value) -> (u16, Option<Value>) {
        let errors = |status, said: &[&str]| (status, Some(json!({ "errors": said })));
        if token != self.token {
            return errors(403, &["permission denied"]);
        }
        if path == "auth/token/lookup-self" {
            return (200, Some(json!({ "data": { "ttl": 0, "renewable": false } })));
        }
        if self.throttled {
            return errors(429, &["request path: rate limit quota exceeded"]);
        }
        if self.denied {
            return errors(403, &["1 error occurred:\n\t* permission denied\n\n"]);
        }
        let id = body["lease_id"].as_str().unwrap_or_default();
        let known = self.leases.contains_key(id);
        let granted = json!({ "lease_id": id, "lease_duration": TERM, "renewable": true });
        match path {
            "sys/leases/lookup" if known => (200, Some(json!({ "data": { "id": id } }))),
            "sys/leases/lookup" => errors(400, &["invalid lease"]),
            "sys/leases/renew" if known => (200, Some(granted)),
            "sys/leases/renew" => errors(400, &["lease not found"]),
            "sys/leases/revoke" if self.kept => errors(403, &["permission denied"]),
            "sys/leases/revoke" => {
                self.leases.remove(id);
                (204, None)
            }
            path => {
                let Some(value) = self.secrets.get(path) else { return errors(404, &[]) };
                self.made += 1;
                let id = format!("{path}/lease-{}", self.made);
                let answer = json!({
                    "lease_id": id, "lease_duration": TERM, "renewable": true,
                    "data": { "value": value },
                });
                self.leases.insert(id, path.to_owned());
                (200, Some(answer))
            }
        }
    }
}
