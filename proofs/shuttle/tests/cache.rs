//! Readers, a set reader, a handle, an invalidator, a watcher and a provider that fails, in random
//! schedules. `ONEIRIC_DEEP=1` tries many more.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Clock, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretRef, SecretWriter, Snapshot, Stamp, Version,
};
use oneiric_proof_shuttle::{Mode, Resolver, ResolverOptions, Scope};
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// What each secret of the store holds is its version, so that values can be judged.
#[derive(Debug)]
struct Store {
    descriptor: Descriptor,
    current: Mutex<u64>,
    /// One fetch in so many fails.
    fails: Option<u32>,
    fetches: AtomicU64,
}

impl Store {
    fn new(fails: Option<u32>, snapshots: bool) -> Arc<Self> {
        let capabilities = Capabilities { snapshots, ..Capabilities::default() };
        Arc::new(Self {
            descriptor: Descriptor::new("proof", "proof:", capabilities),
            current: Mutex::new(1),
            fails,
            fetches: AtomicU64::new(0),
        })
    }

    /// All secrets change at one moment.
    fn put(&self, version: u64) {
        *self.current.lock().unwrap() = version;
    }
}

#[async_trait]
impl SecretProvider for Store {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.fetch_many(std::slice::from_ref(request)).await.remove(0)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let version = *self.current.lock().unwrap();
        // The answer is on its way.
        for _ in 0..thread_rng().gen_range(0..3) {
            yield_now().await;
        }
        let fails = self.fails.is_some_and(|of| thread_rng().gen_range(0..of) == 0);
        let answer = |_: &FetchRequest| match fails {
            true => Err(Error::new(ErrorKind::Unavailable, "the store is away")),
            false => {
                let value = version.to_string();
                let snapshot = self.descriptor.capabilities.snapshots;
                let snapshot = snapshot.then(|| Snapshot::from(value.clone()));
                let mut fetched = Fetched::new(value.into(), Version::numbered(version));
                fetched.snapshot = snapshot;
                Ok(fetched)
            }
        };
        requests.iter().map(answer).collect()
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let none = |_| Err(Error::new(ErrorKind::Unsupported, "there are no stamps"));
        keys.iter().map(none).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        None
    }
}

struct Rig {
    store: Arc<Store>,
    resolver: Resolver,
    clock: Clock,
    /// Nothing older than this may be taken for fresh by a read that begins now.
    told: AtomicU64,
    /// Nothing older than this may be shown by anybody.
    purged: AtomicU64,
}

impl Rig {
    fn new(fails: Option<u32>, snapshots: bool) -> Arc<Self> {
        let (store, clock) = (Store::new(fails, snapshots), Clock::held());
        let mut options = ResolverOptions::default();
        options.clock = clock.clone();
        options.seed = Some(1);
        let providers = [("p".parse().unwrap(), Arc::clone(&store) as _)];
        let resolver = Resolver::new(providers, options);
        Arc::new(Self {
            store,
            resolver,
            clock,
            told: AtomicU64::new(1),
            purged: AtomicU64::new(0),
        })
    }

    /// The version that a read gives, if it is fresh.
    async fn fresh(&self, reference: &SecretRef) -> Option<u64> {
        let told = self.told.load(Ordering::SeqCst);
        let secret = self.resolver.get(reference).await.ok()?;
        let version = number(secret.value().expose_str()?);
        assert_eq!(secret.version().id(), version.to_string());
        if secret.stale_for().is_some() {
            return None;
        }
        assert!(version >= told, "{version} is fresh although {told} was told of before");
        Some(version)
    }

    fn change(&self, version: u64, mode: Mode) {
        self.store.put(version);
        self.resolver.invalidate_secrets(&keys(&["user", "password"]), mode).unwrap();
        self.told.fetch_max(version, Ordering::SeqCst);
        if mode == Mode::Hard {
            self.purged.fetch_max(version, Ordering::SeqCst);
        }
    }

    async fn end(&self) {
        assert!(self.resolver.shutdown(Instant::now() + Duration::from_secs(60)).await);
    }
}

fn reference(key: &str) -> SecretRef {
    format!("p:{key}").parse().unwrap()
}

fn keys(keys: &[&str]) -> Scope {
    Scope::Keys("p".parse().unwrap(), keys.iter().map(|key| key.parse().unwrap()).collect())
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// P1, P3, P5, P8 and handles, all at once.
#[test]
fn no_schedule_breaks_a_promise() {
    check(2_000, || {
        block_on(async {
            let rig = Rig::new(Some(4), true);
            let handle = loop {
                if let Ok(handle) = rig.resolver.handle(&reference("user")).await {
                    break handle;
                }
                rig.clock.advance(Duration::from_secs(60));
            };
            let reader = |key: &'static str| {
                let rig = Arc::clone(&rig);
                spawn(async move {
                    let (reference, mut last) = (reference(key), 0);
                    for _ in 0..3 {
                        if let Some(version) = rig.fresh(&reference).await {
                            assert!(version >= last, "{version} came after {last}");
                            last = version;
                        }
                    }
                })
            };
            let readers = [reader("user"), reader("password")];
            let sets = {
                let rig = Arc::clone(&rig);
                spawn(async move {
                    let pair = [reference("user"), reference("password")];
                    for _ in 0..3 {
                        if let Ok(set) = rig.resolver.get_set(&pair).await {
                            let part = |at: usize| set.get(&pair[at]).unwrap().expose();
                            assert_eq!(part(0), part(1), "a torn set");
                        }
                    }
                })
            };
            let watched = Arc::clone(&rig);
            let follower = spawn(async move {
                let mut last = 0;
                for _ in 0..6 {
                    let purged = watched.purged.load(Ordering::SeqCst);
                    if let Ok(shown) = handle.load() {
                        let version = number(shown.expose_str().unwrap());
                        assert!(version >= last, "a handle went from {last} to {version}");
                        assert!(version >= purged, "a handle shows {version}, which is purged");
                        last = version;
                    }
                    yield_now().await;
                }
                handle
            });
            let invalidator = {
                let rig = Arc::clone(&rig);
                spawn(async move {
                    rig.change(2, Mode::Soft);
                    yield_now().await;
                    rig.change(3, Mode::Hard);
                })
            };
            // Hears of versions late, twice and in the wrong order.
            let watcher = {
                let rig = Arc::clone(&rig);
                spawn(async move {
                    let (id, key) = ("p".parse().unwrap(), "user".parse().unwrap());
                    for version in [1, 2, 1] {
                        let version = Version::numbered(version);
                        rig.resolver.expect_version(&id, &key, version).unwrap();
                        rig.clock.advance(Duration::from_secs(500));
                        yield_now().await;
                    }
                })
            };
            for reader in readers {
                reader.await.unwrap();
            }
            sets.await.unwrap();
            invalidator.await.unwrap();
            watcher.await.unwrap();
            drop(follower.await.unwrap());
            // Whatever happened, the newest can be had once the store answers.
            loop {
                if let Some(version) = rig.fresh(&reference("user")).await {
                    assert_eq!(version, 3);
                    break;
                }
                rig.clock.advance(Duration::from_secs(60));
            }
            rig.end().await;
        });
    });
}

/// P5, R11: a pair that is rotated and invalidated key by key.
#[test]
fn a_rotated_pair_is_never_torn() {
    check(5_000, || {
        block_on(async {
            let rig = Rig::new(None, false);
            let pair = [reference("user"), reference("password")];
            rig.resolver.get_set(&pair).await.unwrap();
            let readers = [0, 1].map(|_| {
                let (rig, pair) = (Arc::clone(&rig), pair.clone());
                spawn(async move {
                    let set = rig.resolver.get_set(&pair).await.unwrap();
                    let part = |at: usize| set.get(&pair[at]).unwrap().expose();
                    assert_eq!(part(0), part(1), "a torn set");
                })
            });
            rig.change(2, Mode::Soft);
            for reader in readers {
                reader.await.unwrap();
            }
            rig.end().await;
        });
    });
}

/// P2: any number of readers of a cold secret, one fetch.
#[test]
fn readers_of_a_cold_secret_cause_one_fetch() {
    check(5_000, || {
        block_on(async {
            let rig = Rig::new(None, false);
            let readers = [0, 1, 2].map(|_| {
                let rig = Arc::clone(&rig);
                spawn(async move { rig.fresh(&reference("user")).await })
            });
            for reader in readers {
                assert_eq!(reader.await.unwrap(), Some(1));
            }
            assert_eq!(rig.store.fetches.load(Ordering::SeqCst), 1);
            rig.end().await;
        });
    });
}

/// Handles are taken and dropped while the keeper looks at them: nobody waits for ever.
#[test]
fn handles_and_the_keeper_do_not_block_each_other() {
    check(2_000, || {
        block_on(async {
            let rig = Rig::new(None, false);
            drop(rig.resolver.handle(&reference("user")).await.unwrap());
            let takers = ["user", "password"].map(|key| {
                let rig = Arc::clone(&rig);
                spawn(async move {
                    for _ in 0..2 {
                        drop(rig.resolver.handle(&reference(key)).await.unwrap());
                    }
                })
            });
            rig.change(2, Mode::Soft);
            for taker in takers {
                taker.await.unwrap();
            }
            rig.end().await;
        });
    });
}

/// Half of the schedules at random, half with few preemptions at the places where they hurt.
fn check(schedules: usize, model: impl Fn() + Send + Sync + Clone + 'static) {
    let deep = std::env::var_os("ONEIRIC_DEEP").is_some_and(|deep| deep == "1");
    let schedules = if deep { schedules * 50 } else { schedules } / 2;
    let mut config = shuttle::Config::new();
    config.stack_size = 0x4_0000;
    shuttle::Runner::new(RandomScheduler::new(schedules), config.clone()).run(model.clone());
    shuttle::Runner::new(PctScheduler::new(3, schedules), config).run(model);
}
