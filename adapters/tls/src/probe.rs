//! What is presented to those who connect, seen by a real handshake.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::proof::{crypto, end_and_serial};

/// How long one handshake may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The certificate that a listener presented, with proof that it has the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Served {
    leaf: CertificateDer<'static>,
    not_after: SystemTime,
    serial: String,
}

impl Served {
    pub(crate) fn of(leaf: CertificateDer<'static>) -> io::Result<Self> {
        let (not_after, serial) =
            end_and_serial(&leaf).ok_or_else(|| refused("its certificate cannot be read"))?;
        Ok(Self { leaf, not_after, serial })
    }

    /// The certificate itself, without its chain.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = format_rfc3339_seconds(self.not_after);
        write!(f, "the certificate with the serial number {}, valid until {end}", self.serial)
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// Asks the listener at `address` (`host:port`) for the certificate of this name: a new connection,
/// a full handshake, and a signature by the certificate's key. Whether anybody vouches for the
/// certificate is not asked. The listener sees a client without a certificate that goes away after
/// the handshake.
///
/// # Errors
/// If there is no connection or no handshake within 2 s.
pub async fn served(address: &str, name: ServerName<'static>) -> io::Result<Served> {
    let (config, recorder) = recording();
    let ask = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        // How it ends proves nothing.
        let _ = stream.shutdown().await;
        Ok(())
    };
    let ended = match timeout(PATIENCE, ask).await {
        Ok(ended) => ended,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")),
    };
    // A server that wants a certificate of its client ends the handshake, but has shown its own.
    match (recorder.proven(), ended) {
        (Some(leaf), _) => Served::of(leaf),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(refused("it has shown no certificate")),
    }
}

/// The same in memory: what a server of this configuration presents for this name.
pub(crate) fn presented(
    config: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<CertificateDer<'static>, Error> {
    let (client, recorder) = recording();
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(config)?;
    let outcome = loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).map_err(|error| Error::General(error.to_string()))?;
        }
        let said = feed(&wire, |input| {
            server.read_tls(input)?;
            Ok(server.process_new_packets().map(drop))
        });
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).map_err(|error| Error::General(error.to_string()))?;
        }
        let heard = feed(&answer, |input| {
            client.read_tls(input)?;
            Ok(client.process_new_packets().map(drop))
        });
        match said.and(heard) {
            Err(error) => break Err(error),
            Ok(()) if wire.is_empty() && answer.is_empty() => break Ok(()),
            Ok(()) => {}
        }
    };
    match (recorder.proven(), outcome) {
        (Some(leaf), _) => Ok(leaf),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Error::NoCertificatesPresented),
    }
}

/// Hands over everything that was sent.
fn feed(
    mut wire: &[u8],
    mut read: impl FnMut(&mut &[u8]) -> io::Result<Result<(), Error>>,
) -> Result<(), Error> {
    while !wire.is_empty() {
        read(&mut wire).map_err(|error| Error::General(error.to_string()))??;
    }
    Ok(())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A client that believes every certificate and remembers it. It has no session to resume.
fn recording() -> (Arc<ClientConfig>, Arc<Recorder>) {
    let crypto = crypto();
    let recorder = Arc::new(Recorder {
        algorithms: crypto.signature_verification_algorithms,
        seen: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    (Arc::new(config), recorder)
}

#[derive(Debug)]
struct Recorder {
    algorithms: WebPkiSupportedAlgorithms,
    /// The certificate, and whether its key has signed the handshake.
    seen: Mutex<Option<(CertificateDer<'static>, bool)>>,
}

impl Recorder {
    fn proven(&self) -> Option<CertificateDer<'static>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        seen.filter(|(_, signed)| *signed).map(|(leaf, _)| leaf)
    }

    fn signed(&self) {
        if let Some((_, signed)) = &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            *signed = true;
        }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = (end_entity.clone().into_owned(), false);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
            .inspect(|_| self.signed())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
            .inspect(|_| self.signed())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
