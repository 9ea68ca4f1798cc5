//! E7: what is stored is not what is served until a handshake has shown it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use oneiric_adapter_tls::{Identity, ServerTls, TlsHook, TlsServer, served};
use oneiric_core::{DrainOutcome, DrainReport, LifecycleHook, SecretSet};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Issued};
use crate::parts::{Manners, NAME, Seen, commit, name, reference, rotate, serve, set};

pub(crate) const PEM: &str = "files:tls.pem";

pub(crate) fn secrets(issued: &Issued) -> SecretSet {
    set(&[(PEM, &issued.bundle())])
}

pub(crate) async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn hook(id: &str, address: &str) -> TlsHook<ServerTls> {
    TlsServer::new(Identity::bundle(reference(PEM)))
        .read_back(address, name(NAME))
        .into_hook(id.parse().unwrap())
}

/// What a server is that reads its files when it starts.
pub(crate) fn loaded_once(issued: &Issued) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.leaf.clone()], key)
        .unwrap();
    Arc::new(config)
}

/// Serves what was loaded last.
pub(crate) fn serve_what_was_loaded(
    listener: TcpListener,
    issued: &Issued,
) -> Arc<RwLock<Arc<ServerConfig>>> {
    let config = Arc::new(RwLock::new(loaded_once(issued)));
    let current = Arc::clone(&config);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&current.read().unwrap()));
            tokio::spawn(acceptor.accept(stream));
        }
    });
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_files_once_is_not_called_done() {
    let authority = Authority::new("root");
    let (old, new) = (authority.server(NAME), authority.server(NAME));
    let (listener, address) = listener().await;
    let config = serve_what_was_loaded(listener, &old);

    let hook = hook("tls", &address);
    commit(&hook, &secrets(&old)).await;
    let mut report = rotate(&hook, &secrets(&new), Duration::from_millis(100)).await;
    // The new one is committed, and nobody sees it.
    assert_eq!(served(&address, name(NAME)).await.unwrap().leaf(), &old.leaf);
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1), "{report:?}");
    let error = report.error.clone().unwrap();
    assert!(error.contains(&format!("{address} does not serve what is stored")), "{error}");

    // It is restarted, and the leak has ended.
    let later = tokio::spawn(report.take_later().unwrap());
    sleep(Duration::from_millis(50)).await;
    assert!(!later.is_finished());
    *config.write().unwrap() = loaded_once(&new);
    later.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_follows_is_done_once_it_was_seen() {
    let authority = Authority::new("root");
    let clients = Authority::new("clients");
    let (listener, address) = listener().await;
    // It lets nobody in without a certificate, and can be asked all the same.
    let hook = TlsServer::new(Identity::bundle(reference(PEM)))
        .require_clients(clients.roots())
        .read_back(address.clone(), name(NAME))
        .into_hook("tls".parse().unwrap());
    commit(&hook, &secrets(&authority.server(NAME))).await;
    let managed = hook.managed().unwrap();
    tokio::spawn(serve(listener, managed, Manners::Polite, Seen::default()));
    for _ in 0..5 {
        let next = authority.server(NAME);
        let report = rotate(&hook, &secrets(&next), Duration::from_secs(20)).await;
        assert_eq!(report, DrainReport::drained());
        let seen = served(&address, name(NAME)).await.unwrap();
        assert_eq!(seen.leaf(), &next.leaf);
        assert_eq!(seen.not_after(), hook.managed().unwrap().load().not_after());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_cannot_be_asked_is_not_called_done() {
    let authority = Authority::new("root");
    let (listener, address) = listener().await;
    drop(listener);
    let hook = hook("tls", &address);
    commit(&hook, &secrets(&authority.server(NAME))).await;
    let report = rotate(&hook, &secrets(&authority.server(NAME)), Duration::ZERO).await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    let error = report.error.unwrap();
    assert!(error.contains("could not be asked"), "{error}");
    // A prepare that is given up is nobody's business.
    assert!(hook.prepare(&secrets(&authority.server(NAME))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_listeners_are_asked_side_by_side_and_each_counts() {
    let authority = Authority::new("root");
    let (old, new) = (authority.server(NAME), authority.server(NAME));
    let (mut configs, mut addresses) = (Vec::new(), Vec::new());
    let mut server = TlsServer::new(Identity::bundle(reference(PEM)));
    for _ in 0..3 {
        let (listener, address) = listener().await;
        configs.push(serve_what_was_loaded(listener, &old));
        server = server.read_back(&address, name(NAME));
        addresses.push(address);
    }
    let hook = server.into_hook("tls".parse().unwrap());
    commit(&hook, &secrets(&old)).await;
    let mut report = rotate(&hook, &secrets(&new), Duration::ZERO).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 3), "{report:?}");
    let error = report.error.clone().unwrap();
    assert!(addresses.iter().all(|address| error.contains(address)), "{error}");

    // Whichever is restarted first, it is over after the last.
    let mut later = tokio::spawn(report.take_later().unwrap());
    for config in configs.iter().rev() {
        assert!(!later.is_finished());
        *config.write().unwrap() = loaded_once(&new);
    }
    timeout(Duration::from_secs(20), &mut later).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_does_not_follow_is_asked_at_growing_pauses() {
    let authority = Authority::new("root");
    let (listener, address) = listener().await;
    let asked = Arc::<AtomicU32>::default();
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        // It hangs up on whoever asks.
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let hook = hook("tls", &address);
    commit(&hook, &secrets(&authority.server(NAME))).await;
    rotate(&hook, &secrets(&authority.server(NAME)), Duration::from_millis(1500)).await;
    // At 0, 20, 60, 140, 300, 620, 1260 and 1500 ms.
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..=8).contains(&asked), "it was asked {asked} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_newer_commit_that_one_asks_for_all_before() {
    let authority = Authority::new("root");
    let (old, newest) = (authority.server(NAME), authority.server(NAME));
    let (listener, address) = listener().await;
    let config = serve_what_was_loaded(listener, &old);
    let hook = hook("tls", &address);
    commit(&hook, &secrets(&old)).await;
    let mut first = rotate(&hook, &secrets(&authority.server(NAME)), Duration::ZERO).await;
    let first = tokio::spawn(first.take_later().unwrap());
    let mut second = rotate(&hook, &secrets(&newest), Duration::ZERO).await;
    assert_eq!(second.outcome, DrainOutcome::Leaked);

    // What the first is about is not over, and it does not ask any more.
    *config.write().unwrap() = loaded_once(&newest);
    sleep(Duration::from_secs(2)).await;
    assert!(!first.is_finished(), "it asks beside the newer one");
    second.take_later().unwrap().await;
    timeout(Duration::from_secs(20), first).await.unwrap().unwrap();
}
