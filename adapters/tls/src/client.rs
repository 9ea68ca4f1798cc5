//! A client's side: whom it believes, who it is, and the configuration of one generation of both.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use oneiric_core::{AdapterId, HookError, Managed, ManagedHook, SecretRef, SecretSet};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig, Error, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsConnector, client};

use crate::connection::Connection;
use crate::hook::{Facts, Point, TlsHook};
use crate::identity::Identity;
use crate::probe::PATIENCE;
use crate::proof::{Role, crypto};
use crate::roots::Roots;

/// How long a server may take to object to a client's certificate. Under TLS 1.3 it does so after
/// the client's handshake is over, and says nothing if it does not.
const OBJECTION: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(5);

type Configure = dyn Fn(&mut ClientConfig) + Send + Sync;

/// A TLS client in the making.
///
/// ```
/// use oneiric_adapter_tls::{Identity, TlsClient};
/// use oneiric_core::SecretRef;
///
/// let roots: SecretRef = "vault:mesh#roots".parse()?;
/// let hook = TlsClient::new(roots)
///     .identity(Identity::pair("vault:mesh#cert".parse()?, "vault:mesh#key".parse()?))
///     .try_with("ledger.internal:8443", "ledger.internal".try_into()?)
///     .into_hook("ledger-client".parse()?);
/// # let _ = hook;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Resumption
/// A resumed session does not present the client's certificate again, so each generation has
/// sessions of its own: after a rotation every new connection presents the new certificate.
#[must_use]
pub struct TlsClient {
    roots: Roots,
    identity: Option<Identity>,
    configure: Option<Box<Configure>>,
    tries: Vec<Point>,
}

impl TlsClient {
    /// A client that believes what these roots vouch for.
    pub fn new(roots: impl Into<Roots>) -> Self {
        Self { roots: roots.into(), identity: None, configure: None, tries: Vec::new() }
    }

    /// The certificate that it presents to servers which ask for one.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the rest of each generation's configuration, such as ALPN.
    pub fn configure(
        mut self,
        configure: impl Fn(&mut ClientConfig) + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// Before a generation serves, makes a connection with it to this server (`host:port`): it must
    /// believe the server, and the server must let it in. May be given more than once.
    pub fn try_with(mut self, address: impl Into<String>, name: ServerName<'static>) -> Self {
        self.tries.push(Point { address: address.into(), name });
        self
    }

    /// The adapter.
    ///
    /// # Errors
    /// Its `prepare` is *refused* where the identity does not fulfil what must be proven of it, or
    /// a server that is tried says that it does not accept it, or is not believed; and *failed*
    /// where a secret cannot be read as what it should be, or a server could not be asked or ends
    /// the handshake for another reason.
    pub fn into_hook(self, id: AdapterId) -> TlsHook<ClientTls> {
        let identity = self.identity.iter().flat_map(Identity::secrets);
        let mut secrets: Vec<SecretRef> =
            self.roots.secret().cloned().into_iter().chain(identity).collect();
        secrets.sort();
        secrets.dedup();
        let tries: Arc<[Point]> = self.tries.clone().into();
        let hook = ManagedHook::new(id, secrets, move |secrets| {
            let (built, tries) = (self.build(&secrets), Arc::clone(&tries));
            async move {
                let next = built?;
                for server in &*tries {
                    next.try_with(server).await?;
                }
                Ok(next)
            }
        });
        let facts = Facts { ends: ClientTls::not_after, presents: |_, _| None };
        TlsHook::new(hook, Arc::new(OnceLock::new()), Vec::new(), facts)
    }

    fn build(&self, secrets: &SecretSet) -> Result<ClientTls, HookError> {
        let credential =
            self.identity.as_ref().map(|identity| identity.load(secrets, Role::Client));
        let credential = credential.transpose()?;
        let builder = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .expect("ring has suites for every version")
            .with_root_certificates(self.roots.load(secrets)?);
        // rustls compares these objects before it resumes a session: sessions of an older
        // generation cannot be, even if `configure` gives both the same store.
        let mut config = match &credential {
            None => builder.with_no_client_auth(),
            Some(credential) => {
                let presented = SingleCertAndKey::from(Arc::clone(&credential.certified));
                builder.with_client_cert_resolver(Arc::new(presented))
            }
        };
        if let Some(configure) = &self.configure {
            let presented = Arc::clone(&config.client_auth_cert_resolver);
            configure(&mut config);
            config.client_auth_cert_resolver = presented;
        }
        let not_after = credential.map(|credential| credential.not_after);
        Ok(ClientTls { config: Arc::new(config), not_after })
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient")
            .field("roots", &self.roots)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// One generation of a TLS client. New connections are made with it until the next one is
/// committed.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    not_after: Option<SystemTime>,
}

impl ClientTls {
    /// Makes the handshake, as a client of the server of this name, on an open stream. One that is
    /// not over is cut off at the drain deadline of its generation.
    ///
    /// # Errors
    /// Those of the connection and of the handshake, and
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) at that deadline. A server that does
    /// not accept the client's certificate may say so only at the first read: see
    /// [`report_refused`](oneiric_core::ManagedGuard::report_refused).
    ///
    /// # Cancellation
    /// Dropping the future closes the connection.
    pub async fn connect<IO>(
        tls: &Managed<Self>,
        stream: IO,
        name: ServerName<'static>,
    ) -> io::Result<Connection<client::TlsStream<IO>, Self>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let guard = tls.load();
        let handshake = TlsConnector::from(Arc::clone(&guard.config)).connect(name, stream);
        Connection::make(guard, handshake).await
    }

    /// The configuration, for clients that make handshakes themselves. Take it anew for each
    /// connection, and hold the guard until that ends.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// When its certificate ends, if it has one.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.not_after
    }

    async fn try_with(&self, server: &Point) -> Result<(), HookError> {
        let Point { address, name } = server;
        // What the first user finds is not a session of the try.
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(1);
        let connector = TlsConnector::from(Arc::new(config));
        let connect = async {
            let stream = TcpStream::connect(address.as_str()).await?;
            let mut stream = connector.connect(name.clone(), stream).await?;
            if self.not_after.is_some() {
                hear_objection(&mut stream).await?;
            }
            // How it ends proves nothing.
            let _ = timeout(GLANCE, stream.shutdown()).await;
            Ok(())
        };
        match timeout(PATIENCE, connect).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(judge(address, error)),
            Err(_elapsed) => Err(HookError::failed(format!("{address} did not answer in time"))),
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// Waits until the server has had its say about our certificate: a ticket or data if it lets us in,
/// an alert if not. One that says nothing has no objection; one that hangs up before it has said
/// anything may not even have seen it.
async fn hear_objection(stream: &mut client::TlsStream<TcpStream>) -> io::Result<()> {
    if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    let until = Instant::now() + OBJECTION;
    let mut byte = [0];
    while stream.get_ref().1.tls13_tickets_received() == 0 && Instant::now() < until {
        match timeout(GLANCE, stream.read(&mut byte)).await {
            Err(_elapsed) => {}
            Ok(Ok(_)) => break,
            // They may have come with one read.
            Ok(Err(_)) if stream.get_ref().1.tls13_tickets_received() > 0 => break,
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

fn judge(address: &str, error: io::Error) -> HookError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    let judged = match cause {
        Some(Error::AlertReceived(alert)) if is_about_certificate(*alert) => {
            HookError::refused(format!("{address} does not let this client in"))
        }
        Some(Error::InvalidCertificate(_)) => {
            HookError::refused(format!("the roots do not vouch for {address}"))
        }
        _ => HookError::failed(format!("there is no TLS connection to {address}")),
    };
    judged.caused_by(error)
}

/// Whether a server that ends a handshake so says something of the client's certificate. One that
/// is overloaded ends it too.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
            | A::CertificateRequired
    )
}
