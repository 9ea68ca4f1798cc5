//! A gate before the server, which lets through what comes or does what networks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the gate does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It lets all through.
    Open,
    /// It ends each connection.
    Closed,
    /// It lets requests through and holds the answers back; they are lost when it opens.
    Hanging,
    /// Each answer waits so long.
    Slow(Duration),
    /// It answers by itself, with this first line and these headers, and this body.
    Answering(String, String),
}

/// A gate on a free port of 127.0.0.1.
pub(crate) struct Gate {
    port: u16,
    mode: watch::Sender<Mode>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    lose: AtomicBool,
    refuse: AtomicU64,
    requests: AtomicU64,
}

impl Gate {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, watched) = watch::channel(Mode::Open);
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, watched.clone(), Arc::clone(&all)));
            }
        });
        Self { port, mode, shared, task }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn play(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The next request that changes a version is done, and its answer does not arrive.
    pub(crate) fn lose_a_reply(&self) {
        self.shared.lose.store(true, Ordering::SeqCst);
    }

    /// So many requests are answered as if their token were unknown.
    pub(crate) fn refuse(&self, requests: u64) {
        self.shared.refuse.store(requests, Ordering::SeqCst);
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn mend(&self) {
        self.shared.lose.store(false, Ordering::SeqCst);
        self.play(Mode::Open);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection. A client sends the next request when it has its answer, so what it
/// sends after an answer begins with the first line of a request.
async fn pass(
    mut client: TcpStream,
    server: u16,
    mut mode: watch::Receiver<Mode>,
    shared: Arc<Shared>,
) -> Option<()> {
    let mut upstream = TcpStream::connect(("127.0.0.1", server)).await.ok()?;
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut fresh, mut cut) = (true, false);
    let refusal = r#"{"errors":["permission denied"]}"#;
    let refusal = Mode::Answering("403 Forbidden".into(), refusal.into());
    loop {
        let mut now = mode.borrow_and_update().clone();
        if now == Mode::Closed {
            return None;
        }
        tokio::select! {
            changed = mode.changed() => {
                changed.ok()?;
                if now == Mode::Hanging {
                    return None;
                }
            }
            read = client.read(&mut asked) => {
                let request = &asked[..read.ok().filter(|read| *read > 0)?];
                if fresh {
                    // What was played before it was sent holds for it, whichever we saw first.
                    now = mode.borrow_and_update().clone();
                    if now == Mode::Closed {
                        return None;
                    }
                    shared.requests.fetch_add(1, Ordering::SeqCst);
                    cut = changes_a_version(request) && shared.lose.swap(false, Ordering::SeqCst);
                    fresh = false;
                    let left = |left: u64| left.checked_sub(1);
                    if shared.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok() {
                        now = refusal.clone();
                    }
                }
                if let Mode::Answering(head, body) = &now {
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                    );
                    client.write_all(answer.as_bytes()).await.ok()?;
                    client.shutdown().await.ok()?;
                    // What is closed with something unread takes the answer back.
                    let rest = async { while client.read(&mut asked).await.is_ok_and(|n| n > 0) {} };
                    return tokio::time::timeout(Duration::from_secs(2), rest).await.ok();
                }
                upstream.write_all(request).await.ok()?;
            }
            read = upstream.read(&mut answered), if now != Mode::Hanging => {
                let answer = &answered[..read.ok().filter(|read| *read > 0)?];
                if cut {
                    return None;
                }
                if let Mode::Slow(latency) = now
                    && !fresh
                {
                    tokio::time::sleep(latency).await;
                }
                client.write_all(answer).await.ok()?;
                fresh = true;
            }
        }
    }
}

fn changes_a_version(request: &[u8]) -> bool {
    let line = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
    ["data", "delete", "undelete", "destroy"]
        .iter()
        .any(|room| line.starts_with(&format!("POST /v1/secret/{room}/")))
}
