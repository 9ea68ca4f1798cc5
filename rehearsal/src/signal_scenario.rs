//! nginx as in the recipe, behind load: its certificate and its password file are rendered, and it is
//! told by a signal.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderValue;
use oneiric_runtime::report::AdapterOutcome;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::certificates::{Authority, Issued};
use crate::https::{Https, Trust};
use crate::load::{Counts, Load};
use crate::nginx::{Login, Nginx, SITE, USERS, site};
use crate::operator::{Operator, put};
use crate::program::{Place, Program};
use crate::report::Report;
use crate::trials::{Trial, Trials};

/// Here only the operator says when.
const AGENT: [&str; 3] = ["agent", "--set", "secrets_watch_interval=0s"];
/// Both secrets of the site, in one rotation.
const BOTH: &str = "site.json,users";
/// How long it may take until all is as it should be.
const PATIENCE: Duration = Duration::from_secs(120);

/// For how long the clients of the plain side believe a login.
const NAIVE_TTL: Duration = Duration::from_secs(2);
/// How long its operator waits before the old certificate is revoked.
const NAIVE_GRACE: Duration = Duration::from_millis(500);

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let authority = Authority::new()?;
    let place = Place::new()?;
    let nginx = Nginx::install(&place)?;
    let mut operator = Operator::new(&place.socket(), &place.secrets())?;
    let mut serving = authority.issue()?;
    let mut logins = Logins::new().await?;
    operator.store(SITE, &site(&serving, &serving))?;
    operator.store(USERS, &logins.file())?;
    // The agent comes first, since nginx does not begin without its files.
    let program = place.start(&nginx.adapter()?, &AGENT).await?;
    wait_for_file(&nginx).await?;
    let server = nginx.start().await?;
    first_handover(&operator).await?;

    let door = Door { trust: Trust::new(&authority)?, address: nginx.address };
    let current = logins.current();
    let load = load(plan, &door, &current);
    let mut accepted_after = 0;
    for round in 1..=plan.rotations {
        let next = authority.issue()?;
        let retired = logins.turn(round).await?;
        operator.store(SITE, &site(&next, &next))?;
        operator.store(USERS, &logins.file())?;
        operator.rotate(BOTH).await.map_err(|error| format!("{error}; {}", program.log()))?;
        // No worker of before is left, and the new certificate was seen.
        authority.replaced(&serving);
        accepted_after += retired.accepted(&door).await?;
        let old = current.replace(logins.newest());
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        authority.revoke(&serving);
        // The old login is taken away in the next round, when nobody is left who uses it.
        nobody_uses(&old).await?;
        serving = next;
    }

    let trials = trials(&operator, &authority, &program, &serving, &logins, &door).await?;

    let report = Report::of("signal", plan, started, load.stop().await?);
    server.stop().await?;
    program.stop().await?;
    let (after_commit, after_revoke) = authority.old_uses();
    let uses = (after_commit + accepted_after, after_revoke + accepted_after);
    Ok(report.old_uses(uses).times(operator.times()).trials(trials))
}

/// Rotations that must not succeed.
async fn trials(
    operator: &Operator,
    authority: &Arc<Authority>,
    program: &Program,
    serving: &Issued,
    logins: &Logins,
    door: &Door,
) -> Result<Vec<Trial>, String> {
    let generation = || program.generation().unwrap_or_default();
    let certificates = Trials { operator, key: SITE, generation };
    let users = Trials { operator, key: USERS, generation };
    let good = site(serving, serving);
    let mixed = site(&authority.issue()?, serving);
    let expired = authority.expired()?;
    let expired = site(&expired, &expired);
    let in_the_clear = "shop-0:a password, and no hash\n";
    let mut held = vec![
        certificates.bad_credential("the key of another certificate", &mixed, &good).await?,
        certificates.bad_credential("an expired one", &expired, &good).await?,
        users
            .bad_credential("a password file without a hash", in_the_clear, &logins.file())
            .await?,
        certificates.store_down().await?,
    ];
    // nginx waits for a request that has begun, until its worker's own time is over.
    let (mut slow, _) = door.trust.shake(connect(door.address).await?).await?;
    slow.write_all(b"GET / HTTP/1.1\r\n").await.map_err(|error| error.to_string())?;
    slow.flush().await.map_err(|error| error.to_string())?;
    let next = authority.issue()?;
    let let_go = async || {
        drop(slow);
        Ok(())
    };
    let (what, next) = ("a request does not end", site(&next, &next));
    held.push(certificates.cannot_drain(what, &next, AdapterOutcome::Leaked, let_go).await?);
    Ok(held)
}

/// The login that the clients use, and the one of before, which is accepted for one more round.
struct Logins {
    newest: Login,
    before: Option<Login>,
}

impl Logins {
    async fn new() -> Result<Self, String> {
        Ok(Self { newest: Login::new("shop-0").await?, before: None })
    }

    /// A new one; gives the one that is not accepted any more once the file is in place.
    async fn turn(&mut self, round: u32) -> Result<Retired, String> {
        let next = Login::new(&format!("shop-{round}")).await?;
        let before = std::mem::replace(&mut self.newest, next);
        Ok(Retired(self.before.replace(before).map(|login| login.header)))
    }

    fn newest(&self) -> HeaderValue {
        self.newest.header.clone()
    }

    fn current(&self) -> Arc<Current> {
        Arc::new(Current(RwLock::new(Arc::new(self.newest()))))
    }

    /// The password file.
    fn file(&self) -> String {
        let both = [Some(&self.newest), self.before.as_ref()];
        both.into_iter().flatten().map(|login| login.line.as_str()).collect()
    }
}

/// The login that was taken away, if there was one.
struct Retired(Option<HeaderValue>);

impl Retired {
    /// How often it was accepted all the same.
    async fn accepted(&self, door: &Door) -> Result<u64, String> {
        let Some(login) = &self.0 else { return Ok(0) };
        let mut client = Https::new(door.trust.clone(), door.address);
        match client.get_once(Some(login)).await? {
            401 => Ok(0),
            200 => Ok(1),
            status => Err(format!("a login that was taken away was answered with {status}")),
        }
    }
}

/// What the clients log in with at this moment. A request holds it until its answer was read.
struct Current(RwLock<Arc<HeaderValue>>);

impl Current {
    fn load(&self) -> Arc<HeaderValue> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, next: HeaderValue) -> Arc<HeaderValue> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, Arc::new(next))
    }
}

async fn nobody_uses(login: &Arc<HeaderValue>) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    while Arc::strong_count(login) > 1 {
        if Instant::now() > give_up {
            return Err("a request with the old login does not end".to_owned());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Where the clients go.
#[derive(Clone)]
struct Door {
    trust: Trust,
    address: SocketAddr,
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))
}

/// nginx does not begin without its files.
async fn wait_for_file(nginx: &Nginx) -> Result<(), String> {
    let last = nginx.path("/etc/nginx/secrets/users");
    let give_up = Instant::now() + PATIENCE;
    while !last.is_file() {
        if Instant::now() > give_up {
            return Err("the agent has not rendered its files".to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// There was no nginx when the agent began; it tells it when there is.
async fn first_handover(operator: &Operator) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let attempt = operator.attempt(BOTH, None).await?;
        if attempt.exit_code == Some(0) {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(format!("nginx has not taken its first files over: {}", attempt.said));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Every other client connects for each request, and the rest keep their connections.
fn load(plan: Plan, door: &Door, current: &Arc<Current>) -> Load {
    let number = AtomicU32::new(0);
    Load::start(plan.clients, |counts| {
        let keeps = number.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        client(counts, door.clone(), Arc::clone(current), keeps)
    })
}

async fn client(counts: Arc<Counts>, door: Door, current: Arc<Current>, keeps: bool) {
    let mut client = Https::new(door.trust, door.address);
    while counts.goes_on() {
        let login = current.load();
        let answer = match keeps {
            true => client.get(Some(&login)).await,
            false => client.get_once(Some(&login)).await,
        };
        counts.count(answer.and_then(well));
        if keeps {
            // Those who keep a connection are not in the way of those who connect.
            sleep(Duration::from_millis(2)).await;
        }
    }
}

fn well(status: u16) -> Result<(), String> {
    if status == 200 { Ok(()) } else { Err(format!("the answer was {status}")) }
}

/// The other side: files that are written over while nginx reads them, nginx told and believed, clients
/// that keep a login for a while, and an operator who waits a moment.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let authority = Authority::new()?;
    let place = Place::new()?;
    let nginx = Nginx::install(&place)?;
    let mut serving = authority.issue()?;
    let write = |issued: &Issued, login: &Login| {
        let dir = nginx.path("/etc/nginx/secrets");
        let written = [("site.crt", &issued.certificate), ("site.key", &issued.key)]
            .into_iter()
            .chain([("users", &login.line)])
            .try_for_each(|(name, text)| fs::write(dir.join(name), text));
        written.map_err(|error| format!("a file cannot be written: {error}"))
    };
    let login = Login::new("shop").await?;
    write(&serving, &login)?;
    let headers = place.path("headers");
    fs::create_dir(&headers).map_err(|error| error.to_string())?;
    let tell = |login: &Login| put(&headers, "login", login.header.to_str().unwrap_or_default());
    tell(&login)?;
    let server = nginx.start().await?;
    let door = Door { trust: Trust::new(&authority)?, address: nginx.address };
    let load = Load::start(plan.clients, |counts| {
        naive_client(counts, door.clone(), headers.join("login"))
    });

    for round in 1..=plan.rotations {
        let (next, login) = (authority.issue()?, Login::new("shop").await?);
        write(&next, &login)?;
        tell(&login)?;
        let pid = server.pid().ok_or("nginx has ended")?.to_string();
        let told = tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await;
        told.map_err(|error| format!("nginx cannot be told: {error}"))?;
        sleep(NAIVE_GRACE).await;
        authority.revoke(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        serving = next;
    }

    let what = "signal, files that are written over and a reload";
    let report = Report::of(what, plan, started, load.stop().await?);
    server.stop().await?;
    Ok(report.old_uses(authority.old_uses()))
}

/// Reads its login again when its time is over.
async fn naive_client(counts: Arc<Counts>, door: Door, file: std::path::PathBuf) {
    let mut client = Https::new(door.trust, door.address);
    let mut held: Option<(HeaderValue, Instant)> = None;
    while counts.goes_on() {
        let login = match &held {
            Some((login, since)) if since.elapsed() < NAIVE_TTL => login.clone(),
            _ => {
                let text = fs::read_to_string(&file).unwrap_or_default();
                let login = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
                held.insert((login, Instant::now())).0.clone()
            }
        };
        counts.count(client.get_once(Some(&login)).await.and_then(well));
    }
}
