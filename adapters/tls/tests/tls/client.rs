//! Clients with certificates, and those who verify them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oneiric_adapter_tls::{ClientTls, Identity, ServerTls, TlsClient, TlsHook, TlsServer};
use oneiric_core::{DrainReport, LifecycleHook, Managed, SecretRef, SecretSet};
use rustls::HandshakeKind;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, Issued};
use crate::parts::{Manners, NAME, Seen, commit, name, ping, reference, rotate, serve, set};

const PEM: &str = "files:tls.pem";
const ROOTS: &str = "files:roots.pem";
const CLIENT: &str = "files:client.pem";
const CLIENTS: &str = "files:clients.pem";

/// A server that believes what is in its bundle.
async fn server(issued: &Issued, clients: &str) -> (TlsHook<ServerTls>, SocketAddr, Seen) {
    let hook = TlsServer::new(Identity::bundle(reference(PEM)))
        .require_clients(reference(CLIENTS))
        .into_hook("server".parse().unwrap());
    commit(&hook, &server_set(issued, clients)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
    tokio::spawn(serve(listener, hook.managed().unwrap(), Manners::Polite, Arc::clone(&seen)));
    (hook, address, seen)
}

fn server_set(issued: &Issued, clients: &str) -> SecretSet {
    set(&[(PEM, &issued.bundle()), (CLIENTS, clients)])
}

fn client(tries: Option<SocketAddr>) -> TlsHook<ClientTls> {
    let client = TlsClient::new(reference(ROOTS)).identity(Identity::bundle(reference(CLIENT)));
    let client = match tries {
        Some(address) => client.try_with(address.to_string(), name(NAME)),
        None => client,
    };
    client.into_hook("client".parse().unwrap())
}

fn client_set(roots: &str, issued: &Issued) -> SecretSet {
    set(&[(ROOTS, roots), (CLIENT, &issued.bundle())])
}

/// Connects and uses it once; gives the kind of its handshake.
async fn connect(tls: &Managed<ClientTls>, address: SocketAddr) -> std::io::Result<HandshakeKind> {
    let stream = TcpStream::connect(address).await?;
    let mut connection = ClientTls::connect(tls, stream, name(NAME)).await?;
    ping(&mut connection).await?;
    Ok(connection.get_ref().get_ref().1.handshake_kind().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reconnects_after_a_rotation_presents_the_new_certificate() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let (_server, address, seen) = server(&authority.server(NAME), &clients.pem()).await;
    let (old, new) = (clients.client("old"), clients.client("new"));
    let hook = client(Some(address));
    commit(&hook, &client_set(&authority.pem(), &old)).await;
    let tls = hook.managed().unwrap();
    assert_eq!(connect(&tls, address).await.unwrap(), HandshakeKind::Full);
    // It does resume: without sessions of its own the next generation would, too.
    assert_eq!(connect(&tls, address).await.unwrap(), HandshakeKind::Resumed);

    let report = rotate(&hook, &client_set(&authority.pem(), &new), Duration::from_secs(20)).await;
    assert_eq!(report, DrainReport::drained());
    seen.lock().unwrap().clear();
    assert_eq!(connect(&tls, address).await.unwrap(), HandshakeKind::Full);
    assert_eq!(*seen.lock().unwrap(), [Some(new.leaf.clone())]);
    assert_eq!(connect(&tls, address).await.unwrap(), HandshakeKind::Resumed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_a_user_of_its_generation() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let (_server, address, _) = server(&authority.server(NAME), &clients.pem()).await;
    let hook = client(None);
    let issue = || client_set(&authority.pem(), &clients.client("c"));
    commit(&hook, &issue()).await;
    let tls = hook.managed().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut connection = ClientTls::connect(&tls, stream, name(NAME)).await.unwrap();
    let replaced = connection.guard().retired();
    let next = issue();
    let report = rotate(&hook, &next, Duration::ZERO);
    let ended = async {
        replaced.await;
        ping(&mut connection).await.unwrap();
        connection.guard().cut_off().await;
        drop(connection);
    };
    let (report, ()) = tokio::join!(report, ended);
    assert_eq!(report, DrainReport::forced(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_tried_must_let_the_client_in_and_be_believed() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let (_server, address, _) = server(&authority.server(NAME), &clients.pem()).await;
    let hook = client(Some(address));
    let good = clients.client("good");
    let stranger = Authority::new("strangers").client("bad");
    commit(&hook, &client_set(&authority.pem(), &good)).await;
    for (roots, issued, what) in [
        (&authority, &stranger, "does not let this client in"),
        (&clients, &good, "the roots do not vouch for"),
    ] {
        let error = hook.prepare(&client_set(&roots.pem(), issued)).await.err().unwrap();
        assert!(error.is_refused() && error.to_string().contains(what), "{error}");
    }
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = unused.local_addr().unwrap();
    drop(unused);
    let hook = client(Some(nobody));
    let error = hook.prepare(&client_set(&authority.pem(), &good)).await.err().unwrap();
    assert!(!error.is_refused() && error.to_string().contains("no TLS connection"), "{error}");
}

/// E15: a verifier that still has the old trust refuses what the new authority issues. With both in
/// every verifier first, no client is refused at any time; without, the adapter refuses the new
/// certificate before it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_replaced_by_overlap_and_not_before_every_verifier_knows_it() {
    let authority = Authority::new("root");
    let (before, after) = (Authority::new("clients before"), Authority::new("clients after"));
    let issued = authority.server(NAME);
    let (verifier, address, seen) = server(&issued, &before.pem()).await;

    // What the client may be is verified against what the verifiers believe: the same secret.
    let believed: SecretRef = reference(CLIENTS);
    let own = |roots: &str, issued: &Issued| {
        let pem = issued.bundle();
        set(&[(ROOTS, &authority.pem()), (CLIENT, &pem), (CLIENTS, roots)])
    };
    let make = || TlsClient::new(reference(ROOTS));
    let hook = make()
        .identity(Identity::bundle(reference(CLIENT)).verify_against(believed))
        .into_hook("client".parse().unwrap());
    commit(&hook, &own(&before.pem(), &before.client("c"))).await;
    let tls = hook.managed().unwrap();
    connect(&tls, address).await.unwrap();

    // The naive order: the certificate first, while the verifier holds the trust of yesterday.
    let naive = make().identity(Identity::bundle(reference(CLIENT)));
    let naive = naive.into_hook("naive".parse().unwrap());
    commit(&naive, &client_set(&authority.pem(), &after.client("c"))).await;
    assert!(connect(&naive.managed().unwrap(), address).await.is_err());
    let early = hook.prepare(&own(&before.pem(), &after.client("c"))).await.err().unwrap();
    assert!(early.is_refused() && early.to_string().contains("none of the roots"), "{early}");
    connect(&tls, address).await.unwrap();

    // Ours: the verifiers, then the certificate, then the old trust ends.
    let both = format!("{}{}", before.pem(), after.pem());
    let patience = Duration::from_secs(20);
    let done = DrainReport::drained();
    assert_eq!(rotate(&verifier, &server_set(&issued, &both), patience).await, done);
    connect(&tls, address).await.unwrap();
    let new = after.client("c");
    assert_eq!(rotate(&hook, &own(&both, &new), patience).await, done);
    connect(&tls, address).await.unwrap();
    assert_eq!(rotate(&verifier, &server_set(&issued, &after.pem()), patience).await, done);
    seen.lock().unwrap().clear();
    connect(&tls, address).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Some(new.leaf)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_is_not_answered_is_cut_off_at_the_deadline() {
    let (authority, clients) = (Authority::new("root"), Authority::new("clients"));
    let hook = client(None);
    commit(&hook, &client_set(&authority.pem(), &clients.client("old"))).await;
    let tls = hook.managed().unwrap();
    let (near, mut far) = tokio::io::duplex(16 * 1024);
    let connecting =
        tokio::spawn(async move { ClientTls::connect(&tls, near, name(NAME)).await.map(drop) });
    // It has said hello, and nobody answers.
    far.read_u8().await.unwrap();

    let next = client_set(&authority.pem(), &clients.client("new"));
    let report = rotate(&hook, &next, Duration::from_millis(100)).await;
    assert_eq!(report, DrainReport::forced(1));
    assert_eq!(connecting.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionAborted);
}
