//! The algebra of time, failure and invalidation (P1, P4, P6, P9): random histories against a
//! model that is small enough to be believed.
//!
//! The resolver is the real one, on a clock that is held. Time moves in steps that never end
//! within a jitter, and after each step all background work comes to rest, so that the model says
//! exactly what each read gives, how old it may be, and when the store is asked.
//!
//! The same histories are run each time, so that a failure is of the change at hand;
//! `ONEIRIC_DEEP=1` runs many, and others each time. `PROPTEST_CASES` sets their number.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod model;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::{Answer, Model, NEGATIVE_TTL, Now, Reply, STALE_IF_ERROR, Stored, TTL};
use oneiric_core::{Clock, ErrorKind, Result, SecretRef};
use oneiric_secrets::{Handle, Mode, Resolver, ResolverOptions, Scope, Secret};
use oneiric_testkit::MemoryProvider;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Long enough for a fetch to hit its deadline and for the keeper to have looked at everything.
const REST: Duration = Duration::from_secs(12);
/// Less than the least time that a reader who has an aged value waits.
const FETCH: Duration = Duration::from_millis(6);
const KEYS: [Key; 3] = [Key("one:a"), Key("one:b"), Key("two:a")];

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(&'static str);

#[derive(Debug, Clone)]
enum Step {
    /// In steps of a hundred seconds.
    Advance(u64),
    Put(Key),
    PutOlder(Key),
    PutPlaceholder(Key),
    Remove(Key),
    /// The provider of the key fails, hangs or works again.
    Health(Key, Health),
    Invalidate(Covered, Mode),
    Get(Key),
    GetSet,
    /// A new version and an invalidation while a read is on its way.
    Overtake {
        get: Key,
        put: Key,
        invalidate: Covered,
        mode: Mode,
    },
    /// Drops the handle that there is and takes a new one.
    Handle(Key),
    DropHandle(Key),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Works,
    Hangs,
    Fails(ErrorKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covered {
    All,
    ProviderOf(Key),
    Only(Key),
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        rng_seed: seed(),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_gives_what_the_model_gives(steps in prop::collection::vec(step(), 1..60)) {
        check(&steps);
    }
}

/// A history that once told the two apart: a new handle, after the last one was forgotten.
#[test]
fn a_handle_that_is_taken_again_is_kept_fresh_too() {
    let a = KEYS[0];
    check(&[
        Step::Put(a),
        Step::Handle(a),
        Step::DropHandle(a),
        Step::Handle(a),
        Step::Put(a),
        Step::Advance(600),
    ]);
}

fn deep() -> bool {
    std::env::var_os("ONEIRIC_DEEP").is_some_and(|deep| deep == "1")
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(if deep() { 20_000 } else { 300 })
}

fn seed() -> RngSeed {
    if deep() { RngSeed::Random } else { RngSeed::Fixed(7) }
}

fn check(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new();
        for (at, step) in steps.iter().enumerate() {
            world.take(step).await;
            world.rest().await;
            world.compare_handles(&format!("after step {at}, {step:?}"));
        }
    });
}

/// The real resolver and the model, side by side.
struct World {
    stores: [Arc<MemoryProvider>; 2],
    resolver: Resolver,
    clock: Clock,
    handles: [Option<Handle>; KEYS.len()],
    now: Now,
    model: [Model; KEYS.len()],
    stored: [Option<Stored>; KEYS.len()],
    newest: [u64; KEYS.len()],
    health: [Health; 2],
}

impl World {
    fn new() -> Self {
        let (stores, clock) = ([MemoryProvider::new(), MemoryProvider::new()], Clock::held());
        let mut options = ResolverOptions::default();
        options.ttl = Duration::from_secs(TTL);
        options.stale_if_error = Duration::from_secs(STALE_IF_ERROR);
        options.negative_ttl = Duration::from_secs(NEGATIVE_TTL);
        options.clock = clock.clone();
        let providers = ["one", "two"].map(|id| id.parse().unwrap());
        let providers = providers.into_iter().zip(stores.clone().map(|store| store as _));
        Self {
            resolver: Resolver::new(providers, options),
            stores,
            clock,
            handles: Default::default(),
            now: Now::default(),
            model: Default::default(),
            stored: Default::default(),
            newest: [0; KEYS.len()],
            health: [Health::Works; 2],
        }
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Advance(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.now.time += seconds;
            }
            Step::Put(key) => self.put(key),
            Step::PutOlder(key) => {
                let older = self.newest[key.at()].saturating_sub(1).max(1);
                self.put_version(key, older, false);
            }
            Step::PutPlaceholder(key) => self.put_version(key, self.newest[key.at()] + 1, true),
            Step::Remove(key) => {
                self.store(key).remove(key.name());
                self.stored[key.at()] = None;
            }
            Step::Health(key, health) => {
                self.health[key.provider()] = health;
                self.store(key).hang(health == Health::Hangs);
                self.store(key).fail(match health {
                    Health::Fails(kind) => Some(kind),
                    Health::Works | Health::Hangs => None,
                });
            }
            Step::Invalidate(covered, mode) => self.invalidate(covered, mode),
            Step::Get(key) => self.get(key).await,
            Step::GetSet => self.get_set().await,
            Step::Overtake { get, put, invalidate, mode } => {
                self.overtake(get, put, invalidate, mode).await;
            }
            Step::Handle(key) => {
                self.handles[key.at()] = None;
                self.model[key.at()].handle = None;
                let expected = self.expect(key);
                let handle = self.resolver.handle(&key.reference()).await;
                assert_eq!(handle.is_err(), matches!(expected, Answer::Error(_)), "{expected:?}");
                if let Ok(handle) = handle {
                    self.handles[key.at()] = Some(handle);
                    self.model[key.at()].follow();
                }
            }
            Step::DropHandle(key) => {
                self.handles[key.at()] = None;
                self.model[key.at()].handle = None;
            }
        }
    }

    fn put(&mut self, key: Key) {
        self.put_version(key, self.newest[key.at()] + 1, false);
    }

    fn put_version(&mut self, key: Key, version: u64, placeholder: bool) {
        let value = if placeholder { "REDACTED".into() } else { value_of(key, version) };
        self.store(key).put_version(key.name(), value, version);
        self.stored[key.at()] = Some(Stored { version, placeholder });
        self.newest[key.at()] = self.newest[key.at()].max(version);
    }

    fn invalidate(&mut self, covered: Covered, mode: Mode) {
        self.resolver.invalidate_secrets(&covered.scope(), mode).unwrap();
        self.now.epoch += 1;
        for key in KEYS.into_iter().filter(|key| covered.covers(*key)) {
            self.model[key.at()].invalidate(mode, self.now.epoch);
        }
    }

    async fn get(&mut self, key: Key) {
        let before = self.store(key).fetches();
        let asks = self.model[key.at()].is_due(self.now)
            || self.model[key.at()].at_once(self.now).is_none();
        let expected = self.expect(key);
        let got = self.resolver.get(&key.reference()).await;
        assert_eq!(answer(key, got), expected, "get {key:?}");
        if !asks {
            assert_eq!(self.store(key).fetches(), before, "get {key:?} needs no fetch");
        }
    }

    /// `one:a` and `one:b`, whole or not at all.
    async fn get_set(&mut self) {
        let [a, b, _] = KEYS;
        let waits = [a, b].iter().any(|key| self.model[key.at()].at_once(self.now).is_none());
        let torn = |model: &[Model]| {
            let [one, other] = [&model[a.at()], &model[b.at()]];
            one.is_torn_from(other) || other.is_torn_from(one)
        };
        let mut is_torn = torn(&self.model);
        let mut expected = [a, b].map(|key| self.expect(key));
        if waits {
            is_torn = torn(&self.model);
            // Who waits for the one also gets what came for the other meanwhile.
            for (key, expected) in [a, b].into_iter().zip(&mut expected) {
                *expected = self.model[key.at()].at_once(self.now).unwrap_or(*expected);
            }
        }
        let references = [a, b].map(Key::reference);
        let got = self.resolver.get_set(&references).await;
        let failed = expected.iter().find_map(|answer| match answer {
            Answer::Error(kind) => Some(*kind),
            Answer::Fresh(_) | Answer::Stale(_) => None,
        });
        match failed.or(is_torn.then_some(ErrorKind::Unavailable)) {
            Some(kind) => assert_eq!(got.unwrap_err().kind(), kind, "{expected:?}"),
            None => {
                let set = got.unwrap();
                for (key, expected) in [a, b].into_iter().zip(expected) {
                    let version = set.version(&key.reference()).unwrap();
                    let (Answer::Fresh(expected) | Answer::Stale(expected)) = expected else {
                        unreachable!("errors are looked at above");
                    };
                    assert_eq!(version.id(), expected.to_string(), "{key:?} of the set");
                }
            }
        }
    }

    async fn overtake(&mut self, get: Key, put: Key, covered: Covered, mode: Mode) {
        let at_once = self.model[get.at()].at_once(self.now);
        let flies = at_once.is_none() || self.model[get.at()].is_due(self.now);
        let (began, seen) = (self.now, self.reply(get));
        self.store(get).latency(FETCH);
        let (resolver, reference) = (self.resolver.clone(), get.reference());
        let reader = tokio::spawn(async move { resolver.get(&reference).await });
        tokio::time::sleep(FETCH / 2).await;
        self.put(put);
        self.invalidate(covered, mode);
        let mut expected = at_once;
        if flies {
            let landed = if covered.covers(get) {
                self.land_overtaken(get, began)
            } else {
                // An older version is not believed, and the next try sees the new one.
                let lags = seen.is_ok_and(|seen| self.model[get.at()].lags(seen, began));
                let (seen, began) = if lags { (self.reply(get), self.now) } else { (seen, began) };
                self.model[get.at()].land(seen, began)
            };
            expected = expected.or(Some(landed));
        }
        let got = reader.await.unwrap();
        assert_eq!(Some(answer(get, got)), expected, "a get of {get:?} that was overtaken");
        self.store(get).latency(Duration::ZERO);
    }

    /// What an overtaken fetch brings never counts: it flies again, if there is time left.
    fn land_overtaken(&mut self, key: Key, began: Now) -> Answer {
        let now = if self.health[key.provider()] == Health::Hangs { began } else { self.now };
        self.model[key.at()].land(self.reply(key), now)
    }

    /// What a read gives now, with all that it brings about.
    fn expect(&mut self, key: Key) -> Answer {
        let reply = self.reply(key);
        let model = &mut self.model[key.at()];
        match model.at_once(self.now) {
            None => model.land(reply, self.now),
            Some(answer) => {
                if model.is_due(self.now) {
                    model.land(reply, self.now);
                }
                answer
            }
        }
    }

    /// Lets all background work end, in both worlds.
    async fn rest(&mut self) {
        tokio::time::sleep(REST).await;
        for key in KEYS {
            let reply = self.reply(key);
            let model = &mut self.model[key.at()];
            if model.handle.is_some() && model.is_due(self.now) {
                model.land(reply, self.now);
            }
            if model.is_spent(self.now) {
                model.handle = model.handle.map(|_| None);
            }
        }
    }

    fn compare_handles(&self, when: &str) {
        for (key, handle) in KEYS.iter().zip(&self.handles) {
            let shown = handle.as_ref().map(|handle| {
                handle.load().ok().map(|guard| guard.version().id().parse::<u64>().unwrap())
            });
            assert_eq!(shown, self.model[key.at()].handle, "the handle of {key:?} {when}");
        }
    }

    fn reply(&self, key: Key) -> Reply {
        match self.health[key.provider()] {
            Health::Works => self.stored[key.at()].ok_or(ErrorKind::NotFound),
            Health::Hangs => Err(ErrorKind::DeadlineExceeded),
            Health::Fails(kind) => Err(kind),
        }
    }

    fn store(&self, key: Key) -> &MemoryProvider {
        &self.stores[key.provider()]
    }
}

impl Key {
    fn at(self) -> usize {
        KEYS.iter().position(|key| *key == self).unwrap()
    }

    fn provider(self) -> usize {
        usize::from(self.0.starts_with("two"))
    }

    fn name(self) -> &'static str {
        self.0.split_once(':').unwrap().1
    }

    fn reference(self) -> SecretRef {
        self.0.parse().unwrap()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Covered {
    fn covers(self, other: Key) -> bool {
        match self {
            Self::All => true,
            Self::ProviderOf(key) => key.provider() == other.provider(),
            Self::Only(key) => key == other,
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::All => Scope::All,
            Self::ProviderOf(key) => Scope::Provider(key.reference().provider().clone()),
            Self::Only(key) => {
                let reference = key.reference();
                Scope::Keys(reference.provider().clone(), vec![reference.key().clone()])
            }
        }
    }
}

/// A read in the model's words; a value that is not its version's is no answer at all.
fn answer(key: Key, got: Result<Secret>) -> Answer {
    match got {
        Ok(secret) => {
            let version = secret.version().id().parse().unwrap();
            assert_eq!(secret.value().expose_str(), Some(value_of(key, version).as_str()));
            let stale = secret.stale_for().is_some();
            if stale { Answer::Stale(version) } else { Answer::Fresh(version) }
        }
        Err(error) => Answer::Error(error.kind()),
    }
}

fn value_of(key: Key, version: u64) -> String {
    format!("{key:?} in version {version}")
}

fn step() -> impl Strategy<Value = Step> {
    let overtake = (key(), key(), covered(), mode());
    prop_oneof![
        6 => prop::sample::select(vec![100, 200, 300, 500, 600, 1000, 3000])
            .prop_map(Step::Advance),
        5 => key().prop_map(Step::Put),
        2 => key().prop_map(Step::PutOlder),
        2 => key().prop_map(Step::PutPlaceholder),
        1 => key().prop_map(Step::Remove),
        4 => (key(), health()).prop_map(|(key, health)| Step::Health(key, health)),
        4 => (covered(), mode()).prop_map(|(covered, mode)| Step::Invalidate(covered, mode)),
        10 => key().prop_map(Step::Get),
        4 => Just(Step::GetSet),
        3 => overtake.prop_map(|(get, put, invalidate, mode)| {
            Step::Overtake { get, put, invalidate, mode }
        }),
        2 => key().prop_map(Step::Handle),
        1 => key().prop_map(Step::DropHandle),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop::sample::select(&KEYS[..])
}

fn covered() -> impl Strategy<Value = Covered> {
    prop_oneof![
        Just(Covered::All),
        key().prop_map(Covered::ProviderOf),
        key().prop_map(Covered::Only),
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Soft, Mode::Hard, Mode::Rollback])
}

fn health() -> impl Strategy<Value = Health> {
    let wait = |seconds| ErrorKind::Throttled { retry_after: Some(Duration::from_secs(seconds)) };
    let kinds = [
        ErrorKind::Denied,
        ErrorKind::Unavailable,
        ErrorKind::NotFound,
        ErrorKind::Throttled { retry_after: None },
        wait(150),
    ];
    prop_oneof![
        3 => Just(Health::Works),
        1 => Just(Health::Hangs),
        5 => prop::sample::select(kinds.to_vec()).prop_map(Health::Fails),
    ]
}
