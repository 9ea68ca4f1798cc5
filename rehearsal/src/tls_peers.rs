//! Both ends of the TLS rehearsal. They speak the least that a service needs to end a connection
//! without losing a request: an ask is answered, or a farewell says that it was not heard.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use oneiric_adapter_tls::ServerTls;
use oneiric_core::Managed;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::{Authority, NAME};

const ASK: u8 = b'?';
const ANSWER: u8 = b'!';
/// No ask after the last answer was heard, and none will be.
const FAREWELL: u8 = b'.';
/// From here on the server's end of this connection goes on until it is cut off.
const BE_BUSY: u8 = b'b';
/// The same, and it does not listen to that either.
const BE_DEAF: u8 = b'd';

/// How often a client that is sent away comes back with the same ask.
const TRIES: u32 = 5;

/// The way in which a connection does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stubborn {
    Busy,
    Deaf,
}

/// Starts the server on a listener that is bound already.
pub(crate) fn serve(listener: TcpListener, tls: Managed<ServerTls>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let _ = stream.set_nodelay(true);
                    let tls = tls.clone();
                    connections.spawn(async move {
                        // A client that goes away is no failure of the server.
                        if let Ok(connection) = ServerTls::accept(&tls, stream).await {
                            let guard = connection.guard();
                            let (retired, cut_off) = (guard.retired(), guard.cut_off());
                            let _ = answer(connection, retired, cut_off).await;
                        }
                    });
                }
            }
        }
    }))
}

/// Answers until the client goes, or until the certificate of the connection was replaced.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: S,
    retired: impl Future<Output = ()> + Unpin,
    cut_off: impl Future<Output = ()> + Unpin,
) -> io::Result<()> {
    let (mut retired, mut cut_off) = (retired, cut_off);
    let (mut polite, mut hears) = (true, true);
    loop {
        let asked = tokio::select! {
            asked = connection.read_u8() => asked,
            () = &mut retired, if polite => {
                say(&mut connection, FAREWELL).await?;
                return connection.shutdown().await;
            }
            () = &mut cut_off, if hears => return Ok(()),
        };
        match asked {
            Ok(BE_BUSY) => polite = false,
            Ok(BE_DEAF) => (polite, hears) = (false, false),
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        say(&mut connection, ANSWER).await?;
    }
}

async fn say<S: AsyncWrite + Unpin>(connection: &mut S, word: u8) -> io::Result<()> {
    connection.write_all(&[word]).await?;
    connection.flush().await
}

/// A client that believes the authority and asks it about each certificate it is shown.
pub(crate) struct Client {
    authority: Arc<Authority>,
    address: SocketAddr,
    connector: TlsConnector,
    open: Option<TlsStream<TcpStream>>,
}

impl Client {
    /// One that resumes its sessions where the server lets it, or one that never does.
    pub(crate) fn new(
        authority: &Arc<Authority>,
        roots: Arc<RootCertStore>,
        address: SocketAddr,
        resumes: bool,
    ) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has suites for every version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        let connector = TlsConnector::from(Arc::new(config));
        Self { authority: Arc::clone(authority), address, connector, open: None }
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask_once(&mut self) -> Result<(), String> {
        self.open = None;
        self.ask().await?;
        if let Some(mut open) = self.open.take() {
            // The server sees that we go; how well does not matter to the answer.
            let _ = open.shutdown().await;
        }
        Ok(())
    }

    /// One request, on the open connection if there is one.
    pub(crate) async fn ask(&mut self) -> Result<(), String> {
        for _ in 0..TRIES {
            match self.exchange(ASK).await? {
                ANSWER => return Ok(()),
                FAREWELL => self.open = None,
                other => return Err(format!("the server said {other}")),
            }
        }
        Err(format!("the server has sent it away {TRIES} times"))
    }

    /// Asks the server's end of this connection not to end.
    pub(crate) async fn make(&mut self, stubborn: Stubborn) -> Result<(), String> {
        let word = match stubborn {
            Stubborn::Busy => BE_BUSY,
            Stubborn::Deaf => BE_DEAF,
        };
        match self.exchange(word).await? {
            ANSWER => Ok(()),
            _ => Err("the server did not take the connection".to_owned()),
        }
    }

    async fn exchange(&mut self, word: u8) -> Result<u8, String> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let fresh = self.connect().await?;
                self.open.insert(fresh)
            }
        };
        let exchanged = async {
            say(open, word).await?;
            open.read_u8().await
        };
        let exchanged = exchanged.await;
        exchanged.map_err(|error| {
            self.open = None;
            format!("the request broke off: {error}")
        })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(NAME).expect("it is a valid name");
        let stream = self
            .connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("no handshake: {error}"))?;
        // A resumed session rests on the certificate that it began with.
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = chain.first().ok_or("the server has shown no certificate")?;
        self.authority.check(leaf)?;
        Ok(stream)
    }
}
