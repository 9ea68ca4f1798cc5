//! What the recipes have in common: a certificate that is rotated under load by the real command line,
//! and what must hold of it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use oneiric_runtime::report::AdapterOutcome;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::certificates::{Authority, Issued};
use crate::https::Trust;
use crate::load::{Counts, Load};
use crate::nginx::site;
use crate::operator::Operator;
use crate::program::{Place, Program};

/// How often a certificate is rotated.
const ROTATIONS: u32 = 4;
/// How many requests are to be made after each.
const REQUESTS: u64 = 40;
/// How many connections are made at once to see what is served.
const PROBES: usize = 8;
/// How long a rotation waits for what does not end.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// Here only the operator says when.
const AGENT: [&str; 3] = ["agent", "--set", "secrets_watch_interval=0s"];
/// Longer than anything takes on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says what keeps the suite from running, if something does.
pub(crate) fn can_run(suite: &str, program: Result<(), String>) -> bool {
    let why = if std::env::var_os("ONEIRIC_BIN").is_none() {
        Some("ONEIRIC_BIN does not say where the `oneiric` binary is".to_owned())
    } else if !is_root() {
        Some("we are not root, and the recipe gives files to others".to_owned())
    } else {
        program.err()
    };
    if let Some(why) = &why {
        oneiric_testkit::live::require(suite, why);
    }
    why.is_none()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout == b"0\n")
}

/// One of systemd's tools.
pub(crate) fn of_systemd(tool: &str) -> String {
    let folder = std::env::var_os("ONEIRIC_SYSTEMD_BIN").map(std::path::PathBuf::from);
    let folder = folder.as_deref().and_then(Path::parent);
    folder.map_or(tool.to_owned(), |folder| folder.join(tool).display().to_string())
}

/// Whether a program can be run at all.
pub(crate) fn runs(program: &str, version: &str) -> Result<(), String> {
    let ran = Command::new(program)
        .arg(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.map(|_| ()).map_err(|error| format!("`{program}` cannot be run: {error}"))
}

/// A server with a certificate, whose agent runs.
pub(crate) struct Rig {
    pub(crate) operator: Operator,
    pub(crate) program: Program,
    pub(crate) trust: Trust,
    pub(crate) authority: Arc<Authority>,
    key: &'static str,
    serving: Issued,
    asked: u64,
}

impl Rig {
    /// Starts the agent with this adapter, for a certificate in the secret `key`. These are there as
    /// well. The server need not run yet.
    pub(crate) async fn start(
        place: Place,
        adapter: &str,
        key: &'static str,
        others: &[(&str, &str)],
    ) -> Self {
        let authority = Authority::new().unwrap();
        let trust = Trust::new(&authority).unwrap();
        let serving = authority.issue().unwrap();
        let operator = Operator::new(&place.socket(), &place.secrets()).unwrap();
        operator.store(key, &site(&serving, &serving)).unwrap();
        for (key, value) in others {
            operator.store(key, value).unwrap();
        }
        let program = place.start(adapter, &AGENT).await.unwrap();
        Self { operator, program, trust, authority, key, serving, asked: 0 }
    }

    /// Waits until the agent has put this file in place.
    pub(crate) async fn rendered(&self, file: &Path) {
        let give_up = Instant::now() + PATIENCE;
        while !file.is_file() {
            assert!(Instant::now() < give_up, "no {}: {}", file.display(), self.program.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server has taken over what was rendered before it was there.
    pub(crate) async fn taken_over(&self) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let attempt = self.operator.attempt(self.key, None).await.unwrap();
            if attempt.exit_code == Some(0) {
                return;
            }
            assert!(Instant::now() < give_up, "{}", attempt.said);
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Rotates the certificate several times, tries one whose key does not fit and one that has ended,
    /// and sees each time that what is served is what has to be.
    pub(crate) async fn rotate<S, F>(&mut self, load: &Load, show: S)
    where
        S: Fn(Trust) -> F,
        F: Future<Output = Result<CertificateDer<'static>, String>>,
    {
        for _ in 0..ROTATIONS {
            let next = self.authority.issue().unwrap();
            self.operator.store(self.key, &site(&next, &next)).unwrap();
            let rotated = self.operator.rotate(self.key).await;
            rotated.unwrap_or_else(|error| panic!("{error}; {}", self.program.log()));
            self.is_served(&next, &show).await;
            self.authority.replaced(&self.serving);
            self.some_requests(load).await;
            self.authority.revoke(&self.serving);
            self.serving = next;
        }
        let (other, expired) = (self.authority.issue().unwrap(), self.authority.expired().unwrap());
        for bad in [site(&other, &self.serving), site(&expired, &expired)] {
            let before = self.program.generation();
            self.operator.store(self.key, &bad).unwrap();
            let attempt = self.operator.attempt(self.key, None).await.unwrap();
            assert_eq!(attempt.exit_code, Some(3), "{}", attempt.said);
            let adapter = &attempt.report.instances[0].adapters[0];
            assert_eq!(adapter.outcome, AdapterOutcome::Refused, "{adapter:?}");
            self.is_served(&self.serving, &show).await;
            self.some_requests(load).await;
            assert_eq!(self.program.generation(), before);
        }
        let good = site(&self.serving, &self.serving);
        self.operator.store(self.key, &good).unwrap();
        self.taken_over().await;
    }

    /// Rotates while something keeps the old certificate in use: it is not said to be gone before it is.
    /// `let_go` ends that.
    pub(crate) async fn waits(&mut self, load: &Load, let_go: impl FnOnce()) {
        let next = self.authority.issue().unwrap();
        self.operator.store(self.key, &site(&next, &next)).unwrap();
        let attempt = self.operator.attempt(self.key, Some(IMPATIENCE)).await.unwrap();
        assert_eq!(attempt.exit_code, Some(4), "{}", attempt.said);
        let_go();
        self.taken_over().await;
        self.authority.replaced(&self.serving);
        self.some_requests(load).await;
        self.authority.revoke(&self.serving);
        self.serving = next;
    }

    async fn is_served<S, F>(&self, wanted: &Issued, show: &S)
    where
        S: Fn(Trust) -> F,
        F: Future<Output = Result<CertificateDer<'static>, String>>,
    {
        for _ in 0..PROBES {
            let shown = show(self.trust.clone()).await.unwrap();
            assert!(shown == wanted.leaf, "another certificate is served");
        }
    }

    async fn some_requests(&mut self, load: &Load) {
        self.asked += REQUESTS;
        load.reach(self.asked).await.unwrap();
    }

    /// Ends all, and sees that nothing was lost.
    pub(crate) async fn finish(self, load: Load) {
        let (requests, failed, failures) = load.stop().await.unwrap();
        assert_eq!(failed, 0, "of {requests}: {failures:?}");
        assert_eq!(self.authority.old_uses().1, 0, "a revoked certificate was used");
        self.program.stop().await.unwrap();
    }
}

/// What a server shows to who connects now.
pub(crate) async fn shown_at(
    trust: Trust,
    address: SocketAddr,
) -> Result<CertificateDer<'static>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    trust.shake(stream).await.map(|(_, shown)| shown)
}

/// The load of a few clients that ask again and again.
pub(crate) fn load<F>(client: impl Fn(u32, Arc<Counts>) -> F) -> Load
where
    F: Future<Output = ()> + Send + 'static,
{
    let number = std::sync::atomic::AtomicU32::new(0);
    Load::start(4, |counts| {
        client(number.fetch_add(1, std::sync::atomic::Ordering::Relaxed), counts)
    })
}

/// A request that has begun and does not go on, until it is dropped.
pub(crate) async fn begin_request(trust: &Trust, address: SocketAddr) -> impl Send + use<> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut stream, _) = trust.shake(stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    stream.flush().await.unwrap();
    stream
}
