//! A server in Python that knows nothing of rotation: it gets a token in its environment and a socket
//! from its parent, and `oneiric agent` replaces it under load by one that has the new token.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use oneiric_runtime::report::AdapterOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::Plan;
use crate::load::{Counts, Load};
use crate::operator::{Operator, new_credential, put};
use crate::program::{Place, Program, free_port, quoted};
use crate::report::{Report, Spread, seconds};
use crate::trials::{Trial, Trials};
use crate::upstream::Upstream;

const KEY: &str = "api-token";
const SERVER: &str = include_str!("process_scenario/server.py");
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rotates the way this project is for.
pub(crate) async fn rotate(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let upstream = Arc::new(Upstream::start().await?);
    let place = Place::new()?;
    let mut operator = Operator::new(&place.socket(), &place.secrets())?;
    let mut serving = new_credential();
    upstream.accept(&serving);
    operator.store(KEY, &serving)?;
    let (program, server) = start(place, &upstream).await?;
    let load = Load::start(plan.clients, |counts| client(counts, Arc::clone(&upstream), server));

    for round in 1..=plan.rotations {
        let next = new_credential();
        upstream.accept(&next);
        operator.store(KEY, &next)?;
        operator.rotate(KEY).await.map_err(|error| format!("{error}; {}", program.log()))?;
        // The old server has ended: nobody holds the old token any more.
        upstream.replaced(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        upstream.revoke(&serving);
        serving = next;
    }

    let trials = trials(&operator, &upstream, &program, &serving, server).await?;

    let (requests, failed, failures) = load.stop().await?;
    program.stop().await?;
    let (after_commit, after_revoke) = upstream.old_uses();
    let (swap_ms, drain_ms, command_ms) = operator.times();
    Ok(Report {
        scenario: "process",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: after_revoke,
        old_credential_uses_after_commit: after_commit,
        swap_ms,
        drain_ms,
        command_ms,
        trials,
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

/// Starts `oneiric agent` with the server, and says where that listens.
async fn start(place: Place, upstream: &Upstream) -> Result<(Program, SocketAddr), String> {
    let script = place.write("server.py", SERVER)?;
    let ready = place.path("ready");
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let adapter = format!(
        "[adapters.web]\nkind = \"process\"\n\
         command = [\"python3\", {}, \"http://{}/\", {}]\n\
         env = {{ API_TOKEN = \"files:{KEY}\" }}\n\
         on_change = \"overlap\"\n\
         listen = [\"{server}\"]\n\
         ready = {{ file = {} }}\n",
        quoted(&script),
        upstream.address,
        quoted(&ready),
        quoted(&ready),
    );
    Ok((place.start(&adapter, &["agent"]).await?, server))
}

/// Rotations that must not succeed.
async fn trials(
    operator: &Operator,
    upstream: &Upstream,
    program: &Program,
    serving: &str,
    server: SocketAddr,
) -> Result<Vec<Trial>, String> {
    let generation = || program.generation().unwrap_or_default();
    let trials = Trials { operator, key: KEY, generation };
    let mut held = vec![
        trials.bad_credential("a token that is not accepted", &new_credential(), serving).await?,
        trials.store_down().await?,
    ];
    let next = new_credential();
    upstream.accept(&next);
    let mut slow = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
    let asked = slow.write_all(b"GET /slow HTTP/1.1\r\nHost: web\r\n\r\n").await;
    asked.map_err(|error| error.to_string())?;
    let let_go = async || {
        // It was killed, and its request with it.
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, slow.read_to_end(&mut rest)).await.map_err(|_| "it lives")?;
        if rest.is_empty() { Ok(()) } else { Err("a slow request was answered".to_owned()) }
    };
    let what = "a request never ends";
    held.push(trials.cannot_drain(what, &next, AdapterOutcome::Forced, let_go).await?);
    Ok(held)
}

/// One user of the server: a connection for each request, so that each has to be accepted.
async fn client(counts: Arc<Counts>, upstream: Arc<Upstream>, server: SocketAddr) {
    while counts.goes_on() {
        let answer = timeout(PATIENCE, ask(server)).await.unwrap_or(Err("no answer".to_owned()));
        // What the server answers with is what it would use itself.
        counts.count(answer.and_then(|token| upstream.used(&token)));
    }
}

/// One request; gives the token that it was answered with.
async fn ask(server: SocketAddr) -> Result<String, String> {
    let stream = TcpStream::connect(server).await;
    let mut stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    sent.map_err(|error| format!("cannot ask: {error}"))?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.map_err(|error| format!("the answer broke off: {error}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, token)) if head.starts_with("HTTP/1.1 200 ") => Ok(token.to_owned()),
        _ => Err(format!("the answer was {answer:?}")),
    }
}

/// The other side: the same server, stopped and started anew whenever its token changes, as a
/// restarting supervisor does it.
pub(crate) async fn naive(plan: Plan) -> Result<Report, String> {
    let started = Instant::now();
    let upstream = Arc::new(Upstream::start().await?);
    let place = Place::new()?;
    let secrets = place.secrets();
    let mut serving = new_credential();
    upstream.accept(&serving);
    put(&secrets, KEY, &serving)?;
    let script = place.write("server.py", SERVER)?;
    let (ready, address) = (place.path("ready"), upstream.address);
    let port = free_port()?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let spawn = |token: &str| {
        // Whoever listens by itself begins when it is started, and ends when it is stopped.
        let listening = "import os, socket, sys; s = socket.socket(); \
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
             s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(512); os.dup2(s.fileno(), 3); os.set_inheritable(3, True); \
             os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); \
             os.execvp('python3', ['python3'] + sys.argv[2:])";
        tokio::process::Command::new("python3")
            .args(["-c", listening, &port.to_string()])
            .arg(&script)
            .arg(format!("http://{address}/"))
            .arg(&ready)
            .env("API_TOKEN", token)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("python3 cannot be run: {error}"))
    };
    let mut child = spawn(&serving)?;
    wait_for(server).await?;
    let load = Load::start(plan.clients, |counts| client(counts, Arc::clone(&upstream), server));
    for round in 1..=plan.rotations {
        let next = new_credential();
        upstream.accept(&next);
        put(&secrets, KEY, &next)?;
        child.kill().await.map_err(|error| error.to_string())?;
        child = spawn(&next)?;
        wait_for(server).await?;
        upstream.revoke(&serving);
        load.reach(plan.requests * u64::from(round) / u64::from(plan.rotations)).await?;
        serving = next;
    }
    let (requests, failed, failures) = load.stop().await?;
    child.kill().await.map_err(|error| error.to_string())?;
    let (after_commit, after_revoke) = upstream.old_uses();
    Ok(Report {
        scenario: "process, stopped and started",
        rotations: plan.rotations,
        requests,
        failed,
        old_credential_uses_after_revoke: after_revoke,
        old_credential_uses_after_commit: after_commit,
        swap_ms: Spread::default(),
        drain_ms: Spread::default(),
        command_ms: Spread::default(),
        trials: Vec::new(),
        duration_s: seconds(started.elapsed()),
        failures,
    })
}

async fn wait_for(server: SocketAddr) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    while ask(server).await.is_err() {
        if Instant::now() > give_up {
            return Err("the server does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
