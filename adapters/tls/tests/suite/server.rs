//! A server's side. At the other end are its clients: what they believe, what they were shown, and
//! which certificates their open sessions rest on.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use oneiric_adapter_tls::{Identity, ServerTls, TlsHook, TlsServer};
use oneiric_core::{HookError, LifecycleHook, Managed};
use oneiric_testkit::{
    Ability, AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::Wish;
use crate::client::Long;
use crate::network::Network;
use crate::register::{Register, Session};
use crate::{NAME, name, pem};

/// What the first byte of a client asks of the connection's end: to listen to its guard or not.
const YIELDING: u8 = b'y';
const STUBBORN: u8 = b's';

pub(crate) struct ServerRig {
    network: Arc<Network>,
    clients: Arc<Clients>,
}

impl Default for ServerRig {
    fn default() -> Self {
        let register = Arc::new(Register::new());
        let config = RwLock::new(config(&register));
        Self { network: Arc::default(), clients: Arc::new(Clients { config, register }) }
    }
}

#[async_trait]
impl AdapterRig for ServerRig {
    async fn adapter(&self) -> Box<dyn AdapterInUse> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity =
            Identity::bundle(pem()).covers([name()]).verify_against(self.clients.register.roots());
        let (network, clients) = (Arc::clone(&self.network), Arc::clone(&self.clients));
        let hook = TlsServer::new(identity)
            .read_back(address.to_string(), name())
            .into_hook("server".parse().unwrap())
            .prove(move |next| {
                let (network, clients) = (Arc::clone(&network), Arc::clone(&clients));
                async move { clients.try_out(&network, &next).await }
            });
        let hook = Arc::new(hook);
        let serving = Arc::clone(&hook);
        let listening = self.network.serve(listener, move |stream| {
            let tls = serving.managed().expect("nobody connects before the first commit");
            // However a connection ends, its client has seen it.
            async move { serve(stream, tls).await.unwrap_or_default() }
        });
        Box::new(InUse { hook, address, clients: Arc::clone(&self.clients), listening })
    }

    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String> {
        Ok(self.clients.register.mint(kind, canary, Wish::server(NAME)))
    }

    async fn revoke(&self, number: u64) -> Ability {
        self.clients.register.revoke(number);
        self.clients.forget();
        Ability::Done
    }

    async fn uses(&self, number: u64) -> Result<usize, String> {
        Ok(self.clients.register.sessions(number))
    }

    async fn shown(&self, number: u64) -> Result<u64, String> {
        Ok(self.clients.register.shown(number))
    }

    async fn fault(&self, fault: ServerFault) -> Ability {
        self.network.play(Some(fault));
        Ability::Done
    }

    async fn mend(&self) {
        self.network.play(None);
    }

    fn has(&self, habit: Habit) -> Ability {
        match habit {
            Habit::ReportsRefusals => {
                Ability::cannot("a server believes no client that refuses it: anybody may connect")
            }
            _ => Ability::Done,
        }
    }
}

/// Echoes bytes for as long as the first of them asks for.
async fn serve(stream: DuplexStream, tls: Managed<ServerTls>) -> io::Result<()> {
    let mut connection = ServerTls::accept(&tls, stream).await?;
    let first = connection.read_u8().await?;
    let cut_off = connection.guard().cut_off();
    let cut_off = async {
        match first {
            STUBBORN => pending().await,
            _ => cut_off.await,
        }
    };
    tokio::select! {
        echoed = echo(&mut connection, first) => echoed?,
        () = cut_off => {}
    }
    connection.shutdown().await
}

async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), first: u8) -> io::Result<()> {
    let mut byte = first;
    loop {
        stream.write_u8(byte).await?;
        stream.flush().await?;
        byte = stream.read_u8().await?;
    }
}

/// Everybody who may connect, with what they remember of their sessions.
struct Clients {
    config: RwLock<Arc<ClientConfig>>,
    register: Arc<Register>,
}

fn config(register: &Arc<Register>) -> Arc<ClientConfig> {
    let crypto = Arc::new(default_provider());
    let roots = Arc::new(register.roots());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&crypto));
    let (verifier, register) = (verifier.build().unwrap(), Arc::clone(register));
    let config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer { verifier, register }))
        .with_no_client_auth();
    Arc::new(config)
}

impl Clients {
    /// Lets no session be resumed that has begun.
    fn forget(&self) {
        *self.config.write().unwrap() = config(&self.register);
    }

    /// Connects and is answered once.
    async fn open<IO>(&self, stream: IO, first: u8) -> io::Result<(TlsStream<IO>, Session)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config.read().unwrap()));
        let mut stream = connector.connect(name(), stream).await?;
        let session = self.register.open(&stream.get_ref().1.peer_certificates().unwrap()[0]);
        ping(&mut stream, first).await?;
        Ok((stream, session))
    }

    /// Lets one of them connect to what may serve next.
    async fn try_out(&self, network: &Network, next: &ServerTls) -> Result<(), HookError> {
        let acceptor = TlsAcceptor::from(Arc::clone(next.config()));
        let serve = async |stream| {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // How it ends is what the client says.
                let _ = echo(&mut stream, YIELDING).await;
            }
        };
        // It remembers no session with somebody who may never serve.
        let forgetful = Self {
            config: RwLock::new(config(&self.register)),
            register: Arc::clone(&self.register),
        };
        let opened = network.between(|stream| forgetful.open(stream, YIELDING), serve).await;
        opened.map(drop).map_err(|error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
            let judged = match cause {
                Some(Error::InvalidCertificate(_)) => HookError::refused("a client refuses it"),
                _ => HookError::failed("no client could be asked"),
            };
            judged.caused_by(error)
        })
    }
}

async fn ping(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), byte: u8) -> io::Result<()> {
    stream.write_u8(byte).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        answer if answer == byte => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Believes whom it knows and was not told to refuse.
#[derive(Debug)]
struct Believer {
    verifier: Arc<WebPkiServerVerifier>,
    register: Arc<Register>,
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.register.look_at(end_entity)?;
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
    hook: Arc<TlsHook<ServerTls>>,
    address: SocketAddr,
    clients: Arc<Clients>,
    listening: JoinHandle<()>,
}

impl InUse {
    async fn open(&self, first: u8) -> Result<(TlsStream<TcpStream>, Session), String> {
        let opened = async {
            let stream = TcpStream::connect(self.address).await?;
            self.clients.open(stream, first).await
        };
        opened.await.map_err(|error| format!("{error:?}"))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[async_trait]
impl AdapterInUse for InUse {
    fn hook(&self) -> Arc<dyn LifecycleHook> {
        Arc::clone(&self.hook) as _
    }

    async fn work(&self) -> Result<u64, String> {
        self.open(YIELDING).await.map(|(_, session)| session.number)
    }

    /// The user of the adapter is the end of the connection that it accepted. The client notices
    /// when that is gone.
    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String> {
        let first = if manner == Manner::Yielding { YIELDING } else { STUBBORN };
        let (mut stream, session) = self.open(first).await.expect("the server serves");
        let (finish, finished) = oneshot::channel();
        let work = tokio::spawn(async move {
            let mut nothing = [0];
            tokio::select! {
                // Whoever does not finish it aborts it.
                _ = finished => {}
                _ = stream.read(&mut nothing) => return Err("it was cut off".to_owned()),
            }
            ping(&mut stream, first).await.map_err(|error| format!("{error:?}"))?;
            Ok(session.number)
        });
        Ok(Box::new(Long { work, finish: Some(finish) }))
    }
}
