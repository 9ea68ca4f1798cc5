//! The leader of a cluster of three is killed while a service reads its secrets there: no read of
//! the service fails, and what is rotated after that is noticed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_core::{FetchRequest, Managed, ManagedHook, SecretProvider, SecretRef, SecretSet};
use oneiric_provider_vault::{AppRole, Config, VaultProvider};
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::live::{OpenBaoCluster, require};
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SWEEP: Duration = Duration::from_millis(300);
/// So short that reads go to the store all the time.
const TTL: Duration = Duration::from_millis(100);
const ARRIVAL: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;
const POLICY: &str = r#"path "secret/*" { capabilities = ["read"] }"#;
const SECRET: &str = "vault:app/db#number";

/// What one kind of reads came to.
#[derive(Default)]
struct Reads {
    done: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
    slowest_us: AtomicU64,
}

impl Reads {
    fn count(&self, began: Instant, outcome: Result<bool, String>) {
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(took, Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(stale) => _ = self.stale.fetch_add(u64::from(stale), Ordering::Relaxed),
            Err(why) => {
                if self.failed.fetch_add(1, Ordering::Relaxed) < 5 {
                    say(&format!("a read failed: {why}"));
                }
            }
        }
    }

    fn row(&self) -> String {
        format!(
            "{} reads, {} failed, {} stale, slowest {:.0} ms",
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
            self.stale.load(Ordering::Relaxed),
            self.slowest_us.load(Ordering::Relaxed) as f64 / 1e3,
        )
    }
}

/// A service that logs in by AppRole, and who reads in it.
struct Service {
    managed: Managed<u64>,
    resolver: Resolver,
    reads: Arc<Reads>,
    /// Those that go to the store each time, past the cache.
    direct: Arc<Reads>,
    readers: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn put(cluster: &OpenBaoCluster, node: usize, number: u64) -> Result<(), String> {
    let entry = format!("number={number}");
    cluster.bao(node, &["kv", "put", "-mount=secret", "app/db", &entry]).map(drop)
}

/// Policy, logins and the first secret.
fn prepare(cluster: &OpenBaoCluster, folder: &Path) {
    let run = |arguments: &[&str]| cluster.bao(0, arguments).unwrap();
    let policy = folder.join("policy.hcl");
    std::fs::write(&policy, POLICY).unwrap();
    run(&["policy", "write", "service", policy.to_str().unwrap()]);
    run(&["auth", "enable", "approle"]);
    put(cluster, 0, 1).unwrap();
}

/// The settings of a service that has a role of its own, whose tokens live so long.
fn configure(cluster: &OpenBaoCluster, folder: &Path, role: &str, life: &[&str]) -> Config {
    let run = |arguments: &[&str]| cluster.bao(0, arguments).unwrap();
    let path = format!("auth/approle/role/{role}");
    run(&[&["write", &path, "token_policies=service"], life].concat());
    let role_id = run(&["read", "-field=role_id", &format!("{path}/role-id")]);
    let secret_id = run(&["write", "-f", "-field=secret_id", &format!("{path}/secret-id")]);
    let file = folder.join(role);
    std::fs::write(&file, secret_id).unwrap();
    let mut config = Config::new("");
    config.addresses = cluster.addresses();
    config.auth.approle = Some(AppRole::new(role_id, file));
    config
}

impl Service {
    async fn start(provider: Arc<VaultProvider>) -> Self {
        let mut options = ResolverOptions::default();
        options.ttl = TTL;
        let providers = [("vault".parse().unwrap(), Arc::clone(&provider) as _)];
        let resolver = Resolver::new(providers, options);
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = SWEEP;
        let (runtime, task) = options.build(resolver.clone()).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));
        let reference: SecretRef = SECRET.parse().unwrap();
        let of = reference.clone();
        let hook =
            ManagedHook::new("client".parse().unwrap(), [reference], move |set: SecretSet| {
                let number = set.get(&of).unwrap().expose_str().unwrap().parse::<u64>().unwrap();
                async move { Ok(number) }
            });
        let managed = runtime.manage(hook).await.unwrap();

        let (reads, direct) = <(Arc<Reads>, Arc<Reads>)>::default();
        let done = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        for _ in 0..4 {
            let (reads, resolver, done) = (Arc::clone(&reads), resolver.clone(), Arc::clone(&done));
            readers.push(tokio::spawn(async move {
                let reference: SecretRef = SECRET.parse().unwrap();
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = resolver.get(&reference).await;
                    let answer = answer.map(|secret| secret.stale_for().is_some());
                    reads.count(began, answer.map_err(|error| error.chain()));
                    sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        let (count, ended) = (Arc::clone(&direct), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let request = FetchRequest::new("app/db".parse().unwrap());
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = provider.fetch(&request).await;
                count.count(began, answer.map(|_| false).map_err(|error| error.chain()));
                sleep(Duration::from_millis(2)).await;
            }
        }));
        Self { managed, resolver, reads, direct, readers, done, stop, running }
    }

    /// Waits until the service uses this credential.
    async fn uses(&self, number: u64) {
        let began = Instant::now();
        while *self.managed.load() != number {
            assert!(began.elapsed() < ARRIVAL, "credential {number} was not noticed");
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self, name: &str) {
        self.done.store(true, Ordering::Relaxed);
        for reader in self.readers {
            reader.await.unwrap();
        }
        self.stop.cancel();
        self.running.await.unwrap();
        assert!(self.resolver.release(Instant::now() + Duration::from_secs(5)).await);
        say(&format!("raft, {name}: in the service {}", self.reads.row()));
        say(&format!("raft, {name}: past the cache {}", self.direct.row()));
        assert_eq!(self.reads.failed.load(Ordering::Relaxed), 0);
        assert!(self.reads.done.load(Ordering::Relaxed) > 1000, "the service was under load");
    }
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_while_the_leader_is_killed() {
    let mut cluster = match tokio::task::spawn_blocking(OpenBaoCluster::start).await.unwrap() {
        Ok(cluster) => cluster,
        Err(why) => return require("rehearsal-raft", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let configs = block_in_place(|| {
        prepare(&cluster, folder.path());
        let long = ["token_ttl=1h"];
        // These end, or must be renewed, while there is no leader.
        let short = ["token_ttl=3s", "token_max_ttl=8s"];
        [("tokens of an hour", &long[..]), ("tokens of 3 s", &short[..])].map(|(name, life)| {
            let role = format!("service-{}", life.len());
            (name, configure(&cluster, folder.path(), &role, life))
        })
    });
    let mut services = Vec::new();
    for (name, config) in configs {
        services.push((name, Service::start(Arc::new(config.build().unwrap())).await));
    }
    let mut number = 1;
    for round in 1..=ROUNDS {
        // Everybody reads from a cluster that is well.
        sleep(Duration::from_secs(1)).await;
        let leader = cluster.leader().unwrap();
        let killed = Instant::now();
        block_in_place(|| cluster.kill(leader));
        let next = loop {
            if let Some(next) = block_in_place(|| cluster.leader()) {
                break next;
            }
            assert!(killed.elapsed() < ARRIVAL, "no other node leads");
            sleep(Duration::from_millis(10)).await;
        };
        let elected = killed.elapsed();
        number += 1;
        while let Err(why) = block_in_place(|| put(&cluster, next, number)) {
            assert!(killed.elapsed() < ARRIVAL, "nothing can be written: {why}");
        }
        let written = Instant::now();
        for (_, service) in &services {
            service.uses(number).await;
        }
        let noticed = written.elapsed();
        say(&format!(
            "raft: round {round}, node {leader} killed, node {next} leads after {:.2} s, a new \
             credential is in use by both services {:.0} ms after it was written",
            elected.as_secs_f64(),
            noticed.as_secs_f64() * 1e3,
        ));
        block_in_place(|| cluster.restart(leader)).unwrap();
    }
    for (name, service) in services {
        service.end(name).await;
    }
}
