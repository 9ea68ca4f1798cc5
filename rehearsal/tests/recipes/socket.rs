//! systemd: a socket that it listens on, and a service behind `oneiric run`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::load::Counts;
use crate::operator::{Operator, new_credential};
use crate::program::{Place, free_port};
use crate::recipe::Recipe;
use crate::rig::{can_run, load, of_systemd, runs};

const KEY: &str = "api-token";
const SHOP: &str = include_str!("shop.py");
/// Longer than anything takes on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_behind_a_socket_of_systemd_is_replaced_and_drops_no_connection() {
    let activate = of_systemd("systemd-socket-activate");
    let there = runs(&activate, "--version").and_then(|()| runs("python3", "--version"));
    if !can_run("recipe systemd with a socket", there) {
        return;
    }
    let place = Place::new().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let recipe = Recipe::new("systemd", &place).unwrap();
    let binary = std::env::var("ONEIRIC_BIN").unwrap();
    let shop = place.write("shop.py", SHOP).unwrap();
    fs::set_permissions(&shop, fs::Permissions::from_mode(0o755)).unwrap();
    let ready = recipe.path("/run/shop/ready");
    let service = format!("{} {}", shop.display(), ready.display());
    let recipe = recipe.with("/usr/local/bin/shop", &service);
    let recipe = recipe.with("/usr/local/bin/oneiric", &binary);
    let run = recipe.folder("/run/shop").unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = format!(
        "secrets_watch_interval = \"0s\"\n[admin]\nsocket = {:?}\n\
         [providers.files]\nkind = \"file\"\npath = {:?}\n{}",
        place.socket(),
        place.secrets(),
        recipe.text("shop.toml").unwrap(),
    );
    recipe.install("shop.toml", "/etc/oneiric/shop.toml").unwrap();
    fs::write(recipe.path("/etc/oneiric/shop.toml"), settings).unwrap();
    let unit = recipe.text("shop.service").unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();

    let mut operator = Operator::new(&place.socket(), &place.secrets()).unwrap();
    let first = new_credential();
    operator.store(KEY, &first).unwrap();
    let log = fs::File::create(place.path("log")).unwrap();
    let mut child = Command::new(activate)
        .arg(format!("--listen={address}"))
        .arg(format!("--setenv=PATH={}", std::env::var("PATH").unwrap()))
        .arg(format!("--setenv=ONEIRIC_AGENT__RUNTIME_DIR={}", run.display()))
        .args(command.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The first connection has it started, and waits.
    let said = || fs::read_to_string(place.path("log")).unwrap();
    let mut answer = Err(String::new());
    for _ in 0..600 {
        answer = ask(address).await;
        if answer.is_ok() || child.try_wait().unwrap().is_some() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(answer.as_deref(), Ok(first.as_str()), "{}", said());

    let running = load(|_, counts| client(counts, address));
    for round in 1..=3 {
        let next = new_credential();
        operator.store(KEY, &next).unwrap();
        let rotated = operator.rotate(KEY).await;
        rotated.unwrap_or_else(|error| panic!("{error}; {}", said()));
        for _ in 0..8 {
            assert_eq!(ask(address).await, Ok(next.clone()), "another token serves");
        }
        running.reach(round * 40).await.unwrap();
    }
    let (requests, failed, failures) = running.stop().await.unwrap();
    assert_eq!(failed, 0, "of {requests}: {failures:?}");

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let ended = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}: {}", said());
}

async fn client(counts: Arc<Counts>, address: SocketAddr) {
    while counts.goes_on() {
        counts.count(ask(address).await.map(|_| ()));
        sleep(Duration::from_millis(2)).await;
    }
}

/// The token that the service answers with.
async fn ask(address: SocketAddr) -> Result<String, String> {
    let answered = timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await?;
        let mut token = String::new();
        stream.read_to_string(&mut token).await?;
        Ok::<_, std::io::Error>(token)
    });
    let answered = answered.await.map_err(|_| "no answer")?;
    let token = answered.map_err(|error| format!("the connection broke off: {error}"))?;
    if token.is_empty() { Err("an empty answer".to_owned()) } else { Ok(token) }
}
