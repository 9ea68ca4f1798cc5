//! An HTTP server that enforces credentials: what is not accepted, or was revoked, gets 401.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// A running server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    credentials: Arc<Credentials>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Credentials {
    by_header: RwLock<HashMap<Vec<u8>, State>>,
    uses_after_commit: AtomicU64,
    uses_after_revoke: AtomicU64,
}

/// In the order of a credential's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Accepted,
    /// Still accepted, though nobody should use it any more.
    Replaced,
    Revoked,
}

impl Upstream {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Result<Self, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(|error| format!("the upstream cannot listen: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let credentials = Arc::<Credentials>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&credentials)));
        Ok(Self { address, credentials, _task: AbortOnDropHandle::new(task) })
    }

    pub(crate) fn accept(&self, token: &str) {
        self.credentials.set(token, State::Accepted);
    }

    /// From here on each use is counted, though it succeeds.
    pub(crate) fn replaced(&self, token: &str) {
        self.credentials.set(token, State::Replaced);
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.credentials.set(token, State::Revoked);
    }

    /// Counts a use that somebody tells of, like one that was made here.
    pub(crate) fn used(&self, token: &str) -> Result<(), String> {
        match self.credentials.check(Some(format!("Bearer {token}").as_bytes())) {
            StatusCode::OK => Ok(()),
            status => Err(format!("the token is not accepted: {status}")),
        }
    }

    /// Uses of credentials after they were replaced (revoked or not), and after they were revoked.
    pub(crate) fn old_uses(&self) -> (u64, u64) {
        let revoked = self.credentials.uses_after_revoke.load(Ordering::SeqCst);
        (self.credentials.uses_after_commit.load(Ordering::SeqCst) + revoked, revoked)
    }
}

impl Credentials {
    fn set(&self, token: &str, state: State) {
        let mut by_header = self.by_header.write().unwrap_or_else(PoisonError::into_inner);
        by_header.insert(format!("Bearer {token}").into_bytes(), state);
    }

    fn check(&self, header: Option<&[u8]>) -> StatusCode {
        let by_header = self.by_header.read().unwrap_or_else(PoisonError::into_inner);
        match header.and_then(|header| by_header.get(header)) {
            Some(State::Accepted) => StatusCode::OK,
            Some(State::Replaced) => {
                self.uses_after_commit.fetch_add(1, Ordering::SeqCst);
                StatusCode::OK
            }
            Some(State::Revoked) => {
                self.uses_after_revoke.fetch_add(1, Ordering::SeqCst);
                StatusCode::UNAUTHORIZED
            }
            None => StatusCode::UNAUTHORIZED,
        }
    }
}

async fn serve(listener: TcpListener, credentials: Arc<Credentials>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let credentials = Arc::clone(&credentials);
                connections.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        let header = request.headers().get(http::header::AUTHORIZATION);
                        let status = credentials.check(header.map(http::HeaderValue::as_bytes));
                        let mut response = Response::new(Empty::<Bytes>::new());
                        *response.status_mut() = status;
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is no failure of the server.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }
    }
}

/// A keep-alive connection to an upstream.
pub(crate) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| format!("no HTTP: {error}"))?;
        let task = tokio::spawn(async move {
            // How it ended is seen by who sends.
            let _ = connection.await;
        });
        Ok(Self { sender, _task: AbortOnDropHandle::new(task) })
    }

    /// One request with this header; succeeds if the answer is 200.
    pub(crate) async fn get(
        &mut self,
        name: &http::HeaderName,
        value: http::HeaderValue,
    ) -> Result<(), String> {
        let mut request = Request::new(Empty::new());
        request
            .headers_mut()
            .insert(http::header::HOST, http::HeaderValue::from_static("upstream"));
        request.headers_mut().insert(name, value);
        self.sender.ready().await.map_err(|error| format!("the connection is gone: {error}"))?;
        let response = self.sender.send_request(request).await;
        match response.map_err(|error| format!("the request broke off: {error}"))?.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("the answer was {status}")),
        }
    }
}
