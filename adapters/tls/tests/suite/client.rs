//! A client's side, before a server that requires certificates and says which one it saw.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use oneiric_adapter_tls::{ClientTls, Connection, Identity, TlsClient, TlsHook};
use oneiric_core::LifecycleHook;
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, client};

use crate::authority::{Authority, Issued, Wish};
use crate::network::Network;
use crate::register::Register;
use crate::{NAME, name, pem};

pub(crate) struct ClientRig {
    network: Arc<Network>,
    server: Arc<Server>,
    address: SocketAddr,
    roots: RootCertStore,
}

impl ClientRig {
    /// With a server of this version, on a port of its own; it ends with the test's runtime.
    pub(crate) async fn start(version: &'static SupportedProtocolVersion) -> Self {
        let authority = Authority::new("servers");
        let (issued, register) = (authority.server(NAME), Arc::new(Register::new()));
        let config = RwLock::new(config(&issued, version, &register));
        let server = Arc::new(Server { issued, version, config, register });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, network) = (listener.local_addr().unwrap(), Arc::<Network>::default());
        let serving = Arc::clone(&server);
        network.serve(listener, move |stream| {
            let server = Arc::clone(&serving);
            // However a connection ends, its client has seen it.
            async move { server.serve(stream).await.unwrap_or_default() }
        });
        Self { network, server, address, roots: authority.roots() }
    }
}

#[async_trait]
impl AdapterRig for ClientRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let hook = TlsClient::new(self.roots.clone())
            .identity(Identity::bundle(pem()))
            .try_with(self.address.to_string(), name())
            .into_hook("client".parse().unwrap());
        Box::new(InUse { hook: Arc::new(hook), address: self.address })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        Ok(self.server.register.mint(kind, canary, Wish::client("client")))
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.server.register.revoke(number);
        self.server.forget();
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        Ok(self.server.register.sessions(number))
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.server.register.shown(number))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        self.network.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.network.play(None);
    }

    fn has(&self, _habit: Habit) -> Ability {
        Ability::Done
    }
}

/// Answers every byte with the number of the certificate that it has seen.
struct Server {
    issued: Issued,
    version: &'static SupportedProtocolVersion,
    config: RwLock<Arc<ServerConfig>>,
    register: Arc<Register>,
}

fn config(
    issued: &Issued,
    version: &'static SupportedProtocolVersion,
    register: &Arc<Register>,
) -> Arc<ServerConfig> {
    let crypto = Arc::new(default_provider());
    let roots = Arc::new(register.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&crypto));
    let (verifier, register) = (verifier.build().unwrap(), Arc::clone(register));
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Doorkeeper { verifier, register }))
        .with_single_cert(vec![issued.leaf.clone()], key)
        .unwrap();
    Arc::new(config)
}

impl Server {
    /// Lets no session be resumed that has begun.
    fn forget(&self) {
        *self.config.write().unwrap() = config(&self.issued, self.version, &self.register);
    }

    async fn serve(&self, stream: DuplexStream) -> io::Result<()> {
        let config = Arc::clone(&self.config.read().unwrap());
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let session = self.register.open(&stream.get_ref().1.peer_certificates().unwrap()[0]);
        while stream.read_u8().await.is_ok() {
            stream.write_u64(session.number).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}

/// Lets in whom it knows and was not told to turn away.
#[derive(Debug)]
struct Doorkeeper {
    verifier: Arc<dyn ClientCertVerifier>,
    register: Arc<Register>,
}

impl ClientCertVerifier for Doorkeeper {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.register.look_at(end_entity)?;
        self.verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

struct InUse {
    hook: Arc<TlsHook<ClientTls>>,
    address: SocketAddr,
}

type Open = Connection<client::TlsStream<TcpStream>, ClientTls>;

impl InUse {
    /// Connects and asks once. Whoever is refused says so of the generation that it began with.
    async fn open(&self) -> Result<(Open, u64), String> {
        let tls = self.hook.managed().expect("the suite works with what was committed");
        let guard = tls.load();
        let opened = async {
            let stream = TcpStream::connect(self.address).await?;
            let mut open = ClientTls::connect(&tls, stream, name()).await?;
            let number = ask(&mut open).await?;
            Ok((open, number))
        };
        opened.await.map_err(|error: io::Error| {
            if is_refusal(&error) {
                guard.report_refused();
            }
            format!("{error:?}")
        })
    }
}

async fn ask(open: &mut Open) -> io::Result<u64> {
    open.write_all(b"?").await?;
    open.flush().await?;
    open.read_u64().await
}

/// Whether the server has said so of the certificate.
fn is_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    matches!(
        cause,
        Some(Error::AlertReceived(
            AlertDescription::CertificateRevoked | AlertDescription::UnknownCA
        ))
    )
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        self.open().await.map(|(_, number)| number)
    }

    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        let (mut open, _) = self.open().await.expect("the server lets users in");
        let (finish, finished) = oneshot::channel();
        let work = tokio::spawn(async move {
            let cut_off = open.guard().cut_off();
            let cut_off = async {
                match manner {
                    Manner::Yielding => cut_off.await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // Whoever does not finish it aborts it.
                _ = finished => ask(&mut open).await.map_err(|error| format!("{error:?}")),
                () = cut_off => Err("it was cut off".to_owned()),
            }
        });
        Ok(Box::new(Long { work, finish: Some(finish) }))
    }
}

/// An open connection, on each side of which somebody waits for the other.
pub(crate) struct Long {
    pub(crate) work: JoinHandle<Result<u64, String>>,
    pub(crate) finish: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl LongWork for Long {
    async fn finish(mut self: Box<Self>) -> Result<u64, String> {
        // One that was cut off does not hear it.
        let _ = self.finish.take().map(|finish| finish.send(()));
        (&mut self.work).await.expect("a user does not panic")
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.work.abort();
    }
}
