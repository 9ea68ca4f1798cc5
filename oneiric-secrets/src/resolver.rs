//! The resolver: the one door through which a process gets secrets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use oneiric_core::telemetry::{event, span};
use oneiric_core::{
    Error, ErrorKind, Moment, ProviderId, Result, SecretKey, SecretProvider, SecretRef, SecretSet,
    Version,
};
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::SecretValueCache;
use crate::cell::{Cell, Expected, Flight, Source};
use crate::entry::{CachedSecret, Entry, EntryGuard, Name, Secret, Times, shutting_down};
use crate::epoch::{Bounds, Epochs};
use crate::event::SecretEvent;
use crate::handle::{Follower, Handle};
use crate::options::ResolverOptions;
use crate::tally::Tally;
use crate::ticker::Ticker;

/// How long a read waits for a refresh while it has a value that has only just outlived its time.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a set is read again before it is given up as inconsistent.
const SET_TRIES: usize = 64;
/// How often what handles follow is looked at.
const KEEPER_INTERVAL: Duration = Duration::from_secs(1);
/// How long after an invalidation it leaves the reading to whoever invalidated.
const KEEPER_COURTESY: Duration = Duration::from_millis(5);
/// How many events a slow listener may be behind before it misses some.
const EVENTS: usize = 1024;

/// The one door through which a process gets secrets. Clones are cheap and share everything.
///
/// ```
/// # use oneiric_secrets::{Resolver, ResolverOptions};
/// # use oneiric_testkit::MemoryProvider;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> oneiric_core::Result<()> {
/// # let provider = MemoryProvider::new();
/// # provider.put("db-password", "s3cr3t");
/// let providers = [("files".parse().unwrap(), provider as _)];
/// let resolver = Resolver::new(providers, ResolverOptions::default());
/// let secret = resolver.get(&"files:db-password".parse().unwrap()).await?;
/// assert_eq!(secret.value().expose(), b"s3cr3t");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

/// What is to be invalidated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Everything of one provider.
    Provider(ProviderId),
    /// These secrets: all versions and fields of each.
    Keys(ProviderId, Vec<SecretKey>),
}

/// How far an invalidation goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// The last good value stays for use while the provider is down.
    #[default]
    Soft,
    /// The value is purged, and wiped with its last user: for a secret that has leaked.
    Hard,
    /// Soft, and what is read from now on may be an older version: for a roll-back.
    Rollback,
}

impl Mode {
    /// A stable token for reports and metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::Rollback => "rollback",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells the cells of this resolver from those of others, in what references remember.
    home: u64,
    ticker: Ticker,
    start: Moment,
    pub(crate) cache: SecretValueCache,
    pub(crate) epochs: Epochs,
    pub(crate) options: ResolverOptions,
    pub(crate) tally: Tally,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    events: broadcast::Sender<SecretEvent>,
    random: Mutex<fastrand::Rng>,
    keeper: Keeper,
}

/// What the background task that keeps handles fresh works on.
#[derive(Debug, Default)]
struct Keeper {
    followed: Mutex<Vec<Weak<Cell>>>,
    started: OnceLock<()>,
    wake: Arc<Notify>,
}

impl Resolver {
    /// A resolver over these providers. Nothing is read and nothing is spawned yet; its other
    /// methods are called within a tokio runtime.
    pub fn new(
        providers: impl IntoIterator<Item = (ProviderId, Arc<dyn SecretProvider>)>,
        options: ResolverOptions,
    ) -> Self {
        static HOMES: AtomicU64 = AtomicU64::new(0);
        let home = HOMES.fetch_add(1, Ordering::Relaxed);
        let source = |(id, provider): (ProviderId, _)| {
            (id.clone(), Arc::new(Source { home, id, provider, bounds: Bounds::default() }))
        };
        let sources: BTreeMap<_, _> = providers.into_iter().map(source).collect();
        let mut random = options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let ticker = Ticker::new(&options.clock);
        let shared = Shared {
            home,
            start: ticker.now(),
            ticker,
            cache: SecretValueCache::new(sources, options.capacity, random.fork()),
            epochs: Epochs::default(),
            options,
            tally: Tally::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: broadcast::Sender::new(EVENTS),
            random: Mutex::new(random),
            keeper: Keeper::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The current value of a secret: from the cache while it is fresh, else from the provider.
    ///
    /// Dropping the future leaves the fetch running; what it brings is cached all the same.
    ///
    /// # Errors
    /// Those of the provider. While it cannot answer (`Throttled`, `Unavailable`,
    /// `DeadlineExceeded`), or answers with a value that is refused, the last good value is given
    /// for up to `stale_if_error`, and says so.
    pub async fn get(&self, reference: &SecretRef) -> Result<Secret> {
        match self.try_get(reference) {
            Some(secret) => Ok(secret),
            None => self.shared.read(reference).await?.narrow(reference),
        }
    }

    /// The value of a secret if the cache has a fresh one, without waiting for anything: no lock,
    /// no allocation, no call of the system, no copy. A reference remembers where its secret was
    /// found, so one that is kept is faster than one that is made for each read.
    ///
    /// Time is as of the last tick of a clock thread, at most about 20 ms old, however busy the
    /// async runtime is.
    pub fn try_get(&self, reference: &SecretRef) -> Option<Secret> {
        let entry = self.shared.hit(reference)?;
        Secret::new(entry, reference, None).ok()
    }

    /// Several secrets, each with its own answer, in the order of the references. What is not in
    /// the cache is read in one call per provider.
    pub async fn get_many(&self, references: &[SecretRef]) -> Vec<Result<Secret>> {
        let answers = self.shared.read_all(references).await;
        let narrow = |(reference, answer): (_, Result<Answer>)| answer?.narrow(reference);
        references.iter().zip(answers).map(narrow).collect()
    }

    /// Several secrets of one consistent moment: a rotation of several of them, or a store that
    /// changes as a whole, is seen completely or not at all.
    ///
    /// # Errors
    /// Those of the provider for any of them, and `Unavailable` if no consistent set could be
    /// had, for instance because a part of it was rotated and another part cannot be read.
    pub async fn get_set(&self, references: &[SecretRef]) -> Result<SecretSet> {
        for _ in 0..SET_TRIES {
            let answers = self.shared.read_all(references).await;
            let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
            match self.shared.consistency(&answers) {
                Consistency::Whole => {
                    let parts = references.iter().zip(&answers).map(|(reference, answer)| {
                        let value = answer.entry.part(reference.field(), &Name(reference))?;
                        Ok((reference.clone(), value, answer.entry.version.clone()))
                    });
                    return Ok(SecretSet::new(parts.collect::<Result<Vec<_>>>()?));
                }
                // Somebody invalidated in between: read again.
                Consistency::Moved => {}
                // The cache holds two moments of one store: read these anew, together.
                Consistency::Mixed(cells) => {
                    let epoch = self.shared.epochs.open();
                    cells.iter().for_each(|cell| cell.bounds.invalidate(epoch));
                }
                Consistency::Torn(secret) => {
                    let message = format!(
                        "`{secret}` cannot be read anew, and its last good value is older than \
                         the rest of its set"
                    );
                    return Err(Error::new(ErrorKind::Unavailable, message));
                }
            }
        }
        let names: Vec<_> = references.iter().map(ToString::to_string).collect();
        let message = format!("no consistent set of {} could be read", names.join(", "));
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Resolves a reference once and follows it from then on.
    ///
    /// # Errors
    /// As [`get`](Self::get): a handle exists only once there is a value.
    pub async fn handle(&self, reference: &SecretRef) -> Result<Handle> {
        let shared = &self.shared;
        loop {
            shared.read(reference).await?;
            let cell = shared.cache.cell(reference)?;
            let mut state = cell.state();
            let known = state.followers.iter().filter_map(Weak::upgrade);
            let known = known.into_iter().find(|follower| follower.reference == *reference);
            let follower = match (known, cell.entry()) {
                (Some(follower), _) => follower,
                (None, Some(entry)) => Follower::new(reference.clone(), &entry)?,
                (None, None) => continue,
            };
            if state.followers.is_empty() {
                shared.keeper.follow(&cell);
            }
            state.followers.push(Arc::downgrade(&follower));
            drop(state);
            shared.start_keeper();
            return Ok(Handle::new(follower, cell));
        }
    }

    /// Makes sure that nothing fetched before now is served as fresh: when this returns, every
    /// read that returns from now on gets a value whose fetch began after it, or one that is
    /// marked as stale. Emits `secrets-cache-invalidated`.
    ///
    /// # Errors
    /// `Invalid` if there is no such provider; then nothing has changed.
    pub fn invalidate_secrets(&self, scope: &Scope, mode: Mode) -> Result<()> {
        let shared = &self.shared;
        let span = tracing::info_span!(
            target: "oneiric",
            "secrets.invalidate",
            otel.name = span::INVALIDATE,
            mode = mode.token()
        );
        let _entered = span.enter();
        let all: Vec<_>;
        let (sources, keys, name) = match scope {
            Scope::All => {
                all = shared.cache.sources.values().collect();
                (all, None, "all")
            }
            Scope::Provider(id) => (vec![shared.cache.source(id)?], None, "provider"),
            Scope::Keys(id, keys) => (vec![shared.cache.source(id)?], Some(keys), "keys"),
        };
        let cells: Vec<Arc<Cell>> = match keys {
            Some(keys) => {
                let id = &sources[0].id;
                keys.iter().flat_map(|key| shared.cache.cells_of(id, key)).collect()
            }
            None => Vec::new(),
        };
        let epoch = shared.epochs.open();
        let apply = |bounds: &Bounds| match mode {
            Mode::Soft => bounds.invalidate(epoch),
            Mode::Hard => bounds.purge(epoch),
            Mode::Rollback => {
                bounds.allow_older(epoch);
                bounds.invalidate(epoch);
            }
        };
        match keys {
            Some(_) => cells.iter().for_each(|cell| apply(&cell.bounds)),
            None => sources.iter().for_each(|source| apply(&source.bounds)),
        }
        if mode == Mode::Hard {
            match keys {
                Some(_) => cells.iter().for_each(|cell| cell.wipe()),
                None => shared.sweep(sources.iter().map(|source| source.id.clone()).collect()),
            }
        }
        shared.tally.invalidated(mode.token(), name);
        for source in sources {
            tracing::info!(
                target: "oneiric",
                event = event::CACHE_INVALIDATED,
                provider = %source.id,
                scope = name,
                mode = mode.token(),
                "secrets are invalidated"
            );
            shared.tell(SecretEvent::Invalidated {
                provider: source.id.clone(),
                keys: keys.cloned(),
                mode,
            });
        }
        shared.keeper.wake.notify_one();
        Ok(())
    }

    /// Notes that this version exists: until it, or a newer one, was read, an older answer of the
    /// provider is not believed. For events that name a version.
    ///
    /// # Errors
    /// If there is no such provider.
    pub fn expect_version(
        &self,
        provider: &ProviderId,
        key: &SecretKey,
        version: Version,
    ) -> Result<()> {
        let cell = self.shared.cache.cell(&SecretRef::new(provider.clone(), key.clone()))?;
        let held = cell.entry();
        let mut state = cell.state();
        let expected = state.expected.as_ref().map(|expected| &expected.version);
        let mut known = expected.into_iter().chain(held.iter().map(|held| &held.version));
        if !known.any(|known| version.is_older_than(known)) {
            state.expected = Some(Expected { version, epoch: self.shared.epochs.now() });
        }
        Ok(())
    }

    /// Listens to what happens from now on. Who is slower than 1,024 events misses some and is
    /// told so.
    pub fn subscribe(&self) -> broadcast::Receiver<SecretEvent> {
        self.shared.events.subscribe()
    }

    /// The providers, by name.
    pub fn providers(&self) -> impl Iterator<Item = (&ProviderId, &Arc<dyn SecretProvider>)> {
        self.shared.cache.sources.iter().map(|(id, source)| (id, &source.provider))
    }

    /// The unpinned secrets of a provider that the cache holds, without their values.
    pub fn cached(&self, provider: &ProviderId) -> Vec<CachedSecret> {
        let cells = self.shared.cache.cells_of_provider(provider);
        let held = |cell: Arc<Cell>| {
            let entry = cell.entry().filter(|_| cell.pin.is_none())?;
            let (version, stamp) = (entry.version.clone(), entry.stamp.clone());
            Some(CachedSecret { key: cell.key.clone(), version, stamp })
        };
        cells.into_iter().filter_map(held).collect()
    }

    /// The version of a secret that the cache holds, fresh or not, without reading it.
    pub fn held_version(&self, reference: &SecretRef) -> Option<Version> {
        let cell = self.shared.cache.known_cell(reference)?;
        cell.entry().map(|entry| entry.version.clone())
    }

    /// Ends all flights and background work and waits for them, at most until the deadline.
    /// Returns whether everything ended. What is cached can still be read; misses fail.
    pub async fn shutdown(&self, deadline: Instant) -> bool {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        timeout_at(deadline, self.shared.tasks.wait()).await.is_ok()
    }
}

/// What a read found, before it is narrowed to a field.
pub(crate) struct Answer {
    cell: Arc<Cell>,
    entry: Arc<Entry>,
    stale: Option<Duration>,
}

impl Answer {
    fn narrow(self, reference: &SecretRef) -> Result<Secret> {
        Secret::new(EntryGuard::from_inner(Some(self.entry)), reference, self.stale)
    }
}

enum Consistency {
    Whole,
    Moved,
    Mixed(Vec<Arc<Cell>>),
    Torn(String),
}

impl Shared {
    /// The fast path of a read: by way of what the reference remembers, to an entry that needs
    /// nothing done.
    fn hit(&self, reference: &SecretRef) -> Option<EntryGuard> {
        let cell = reference.memo().get::<Cell>().filter(|cell| cell.source.home == self.home)?;
        let now = self.ticker.now();
        let entry = cell.hit(now)?;
        cell.touch(self.second_at(now));
        self.tally.hit();
        Some(entry)
    }

    /// The read flow: cache, else loader, else the last good value.
    async fn read(self: &Arc<Self>, reference: &SecretRef) -> Result<Answer> {
        let cell = self.cache.cell(reference)?;
        if reference.memo().get::<Cell>().is_none() {
            reference.memo().set(Arc::clone(&cell) as _);
        }
        if let Some(entry) = self.fresh(&cell) {
            cell.touch(self.second());
            self.tally.hit();
            return Ok(Answer { cell, entry, stale: None });
        }
        self.tally.miss();
        self.load(cell, reference, None).await
    }

    /// The same for several: what is missing is fetched in one flight per provider.
    async fn read_all(self: &Arc<Self>, references: &[SecretRef]) -> Vec<Result<Answer>> {
        let mut flights = self.board_missing(references);
        let mut answers = Vec::with_capacity(references.len());
        for (reference, flight) in references.iter().zip(&mut flights) {
            answers.push(match flight.take() {
                None => self.read(reference).await,
                Some((cell, flight)) => {
                    self.tally.miss();
                    self.load(cell, reference, Some(flight)).await
                }
            });
        }
        answers
    }

    /// Boards what is missing of several secrets; `None` for each that needs no flight.
    fn board_missing(
        self: &Arc<Self>,
        references: &[SecretRef],
    ) -> Vec<Option<(Arc<Cell>, Flight)>> {
        let mut missing: BTreeMap<&ProviderId, Vec<(usize, Arc<Cell>)>> = BTreeMap::new();
        for (at, reference) in references.iter().enumerate() {
            // A provider that is not there is reported by the read that follows.
            let Ok(cell) = self.cache.cell(reference) else { continue };
            if self.fresh(&cell).is_none() && self.known_failure(&cell).is_none() {
                missing.entry(reference.provider()).or_default().push((at, cell));
            }
        }
        let mut boarded: Vec<_> = references.iter().map(|_| None).collect();
        for of_provider in missing.into_values() {
            let (places, cells): (Vec<_>, Vec<_>) = of_provider.into_iter().unzip();
            let flights = self.board(&cells);
            for (at, boarding) in places.into_iter().zip(cells.into_iter().zip(flights)) {
                boarded[at] = Some(boarding);
            }
        }
        boarded
    }

    /// The held entry if it is fresh. One that is near its end is refreshed behind its back.
    fn fresh(self: &Arc<Self>, cell: &Arc<Cell>) -> Option<Arc<Entry>> {
        let entry = cell.entry().filter(|entry| cell.is_valid(entry.epoch))?;
        let now = self.options.clock.now();
        if now >= entry.times.fresh_until {
            return None;
        }
        if now >= entry.times.refresh && !self.is_left_alone(cell) {
            self.board_one(cell);
        }
        Some(entry)
    }

    async fn load(
        self: &Arc<Self>,
        mut cell: Arc<Cell>,
        reference: &SecretRef,
        mut boarded: Option<Flight>,
    ) -> Result<Answer> {
        loop {
            let flight = match boarded.take() {
                Some(flight) => flight,
                None => {
                    if self.stop.is_cancelled() {
                        return self.stale_or(cell, shutting_down());
                    }
                    if let Some(error) = self.known_failure(&cell) {
                        return self.stale_or(cell, error);
                    }
                    self.board_one(&cell)
                }
            };
            if cell.is_dead() {
                cell = self.cache.cell(reference)?;
                continue;
            }
            match self.await_flight(&cell, flight).await {
                // An invalidation may have come after the landing.
                Ok(entry) if cell.is_valid(entry.epoch) => {
                    return Ok(Answer { cell, entry, stale: None });
                }
                Ok(_) => {}
                Err(error) => return self.stale_or(cell, error),
            }
        }
    }

    /// Waits for a flight: without end if there is nothing else to give, and briefly if there is
    /// a value that has merely aged.
    async fn await_flight(&self, cell: &Cell, mut flight: Flight) -> Result<Arc<Entry>> {
        let landed = async {
            match flight.wait_for(Option::is_some).await {
                Ok(landing) => landing.clone().expect("a landing was waited for"),
                Err(_) => {
                    Err(Error::new(ErrorKind::Bug, format!("the fetch of `{cell}` broke off")))
                }
            }
        };
        let now = self.options.clock.now();
        let merely_aged = cell
            .entry()
            .is_some_and(|entry| cell.is_valid(entry.epoch) && now < entry.times.usable_until);
        if !merely_aged {
            return landed.await;
        }
        timeout(PATIENCE, landed).await.unwrap_or_else(|_| {
            let message = format!("the provider did not answer for `{cell}` in time");
            Err(Error::new(ErrorKind::DeadlineExceeded, message))
        })
    }

    /// A failure that need not be seen again: a secret that was just not there, a provider that
    /// named the time to come back, or one that fails while there is a value to serve.
    fn known_failure(&self, cell: &Cell) -> Option<Error> {
        if !self.is_left_alone(cell) {
            return None;
        }
        let error = cell.state().failing.as_ref()?.error.clone();
        let believed = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::Throttled { retry_after: Some(_) }
        );
        (believed || (serves_stale(&error) && self.last_good(cell).is_some())).then_some(error)
    }

    /// Whether the provider is not to be asked for this now, after failures since the last
    /// invalidation.
    fn is_left_alone(&self, cell: &Cell) -> bool {
        cell.state().failing.as_ref().is_some_and(|failing| {
            cell.is_valid(failing.epoch) && self.options.clock.now() < failing.until
        })
    }

    fn last_good(&self, cell: &Cell) -> Option<Arc<Entry>> {
        cell.entry().filter(|entry| self.options.clock.now() < entry.times.usable_until)
    }

    fn stale_or(&self, cell: Arc<Cell>, error: Error) -> Result<Answer> {
        match self.last_good(&cell).filter(|_| serves_stale(&error)) {
            Some(entry) => {
                self.tally.stale();
                let age = self.options.clock.now().since(entry.times.fetched);
                Ok(Answer { cell, entry, stale: Some(age) })
            }
            None => Err(error.context(format!("cannot get `{cell}`"))),
        }
    }

    /// Whether what was read one after the other was all true at one moment. Every entry is
    /// looked at a second time: if none was invalidated or replaced since the first look, all of
    /// them stood together in between.
    fn consistency(&self, answers: &[Answer]) -> Consistency {
        for answer in answers {
            let still = answer.cell.entry().is_some_and(|entry| Arc::ptr_eq(&entry, &answer.entry));
            if !still && self.options.ttl > Duration::ZERO {
                return Consistency::Moved;
            }
            // A value from before an invalidation goes only with others from before it.
            let fresh_from =
                answer.cell.bounds.fresh_from().max(answer.cell.source.bounds.fresh_from());
            let overtaken = answer.entry.epoch < fresh_from;
            if overtaken && answers.iter().any(|other| other.entry.epoch >= fresh_from) {
                return match answer.stale {
                    Some(_) => Consistency::Torn(answer.cell.to_string()),
                    None => Consistency::Moved,
                };
            }
            if overtaken && answer.stale.is_none() {
                return Consistency::Moved;
            }
        }
        for (at, answer) in answers.iter().enumerate() {
            let Some(snapshot) = &answer.entry.snapshot else { continue };
            let conflicts = |other: &&Answer| {
                let other = (&other.cell.source.id, other.entry.snapshot.as_ref());
                other.0 == &answer.cell.source.id
                    && other.1.is_some_and(|other| other.conflicts_with(snapshot))
            };
            if answers[at + 1..].iter().any(|other| conflicts(&other)) {
                let id = &answer.cell.source.id;
                let of_provider = answers.iter().filter(|of| of.cell.source.id == *id);
                return Consistency::Mixed(of_provider.map(|of| Arc::clone(&of.cell)).collect());
            }
        }
        Consistency::Whole
    }

    /// Wipes what a hard invalidation of whole providers has hidden, behind the caller's back.
    fn sweep(self: &Arc<Self>, providers: Vec<ProviderId>) {
        let shared = Arc::clone(self);
        self.tasks.spawn_blocking(move || {
            for provider in &providers {
                shared.cache.cells_of_provider(provider).iter().for_each(|cell| cell.wipe());
            }
        });
    }

    /// The clock of last use, in whole seconds, so that a hot secret is seldom written to.
    pub(crate) fn second(&self) -> u64 {
        self.second_at(self.ticker.now())
    }

    fn second_at(&self, now: Moment) -> u64 {
        now.since(self.start).as_secs()
    }

    pub(crate) fn tell(&self, event: SecretEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    pub(crate) fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }

    pub(crate) fn times(&self) -> Times {
        self.options.times(self.random())
    }

    /// Starts the one task that keeps what handles follow fresh. It ends with the resolver.
    fn start_keeper(self: &Arc<Self>) {
        self.keeper.started.get_or_init(|| {
            let shared = Arc::downgrade(self);
            let (stop, wake) = (self.stop.clone(), Arc::clone(&self.keeper.wake));
            self.tasks.spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        // Whoever invalidated will mostly read by itself, within its own trace.
                        () = wake.notified() => sleep(KEEPER_COURTESY).await,
                        () = sleep(KEEPER_INTERVAL) => {}
                    }
                    let Some(shared) = shared.upgrade() else { return };
                    shared.keep();
                }
            });
        });
    }

    /// Refreshes what is followed and due, and ends what has outlived even its stale time.
    fn keep(self: &Arc<Self>) {
        let now = self.options.clock.now();
        let mut due: BTreeMap<ProviderId, Vec<Arc<Cell>>> = BTreeMap::new();
        let mut oldest: BTreeMap<ProviderId, Duration> = BTreeMap::new();
        for cell in self.keeper.cells() {
            let entry = cell.entry();
            if let Some(entry) = &entry {
                let age = oldest.entry(cell.source.id.clone()).or_default();
                *age = now.since(entry.times.fetched).max(*age);
            }
            let refresh =
                entry.as_ref().is_none_or(|e| !cell.is_valid(e.epoch) || now >= e.times.refresh);
            if refresh && !self.is_left_alone(&cell) {
                due.entry(cell.source.id.clone()).or_default().push(Arc::clone(&cell));
            }
            if entry.is_some_and(|entry| now >= entry.times.followed_until) {
                cell.expire_followers(now);
            }
        }
        for (provider, age) in &oldest {
            self.tally.age(provider, *age);
        }
        for cells in due.values() {
            self.board(cells);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cache.end();
    }
}

impl Keeper {
    fn follow(&self, cell: &Arc<Cell>) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = followed.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(cell)));
        if !known {
            followed.push(Arc::downgrade(cell));
        }
    }

    /// The cells that somebody follows; the others are forgotten.
    fn cells(&self) -> Vec<Arc<Cell>> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cells = Vec::with_capacity(followed.len());
        followed.retain(|cell| match cell.upgrade() {
            Some(cell) if cell.is_followed() => {
                cells.push(cell);
                true
            }
            _ => false,
        });
        cells
    }
}

/// Whether this failure is answered with the last good value: the provider could not answer, or
/// what it answered with is no value (the promise that the last good one serves on).
fn serves_stale(error: &Error) -> bool {
    error.kind().may_serve_stale() || error.kind() == ErrorKind::Invalid
}
