//! HAProxy: a chain and its key in one file, and a service behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::https::Https;
use crate::load::Counts;
use crate::nginx::{SITE, Server};
use crate::program::Place;
use crate::recipe::Recipe;
use crate::rig::{Rig, begin_request, can_run, load, runs, shown_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_serves_each_new_certificate_and_drops_no_request() {
    let program = std::env::var("ONEIRIC_HAPROXY_BIN").unwrap_or("haproxy".to_owned());
    if !can_run("recipe haproxy", runs(&program, "-v").and_then(|()| runs("openssl", "version"))) {
        return;
    }
    let (behind, _service) = service().await;
    let place = Place::new().unwrap();
    let recipe = Recipe::new("haproxy", &place).unwrap();
    let recipe = recipe.with("haproxy -c", &format!("{program} -c"));
    let recipe = recipe.with("127.0.0.1:8080", &behind.to_string());
    let (recipe, address) = recipe.with_port(&["127.0.0.1:8443"], 8443).unwrap();
    // Nobody outside of this machine is to find it.
    let recipe = recipe.with("bind :8443", &format!("bind {address}"));
    let settings = recipe.install("haproxy.cfg", "/etc/haproxy/haproxy.cfg").unwrap();
    for script in ["check.sh", "reload.sh", "acknowledge.sh"] {
        recipe.install(script, &format!("/etc/oneiric/haproxy/{script}")).unwrap();
    }
    for folder in ["/etc/haproxy/secrets", "/run/oneiric", "/var/log"] {
        recipe.folder(folder).unwrap();
    }
    let mut rig = Rig::start(place, &recipe.text("adapter.toml").unwrap(), SITE, &[]).await;
    rig.rendered(&recipe.path("/etc/haproxy/secrets/site.pem")).await;
    let mut command = Command::new(&program);
    command.arg("-W").arg("-f").arg(settings).arg("-p").arg(recipe.path("/run/haproxy.pid"));
    let log = recipe.path("/var/log/haproxy");
    let server = Server::start("haproxy", command, address, &log).await.unwrap();
    rig.taken_over().await;

    let running = load(|number, counts| {
        client(counts, Https::new(rig.trust.clone(), address), number % 2 == 1)
    });
    rig.rotate(&running, |trust| shown_at(trust, address)).await;
    let request = begin_request(&rig.trust, address).await;
    rig.waits(&running, || drop(request)).await;
    rig.finish(running).await;
    server.stop().await.unwrap();
}

/// One that connects for each request, or one that keeps its connection.
async fn client(counts: Arc<Counts>, mut client: Https, keeps: bool) {
    while counts.goes_on() {
        let answer = match keeps {
            true => client.get(None).await,
            false => client.get_once(None).await,
        };
        counts.count(match answer {
            Ok(200) => Ok(()),
            Ok(status) => Err(format!("the answer was {status}")),
            Err(error) => Err(error),
        });
        sleep(Duration::from_millis(2)).await;
    }
}

/// A service that answers every request, each on a connection of its own.
async fn service() -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, AbortOnDropHandle::new(task))
}
