//! Adapters that know a secret by an alias: how a change of any who may answer for it reaches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oneiric_core::{Clock, ErrorKind, InstanceId, Managed, ManagedHook, ProviderId, SecretRef};
use oneiric_runtime::report::{AdapterOutcome, InstanceReport, Outcome};
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Two stores, and an alias `db` for the secret `db` of `aws` and, as its fallback, of `vault`.
struct Two {
    aws: Arc<MemoryProvider>,
    vault: Arc<MemoryProvider>,
    runtime: Runtime,
    prepares: Arc<AtomicUsize>,
    clock: Clock,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Two {
    fn start(watch_interval: Duration) -> Self {
        let (aws, vault) = (MemoryProvider::new(), MemoryProvider::new());
        let clock = Clock::held();
        let mut options = ResolverOptions::default();
        options.clock = clock.clone();
        let candidates = ["aws:db", "vault:db"].map(|of| of.parse().unwrap());
        options.aliases = [("db".parse().unwrap(), candidates.to_vec().into())].into();
        let providers = [
            ("aws".parse().unwrap(), Arc::clone(&aws) as _),
            ("vault".parse().unwrap(), Arc::clone(&vault) as _),
        ];
        let resolver = Resolver::new(providers, options);
        let mut options = RuntimeOptions::new("test".parse::<InstanceId>().unwrap());
        options.watch_interval = watch_interval;
        options.drain_timeout = Duration::from_secs(2);
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        aws.put("db", "one of aws");
        vault.put("db", "one of vault");
        Self { aws, vault, runtime, prepares: Arc::default(), clock, stop, task }
    }

    async fn adapter(&self, id: &str, secret: &str) -> oneiric_core::Result<Managed<String>> {
        let secrets: [SecretRef; 1] = [secret.parse().unwrap()];
        let prepares = Arc::clone(&self.prepares);
        let hook = ManagedHook::new(id.parse().unwrap(), secrets, move |secrets| {
            prepares.fetch_add(1, Ordering::SeqCst);
            async move {
                Ok(secrets.values().filter_map(|value| value.expose_str()).collect::<String>())
            }
        });
        self.runtime.manage(hook).await
    }

    async fn rotate(&self, secret: &str, mode: Mode) -> InstanceReport {
        let scope = match secret.parse::<SecretRef>().unwrap() {
            alias if alias.alias().is_some() => Scope::Secrets(vec![alias]),
            plain => Scope::Keys(plain.provider().clone(), vec![plain.key().clone()]),
        };
        let mut request = RotateRequest::new(scope);
        request.mode = mode;
        self.runtime.rotate(request).await
    }

    async fn served_from(&self) -> Option<String> {
        let status = self.runtime.status().await.unwrap();
        status.adapters[0].versions[0].fallback.as_ref().map(ToString::to_string)
    }

    /// Lets time pass, for those who measure ages as for those who wait.
    async fn pass(&self, time: Duration) {
        let step = Duration::from_secs(1);
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.clock.advance(step);
            sleep(step).await;
        }
    }

    async fn becomes(&self, pool: &Managed<String>, value: &str) {
        for _ in 0..120 {
            if pool.load().as_str() == value {
                return;
            }
            self.pass(Duration::from_secs(1)).await;
        }
        panic!("{} is served, not {value}", pool.load().as_str());
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_rotated_by_its_name_and_by_that_of_each_candidate() {
    let two = Two::start(Duration::ZERO);
    let pool = two.adapter("pool", "db").await.unwrap();
    let plain = two.adapter("plain", "vault:db").await.unwrap();
    two.aws.put("db", "two of aws");
    two.vault.put("db", "two of vault");
    let report = two.rotate("db", Mode::Soft).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!((pool.load().as_str(), plain.load().as_str()), ("two of aws", "two of vault"));
    let key = report.keys.iter().find(|key| key.alias.is_some()).unwrap();
    assert_eq!((key.alias.as_deref(), key.key.as_str()), (Some("db"), "aws:db"));
    assert_eq!((key.from_version.as_deref(), key.to_version.as_deref()), (Some("1"), Some("2")));
    assert_eq!(key.fallback, None);

    two.aws.put("db", "three of aws");
    let report = two.rotate("aws:db", Mode::Soft).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!(pool.load().as_str(), "three of aws");

    let report = two.rotate("vault:db", Mode::Soft).await;
    let of_pool = report.adapters.iter().find(|of| of.adapter.as_str() == "pool").unwrap();
    assert_eq!(of_pool.outcome, AdapterOutcome::Unchanged, "it is asked, and serves its first");
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_a_fallback_answers_is_done_and_says_so() {
    let two = Two::start(Duration::ZERO);
    let pool = two.adapter("pool", "db").await.unwrap();
    two.aws.fail(Some(ErrorKind::Unavailable));
    let report = two.rotate("db", Mode::Soft).await;
    assert_eq!(report.outcome, Outcome::Failed, "the last good value of aws is better: {report:?}");
    assert_eq!(pool.load().as_str(), "one of aws");
    let report = two.rotate("db", Mode::Hard).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    let key = &report.keys[0];
    assert_eq!((key.alias.as_deref(), key.key.as_str()), (Some("db"), "vault:db"));
    assert_eq!(key.fallback.as_ref().map(ProviderId::as_str), Some("vault"));
    assert_eq!(pool.load().as_str(), "one of vault");
    assert_eq!(two.served_from().await.as_deref(), Some("vault"));
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_alias_that_nobody_has_defined_is_refused_by_name() {
    let two = Two::start(Duration::ZERO);
    let error = two.adapter("pool", "dbb").await.unwrap_err();
    assert_eq!(
        error.chain(),
        "adapter `pool` needs `dbb`: there is no alias `dbb`; did you mean `db`?"
    );
    two.adapter("pool", "db").await.unwrap();
    let report = two.rotate("dbb", Mode::Soft).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.error.unwrap().contains("did you mean `db`?"));
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_began_with_a_fallback_moves_to_the_first_when_that_is_back() {
    let two = Two::start(Duration::from_secs(30));
    two.aws.fail(Some(ErrorKind::Unavailable));
    let pool = two.adapter("pool", "db").await.unwrap();
    assert_eq!(pool.load().as_str(), "one of vault");
    assert_eq!(two.served_from().await.as_deref(), Some("vault"));
    // What it serves changes where it is from.
    two.vault.put("db", "two of vault");
    two.becomes(&pool, "two of vault").await;
    two.aws.fail(None);
    two.becomes(&pool, "one of aws").await;
    assert_eq!(two.served_from().await, None);
    // From now on the fallback may change as it likes.
    let prepares = two.prepares.load(Ordering::SeqCst);
    two.vault.put("db", "three of vault");
    two.pass(Duration::from_secs(300)).await;
    assert_eq!(two.prepares.load(Ordering::SeqCst), prepares);
    two.aws.put("db", "two of aws");
    two.becomes(&pool, "two of aws").await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_goes_back_to_the_version_that_the_first_had_before_the_outage() {
    let two = Two::start(Duration::from_secs(30));
    let pool = two.adapter("pool", "db").await.unwrap();
    two.aws.fail(Some(ErrorKind::Unavailable));
    let report = two.rotate("db", Mode::Hard).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!(pool.load().as_str(), "one of vault");
    two.aws.fail(None);
    two.becomes(&pool, "one of aws").await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l5_an_adapter_with_a_valid_secret_does_not_move_to_a_fallback() {
    let two = Two::start(Duration::from_secs(30));
    let pool = two.adapter("pool", "db").await.unwrap();
    two.aws.fail(Some(ErrorKind::Unavailable));
    two.pass(Duration::from_secs(2 * 3600)).await;
    assert_eq!(pool.load().as_str(), "one of aws", "also when its stale time is over");
    assert_eq!(two.prepares.load(Ordering::SeqCst), 1);
    two.stop().await;
}
