//! A secret of OpenBao that is rotated with its own command line under load, from the new version
//! in the store to a service that uses it: noticed by the sweep, with no failed request, also when
//! the store is sealed in between and when the login of the service is revoked.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{Managed, ManagedHook, SecretRef, SecretSet};
use oneiric_provider_vault::{AppRole, Config};
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::live::{OpenBao, require};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const SWEEP: Duration = Duration::from_millis(300);
const ARRIVAL: Duration = Duration::from_secs(30);
const ROTATIONS: u64 = 20;
/// What the service may do: look at the secret and read it.
const POLICY: &str = r#"path "secret/*" { capabilities = ["read"] }"#;

/// The server behind the service: it takes the newest credential and the one before.
#[derive(Default)]
struct Server {
    accepted: Mutex<HashSet<u64>>,
    failed: AtomicU64,
    served: AtomicU64,
}

impl Server {
    fn request(&self, credential: u64) {
        let accepted = self.accepted.lock().unwrap().contains(&credential);
        let count = if accepted { &self.served } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one more, and the one before it; no other.
    fn take(&self, credential: u64) {
        *self.accepted.lock().unwrap() = HashSet::from([credential, credential - 1]);
    }
}

/// A service that logs in by AppRole, under load from the start.
struct Service {
    bao: Arc<OpenBao>,
    server: Arc<Server>,
    managed: Managed<u64>,
    load: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
    number: u64,
}

/// The number that both entries of the secret carry; a mixed pair is none.
fn number(set: &SecretSet, refs: &[SecretRef; 2]) -> u64 {
    let part = |reference: &SecretRef, of: &str| {
        let text = set.get(reference).unwrap().expose_str().unwrap();
        text.strip_prefix(of).unwrap().parse::<u64>().unwrap()
    };
    let (user, password) = (part(&refs[0], "user-"), part(&refs[1], "password-"));
    assert_eq!(user, password, "a mixed pair");
    user
}

impl Service {
    async fn start(bao: OpenBao, folder: &Path) -> Self {
        let run = |arguments: &[&str]| bao.bao(arguments).unwrap();
        let policy = folder.join("policy.hcl");
        std::fs::write(&policy, POLICY).unwrap();
        run(&["policy", "write", "service", policy.to_str().unwrap()]);
        run(&["auth", "enable", "approle"]);
        run(&["write", "auth/approle/role/service", "token_policies=service", "token_ttl=5s"]);
        let role_id = run(&["read", "-field=role_id", "auth/approle/role/service/role-id"]);
        let secret_id = ["write", "-f", "-field=secret_id", "auth/approle/role/service/secret-id"];
        std::fs::write(folder.join("secret-id"), run(&secret_id)).unwrap();
        let bao = Arc::new(bao);
        put(&bao, 1).await;

        let mut config = Config::new(bao.address());
        config.auth.approle = Some(AppRole::new(role_id, folder.join("secret-id")));
        let provider = Arc::new(config.build().unwrap());
        let resolver =
            Resolver::new([("vault".parse().unwrap(), provider as _)], ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = SWEEP;
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));

        let refs: [SecretRef; 2] =
            ["vault:app/db#user", "vault:app/db#password"].map(|text| text.parse().unwrap());
        let parts = refs.clone();
        let hook = ManagedHook::new("client".parse().unwrap(), refs, move |set: SecretSet| {
            let number = number(&set, &parts);
            async move { Ok(number) }
        });
        let managed = runtime.manage(hook).await.unwrap();

        let (server, done) = (Arc::new(Server::default()), Arc::new(AtomicBool::new(false)));
        server.take(1);
        let load = (0..4)
            .map(|_| {
                let (server, managed, done) =
                    (Arc::clone(&server), managed.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        server.request(*managed.load());
                        sleep(Duration::from_micros(500)).await;
                    }
                })
            })
            .collect();
        Self { bao, server, managed, load, done, stop, running, number: 1 }
    }

    /// A new credential; answers with how long the service took to use it.
    async fn rotate(&mut self) -> Duration {
        self.number += 1;
        self.server.take(self.number);
        put(&self.bao, self.number).await;
        let start = Instant::now();
        let used = async {
            while *self.managed.load() != self.number {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(ARRIVAL, used).await;
        assert!(in_time.is_ok(), "credential {} was not noticed", self.number);
        start.elapsed()
    }

    /// Runs the command line of OpenBao while the load goes on.
    async fn bao(&self, arguments: &'static [&'static str]) {
        let bao = Arc::clone(&self.bao);
        tokio::task::spawn_blocking(move || bao.bao(arguments).unwrap()).await.unwrap();
    }

    async fn seal(&self, sealed: bool) {
        let bao = Arc::clone(&self.bao);
        let turn = move || if sealed { bao.seal() } else { bao.unseal() };
        tokio::task::spawn_blocking(turn).await.unwrap().unwrap();
    }

    /// Ends it; no request may have failed.
    async fn end(self, mut took: Vec<Duration>) {
        self.done.store(true, Ordering::Relaxed);
        for task in self.load {
            task.await.unwrap();
        }
        self.stop.cancel();
        self.running.await.unwrap();
        took.sort();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let (served, failed) = (&self.server.served, &self.server.failed);
        let (served, failed) = (served.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        say(&format!(
            "vault: {} rotations, {served} requests, {failed} failed, write to use p50 {:.1} ms, \
             p99 {:.1} ms",
            took.len(),
            at(50),
            at(99),
        ));
        assert_eq!(failed, 0);
        assert!(served > 1000, "the service was under load");
    }
}

/// Sets the secret with OpenBao's own command line.
async fn put(bao: &Arc<OpenBao>, number: u64) {
    let bao = Arc::clone(bao);
    let put = move || {
        let (user, password) =
            (format!("user=user-{number}"), format!("password=password-{number}"));
        bao.bao(&["kv", "put", "-mount=secret", "app/db", &user, &password]).unwrap()
    };
    tokio::task::spawn_blocking(put).await.unwrap();
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen and is not asserted")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_by_the_command_line_reach_a_running_service() {
    let bao = match OpenBao::start() {
        Ok(bao) => bao,
        Err(why) => return require("rehearsal-vault", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(bao, folder.path()).await;
    let mut took = Vec::new();
    for _ in 0..ROTATIONS {
        took.push(service.rotate().await);
    }
    // The token of the service is revoked: it logs in again and goes on.
    service.bao(&["lease", "revoke", "-prefix", "auth/approle/login"]).await;
    for _ in 0..3 {
        took.push(service.rotate().await);
    }
    // The store is sealed for longer than the service's token lives, which it cannot renew.
    service.seal(true).await;
    sleep(Duration::from_secs(6)).await;
    service.seal(false).await;
    for _ in 0..3 {
        took.push(service.rotate().await);
    }
    service.end(took).await;
}
