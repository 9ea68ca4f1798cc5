//! The certificate of a TLS server, replaced under clients that connect without pause.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oneiric_adapter_tls::{Identity, ServerTls, TlsServer};
use oneiric_core::{Managed, SecretRef};
use oneiric_runtime::report::AdapterOutcome;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::Plan;
use crate::certificates::{Authority, Issued, NAME};
use crate::load::{Counts, Load};
use crate::operator::{Operator, put};
use crate::report::Report;
use crate::service::Service;
use crate::tls_peers::{Client, Stubborn, answer, serve};
use crate::trials::{Trial, Trials};

const KEY: &str = "tls.pem";

/// The files of the plain server.
const NAIVE_FILES: [&str; 2] = ["tls.crt", "tls.key"];
/// How long the plain server believes each of its files.
const NAIVE_TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old certificate is revoked.
const NAIVE_GRACE: Duration = Duration::from_millis(500);

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let authority = Authority::new()?;
    let service = Service::start()?;
    let mut operator = Operator::new(&service.socket(), &service.secrets())?;

    let mut serving = authority.issue()?;
    operator.store(KEY, &serving.bundle())?;
    let (listener, address) = bind().await?;
    let managed = adapter(&service, &authority, address).await?;
    let _server = serve(listener, managed.clone());
    let load = load(plan, &authority, address)?;

    for round in 1..=plan.rotations {
        let next = authority.issue()?;
        operator.store(KEY, &next.bundle())?;
        operator.rotate(KEY).await?;
        // The listener was seen to serve the new one, and no connection of the old one is left.
        authority.replaced(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        authority.revoke(&serving);
        serving = next;
    }
    let trials = trials(&operator, &authority, &managed, &serving, address).await?;

    let loaded = load.stop().await?;
    service.stop().await?;
    let report = Report::of("tls", plan, started, loaded);
    Ok(report.old_uses(authority.old_uses()).times(operator.times()).trials(trials))
}

async fn bind() -> Result<(TcpListener, SocketAddr), String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.map_err(|error| format!("the server cannot listen: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((listener, address))
}

/// The server's certificate, proven against the root of its clients, and read back.
async fn adapter(
    service: &Service,
    authority: &Authority,
    address: SocketAddr,
) -> Result<Managed<ServerTls>, String> {
    let secret: SecretRef = format!("files:{KEY}").parse().expect("it is a valid reference");
    let name = ServerName::try_from(NAME).expect("it is a valid name");
    let identity =
        Identity::bundle(secret).covers([name.clone()]).verify_against(authority.roots()?);
    let hook = TlsServer::new(identity)
        .read_back(address.to_string(), name)
        .into_hook("listener".parse().expect("it is a valid adapter id"));
    service.runtime.manage(hook).await.map_err(|error| error.chain())
}

/// Of four clients two connect for each request, of which one resumes its sessions; one connects
/// seldom, and one keeps its connection until it is sent away.
fn load(plan: Plan, authority: &Arc<Authority>, address: SocketAddr) -> Result<Load, String> {
    let roots = authority.roots()?;
    let number = std::sync::atomic::AtomicU32::new(0);
    Ok(Load::start(plan.clients, |counts| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 4;
        let asks = Client::new(authority, Arc::clone(&roots), address, number % 2 == 1);
        client(counts, asks, [1, 1, 20, u32::MAX][number as usize])
    }))
}

/// Makes so many requests on each connection.
async fn client(counts: Arc<Counts>, mut client: Client, on_each: u32) {
    let mut left = on_each;
    while counts.goes_on() {
        left -= 1;
        if left == 0 {
            counts.count(client.ask_once().await);
            left = on_each;
        } else {
            counts.count(client.ask().await);
            // Those who keep a connection are not in the way of those who connect.
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Rotations that must not succeed.
async fn trials(
    operator: &Operator,
    authority: &Arc<Authority>,
    managed: &Managed<ServerTls>,
    serving: &Issued,
    address: SocketAddr,
) -> Result<Vec<Trial>, String> {
    let generation = || managed.load().generation();
    let trials = Trials { operator, key: KEY, generation };
    let other = authority.issue()?;
    let mixed = format!("{}{}", other.certificate, serving.key);
    let good = serving.bundle();
    let mut held = vec![
        trials.bad_credential("the key of another certificate", &mixed, &good).await?,
        trials.bad_credential("an expired one", &authority.expired()?.bundle(), &good).await?,
        trials.store_down().await?,
    ];
    for (what, stubborn, outcome) in [
        ("a connection ends when cut off", Stubborn::Busy, AdapterOutcome::Forced),
        ("a connection never ends", Stubborn::Deaf, AdapterOutcome::Leaked),
    ] {
        let mut connection = Client::new(authority, authority.roots()?, address, false);
        connection.make(stubborn).await?;
        let next = authority.issue()?.bundle();
        let let_go = async || {
            drop(connection);
            Ok(())
        };
        held.push(trials.cannot_drain(what, &next, outcome, let_go).await?);
    }
    Ok(held)
}

/// The same load on a server that reads its two files again when their time is over, and an
/// operator who waits a while.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let authority = Authority::new()?;
    let dir = tempfile::TempDir::new().map_err(|error| error.to_string())?;
    let write = |issued: &Issued| {
        put(dir.path(), NAIVE_FILES[0], &issued.certificate)?;
        put(dir.path(), NAIVE_FILES[1], &issued.key)
    };
    let mut serving = authority.issue()?;
    write(&serving)?;
    let (listener, address) = bind().await?;
    let _server = naive_server(listener, Arc::new(TtlFiles::new(dir.path())));
    let load = load(plan, &authority, address)?;

    for round in 1..=plan.rotations {
        let next = authority.issue()?;
        write(&next)?;
        sleep(NAIVE_GRACE).await;
        authority.revoke(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        serving = next;
    }

    let loaded = load.stop().await?;
    let report =
        Report::of("tls, a plain server that reads its files again", plan, started, loaded);
    Ok(report.old_uses(authority.old_uses()))
}

fn naive_server(listener: TcpListener, files: Arc<TtlFiles>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let files = Arc::clone(&files);
                    connections.spawn(async move {
                        // Nobody tells its connections of a new certificate.
                        let never = std::future::pending::<()>;
                        if let Ok(config) = files.config().await
                            && let Ok(stream) = TlsAcceptor::from(config).accept(stream).await
                        {
                            let (retired, cut_off) = (Box::pin(never()), Box::pin(never()));
                            let _ = answer(stream, retired, cut_off).await;
                        }
                    });
                }
            }
        }
    }))
}

/// What was read of a file, and when.
type Held = Mutex<Option<(Vec<u8>, Instant)>>;

/// What many servers have: each file as it was read last, and when that was.
struct TtlFiles {
    dir: PathBuf,
    held: [Held; 2],
}

impl TtlFiles {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), held: Default::default() }
    }

    async fn file(&self, index: usize) -> Result<Vec<u8>, String> {
        let mut held = self.held[index].lock().await;
        if let Some((bytes, since)) = &*held
            && since.elapsed() < NAIVE_TTL
        {
            return Ok(bytes.clone());
        }
        let path = self.dir.join(NAIVE_FILES[index]);
        let bytes = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
        *held = Some((bytes.clone(), Instant::now()));
        Ok(bytes)
    }

    async fn config(&self) -> Result<Arc<ServerConfig>, String> {
        let (certificate, key) = (self.file(0).await?, self.file(1).await?);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let chain = chain.map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| error.to_string())?;
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }
}
