//! The read flow: cache, else loader, else the last good value.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use oneiric_core::{Error, ErrorKind, Moment, ProviderId, Result, SecretRef};
use tokio::time::{Instant, timeout_at};

use crate::alias::Way;
use crate::cell::Cell;
use crate::entry::{Entry, EntryGuard, Secret, shutting_down};
use crate::flight::{Flight, Landing};
use crate::resolver::Resolver;
use crate::shared::Shared;

/// How long after it was due for another try a provider that failed is still taken for failing.
const RECENT: Duration = Duration::from_secs(60);

/// What a read found, before it is narrowed to a field.
pub(crate) struct Answer {
    pub(crate) cell: Arc<Cell>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) stale: Option<Duration>,
    /// Whose answer it is, if an alias was asked for.
    pub(crate) way: Option<(Arc<Way>, usize)>,
}

impl Answer {
    pub(crate) fn narrow(self, reference: &SecretRef) -> Result<Secret> {
        let entry = EntryGuard::from_inner(Some(Arc::clone(&self.entry)));
        let secret = Secret::new(entry, self.asked(reference), self.stale)?;
        Ok(match self.fallback() {
            Some(provider) => secret.of_fallback(provider),
            None => secret,
        })
    }
}

/// A read. What a miss needs, and what it gives, is set aside, so that a hit does not carry it:
/// moving an answer about in memory would take longer than finding it.
pub(crate) struct Get<'a> {
    pub(crate) resolver: &'a Resolver,
    pub(crate) reference: &'a SecretRef,
    pub(crate) missed: Option<Missed<'a>>,
}

type Missed<'a> = Pin<Box<dyn Future<Output = Result<Box<Secret>>> + Send + 'a>>;

impl Get<'_> {
    #[cold]
    fn poll_missed(&mut self, context: &mut Context<'_>) -> Poll<Result<Box<Secret>>> {
        let Self { resolver, reference, missed } = self;
        let (resolver, reference) = (*resolver, *reference);
        let missed = missed.get_or_insert_with(|| {
            Box::pin(async move {
                resolver.shared.read(reference).await?.narrow(reference).map(Box::new)
            })
        });
        missed.as_mut().poll(context)
    }
}

impl Future for Get<'_> {
    type Output = Result<Secret>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.missed.is_none()
            && let Some(secret) = self.resolver.try_get(self.reference)
        {
            return Poll::Ready(Ok(secret));
        }
        match self.poll_missed(context) {
            Poll::Ready(Ok(secret)) => Poll::Ready(Ok(*secret)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Shared {
    /// The fast path of a read: by way of what the reference remembers, to an entry that needs
    /// nothing done.
    #[inline(always)]
    pub(crate) fn hit(&self, reference: &SecretRef) -> Option<EntryGuard> {
        let now = self.ticker.now();
        if let Some(cell) = reference.memo().get::<Cell>()
            && cell.source.home == self.home
            && let Some(entry) = cell.hit(now)
        {
            cell.touch(now);
            self.tally.hit();
            return Some(entry);
        }
        self.hit_by_name(reference, now)
    }

    /// The same for a reference that does not know the way, or knows a cell that has left.
    #[inline(never)]
    fn hit_by_name(&self, reference: &SecretRef, now: Moment) -> Option<EntryGuard> {
        let Some(cell) = self.cache.known_cell(reference) else {
            return self.hit_by_alias(reference);
        };
        let entry = cell.hit(now)?;
        cell.touch(now);
        self.tally.hit();
        // It stays with the cell that it was shown first.
        reference.memo().set(cell);
        Some(entry)
    }

    /// The read of any reference.
    pub(crate) async fn read(self: &Arc<Self>, reference: &SecretRef) -> Result<Answer> {
        if reference.alias().is_none() {
            return self.read_plain(reference).await;
        }
        let mut answers = self.read_all(std::slice::from_ref(reference), &BTreeSet::new()).await;
        answers.pop().expect("there is an answer for each reference")
    }

    /// The read flow of what is no alias: cache, else loader, else the last good value.
    pub(crate) async fn read_plain(self: &Arc<Self>, reference: &SecretRef) -> Result<Answer> {
        let cell = self.cache.cell(reference)?;
        if let Some(entry) = self.fresh(&cell) {
            cell.touch(self.ticker.now());
            self.tally.hit();
            return Ok(Answer { cell, entry, stale: None, way: None });
        }
        self.tally.miss();
        self.load(cell, reference, None).await
    }

    /// The same for several: what is missing is fetched in as few flights as each store allows.
    pub(crate) async fn read_each(
        self: &Arc<Self>,
        references: &[&SecretRef],
    ) -> Vec<Result<Answer>> {
        let mut flights = self.board_missing(references);
        let mut answers = Vec::with_capacity(references.len());
        for (reference, flight) in references.iter().zip(&mut flights) {
            answers.push(match flight.take() {
                None => self.read_plain(reference).await,
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
        references: &[&SecretRef],
    ) -> Vec<Option<(Arc<Cell>, Arc<Flight>)>> {
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

    /// Whether an entry of this cell may be served as fresh.
    pub(crate) fn is_fresh(&self, cell: &Cell, entry: &Entry) -> bool {
        cell.is_valid(entry.epoch) && self.options.clock.now() < entry.times.fresh_until
    }

    /// The held entry if it is fresh. One that is near its end is refreshed behind its back.
    fn fresh(self: &Arc<Self>, cell: &Arc<Cell>) -> Option<Arc<Entry>> {
        let entry = cell.entry().filter(|entry| self.is_fresh(cell, entry))?;
        if self.options.clock.now() >= entry.times.refresh && !self.is_left_alone(cell) {
            self.board_one(cell);
        }
        Some(entry)
    }

    async fn load(
        self: &Arc<Self>,
        mut cell: Arc<Cell>,
        reference: &SecretRef,
        mut boarded: Option<Arc<Flight>>,
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
            match self.await_flight(&cell, &flight).await {
                // An invalidation may have come after the landing.
                Ok(entry) if cell.is_valid(entry.epoch) => {
                    return Ok(Answer { cell, entry, stale: None, way: None });
                }
                Ok(_) => {}
                Err(error) => return self.stale_or(cell, error),
            }
        }
    }

    /// Waits for a flight: without end if there is nothing else to give. If there is a value that
    /// has merely aged, not long after the flight began, which is one wait for all readers and not
    /// one for each; and not at all if the flight before it failed.
    async fn await_flight(&self, cell: &Cell, flight: &Arc<Flight>) -> Landing {
        let mut landing = pin!(flight.landing());
        if self.merely_aged(cell) {
            let failure = self.recent_failure(cell);
            let patience = match failure {
                Some(_) => Duration::ZERO,
                None => cell.source.courtesy.patience(),
            };
            if let Some(landing) = at_most(flight.began + patience, landing.as_mut()).await {
                return landing;
            }
            // Unless it was invalidated meanwhile, what is held will do. But what is held by now
            // may be what this flight has brought, and its landing is only not told yet.
            if self.merely_aged(cell) && cell.is_flying(flight) {
                return Err(failure.unwrap_or_else(|| {
                    let message = format!("the provider did not answer for `{cell}` in time");
                    Error::new(ErrorKind::DeadlineExceeded, message)
                }));
            }
        }
        landing.await
    }

    /// Whether there is a value that nothing is wrong with but its age.
    fn merely_aged(&self, cell: &Cell) -> bool {
        self.last_good(cell).is_some_and(|entry| cell.is_valid(entry.epoch))
    }

    /// A failure that need not be seen again: a secret that was just not there, a provider that
    /// named the time to come back, or one that fails while there is a value to serve.
    fn known_failure(&self, cell: &Cell) -> Option<Error> {
        if !self.is_left_alone(cell) {
            return None;
        }
        let error = cell.peek(|state| Some(state.failing.as_ref()?.error.clone())).flatten()?;
        let believed = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::Throttled { retry_after: Some(_) }
        );
        (believed || (serves_stale(&error) && self.last_good(cell).is_some())).then_some(error)
    }

    /// Whether the provider is not to be asked for this now, after failures since the last
    /// invalidation.
    pub(crate) fn is_left_alone(&self, cell: &Cell) -> bool {
        let until = cell.peek(|state| {
            state.failing.as_ref().filter(|failing| cell.is_valid(failing.epoch)).map(|f| f.until)
        });
        until.flatten().is_some_and(|until| self.options.clock.now() < until)
    }

    /// The failure that the provider's last answer was, if a value serves over it and the provider
    /// was due to be asked again not long ago.
    pub(crate) fn recent_failure(&self, cell: &Cell) -> Option<Error> {
        let failing = cell.peek(|state| state.failing.clone()).flatten()?;
        let is_recent = self.options.clock.now() < failing.until.after(RECENT);
        (is_recent && cell.is_valid(failing.epoch) && serves_stale(&failing.error))
            .then_some(failing.error)
    }

    pub(crate) fn last_good(&self, cell: &Cell) -> Option<Arc<Entry>> {
        cell.entry()
            .filter(|entry| self.options.clock.now() < self.options.usable_until(&entry.times))
            .filter(|entry| !entry.has_ended(self.options.clock.now()))
    }

    pub(crate) fn stale_or(&self, cell: Arc<Cell>, error: Error) -> Result<Answer> {
        match self.last_good(&cell).filter(|_| serves_stale(&error)) {
            Some(entry) => {
                self.tally.stale();
                let age = self.options.clock.now().since(entry.times.fetched);
                Ok(Answer { cell, entry, stale: Some(age), way: None })
            }
            None => Err(error.context(format!("cannot get `{cell}`"))),
        }
    }
}

/// What a future gives by then. One that is late already is looked at once: even a timer that is
/// due would take up to a millisecond.
async fn at_most<F: Future>(by: Instant, mut future: Pin<&mut F>) -> Option<F::Output> {
    if Instant::now() < by {
        return timeout_at(by, future).await.ok();
    }
    future.as_mut().now_or_never()
}

/// Whether this failure is answered with the last good value: the provider could not answer, or
/// what it answered with is no value (the promise that the last good one serves on).
fn serves_stale(error: &Error) -> bool {
    error.kind().may_serve_stale() || error.kind() == ErrorKind::Invalid
}

#[cfg(test)]
mod tests {
    use oneiric_testkit::MemoryProvider;

    use super::*;
    use crate::options::ResolverOptions;

    /// A value is held for a moment before its landing is told. It is not an old one that is
    /// served because the provider takes its time.
    #[tokio::test(start_paused = true)]
    async fn what_has_just_landed_is_not_taken_for_what_has_aged() {
        let provider = MemoryProvider::new();
        provider.put("a", "new");
        let providers = [("mem".parse().unwrap(), provider as _)];
        let resolver = Resolver::new(providers, ResolverOptions::default());
        let reference = "mem:a".parse().unwrap();
        resolver.get(&reference).await.unwrap();
        let cell = resolver.shared.cache.known_cell(&reference).unwrap();
        // One that took longer than readers are patient, and has not told yet what it brought.
        let flight = Flight::begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut landing = pin!(resolver.shared.await_flight(&cell, &flight));
        assert!(landing.as_mut().now_or_never().is_none());
        flight.land(Ok(cell.entry().unwrap()));
        assert!(landing.now_or_never().unwrap().is_ok());
    }
}
