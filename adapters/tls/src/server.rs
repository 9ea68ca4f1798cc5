//! A server's side: which identities it has, and the configuration of one generation of them.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use oneiric_core::{AdapterId, HookError, Managed, ManagedHook, SecretRef, SecretSet};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server};
use webpki::EndEntityCert;

use crate::connection::Connection;
use crate::hook::{Facts, Point, TlsHook};
use crate::identity::{Credential, Identity};
use crate::probe::presented;
use crate::proof::{Role, crypto};
use crate::roots::{Roots, same};

type Configure = dyn Fn(&mut ServerConfig) + Send + Sync;

/// Whether a client may resume a session that it began under an older generation. A resumed session
/// shows no certificate: it rests on what was proven when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Resumption {
    /// Within a generation only. After a rotation every client makes one full handshake.
    #[default]
    Reset,
    /// Over generations too, as long as the roots of client certificates stay the same. Sessions
    /// that began under a certificate go on after it was replaced, and *revoked*: for certificates
    /// that are only ever renewed.
    Keep,
    /// Never.
    Off,
}

/// A TLS server in the making.
///
/// ```
/// use oneiric_adapter_tls::{Identity, TlsServer};
/// use rustls::pki_types::ServerName;
///
/// let name = ServerName::try_from("shop.internal")?;
/// let identity = Identity::bundle("vault:shop/tls#pem".parse()?).covers([name.clone()]);
/// let hook = TlsServer::new(identity)
///     .require_clients("vault:shop/clients#roots".parse::<oneiric_core::SecretRef>()?)
///     .read_back("127.0.0.1:8443", name)
///     .into_hook("shop-tls".parse()?);
/// # let _ = hook;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct TlsServer {
    identities: Vec<Identity>,
    clients: Option<(Roots, bool)>,
    resumption: Resumption,
    configure: Option<Box<Configure>>,
    points: Vec<Point>,
}

impl TlsServer {
    /// A server with this identity, for every client that names no other one.
    pub fn new(identity: Identity) -> Self {
        Self {
            identities: vec![identity],
            clients: None,
            resumption: Resumption::default(),
            configure: None,
            points: Vec::new(),
        }
    }

    /// One more, for clients that ask (by SNI) for a name that its certificate is valid for and
    /// those before it are not. All identities change together.
    pub fn also(mut self, identity: Identity) -> Self {
        self.identities.push(identity);
        self
    }

    /// Clients must have a certificate that these roots vouch for. Roots that change end every
    /// session that could be resumed, whatever [`resumption`](Self::resumption) says.
    pub fn require_clients(mut self, roots: impl Into<Roots>) -> Self {
        self.clients = Some((roots.into(), true));
        self
    }

    /// The same for clients that have one; those without are let in.
    pub fn allow_clients(mut self, roots: impl Into<Roots>) -> Self {
        self.clients = Some((roots.into(), false));
        self
    }

    /// Which sessions may be resumed; within a generation by default.
    pub fn resumption(mut self, resumption: Resumption) -> Self {
        self.resumption = resumption;
        self
    }

    /// Sets the rest of each generation's configuration, such as ALPN or a ticketer. A ticketer, or
    /// a store of sessions, must be a new one each time: a generation that shares one with the
    /// generation before fails, unless sessions are [kept](Resumption::Keep).
    pub fn configure(
        mut self,
        configure: impl Fn(&mut ServerConfig) + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// After each commit, asks the listener at this address (`host:port`) for the certificate of
    /// this name, by a real handshake. Until it presents the committed one a rotation is not done:
    /// the listener counts as a user of the old generation. Not at the first generation, when
    /// nothing listens yet. May be given more than once.
    pub fn read_back(mut self, address: impl Into<String>, name: ServerName<'static>) -> Self {
        self.points.push(Point { address: address.into(), name });
        self
    }

    /// The adapter.
    ///
    /// # Errors
    /// Its `prepare` is *refused* where an [`Identity`] does not fulfil what must be proven of it,
    /// and *failed* where a secret cannot be read as what it should be. Both name the secret, and
    /// the place within its chain.
    pub fn into_hook(self, id: AdapterId) -> TlsHook<ServerTls> {
        let roots = self.clients.as_ref().and_then(|(roots, _)| roots.secret().cloned());
        let mut secrets: Vec<SecretRef> =
            self.identities.iter().flat_map(Identity::secrets).chain(roots).collect();
        secrets.sort();
        secrets.dedup();
        let points = self.points.clone();
        let before: Arc<OnceLock<Managed<ServerTls>>> = Arc::default();
        let current = Arc::clone(&before);
        let hook = ManagedHook::new(id, secrets, move |secrets| {
            ready(self.build(&secrets, before.get().map(Managed::load).as_deref()))
        });
        let facts = Facts {
            ends: |tls: &ServerTls| Some(tls.not_after()),
            presents: |tls, name| Some(tls.leaf(name).clone()),
        };
        TlsHook::new(hook, current, points, facts)
    }

    fn build(
        &self,
        secrets: &SecretSet,
        before: Option<&ServerTls>,
    ) -> Result<ServerTls, HookError> {
        let load = |identity: &Identity| identity.load(secrets, Role::Server);
        let credentials: Vec<_> = self.identities.iter().map(load).collect::<Result<_, _>>()?;
        let credentials = Arc::new(Credentials(credentials));
        let clients = match &self.clients {
            Some((roots, _)) => Some(roots.load(secrets)?),
            None => None,
        };
        let builder = ServerConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .expect("ring has suites for every version");
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), crypto());
                let required = self.clients.as_ref().is_some_and(|(_, required)| *required);
                let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| {
                    HookError::failed("client certificates could not be verified").caused_by(error)
                })?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&credentials) as _);
        if let Some(configure) = &self.configure {
            configure(&mut config);
            config.cert_resolver = Arc::clone(&credentials) as _;
        }
        self.resume(&mut config, clients.as_deref(), before)?;
        let next = ServerTls { config: Arc::new(config), credentials, clients };
        next.prove()?;
        Ok(next)
    }

    /// Decides what of the generation before may be resumed.
    fn resume(
        &self,
        config: &mut ServerConfig,
        clients: Option<&RootCertStore>,
        before: Option<&ServerTls>,
    ) -> Result<(), HookError> {
        if self.resumption == Resumption::Off {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = Arc::new(NoTickets);
            config.send_tls13_tickets = 0;
            config.max_tls13_tickets = 0;
            return Ok(());
        }
        let Some(before) = before else { return Ok(()) };
        let as_before = match (clients, before.clients.as_deref()) {
            (None, None) => true,
            (Some(now), Some(then)) => same(now, then),
            _ => false,
        };
        if self.resumption == Resumption::Keep && as_before {
            config.session_storage = Arc::clone(&before.config.session_storage);
            config.ticketer = Arc::clone(&before.config.ticketer);
            return Ok(());
        }
        let shares = is_same(&config.session_storage, &before.config.session_storage)
            && config.session_storage.can_cache()
            || is_same(&config.ticketer, &before.config.ticketer) && config.ticketer.enabled();
        if shares {
            return Err(HookError::failed(
                "sessions of the generation before could be resumed: `configure` sets a ticketer \
                 or a store of sessions that both have",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer")
            .field("identities", &self.identities)
            .field("resumption", &self.resumption)
            .finish_non_exhaustive()
    }
}

/// One generation of a TLS server. New handshakes are made with it until the next one is committed.
///
/// ```
/// # use std::time::Duration;
/// # use oneiric_core::{LifecycleHook, SecretSet, SecretValue, Version};
/// use std::future::Future;
/// use std::io;
///
/// use oneiric_adapter_tls::{Identity, ServerTls, TlsServer};
/// use oneiric_core::Managed;
/// use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
/// use tokio::net::TcpListener;
///
/// async fn serve(listener: TcpListener, tls: Managed<ServerTls>) -> io::Result<()> {
///     loop {
///         let (stream, _) = listener.accept().await?;
///         let tls = tls.clone();
///         tokio::spawn(async move {
///             let mut connection = ServerTls::accept(&tls, stream).await?;
///             let (retired, cut_off) = (connection.guard().retired(), connection.guard().cut_off());
///             tokio::select! {
///                 ended = echo(&mut connection, retired) => ended?,
///                 () = cut_off => {}
///             }
///             connection.shutdown().await
///         });
///     }
/// }
///
/// /// Answers one line after the other; ends between two of them once the certificate was replaced.
/// async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
///     connection: &mut S,
///     mut retired: impl Future<Output = ()> + Unpin,
/// ) -> io::Result<()> {
///     let mut line = [0; 80];
///     loop {
///         let length = tokio::select! {
///             length = connection.read(&mut line) => length?,
///             () = &mut retired => return Ok(()),
///         };
///         if length == 0 {
///             return Ok(());
///         }
///         connection.write_all(&line[..length]).await?;
///         connection.flush().await?;
///     }
/// }
/// #
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret: oneiric_core::SecretRef = "files:tls.pem".parse()?;
/// # let issue = || -> Result<_, rcgen::Error> {
/// #     let issued = rcgen::generate_simple_self_signed(["shop.internal".to_owned()])?;
/// #     let pem = format!("{}{}", issued.cert.pem(), issued.signing_key.serialize_pem());
/// #     let part = (secret.clone(), SecretValue::from(&*pem), Version::numbered(1));
/// #     Ok((issued.cert.der().clone(), SecretSet::new([part])))
/// # };
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let (address, name) = (listener.local_addr()?.to_string(), "shop.internal");
/// # let hook = TlsServer::new(Identity::bundle(secret.clone()))
/// #     .read_back(&address, name.try_into()?)
/// #     .into_hook("tls".parse()?);
/// # let (first, secrets) = issue()?;
/// # hook.prepare(&secrets).await?.commit();
/// # tokio::spawn(serve(listener, hook.managed().ok_or("nothing serves")?));
/// # assert_eq!(oneiric_adapter_tls::served(&address, name.try_into()?).await?.leaf(), &first);
/// # let (next, secrets) = issue()?;
/// # let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
/// # let report = hook.prepare(&secrets).await?.commit().drain(deadline).await;
/// # assert_eq!(report, oneiric_core::DrainReport::drained());
/// # assert_eq!(oneiric_adapter_tls::served(&address, name.try_into()?).await?.leaf(), &next);
/// # Ok(())
/// # }
/// ```
pub struct ServerTls {
    config: Arc<ServerConfig>,
    credentials: Arc<Credentials>,
    clients: Option<Arc<RootCertStore>>,
}

impl ServerTls {
    /// Makes the handshake on a connection that was accepted. The generation is chosen when the
    /// client has said hello: a connection that was opened before a rotation, and is used after it,
    /// gets the new certificate. Bound it in time: a client may be silent. One that falls silent
    /// after its hello is cut off at the drain deadline of its generation.
    ///
    /// # Errors
    /// Those of the connection and of the handshake, and
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) at that deadline.
    ///
    /// # Cancellation
    /// Dropping the future closes the connection.
    pub async fn accept<IO>(
        tls: &Managed<Self>,
        stream: IO,
    ) -> io::Result<Connection<server::TlsStream<IO>, Self>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let guard = tls.load();
        let handshake = hello.into_stream(Arc::clone(&guard.config));
        Connection::make(guard, handshake).await
    }

    /// The configuration, for servers that make handshakes themselves. Whoever makes one with it
    /// holds the guard until the connection ends: what is not held is not drained.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// A resolver that follows the generations, for servers that take one configuration and keep
    /// it. Their certificate changes, and no more than that: their connections are not counted, the
    /// roots of clients stay as they are, and sessions resume by the server's own settings. Where a
    /// replaced certificate may be revoked, turn resumption off there.
    pub fn resolver(tls: &Managed<Self>) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Follower(tls.clone()))
    }

    /// When the first of its certificates ends.
    pub fn not_after(&self) -> SystemTime {
        let ends = self.credentials.0.iter().map(|credential| credential.not_after);
        ends.min().expect("a server has an identity")
    }

    /// The certificate that is presented to clients who ask for this name.
    pub(crate) fn leaf(&self, name: &ServerName<'_>) -> &CertificateDer<'static> {
        let name = match name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            // An address is not sent to the server.
            _ => None,
        };
        &self.credentials.choose(name).cert[0]
    }

    /// Each identity is presented to those who ask for it, and its key signs.
    fn prove(&self) -> Result<(), HookError> {
        for (index, credential) in self.credentials.0.iter().enumerate() {
            let leaf = &credential.certified.cert[0];
            let mut names = names_of(leaf);
            let Some(name) = names.find(|name| self.leaf(name) == leaf) else {
                let number = index + 1;
                return Err(HookError::failed(format!(
                    "identity {number} would never be presented: those before it are valid for \
                     all its names"
                )));
            };
            let shown = name.to_str().into_owned();
            let seen = presented(Arc::clone(&self.config), name).map_err(|error| {
                HookError::refused(format!("a handshake in memory for `{shown}` did not succeed"))
                    .caused_by(error)
            })?;
            if seen != *leaf {
                let what = format!("a handshake in memory for `{shown}` has shown another one");
                return Err(HookError::refused(what));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// The identities of one generation, the first of which is for everybody else.
#[derive(Debug)]
struct Credentials(Vec<Credential>);

impl Credentials {
    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let first = &self.0[0].certified;
        let Some(name) = name.filter(|_| self.0.len() > 1) else { return first };
        let Ok(name) = ServerName::try_from(name) else { return first };
        let valid = |credential: &&Credential| {
            EndEntityCert::try_from(&credential.certified.cert[0])
                .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
        };
        self.0.iter().find(valid).map_or(first, |credential| &credential.certified)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.choose(client.server_name())))
    }
}

#[derive(Debug)]
struct Follower(Managed<ServerTls>);

impl ResolvesServerCert for Follower {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().credentials.resolve(client)
    }
}

/// Produces no tickets.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// What one asks for to get this certificate: its names, or none, which is what asking for an
/// address comes to.
fn names_of(leaf: &CertificateDer<'_>) -> impl Iterator<Item = ServerName<'static>> {
    let parsed = EndEntityCert::try_from(leaf).ok();
    let names: Vec<_> = parsed.iter().flat_map(|leaf| leaf.valid_dns_names()).collect();
    let names: Vec<_> = names
        .into_iter()
        .filter_map(|name| ServerName::try_from(name.replacen('*', "any", 1)).ok())
        .collect();
    names.into_iter().chain([ServerName::IpAddress(Ipv4Addr::LOCALHOST.into())])
}

/// Whether both are one object.
fn is_same<A: ?Sized>(a: &Arc<A>, b: &Arc<A>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}
