//! The resolver: the one door through which a process gets secrets.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use oneiric_core::settings::SecretSettings;
use oneiric_core::{
    Error, ErrorKind, ProviderId, Result, SecretKey, SecretProvider, SecretRef, SecretSet, Version,
};
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout_at};

use crate::cell::{Cell, Expected};
use crate::entry::{CachedSecret, Name, Secret};
use crate::event::SecretEvent;
use crate::handle::{Follower, Following, Handle, Shown};
use crate::options::ResolverOptions;
use crate::read::{Answer, Get};
use crate::set::Consistency;
use crate::shared::Shared;

/// How often a set is read again before it is given up as inconsistent.
const SET_TRIES: usize = 64;
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
    pub(crate) shared: Arc<Shared>,
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
    /// These secrets, of any providers; of an alias, everybody who may answer for it.
    Secrets(Vec<SecretRef>),
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

impl Resolver {
    /// A resolver over these providers. Nothing is read and nothing is spawned yet; its other
    /// methods are called within a tokio runtime.
    pub fn new(
        providers: impl IntoIterator<Item = (ProviderId, Arc<dyn SecretProvider>)>,
        options: ResolverOptions,
    ) -> Self {
        Self { shared: Arc::new(Shared::new(providers, options)) }
    }

    /// The current value of a secret: from the cache while it is fresh, else from the provider.
    ///
    /// Dropping the future leaves the fetch running; what it brings is cached all the same.
    ///
    /// # Errors
    /// Those of the provider. While it cannot answer (`Throttled`, `Unavailable`,
    /// `DeadlineExceeded`), or answers with a value that is refused, the last good value is given
    /// for up to `stale_if_error`, and says so.
    pub fn get<'a>(
        &'a self,
        reference: &'a SecretRef,
    ) -> impl Future<Output = Result<Secret>> + Send + 'a {
        Get { resolver: self, reference, missed: None }
    }

    /// The value of a secret if the cache has a fresh one, without waiting for anything: no
    /// allocation, no call of the system, no copy. A reference remembers where its secret was
    /// found, so one that is kept needs no lock and no look-up, and is faster than one that is made
    /// for each read.
    ///
    /// Time is as of the last tick of a clock thread, at most about 20 ms old, however busy the
    /// async runtime is.
    // Half of the time of a hit would go into handing the answer out through memory.
    #[inline(always)]
    pub fn try_get(&self, reference: &SecretRef) -> Option<Secret> {
        let entry = self.shared.hit(reference)?;
        match reference.field() {
            None => Some(Secret::whole(entry)),
            Some(_) => Secret::new(entry, reference, None).ok(),
        }
    }

    /// Several secrets, each with its own answer, in the order of the references. What is not in
    /// the cache is read in one call per provider.
    pub async fn get_many(&self, references: &[SecretRef]) -> Vec<Result<Secret>> {
        let answers = self.shared.read_all(references, &BTreeSet::new()).await;
        let narrow = |(reference, answer): (_, Result<Answer>)| answer?.narrow(reference);
        references.iter().zip(answers).map(narrow).collect()
    }

    /// Reads several secrets into the cache before anybody needs them, each once, and says for each
    /// reference whether it can be had. They are read in as few calls as the stores allow, no more
    /// of them at a time than a provider may have; a batch that is throttled is asked for again when
    /// the store says so, while it still answers at all. Of an alias, a fallback is read only if
    /// those before it cannot answer. Dropping the future leaves the calls that are running.
    ///
    /// # Errors
    /// Each as that of [`get`](Self::get).
    pub async fn prefetch(&self, references: &[SecretRef]) -> Vec<Result<()>> {
        let answers = self.shared.prefetch(references).await.into_iter();
        let narrow = |(reference, answer): (_, Result<Answer>)| answer?.narrow(reference).map(drop);
        references.iter().zip(answers).map(narrow).collect()
    }

    /// Several secrets of one consistent moment: a rotation of several of them, or a store that
    /// changes as a whole, is seen completely or not at all. An alias that is not required, and is
    /// not there, is left out.
    ///
    /// # Errors
    /// Those of the provider for any of them, and `Unavailable` if no consistent set could be
    /// had: secrets of one provider are read from their fallbacks together or not at all, or for
    /// instance because a part of it was rotated and another part cannot be read.
    pub async fn get_set(&self, references: &[SecretRef]) -> Result<SecretSet> {
        let mut down = BTreeSet::new();
        for _ in 0..SET_TRIES {
            let answers = self.shared.read_all(references, &down).await;
            let mut there = Vec::with_capacity(references.len());
            let mut read = Vec::with_capacity(references.len());
            for (reference, answer) in references.iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        there.push(reference.clone());
                        read.push(answer);
                    }
                    Err(error) if self.may_be_absent(reference, &error) => {}
                    Err(error) => return Err(error),
                }
            }
            let half_down = Shared::half_down(&there, &read)?;
            if !half_down.is_empty() {
                down.extend(half_down);
                continue;
            }
            match self.shared.consistency(&read) {
                Consistency::Whole => return self.set_of(&there, &read),
                // Somebody invalidated in between: read again.
                Consistency::Moved => {}
                // The cache holds two moments of one store: read these anew, together.
                Consistency::Mixed(cells) => {
                    let _saying = self.shared.saying();
                    let epoch = self.shared.epochs.open();
                    cells.iter().for_each(|cell| cell.invalidate(Mode::Soft, epoch));
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

    /// A set of what was read and belongs together.
    fn set_of(&self, references: &[SecretRef], answers: &[Answer]) -> Result<SecretSet> {
        let mut parts = Vec::with_capacity(references.len());
        let (mut fallbacks, mut defaults) = (Vec::new(), Vec::new());
        for (reference, answer) in references.iter().zip(answers) {
            let asked = answer.asked(reference);
            match answer.entry.part(asked.field(), &Name(asked)) {
                Ok(value) => parts.push((reference.clone(), value, answer.entry.version.clone())),
                // What was before an outage says nothing of now.
                Err(error) if answer.stale.is_none() && self.may_be_absent(reference, &error) => {
                    continue;
                }
                Err(error) => return Err(error),
            }
            fallbacks.push(answer.fallback().cloned());
            defaults.push(answer.entry.instead_of().is_some());
        }
        let mut set = SecretSet::new(parts);
        if fallbacks.iter().any(Option::is_some) {
            set = set.answered_by(fallbacks);
        }
        if defaults.contains(&true) {
            set = set.with_defaults(defaults);
        }
        Ok(set)
    }

    /// What is expected of the secret of an alias; `None` for what is no alias, or is not there.
    pub fn alias(&self, reference: &SecretRef) -> Option<&SecretSettings> {
        self.shared.options.aliases.get(reference.alias()?)
    }

    /// Whether this failure to read an alias says only that a secret is not there which need not be
    /// there: then sets do without it.
    pub fn may_be_absent(&self, reference: &SecretRef, error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound
            && self.alias(reference).is_some_and(|settings| !settings.required)
    }

    /// Resolves a reference once and follows it from then on.
    ///
    /// # Errors
    /// As [`get`](Self::get): a handle exists only once there is a value. The handle of an alias
    /// that is not required exists also before: it shows nothing until there is one.
    pub async fn handle(&self, reference: &SecretRef) -> Result<Handle> {
        if reference.alias().is_some() {
            return self.handle_of_alias(reference).await;
        }
        let shared = &self.shared;
        loop {
            shared.read_plain(reference).await?;
            let cell = shared.cache.cell(reference)?;
            let mut state = cell.state();
            state.followers.retain(|follower| follower.strong_count() > 0);
            // The keeper forgets a secret whose last handle is gone.
            let first = !state.is_kept();
            let known = state.followers.iter().filter_map(Weak::upgrade);
            let known = known.into_iter().find(|of| of.shown.is_of(reference));
            let follower = match (known, cell.entry()) {
                (Some(follower), _) => follower,
                (None, Some(entry)) => {
                    let follower = Follower::first(reference, &entry)?;
                    state.followers.push(Arc::downgrade(&follower));
                    follower
                }
                (None, None) => continue,
            };
            // The keeper looks at cells while it is locked, so not the other way round as well.
            drop(state);
            if first {
                shared.keeper.follow(&cell);
            }
            shared.start_keeper();
            return Ok(Handle::new(Following::new(vec![(follower, cell)], None)));
        }
    }

    /// The same for an alias: its followers sit with all candidates, and what one that stands
    /// before another has is shown.
    async fn handle_of_alias(&self, reference: &SecretRef) -> Result<Handle> {
        let shared = &self.shared;
        let way = shared.way(reference)?;
        'anew: loop {
            let shown = Shown::new(reference.clone());
            let look = |answer: &Answer| {
                if answer.entry.instead_of().is_some() {
                    return shown.show_default(&answer.entry, false).map(|()| None);
                }
                let asked = answer.asked(reference);
                answer.entry.part(asked.field(), &Name(asked))?;
                Ok(Some(answer.before().len()))
            };
            // Who has answered; nobody, for what is not there.
            let answered = match shared.read(reference).await.and_then(|answer| look(&answer)) {
                Ok(answered) => answered,
                Err(error) if self.may_be_absent(reference, &error) => None,
                Err(error) => return Err(error),
            };
            let mut parts = Vec::with_capacity(way.candidates.len());
            let mut first = false;
            for (rank, candidate) in way.candidates.iter().enumerate() {
                let cell = shared.cache.cell(candidate)?;
                let mut state = cell.state();
                if cell.is_dead() {
                    continue 'anew;
                }
                first |= rank == 0 && !state.is_kept();
                let follower = Follower::of(candidate.clone(), rank, &shown);
                state.followers.push(Arc::downgrade(&follower));
                if let (Some(entry), Some(answered)) = (cell.entry(), answered)
                    && (rank == answered || (rank < answered && shared.is_fresh(&cell, &entry)))
                {
                    follower.show(&entry, false);
                }
                drop(state);
                parts.push((follower, cell));
            }
            if answered.is_some() && !shown.is_there() {
                continue;
            }
            if first {
                shared.keeper.follow(&parts[0].1);
            }
            let following = Following::new(parts, Some(way));
            shared.keeper.stand_by(&following);
            shared.start_keeper();
            return Ok(Handle::new(following));
        }
    }

    /// Who may answer for a reference, the first one first: the reference itself or, for an alias,
    /// what it stands for, with the field that is asked for.
    ///
    /// # Errors
    /// `Invalid` if there is no such alias, with the nearest that there is.
    pub fn candidates(&self, reference: &SecretRef) -> Result<Vec<SecretRef>> {
        self.shared.candidates(reference)
    }

    /// The one of them that answered last; before anybody asked, the first. `None` if there is no
    /// such alias.
    pub fn answering(&self, reference: &SecretRef) -> Option<SecretRef> {
        self.shared.answering(reference)
    }

    /// Makes sure that nothing fetched before now is served as fresh: when this returns, every
    /// read that returns from now on gets a value whose fetch began after it, or one that is
    /// marked as stale. Emits `secrets-cache-invalidated`.
    ///
    /// # Errors
    /// `Invalid` if there is no such provider or alias; then nothing has changed.
    pub fn invalidate_secrets(&self, scope: &Scope, mode: Mode) -> Result<()> {
        self.shared.invalidate(scope, mode)
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
        let mut state = cell.state();
        let is_held = cell.entry().is_some_and(|held| held.version == version);
        if !is_held && cell.learn(&mut state, &version) {
            let epoch = self.shared.epochs.now();
            state.expected = Some(Box::new(Expected { version, epoch }));
        }
        Ok(())
    }

    /// Listens to what happens from now on. Who is slower than 1,024 events misses some and is
    /// told so.
    pub fn subscribe(&self) -> broadcast::Receiver<SecretEvent> {
        self.shared.events.subscribe()
    }

    /// How long a value is fresh; zero if nothing is kept.
    pub fn ttl(&self) -> Duration {
        self.shared.options.ttl
    }

    /// The providers, by name.
    pub fn providers(&self) -> impl Iterator<Item = (&ProviderId, &Arc<dyn SecretProvider>)> {
        self.shared.cache.sources.iter().map(|(id, source)| (id, &source.provider))
    }

    /// The unpinned secrets of a provider that the cache holds, without their values.
    pub fn cached(&self, provider: &ProviderId) -> Vec<CachedSecret> {
        let cells = self.shared.cache.cells_of_provider(provider);
        let held = |cell: Arc<Cell>| {
            let entry = cell.entry().filter(|_| cell.pin().is_none())?;
            let (version, stamp) = (entry.version.clone(), entry.stamp().cloned());
            Some(CachedSecret { key: cell.key().clone(), version, stamp })
        };
        cells.into_iter().filter_map(held).collect()
    }

    /// The unpinned secrets of a provider that somebody follows although they are not there.
    pub fn awaited(&self, provider: &ProviderId) -> Vec<SecretKey> {
        let cells = self.shared.keeper.cells().into_iter();
        let absent = cells.filter(|cell| {
            cell.source.id == *provider && cell.pin().is_none() && self.shared.is_absent(cell)
        });
        absent.map(|cell| cell.key().clone()).collect()
    }

    /// The version of a secret that the cache holds, fresh or not, without reading it.
    pub fn held_version(&self, reference: &SecretRef) -> Option<Version> {
        let cell = self.shared.cache.known_cell(&self.answering(reference)?)?;
        cell.entry().map(|entry| entry.version.clone())
    }

    /// Why the last fetch of a secret failed, if it did: the reason behind a stale answer. For an
    /// alias it is that of its first candidate, which is the one that is served stale.
    pub fn last_failure(&self, reference: &SecretRef) -> Option<Error> {
        let first = self.candidates(reference).ok()?.into_iter().next()?;
        let cell = self.shared.cache.known_cell(&first)?;
        cell.peek(|state| Some(state.failing.as_ref()?.error.clone())).flatten()
    }

    /// Ends all flights and background work and waits for them, at most until the deadline.
    /// Returns whether everything ended. What is cached can still be read; misses fail.
    pub async fn shutdown(&self, deadline: Instant) -> bool {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        timeout_at(deadline, self.shared.tasks.wait()).await.is_ok()
    }

    /// Has every provider give back what its store keeps for this process, such as leases, at most
    /// until the deadline. Returns whether all have done so in time, and each was confirmed by its
    /// store that nothing is left.
    ///
    /// Call it last of all, after [`shutdown`](Self::shutdown): what still uses a secret then, a
    /// pool that is being drained for one, may lose it. Who does not call it leaves it to the store
    /// to end what nobody renews.
    pub async fn release(&self, deadline: Instant) -> bool {
        let each = self.providers().map(|(id, provider)| async move {
            // A panic in one keeps the others from nothing.
            let released = AssertUnwindSafe(provider.release(deadline)).catch_unwind();
            let nothing_left = matches!(timeout_at(deadline, released).await, Ok(Ok(true)));
            if !nothing_left {
                tracing::warn!(
                    target: "oneiric",
                    provider = %id,
                    "not all that the store keeps for us was given back; it ends by itself"
                );
            }
            nothing_left
        });
        join_all(each).await.into_iter().all(|nothing_left| nothing_left)
    }
}
