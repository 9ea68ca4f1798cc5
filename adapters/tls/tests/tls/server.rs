//! What clients notice of a rotation, and how old connections end.

use std::io::ErrorKind;
use std::time::Duration;

use oneiric_adapter_tls::{Identity, ServerTls, TlsHook, TlsServer};
use oneiric_core::{DrainOutcome, DrainReport, LifecycleHook, SecretSet};
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::{Authority, Issued};
use crate::parts::{
    Manners, NAME, client, commit, connect, leaf, listen, name, ping, reference, rotate, set,
};

const PEM: &str = "files:tls.pem";

fn hook() -> TlsHook<ServerTls> {
    TlsServer::new(Identity::bundle(reference(PEM)).covers([name(NAME)]))
        .into_hook("tls".parse().unwrap())
}

fn secrets(issued: &Issued) -> SecretSet {
    set(&[(PEM, &issued.bundle())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_handshakes_get_the_new_certificate_and_open_connections_keep_theirs() {
    let authority = Authority::new("root");
    let (old, new) = (authority.server(NAME), authority.server(NAME));
    let hook = hook();
    commit(&hook, &secrets(&old)).await;
    let address = listen(hook.managed().unwrap(), Manners::Busy).await;
    let believes = client(authority.roots());

    let mut open = connect(address, &believes, name(NAME)).await.unwrap();
    assert_eq!(leaf(&open), old.leaf);
    // It has connected, and says hello only when there is a new certificate.
    let early = TcpStream::connect(address).await.unwrap();
    let retired = commit(&hook, &secrets(&new)).await;

    let late = TlsConnector::from(client(authority.roots())).connect(name(NAME), early).await;
    assert_eq!(leaf(&late.unwrap()), new.leaf);
    let fresh = connect(address, &client(authority.roots()), name(NAME)).await.unwrap();
    assert_eq!(leaf(&fresh), new.leaf);
    ping(&mut open).await.unwrap();

    let drain = tokio::spawn(retired.drain(Instant::now() + Duration::from_secs(20)));
    ping(&mut open).await.unwrap();
    assert!(!drain.is_finished());
    drop(open);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_as_they_are_told_and_are_counted() {
    let authority = Authority::new("root");
    for (manners, outcome) in [
        (Manners::Polite, DrainOutcome::Drained),
        (Manners::Busy, DrainOutcome::Forced),
        (Manners::Deaf, DrainOutcome::Leaked),
    ] {
        let hook = hook();
        commit(&hook, &secrets(&authority.server(NAME))).await;
        let address = listen(hook.managed().unwrap(), manners).await;
        let believes = client(authority.roots());
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(connect(address, &believes, name(NAME)).await.unwrap());
        }
        let next = secrets(&authority.server(NAME));
        let patience = match manners {
            Manners::Polite => Duration::from_secs(20),
            _ => Duration::from_millis(100),
        };
        let mut report = rotate(&hook, &next, patience).await;
        assert_eq!(report.outcome, outcome, "{report:?}");
        assert_eq!(report.in_flight, if manners == Manners::Polite { 0 } else { 3 });
        for connection in &mut open {
            assert_eq!(ping(connection).await.is_ok(), manners == Manners::Deaf, "{manners:?}");
        }
        if let Some(later) = report.take_later() {
            let later = tokio::spawn(later);
            drop(open);
            later.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_names_have_their_own_certificates_and_change_together() {
    let authority = Authority::new("root");
    let hook = TlsServer::new(Identity::bundle(reference("files:a")).covers([name("a.internal")]))
        .also(Identity::bundle(reference("files:b")).covers([name("b.internal")]))
        .into_hook("tls".parse().unwrap());
    let issue = || (authority.server("a.internal"), authority.server("b.internal"));
    let (mut a, mut b) = issue();
    commit(&hook, &set(&[("files:a", &a.bundle()), ("files:b", &b.bundle())])).await;
    let address = listen(hook.managed().unwrap(), Manners::Polite).await;
    for round in 0..2 {
        let open = async |of: &'static str| {
            leaf(&connect(address, &client(authority.roots()), name(of)).await.unwrap())
        };
        assert_eq!((open("a.internal").await, open("b.internal").await), (a.leaf, b.leaf));
        (a, b) = issue();
        let next = set(&[("files:a", &a.bundle()), ("files:b", &b.bundle())]);
        let report = rotate(&hook, &next, Duration::from_secs(20)).await;
        assert_eq!(report, DrainReport::drained(), "round {round}");
    }
    // One that is shadowed by those before would be a certificate that nobody ever sees.
    let other = authority.server("a.internal");
    let both = set(&[("files:a", &a.bundle()), ("files:b", &other.bundle())]);
    let hook = TlsServer::new(Identity::bundle(reference("files:a")))
        .also(Identity::bundle(reference("files:b")))
        .into_hook("tls".parse().unwrap());
    let error = hook.prepare(&both).await.err().unwrap();
    assert!(error.to_string().contains("identity 2 would never be presented"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_one_configuration_follows_the_certificate() {
    let authority = Authority::new("root");
    let (old, new) = (authority.server(NAME), authority.server(NAME));
    let hook = hook();
    commit(&hook, &secrets(&old)).await;
    let resolver = ServerTls::resolver(&hook.managed().unwrap());
    let crypto = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let presented = async || {
        let (near, far) = tokio::io::duplex(4096);
        let connector = TlsConnector::from(client(authority.roots()));
        let (near, far) = tokio::join!(connector.connect(name(NAME), near), acceptor.accept(far));
        far.unwrap();
        near.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    assert_eq!(presented().await, old.leaf);
    assert_eq!(rotate(&hook, &secrets(&new), Duration::ZERO).await, DrainReport::drained());
    assert_eq!(presented().await, new.leaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_cut_off_at_the_deadline() {
    let authority = Authority::new("root");
    let hook = hook();
    commit(&hook, &secrets(&authority.server(NAME))).await;
    let (mut silent, far) = tokio::io::duplex(16 * 1024);
    let managed = hook.managed().unwrap();
    let accepting = tokio::spawn(async move { ServerTls::accept(&managed, far).await.map(drop) });
    // It says hello, is answered, and says nothing more.
    let mut hello = Vec::new();
    let mut client = ClientConnection::new(client(authority.roots()), name(NAME)).unwrap();
    client.write_tls(&mut hello).unwrap();
    silent.write_all(&hello).await.unwrap();
    silent.read_u8().await.unwrap();

    let next = secrets(&authority.server(NAME));
    let report = rotate(&hook, &next, Duration::from_millis(100)).await;
    assert_eq!(report, DrainReport::forced(1));
    assert_eq!(accepting.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionAborted);
    silent.read_to_end(&mut Vec::new()).await.expect("the connection is closed");
}
