//! The server: one task for each connection, and a bounded number of them.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::directory::own_uid;
use super::endpoint::Endpoint;
use super::guard::{Guard, Peer};
use super::routes::{Served, router};
use super::socket::SocketFile;
use crate::runtime::Runtime;

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The pause after a connection could not be accepted, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client that is turned away is waited for.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_millis(100);
/// What a client over the limit is told.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    content-length: 32\r\n\
    connection: close\r\n\
    \r\n\
    {\"error\":\"too many connections\"}";

/// The admin endpoint, bound. Made by [`AdminOptions::bind`](super::AdminOptions::bind).
#[derive(Debug)]
pub struct AdminServer {
    unix: StdUnixListener,
    file: SocketFile,
    tcp: Option<StdTcpListener>,
    guard: Guard,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) read_timeout: Duration,
    pub(super) grace: Duration,
}

impl AdminServer {
    pub(super) fn new(
        unix: StdUnixListener,
        file: SocketFile,
        tcp: Option<StdTcpListener>,
        guard: Guard,
        limits: Limits,
    ) -> Self {
        Self { file, unix, tcp, guard, limits }
    }

    /// Where it listens: the unix socket, and the TCP address if there is one, with the port that
    /// the system chose.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let unix = Endpoint::Unix(self.file.path().to_owned());
        let tcp = self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()).map(Endpoint::Tcp);
        [unix].into_iter().chain(tcp).collect()
    }

    /// Serves until `shutdown`. Then the socket file is removed, nothing is accepted any more,
    /// and requests that are running have the grace time to end before they are cut off. A
    /// rotation that was asked for goes on without its request.
    pub async fn run(self, runtime: Runtime, shutdown: CancellationToken) {
        for endpoint in self.endpoints() {
            tracing::info!(target: "oneiric", %endpoint, "the admin endpoint listens");
        }
        let Self { file, unix, tcp, guard, limits } = self;
        let unix = UnixListener::from_std(unix).map(Listener::Unix);
        let tcp = tcp.map(|tcp| TcpListener::from_std(tcp).map(Listener::Tcp)).transpose();
        let (unix, tcp) = match (unix, tcp) {
            (Ok(unix), Ok(tcp)) => (unix, tcp),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(target: "oneiric", %error, "the admin endpoint cannot run");
                return;
            }
        };
        let service = Service { runtime, guard: Arc::new(guard), limits, shutdown };
        let over_tcp = OptionFuture::from(tcp.map(|tcp| service.serve(tcp, None)));
        tokio::join!(service.serve(unix, Some(file)), over_tcp);
    }
}

/// What all connections share.
struct Service {
    runtime: Runtime,
    guard: Arc<Guard>,
    limits: Limits,
    shutdown: CancellationToken,
}

impl Service {
    async fn serve(&self, listener: Listener, file: Option<SocketFile>) {
        let mut connections = JoinSet::new();
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            let was_full = full;
            full = connections.len() >= self.limits.connections;
            match accepted {
                Ok((_, peer)) if !peer.may_connect(own_uid()) => {
                    tracing::warn!(target: "oneiric", %peer, "a connection is refused");
                }
                Ok((stream, peer)) if !full => {
                    connections.spawn(self.connection(stream, peer));
                }
                Ok((mut stream, _)) => {
                    // Once for each time that it fills up, so that nobody can fill the log.
                    if !was_full {
                        let limit = self.limits.connections;
                        tracing::warn!(target: "oneiric", limit, "there are too many connections");
                    }
                    let _ = timeout(TURN_AWAY_TIMEOUT, stream.write_all(TURNED_AWAY)).await;
                }
                Err(error) => {
                    tracing::warn!(target: "oneiric", %error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // In this order: while somebody answers, nobody else takes the name over.
        drop(file);
        drop(listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.grace, ended).await.is_err() {
            tracing::warn!(target: "oneiric", "requests are cut off by the shutdown");
            connections.shutdown().await;
        }
    }

    /// Serves one connection: one request, so that its limits are those of the connection.
    fn connection(&self, stream: Stream, peer: Peer) -> impl Future<Output = ()> + use<> {
        let shutdown = self.shutdown.clone();
        let router = router(Served {
            runtime: self.runtime.clone(),
            guard: Arc::clone(&self.guard),
            peer,
            shutdown: shutdown.clone(),
            read_timeout: self.limits.read_timeout,
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.read_timeout)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(target: "oneiric", %peer, %error, "a connection broke off");
            }
        }
    }
}

type Stream = Either<UnixStream, TcpStream>;

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Either::Left(stream), Peer::Unix { uid }))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), Peer::Tcp))
            }
        }
    }
}
