//! Which sessions go on after a rotation. Each test has a client that resumes where it may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneiric_adapter_tls::{Identity, Resumption, ServerTls, TlsHook, TlsServer};
use oneiric_core::{DrainReport, LifecycleHook, SecretSet};
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};

use crate::authority::{Authority, Issued};
use crate::parts::{Manners, NAME, connect, kind, listen, name, reference, rotate, set};

const PEM: &str = "files:tls.pem";
const CLIENTS: &str = "files:clients.pem";

fn server() -> TlsServer {
    TlsServer::new(Identity::bundle(reference(PEM)))
}

/// A client of one version of TLS, with a certificate if it has one, that remembers its sessions.
fn client(
    version: &'static SupportedProtocolVersion,
    roots: RootCertStore,
    identity: Option<&Issued>,
) -> Arc<ClientConfig> {
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![issued.leaf.clone()], key).unwrap()
        }
    })
}

async fn start(hook: &TlsHook<ServerTls>, first: &SecretSet) -> SocketAddr {
    hook.prepare(first).await.unwrap().commit();
    listen(hook.managed().unwrap(), Manners::Polite).await
}

async fn next(hook: &TlsHook<ServerTls>, secrets: &SecretSet) {
    let report = rotate(hook, secrets, Duration::from_secs(20)).await;
    assert_eq!(report, DrainReport::drained());
}

async fn kind_of(address: SocketAddr, config: &Arc<ClientConfig>) -> HandshakeKind {
    kind(&connect(address, config, name(NAME)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_each_setting_resumes_what_it_says() {
    use HandshakeKind::{Full, Resumed};
    let authority = Authority::new("root");
    let ticketer = |config: &mut rustls::ServerConfig| {
        config.ticketer = Ticketer::new().unwrap();
    };
    for version in [&TLS12, &TLS13] {
        for tickets in [false, true] {
            for (resumption, within, after) in [
                (Resumption::default(), Resumed, Full),
                (Resumption::Reset, Resumed, Full),
                (Resumption::Keep, Resumed, Resumed),
                (Resumption::Off, Full, Full),
            ] {
                let server = server().resumption(resumption);
                let server = if tickets { server.configure(ticketer) } else { server };
                let hook = server.into_hook("tls".parse().unwrap());
                let issue = || set(&[(PEM, &authority.server(NAME).bundle())]);
                let address = start(&hook, &issue()).await;
                let client = client(version, authority.roots(), None);
                let what = format!("{version:?}, {tickets}, {resumption:?}");
                assert_eq!(kind_of(address, &client).await, Full, "{what}");
                assert_eq!(kind_of(address, &client).await, within, "{what}");
                next(&hook, &issue()).await;
                assert_eq!(kind_of(address, &client).await, after, "{what}");
                // What began under the new one is resumed like any other.
                assert_eq!(kind_of(address, &client).await, within, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_no_longer_let_in_cannot_resume() {
    let authority = Authority::new("root");
    let (before, after) = (Authority::new("clients before"), Authority::new("clients after"));
    let issued = authority.server(NAME).bundle();
    let with = |roots: &str| set(&[(PEM, &*issued), (CLIENTS, roots)]);
    let both = format!("{}{}", before.pem(), after.pem());
    for version in [&TLS12, &TLS13] {
        for resumption in [Resumption::Reset, Resumption::Keep] {
            let hook = server()
                .require_clients(reference(CLIENTS))
                .resumption(resumption)
                .into_hook("tls".parse().unwrap());
            let address = start(&hook, &with(&both)).await;
            let old = client(version, authority.roots(), Some(&before.client("c")));
            let new = client(version, authority.roots(), Some(&after.client("c")));
            for client in [&old, &new] {
                assert_eq!(kind_of(address, client).await, HandshakeKind::Full);
                assert_eq!(kind_of(address, client).await, HandshakeKind::Resumed);
            }
            next(&hook, &with(&after.pem())).await;
            let error = connect(address, &old, name(NAME)).await.unwrap_err();
            assert!(error.to_string().contains("alert"), "{version:?} {resumption:?}: {error}");
            assert_eq!(kind_of(address, &new).await, HandshakeKind::Full);
        }
    }
}

#[tokio::test]
async fn a_ticketer_that_two_generations_share_is_noticed() {
    let authority = Authority::new("root");
    let shared = Ticketer::new().unwrap();
    let hook = server()
        .configure(move |config| config.ticketer = Arc::clone(&shared))
        .into_hook("tls".parse().unwrap());
    let issue = || set(&[(PEM, &authority.server(NAME).bundle())]);
    hook.prepare(&issue()).await.unwrap().commit();
    let error = hook.prepare(&issue()).await.err().unwrap();
    assert!(!error.is_refused(), "{error}");
    assert!(error.to_string().contains("sessions of the generation before"), "{error}");
    assert_eq!(hook.managed().unwrap().load().generation(), 1);
}
