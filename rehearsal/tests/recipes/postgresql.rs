//! PostgreSQL: the certificate of the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oneiric_testkit::live::Postgres;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::https::Trust;
use crate::load::Counts;
use crate::program::Place;
use crate::recipe::Recipe;
use crate::rig::{Rig, can_run, load, runs};

/// The secret of the recipe.
const KEY: &str = "postgresql.json";
/// What asks for TLS: length, and a number that no version of the protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Version 3.0 of the protocol, `user=admin`.
const STARTUP: &[u8] = b"\0\0\0\x14\0\x03\0\0user\0admin\0\0";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_serves_each_new_certificate_and_breaks_no_handshake() {
    if !can_run("recipe postgresql-certificate", runs("openssl", "version")) {
        return;
    }
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(why) => return oneiric_testkit::live::require("recipe postgresql-certificate", &why),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres.port()));
    let data = postgres.psql("SHOW data_directory").unwrap();
    let place = Place::new().unwrap();
    let recipe = Recipe::new("postgresql-certificate", &place).unwrap();
    let recipe = recipe.with("/var/lib/postgresql/15/main", &data);
    let recipe = recipe.with("127.0.0.1:5432", &address.to_string());
    for script in ["check.sh", "acknowledge.sh"] {
        recipe.install(script, &format!("/etc/oneiric/postgresql/{script}")).unwrap();
    }
    let folder = recipe.folder("/etc/postgresql/tls").unwrap();
    let mut rig = Rig::start(place, &recipe.text("adapter.toml").unwrap(), KEY, &[]).await;
    rig.rendered(&folder.join("server.key")).await;
    for line in recipe.text("postgresql.conf").unwrap().lines() {
        postgres.psql(&format!("ALTER SYSTEM SET {line}")).unwrap();
    }
    assert_eq!(postgres.psql("SELECT pg_reload_conf()").unwrap(), "t");
    rig.taken_over().await;
    assert_eq!(postgres.psql("SHOW ssl").unwrap(), "on");

    let running = load(|_, counts| client(counts, rig.trust.clone(), address));
    rig.rotate(&running, |trust| shown(trust, address)).await;
    // A server that does not look at what it was told.
    let number = std::fs::read_to_string(Path::new(&data).join("postmaster.pid")).unwrap();
    let number = number.lines().next().unwrap();
    let tell = |signal: &str| assert!(tell(signal, number), "the server cannot be told {signal}");
    tell("-STOP");
    rig.waits(&running, || tell("-CONT")).await;
    rig.finish(running).await;
}

fn tell(signal: &str, number: &str) -> bool {
    std::process::Command::new("kill").args([signal, number]).status().unwrap().success()
}

async fn client(counts: Arc<Counts>, trust: Trust, address: SocketAddr) {
    while counts.goes_on() {
        let shown = timeout(PATIENCE, shown(trust.clone(), address)).await;
        let shown = shown.unwrap_or(Err("no answer".to_owned()));
        counts.count(shown.and_then(|shown| trust.authority.check(&shown)));
        sleep(Duration::from_millis(2)).await;
    }
}

/// A connection up to the point at which the server asks for a password.
async fn shown(trust: Trust, address: SocketAddr) -> Result<CertificateDer<'static>, String> {
    let say = |error: std::io::Error| format!("the connection broke off: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(say)?;
    stream.write_all(&SSL_REQUEST).await.map_err(say)?;
    match stream.read_u8().await.map_err(say)? {
        b'S' => {}
        other => return Err(format!("the server answered {other} when asked for TLS")),
    }
    let (mut stream, shown) = trust.shake(stream).await?;
    stream.write_all(STARTUP).await.map_err(say)?;
    stream.flush().await.map_err(say)?;
    match stream.read_u8().await.map_err(say)? {
        b'R' => Ok(shown),
        other => Err(format!("the server answered {other} when asked for a session")),
    }
}
