//! A bearer token that an upstream enforces, in use without pause.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use oneiric_adapter_http::HttpCredential;
use oneiric_core::{HookError, Managed};
use oneiric_runtime::report::AdapterOutcome;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Plan;
use crate::load::{Counts, Load};
use crate::operator::{Operator, new_credential, put};
use crate::report::Report;
use crate::service::Service;
use crate::trials::{Trial, Trials};
use crate::upstream::{Connection, Upstream};

const KEY: &str = "api-token";

/// How long the plain cache believes a token.
const NAIVE_TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old token is revoked.
const NAIVE_GRACE: Duration = Duration::from_millis(500);

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let upstream = Upstream::start().await?;
    let service = Service::start()?;
    let mut operator = Operator::new(&service.socket(), &service.secrets())?;

    let mut serving = new_credential();
    upstream.accept(&serving);
    operator.store(KEY, &serving)?;
    let managed = adapter(&service, upstream.address).await?;
    let load =
        Load::start(plan.clients, |counts| client(counts, managed.clone(), upstream.address));

    for round in 1..=plan.rotations {
        let next = new_credential();
        upstream.accept(&next);
        operator.store(KEY, &next)?;
        operator.rotate(KEY).await?;
        // Every adapter has acknowledged: nobody holds the old one any more.
        upstream.replaced(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        upstream.revoke(&serving);
        serving = next;
    }

    let trials = trials(&operator, &upstream, &managed, &serving).await?;

    let loaded = load.stop().await?;
    service.stop().await?;
    let report = Report::of("http", plan, started, loaded);
    Ok(report.old_uses(upstream.old_uses()).times(operator.times()).trials(trials))
}

/// Rotations that must not succeed.
async fn trials(
    operator: &Operator,
    upstream: &Upstream,
    managed: &Managed<HttpCredential>,
    serving: &str,
) -> Result<Vec<Trial>, String> {
    let generation = || managed.load().generation();
    let trials = Trials { operator, key: KEY, generation };
    let mut held = vec![
        trials.bad_credential("a token that is not accepted", &new_credential(), serving).await?,
        trials.store_down().await?,
    ];
    for (what, outcome) in [
        ("a request ends when cut off", AdapterOutcome::Forced),
        ("a request never ends", AdapterOutcome::Leaked),
    ] {
        let next = new_credential();
        upstream.accept(&next);
        let in_use = managed.load();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let request = tokio::spawn(async move {
            match outcome {
                AdapterOutcome::Forced => in_use.cut_off().await,
                // Its sender is dropped when it may end.
                _ => _ = ended.await,
            }
            drop(in_use);
        });
        let let_go = async || {
            drop(end);
            request.await.map_err(|error| error.to_string())
        };
        held.push(trials.cannot_drain(what, &next, outcome, let_go).await?);
    }
    Ok(held)
}

/// The credential, proven by a real request over a fresh connection.
async fn adapter(
    service: &Service,
    upstream: SocketAddr,
) -> Result<Managed<HttpCredential>, String> {
    let id = "upstream-client".parse().expect("it is a valid adapter id");
    let token = format!("files:{KEY}").parse().expect("it is a valid reference");
    let hook = HttpCredential::bearer(id, token).prove(move |credential| async move {
        let (name, value) = credential.header();
        let mut fresh = Connection::open(upstream).await.map_err(HookError::failed)?;
        fresh.get(name, value.clone()).await.map_err(HookError::refused)
    });
    service.runtime.manage(hook).await.map_err(|error| error.chain())
}

/// One user of the credential: takes the current one for each request and lets it go after.
async fn client(counts: Arc<Counts>, managed: Managed<HttpCredential>, upstream: SocketAddr) {
    let mut connection = None;
    while counts.goes_on() {
        let credential = managed.load();
        let (name, value) = credential.header();
        counts.count(request(&mut connection, upstream, name, value.clone()).await);
    }
}

/// The same load on a plain cache with a time to live, and an operator who waits a while.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let upstream = Upstream::start().await?;
    let dir = tempfile::TempDir::new().map_err(|error| error.to_string())?;
    let mut serving = new_credential();
    upstream.accept(&serving);
    put(dir.path(), KEY, &serving)?;
    let cache = Arc::new(TtlCache::new(dir.path()));
    let load = Load::start(plan.clients, |counts| {
        naive_client(counts, Arc::clone(&cache), upstream.address)
    });

    for round in 1..=plan.rotations {
        let next = new_credential();
        upstream.accept(&next);
        put(dir.path(), KEY, &next)?;
        tokio::time::sleep(NAIVE_GRACE).await;
        upstream.revoke(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        serving = next;
    }

    let loaded = load.stop().await?;
    let report = Report::of("http, a plain cache with a time to live", plan, started, loaded);
    Ok(report.old_uses(upstream.old_uses()))
}

async fn naive_client(counts: Arc<Counts>, cache: Arc<TtlCache>, upstream: SocketAddr) {
    let mut connection = None;
    while counts.goes_on() {
        let outcome = match cache.get().await {
            Ok(value) => {
                request(&mut connection, upstream, &http::header::AUTHORIZATION, value).await
            }
            Err(error) => Err(error),
        };
        counts.count(outcome);
    }
}

/// One request, over the client's connection; a new one is opened if there is none.
async fn request(
    connection: &mut Option<Connection>,
    upstream: SocketAddr,
    name: &HeaderName,
    value: HeaderValue,
) -> Result<(), String> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(upstream).await?),
    };
    open.get(name, value).await
}

/// What most services have: the last value, and when it was read.
struct TtlCache {
    file: std::path::PathBuf,
    held: Mutex<Option<(HeaderValue, Instant)>>,
}

impl TtlCache {
    fn new(dir: &Path) -> Self {
        Self { file: dir.join(KEY), held: Mutex::new(None) }
    }

    async fn get(&self) -> Result<HeaderValue, String> {
        let mut held = self.held.lock().await;
        if let Some((value, since)) = &*held
            && since.elapsed() < NAIVE_TTL
        {
            return Ok(value.clone());
        }
        let token = tokio::fs::read_to_string(&self.file).await;
        let token = token.map_err(|error| format!("the token cannot be read: {error}"))?;
        let value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|error| format!("the token does not fit: {error}"))?;
        *held = Some((value.clone(), Instant::now()));
        Ok(value)
    }
}
