//! A server that never refuses a connection while it is moved.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneiric_adapter_process::OnChange;
use oneiric_core::DrainOutcome;

use crate::common::{Bench, ready};

/// Answers with its token, by sockets that it was handed or one of its own. When it is asked to end
/// it answers whoever has come.
const SERVER: &str = r#"
import os, select, signal, socket, sys
ending = False
def end(*_):
    global ending
    ending = True
signal.signal(signal.SIGTERM, end)
if len(sys.argv) > 1:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    server.listen(128)
    servers = [server]
else:
    assert int(os.environ["LISTEN_PID"]) == os.getpid()
    count = int(os.environ["LISTEN_FDS"])
    assert len(os.environ["LISTEN_FDNAMES"].split(":")) == count
    servers = [socket.socket(fileno=3 + n) for n in range(count)]
for server in servers:
    server.setblocking(False)
open("ready", "w").write(str(os.getpid()))
while True:
    some, _, _ = select.select(servers, [], [], 0 if ending else 0.05)
    for server in some:
        try:
            connection, _ = server.accept()
        except BlockingIOError:
            continue
        connection.setblocking(True)
        connection.recv(1)
        connection.sendall(os.environ["TOKEN"].encode())
        connection.close()
    if ending and (not some or len(sys.argv) == 1):
        break
"#;

/// Asks until it is told to stop. Says how often it was answered.
fn user(port: u16, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut answers = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut connection =
                TcpStream::connect(("127.0.0.1", port)).expect("a connection is never refused");
            connection.write_all(b"?").unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            assert!(!answer.is_empty(), "every request is answered");
            answers += 1;
        }
        answers
    })
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn server(on_change: OnChange, port: u16) -> Bench {
    Bench::new(on_change, &format!("exec python3 -c '{SERVER}'"), |config| {
        config.listen = vec![format!("127.0.0.1:{port}")];
    })
}

async fn is_never_refused(bench: &Bench, port: u16) {
    assert_eq!(bench.rotate("0").await.outcome, DrainOutcome::Drained);
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..3).map(|_| user(port, &stop)).collect();
    for number in 1..=5 {
        assert_eq!(bench.rotate(&number.to_string()).await.outcome, DrainOutcome::Drained);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.store(true, Ordering::Relaxed);
    for user in users {
        assert!(user.join().unwrap() > 0);
    }
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_while_a_child_with_handed_sockets_is_replaced() {
    let port = free_port();
    is_never_refused(&server(OnChange::Overlap, port), port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_wait_while_a_child_with_handed_sockets_is_restarted() {
    let port = free_port();
    is_never_refused(&server(OnChange::Restart, port), port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_shares_its_port_is_ready_when_it_listens_itself() {
    let port = free_port();
    let body = format!("exec python3 -c '{SERVER}' {port}");
    let bench = Bench::new(OnChange::Overlap, &body, |config| {
        config.ready = Some(ready(&format!("port = {port}")));
    });
    bench.rotate("one").await;
    let old = bench.read("ready");
    let prepared = bench.prepare("two").await.unwrap();
    assert_ne!(bench.read("ready"), old);
    drop(prepared);
    bench.release().await;
}
