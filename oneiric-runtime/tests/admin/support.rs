//! A runtime with an admin endpoint on both transports, and a client that can misbehave.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use std::{future, io};

use oneiric_core::{Managed, ManagedHook};
use oneiric_runtime::admin::{AdminClient, AdminOptions, AdminServer, Endpoint};
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::LevelFilter;

pub(crate) const ADMIN_TOKEN: &str = "adm1n-t0ken-8c51f0e7b2";
pub(crate) const READ_TOKEN: &str = "re4d-t0ken-17d90ab34c";
pub(crate) const WRONG_TOKEN: &str = "wr0ng-t0ken-5e0c77d1f9";

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// One instance, `test`, over a store in memory, `mem`.
pub(crate) struct Rig {
    pub(crate) home: TempDir,
    pub(crate) store: Arc<MemoryProvider>,
    pub(crate) runtime: Runtime,
    pub(crate) unix: Endpoint,
    pub(crate) tcp: Endpoint,
    /// Ends the endpoint alone.
    pub(crate) close: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adapt: impl FnOnce(&mut AdminOptions)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut options = options_in(home.path());
        adapt(&mut options);
        let admin = options.bind(&"test".parse().unwrap()).unwrap();
        let [unix, tcp] = admin.endpoints().try_into().unwrap();
        let store = MemoryProvider::new();
        let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
        let resolver = Resolver::new(providers, ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = Duration::ZERO;
        let (runtime, task) = options.build(resolver).unwrap();
        let (close, stop) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        tasks.spawn(task.run(stop.clone()));
        tasks.spawn(admin.run(runtime.clone(), close.clone()));
        tasks.close();
        Self { home, store, runtime, unix, tcp, close, stop, tasks }
    }

    pub(crate) fn client(&self) -> AdminClient {
        AdminClient::new(self.unix.clone())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("test.sock")
    }

    /// Ends everything; panics if it does not end by itself.
    pub(crate) async fn stop(self) {
        self.close.cancel();
        self.stop.cancel();
        in_time(self.tasks.wait()).await;
    }

    /// An adapter of the secret `db`, whose next generations wait for the gate.
    pub(crate) async fn gated(&self) -> (Managed<String>, watch::Sender<bool>) {
        self.store.put("db", "first");
        let gate = watch::Sender::new(true);
        let opened = gate.clone();
        let secret = "mem:db".parse().unwrap();
        let hook = ManagedHook::new("pool".parse().unwrap(), [secret], |secrets| {
            let value = secrets.values().next().and_then(|value| value.expose_str());
            future::ready(Ok(value.unwrap().to_owned()))
        });
        let hook = hook.prove(move |_| {
            let mut opened = opened.subscribe();
            async move {
                opened.wait_for(|open| *open).await.unwrap();
                Ok(())
            }
        });
        let managed = self.runtime.manage(hook).await.unwrap();
        gate.send_replace(false);
        (managed, gate)
    }
}

/// Both transports, in a directory of their own.
pub(crate) fn options_in(home: &Path) -> AdminOptions {
    let mut options = AdminOptions::default();
    options.runtime_dir = Some(home.to_owned());
    options.listen = Some("127.0.0.1:0".parse().unwrap());
    options.token_file = Some(token_file(home, "admin.token", ADMIN_TOKEN));
    options.read_token_file = Some(token_file(home, "read.token", READ_TOKEN));
    options
}

pub(crate) fn bind(options: AdminOptions) -> oneiric_core::Result<AdminServer> {
    options.bind(&"test".parse().unwrap())
}

pub(crate) fn token_file(home: &Path, name: &str, token: &str) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, format!("{token}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// A request to rotate `mem:db`.
pub(crate) fn rotate_db() -> RotateRequest {
    RotateRequest::new(Scope::Keys("mem".parse().unwrap(), vec!["db".parse().unwrap()]))
}

/// A deadline that no test should meet.
pub(crate) fn late() -> Instant {
    Instant::now() + PATIENCE
}

/// A request, written by hand.
#[derive(Clone)]
pub(crate) struct Ask {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

/// The answer to it, as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// All but the date, sorted.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Ask {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let headers = [("host", "localhost"), ("x-oneiric-request", "1"), ("connection", "close")];
        Self {
            line: format!("{method} {target} HTTP/1.1"),
            headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
            body: String::new(),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn rotate(body: impl Into<String>) -> Self {
        let ask = Self { body: body.into(), ..Self::new("POST", "/v1/rotate") };
        let length = ask.body.len().to_string();
        ask.with("content-length", &length)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    pub(crate) fn bearing(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn text(&self) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{}\r\n{}\r\n{}", self.line, headers.collect::<String>(), self.body)
    }

    pub(crate) async fn send(&self, endpoint: &Endpoint) -> Answer {
        let mut stream = connect(endpoint).await;
        // Refused before it is read to its end, a request cannot be written to its end.
        let _ = stream.write_all(self.text().as_bytes()).await;
        read_answer(stream).await
    }
}

pub(crate) type Stream = Either<UnixStream, TcpStream>;

pub(crate) async fn connect(endpoint: &Endpoint) -> Stream {
    match endpoint {
        Endpoint::Unix(path) => Either::Left(UnixStream::connect(path).await.unwrap()),
        Endpoint::Tcp(address) => Either::Right(TcpStream::connect(address).await.unwrap()),
    }
}

pub(crate) async fn read_answer(stream: Stream) -> Answer {
    let bytes = read_to_end(stream).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter(|line| !line.starts_with("date:")).map(str::to_owned);
    let mut headers: Vec<_> = headers.collect();
    headers.sort();
    Answer { status, headers, body: body.to_owned() }
}

/// Everything that is sent until the connection ends, however it ends.
pub(crate) async fn read_to_end(mut stream: Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match in_time(stream.read_to_end(&mut bytes)).await {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => bytes,
    }
}

/// Panics if it takes too long.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("a test does not wait for ever")
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(waiting).await;
}

/// Everything that this process has logged since the first call, at every level.
pub(crate) fn logs() -> Vec<u8> {
    LazyLock::force(&INSTALLED);
    LINES.lock().unwrap().clone()
}

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(|| Lines)
        .init();
});

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
