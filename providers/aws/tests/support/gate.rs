//! A gate before a server, which knows the calls of AWS: it counts them, lets them through, refuses
//! them, loses their answers, or gives the answer of a moment ago.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
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
    /// It answers nothing until it is opened.
    Hanging,
    /// Each call waits so long.
    Slow(Duration),
    /// It refuses each call, with this status, this code, and this wait.
    Refusing(u16, &'static str, Option<Duration>),
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The calls that have come, by their names.
    calls: Vec<String>,
    /// Whether the answer to the next write is lost.
    lose: bool,
    /// Calls that show what they have shown before, where they have.
    frozen: HashSet<String>,
    /// Calls that are refused, while others are not.
    denied: HashSet<String>,
    shown: HashMap<(String, Bytes), (StatusCode, Bytes)>,
    /// The last body of each kind of call.
    bodies: HashMap<String, Bytes>,
}

/// Calls that change a version.
const WRITES: [&str; 2] = ["PutSecretValue", "UpdateSecretVersionStage"];
/// What a read without a version may show late.
pub(crate) const READS: [&str; 4] =
    ["BatchGetSecretValue", "DescribeSecret", "GetSecretValue", "ListSecrets"];

impl Gate {
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, watched) = watch::channel(Mode::Open);
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, watched.clone(), Arc::clone(&all)));
            }
        });
        Self { port, mode, shared, task }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn play(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The next call that changes a version is done, and its answer does not arrive.
    pub(crate) fn lose_a_reply(&self) {
        self.state(|state| state.lose = true);
    }

    /// From now on these calls show what they have shown before.
    pub(crate) fn freeze(&self, calls: &[&str]) {
        self.state(|state| state.frozen.extend(calls.iter().map(|&call| call.to_owned())));
    }

    /// From now on these calls are refused.
    pub(crate) fn deny(&self, calls: &[&str]) {
        self.state(|state| state.denied.extend(calls.iter().map(|&call| call.to_owned())));
    }

    /// How many calls of this name have come.
    pub(crate) fn calls(&self, name: &str) -> usize {
        self.state(|state| state.calls.iter().filter(|call| *call == name).count())
    }

    /// The body of the last call of this name.
    pub(crate) fn last(&self, name: &str) -> Option<String> {
        let body = self.state(|state| state.bodies.get(name).cloned())?;
        Some(String::from_utf8_lossy(&body).into_owned())
    }

    pub(crate) fn mend(&self) {
        self.state(|state| {
            state.lose = false;
            state.frozen.clear();
            state.denied.clear();
        });
        self.play(Mode::Open);
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.shared.state.lock().unwrap())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, server: u16, mode: watch::Receiver<Mode>, shared: Arc<Shared>) {
    let handle = service_fn(|request| {
        let (mode, shared) = (mode.clone(), Arc::clone(&shared));
        async move { pass(request, server, mode, &shared).await }
    });
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), handle,)
    );
    let mut closed = mode.clone();
    let is_closed = async {
        if closed.wait_for(|mode| *mode == Mode::Closed).await.is_err() {
            pending::<Infallible>().await;
        }
    };
    // A connection that is ended ends while it is idle, too.
    tokio::select! {
        _ = &mut connection => {}
        () = is_closed => {}
    }
}

/// One call. An error ends the connection without an answer.
async fn pass(
    request: Request<Incoming>,
    server: u16,
    mut mode: watch::Receiver<Mode>,
    shared: &Shared,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let named = target.and_then(|target| target.rsplit('.').next()).map(ToOwned::to_owned);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    // STS has the name of the call in its form.
    let name = named.unwrap_or_else(|| {
        let form = String::from_utf8_lossy(&body).into_owned();
        form.split('&').find_map(|part| part.strip_prefix("Action=")).unwrap_or("?").to_owned()
    });
    let (is_denied, replayed, is_lost) = {
        let mut state = shared.state.lock().unwrap();
        state.calls.push(name.clone());
        state.bodies.insert(name.clone(), body.clone());
        let is_lost = WRITES.contains(&name.as_str()) && std::mem::take(&mut state.lose);
        let is_frozen = state.frozen.contains(&name);
        let shown = state.shown.get(&(name.clone(), body.clone())).filter(|_| is_frozen).cloned();
        (state.denied.contains(&name), shown, is_lost)
    };
    let now = mode.borrow_and_update().clone();
    match now {
        Mode::Open => {}
        Mode::Closed => return Err(io::ErrorKind::ConnectionReset.into()),
        Mode::Hanging => {
            let _ = mode.wait_for(|mode| *mode != Mode::Hanging).await;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Mode::Slow(latency) => tokio::time::sleep(latency).await,
        Mode::Refusing(status, code, wait) => return Ok(refusal(status, code, wait)),
    }
    if is_denied {
        return Ok(refusal(400, "AccessDeniedException", None));
    }
    let (status, answer) = match replayed {
        Some(shown) => shown,
        None => {
            let answered =
                forward(Request::from_parts(head, Full::new(body.clone())), server).await?;
            if READS.contains(&name.as_str()) {
                shared.state.lock().unwrap().shown.insert((name, body), answered.clone());
            }
            answered
        }
    };
    if is_lost {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(json(status, answer))
}

/// Sends a call on, over a connection of its own.
pub(crate) async fn forward(
    request: Request<Full<Bytes>>,
    server: u16,
) -> io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    Ok((status, body))
}

pub(crate) fn refusal(status: u16, code: &str, wait: Option<Duration>) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"__type":"{code}","message":"the gate says so"}}"#);
    let mut answer = json(StatusCode::from_u16(status).unwrap(), body.into());
    if let Some(wait) = wait {
        answer.headers_mut().insert("retry-after", wait.as_secs().into());
    }
    answer
}

pub(crate) fn json(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status);
    answer.header("content-type", "application/x-amz-json-1.1").body(Full::new(body)).unwrap()
}
