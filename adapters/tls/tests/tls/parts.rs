//! A listener under an adapter, clients that believe what they are told to, and rotations.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_adapter_tls::{ServerTls, TlsHook};
use oneiric_core::{
    DrainReport, LifecycleHook, Managed, Retired, SecretRef, SecretSet, SecretValue, Version,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const NAME: &str = "shop.internal";

pub(crate) fn reference(text: &str) -> SecretRef {
    text.parse().unwrap()
}

pub(crate) fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// A set of secrets by their references.
pub(crate) fn set(parts: &[(&str, &str)]) -> SecretSet {
    SecretSet::new(
        parts
            .iter()
            .map(|(of, value)| (reference(of), SecretValue::from(*value), Version::numbered(1))),
    )
}

pub(crate) async fn commit<T: Send + Sync + 'static>(
    hook: &TlsHook<T>,
    secrets: &SecretSet,
) -> Box<dyn Retired> {
    hook.prepare(secrets).await.unwrap().commit()
}

/// A whole rotation, for which users have this long to end.
pub(crate) async fn rotate<T: Send + Sync + 'static>(
    hook: &TlsHook<T>,
    secrets: &SecretSet,
    patience: Duration,
) -> DrainReport {
    commit(hook, secrets).await.drain(Instant::now() + patience).await
}

/// How a connection of the listener behaves when its generation was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// It ends when it is told that there is a newer one.
    Polite,
    /// It ends when it is cut off.
    Busy,
    /// It does not listen.
    Deaf,
}

/// Certificates of clients, as the listener has seen them.
pub(crate) type Seen = Arc<Mutex<Vec<Option<CertificateDer<'static>>>>>;

/// Echoes bytes on every connection.
pub(crate) async fn listen(tls: Managed<ServerTls>, manners: Manners) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, tls, manners, Seen::default()));
    address
}

/// The same on a listener that is there already.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Managed<ServerTls>,
    manners: Manners,
    seen: Seen,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, seen) = (tls.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let mut connection = ServerTls::accept(&tls, stream).await?;
            let client = connection.get_ref().get_ref().1.peer_certificates();
            seen.lock().unwrap().push(client.map(|chain| chain[0].clone().into_owned()));
            let end = match manners {
                Manners::Polite => connection.guard().retired(),
                Manners::Busy => connection.guard().cut_off(),
                Manners::Deaf => Box::pin(std::future::pending()),
            };
            tokio::select! {
                echoed = echo(&mut connection) => echoed?,
                () = end => {}
            }
            connection.shutdown().await
        });
    }
}

async fn echo<S>(connection: &mut S) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut byte = [0];
    while connection.read(&mut byte).await? == 1 {
        connection.write_all(&byte).await?;
        connection.flush().await?;
    }
    Ok(())
}

/// A client without a certificate that believes these roots.
pub(crate) fn client(roots: RootCertStore) -> Arc<ClientConfig> {
    Arc::new(
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

/// A new connection that was used once, so that tickets have arrived.
pub(crate) async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    ping(&mut stream).await?;
    Ok(stream)
}

pub(crate) async fn ping<S>(stream: &mut S) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(b"x").await?;
    stream.flush().await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(drop)
}

pub(crate) fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

pub(crate) fn kind(stream: &TlsStream<TcpStream>) -> HandshakeKind {
    stream.get_ref().1.handshake_kind().unwrap()
}
