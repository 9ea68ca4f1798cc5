//! A client of an HTTPS server that asks the authority about each certificate that it is shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::{Authority, NAME};

/// Longer than any answer takes on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Trust {
    pub(crate) authority: Arc<Authority>,
    connector: TlsConnector,
}

impl Trust {
    /// Believes the authority alone, and resumes no session.
    pub(crate) fn new(authority: &Arc<Authority>) -> Result<Self, String> {
        let roots: Arc<RootCertStore> = authority.roots()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has suites for every version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { authority: Arc::clone(authority), connector })
    }

    /// A handshake to its end; gives what the server has shown as well.
    pub(crate) async fn shake(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, CertificateDer<'static>), String> {
        let name = ServerName::try_from(NAME).expect("it is a valid name");
        let stream = self.connector.connect(name, stream).await;
        let stream = stream.map_err(|error| format!("the handshake failed: {error}"))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.ok_or("the server has shown no certificate")?.clone().into_owned();
        Ok((stream, shown))
    }
}

/// The client.
pub(crate) struct Https {
    trust: Trust,
    address: SocketAddr,
    open: Option<Open>,
}

/// A connection, and what the server has shown for it.
struct Open {
    sender: SendRequest<Empty<Bytes>>,
    shown: CertificateDer<'static>,
    _task: AbortOnDropHandle<()>,
}

impl Https {
    pub(crate) fn new(trust: Trust, address: SocketAddr) -> Self {
        Self { trust, address, open: None }
    }

    /// One request on a connection of its own; gives the status of the answer.
    pub(crate) async fn get_once(&mut self, login: Option<&HeaderValue>) -> Result<u16, String> {
        self.open = None;
        let status = self.get(login).await;
        self.open = None;
        status
    }

    /// One request, on the open connection if there is one.
    ///
    /// A server may close a connection at the moment at which it is used again. Then no answer has
    /// begun, and the request is sent once more on a new one, as every client of HTTP has to do
    /// (RFC 9112, section 9.3.1). A failure on a new connection is one.
    pub(crate) async fn get(&mut self, login: Option<&HeaderValue>) -> Result<u16, String> {
        timeout(PATIENCE, self.ask(login)).await.unwrap_or(Err("no answer".to_owned()))
    }

    async fn ask(&mut self, login: Option<&HeaderValue>) -> Result<u16, String> {
        let kept = match self.open.take() {
            Some(mut open) => match open.sender.send_request(request(login)).await {
                Ok(answer) => Some((open, answer)),
                Err(_) => None,
            },
            None => None,
        };
        let (open, answer) = match kept {
            Some(kept) => kept,
            None => {
                let mut open = self.connect().await?;
                let answer = open.sender.send_request(request(login)).await;
                (open, answer.map_err(|error| format!("the request broke off: {error}"))?)
            }
        };
        let status = read(answer).await?;
        self.trust.authority.check(&open.shown)?;
        self.open = Some(open);
        Ok(status)
    }

    async fn connect(&self) -> Result<Open, String> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        let (stream, shown) = self.trust.shake(stream).await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| format!("no HTTP: {error}"))?;
        let task = tokio::spawn(async move {
            // How it ended is seen by who sends.
            let _ = connection.await;
        });
        Ok(Open { sender, shown, _task: AbortOnDropHandle::new(task) })
    }
}

fn request(login: Option<&HeaderValue>) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    request.headers_mut().insert(HOST, HeaderValue::from_static(NAME));
    if let Some(login) = login {
        request.headers_mut().insert(AUTHORIZATION, login.clone());
    }
    request
}

/// Reads an answer to its end.
async fn read(answer: Response<Incoming>) -> Result<u16, String> {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await;
    body.map(|_| status).map_err(|error| format!("the answer broke off: {error}"))
}
