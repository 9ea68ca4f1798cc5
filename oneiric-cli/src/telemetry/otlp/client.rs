//! The HTTP client of the exporters.
//!
//! They work on threads of their own, where no asynchronous client can live. So each request is
//! a task of the program's runtime, and the thread waits for its end.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Connections, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// More than any collector has to say.
const MAX_RESPONSE: usize = 1024 * 1024;

/// A client that may be called from any thread. It works as long as the runtime does in which it
/// was made.
#[derive(Debug)]
pub(super) struct Client {
    connections: Kind,
    runtime: Handle,
    timeout: Duration,
}

#[derive(Debug)]
enum Kind {
    Plain(Connections<HttpConnector, Full<Bytes>>),
    Tls(Connections<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Client {
    /// A client for this endpoint; with TLS, and the certificates of the platform, if it is an
    /// `https` one.
    ///
    /// # Errors
    /// If the platform has no certificates.
    pub(super) fn new(endpoint: &str, timeout: Duration) -> io::Result<Self> {
        let builder = Connections::builder(TokioExecutor::new());
        let connections = if endpoint.starts_with("https:") {
            let tls = HttpsConnectorBuilder::new().with_native_roots()?;
            Kind::Tls(builder.build(tls.https_only().enable_http1().build()))
        } else {
            Kind::Plain(builder.build(HttpConnector::new()))
        };
        Ok(Self { connections, runtime: Handle::current(), timeout })
    }

    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match &self.connections {
            Kind::Plain(connections) => connections.request(request),
            Kind::Tls(connections) => connections.request(request),
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.request(request.map(Full::new));
        let exchange = async move {
            let (head, body) = response.await?.into_parts();
            let body = Limited::new(body, MAX_RESPONSE).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let limit = self.timeout;
        // The timer belongs to the runtime as well, so it is made there.
        self.runtime.spawn(async move { timeout(limit, exchange).await }).await??
    }
}
