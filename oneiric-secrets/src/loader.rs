//! The loader: at most one fetch per secret, in a task of its own.
//!
//! A caller waits for a flight, it does not own it: cancelled, panicked or impatient callers
//! neither end it nor hold it up, and what it brings is installed whether somebody waits or not.
//! A flight that an invalidation has overtaken flies again before it lands, so that its waiters
//! get the value from after.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oneiric_core::telemetry::span;
use oneiric_core::{Error, ErrorKind, FetchRequest, Fetched, Moment, Result, Version};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument;

use crate::cell::{Cell, CellState, Failing, Source};
use crate::entry::{Entry, shutting_down};
use crate::event::SecretEvent;
use crate::flight::{Flight, Landing};
use crate::shared::Shared;

/// The first pause before a provider that lags behind, or fails, is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Shared {
    /// Joins the flights of these secrets, which are of one provider, and starts flights for those
    /// that have none: one for as many as the store reads in one call.
    pub(crate) fn board(self: &Arc<Self>, cells: &[Arc<Cell>]) -> Vec<Arc<Flight>> {
        let now = self.options.clock.now();
        let mut claims = Vec::new();
        let flights = cells
            .iter()
            .map(|cell| {
                let mut state = cell.state();
                // What landed since the caller looked needs no other flight.
                if state.flight.is_none()
                    && let Some(entry) = cell.hit(now).and_then(|entry| Option::clone(&entry))
                {
                    let landed = Flight::begin();
                    landed.land(Ok(entry));
                    return landed;
                }
                let flight = state.flight.get_or_insert_with(|| {
                    let flight = Flight::begin();
                    let (cell, flight_of_it) = (Arc::clone(cell), Arc::clone(&flight));
                    claims.push(Claim { cell, flight: flight_of_it, asked: None });
                    flight
                });
                Arc::clone(flight)
            })
            .collect();
        while let Some(first) = claims.first() {
            let source = Arc::clone(&first.cell.source);
            let rest = claims.split_off(source.batch().min(claims.len()));
            let flight = Arc::clone(self).fly(source, std::mem::replace(&mut claims, rest));
            // A task of its own, but a child of the trace of whoever needed it first.
            self.tasks.spawn(flight.in_current_span());
        }
        flights
    }

    /// The same for one.
    pub(crate) fn board_one(self: &Arc<Self>, cell: &Arc<Cell>) -> Arc<Flight> {
        let mut flights = self.board(std::slice::from_ref(cell));
        flights.pop().expect("there is a flight for each secret")
    }

    async fn fly(self: Arc<Self>, source: Arc<Source>, mut claims: Vec<Claim>) {
        let give_up = Instant::now() + self.options.fetch_timeout;
        let mut tries = 0;
        loop {
            let epoch = self.epochs.now();
            let began = Began { epoch, at: self.options.clock.now() };
            let count = claims.len();
            let call = self.call(&source, &mut claims, give_up);
            let answers = tokio::select! {
                answers = call => answers,
                () = self.stop.cancelled() => (0..count).map(|_| Err(shutting_down())).collect(),
            };
            let mut lagging = false;
            let mut again = Vec::new();
            let late = Instant::now() >= give_up;
            for (claim, answer) in claims.into_iter().zip(answers) {
                match self.judge(&claim, began, answer) {
                    Verdict::Landed(landing) => claim.flight.land(landing),
                    Verdict::Outdated | Verdict::Lagging if late => {
                        let landing = self.fail(&claim.cell, epoch, overtaken(&claim.cell));
                        claim.flight.land(landing);
                    }
                    Verdict::Outdated => again.push(claim),
                    Verdict::Lagging => {
                        lagging = true;
                        again.push(claim);
                    }
                }
            }
            if again.is_empty() {
                return;
            }
            claims = again;
            if lagging {
                tries += 1;
                let pause = Instant::now() + self.jittered(tries);
                tokio::select! {
                    () = sleep_until(pause.min(give_up)) => {}
                    () = self.stop.cancelled() => {}
                }
            }
        }
    }

    /// One call of the provider, cut at the deadline and safe from its panics.
    async fn call(
        &self,
        source: &Source,
        claims: &mut [Claim],
        give_up: Instant,
    ) -> Vec<Result<Fetched>> {
        let count = claims.len();
        let all = |kind, what: &str| -> Vec<Result<Fetched>> {
            let error = Error::new(kind, format!("the provider `{}` {what}", source.id));
            (0..count).map(|_| Err(error.clone())).collect()
        };
        let Ok(_turn) = timeout_at(give_up, source.courtesy.admit()).await else {
            return all(
                ErrorKind::DeadlineExceeded,
                "was not asked in time: its limits are reached",
            );
        };
        let requests: Vec<_> = claims.iter_mut().map(|claim| claim.request(give_up)).collect();
        let started = Instant::now();
        let span = tracing::info_span!(
            target: "oneiric",
            "secrets.fetch",
            otel.name = span::FETCH,
            provider = %source.id,
            keys = requests.len(),
            error = tracing::field::Empty,
        );
        let (name, outcome) = if let [request] = requests.as_slice() {
            let call = AssertUnwindSafe(source.provider.fetch(request)).catch_unwind();
            let call = call.map(|outcome| outcome.map(|answer| vec![answer]));
            ("fetch", timeout_at(give_up, call.instrument(span.clone())).await)
        } else {
            let call = AssertUnwindSafe(source.provider.fetch_many(&requests)).catch_unwind();
            ("fetch_many", timeout_at(give_up, call.instrument(span.clone())).await)
        };
        let answers = match outcome {
            Ok(Ok(answers)) if answers.len() == requests.len() => answers,
            Ok(Ok(_)) => all(ErrorKind::Bug, "gave a wrong number of answers"),
            Ok(Err(_panic)) => all(ErrorKind::Bug, "panicked"),
            Err(_elapsed) => all(ErrorKind::DeadlineExceeded, "did not answer in time"),
        };
        let failed = answers.iter().find_map(|answer| match answer {
            Err(error) if error.kind() != ErrorKind::NotModified => Some(error.kind()),
            _ => None,
        });
        if let Some(kind) = failed {
            span.record("error", kind.token());
        }
        let took = started.elapsed();
        if failed.is_none() {
            source.courtesy.took(took);
        }
        self.tally.called(&source.id, name, took, failed);
        answers
    }

    /// What an answer is worth, by everything that has been said since its fetch began.
    fn judge(&self, claim: &Claim, began: Began, answer: Result<Fetched>) -> Verdict {
        let Claim { cell, asked, .. } = claim;
        let Began { epoch, at } = began;
        let mut state = cell.state();
        if !cell.is_valid(epoch) {
            if !self.stop.is_cancelled() {
                return Verdict::Outdated;
            }
            // There is no time to fly again, and what was overtaken is not installed.
            drop(state);
            return Verdict::Landed(self.fail(cell, epoch, shutting_down()));
        }
        let held = cell.entry();
        let fetched = match (answer, &held) {
            (Ok(fetched), _) => fetched,
            (Err(error), Some(held))
                if error.kind() == ErrorKind::NotModified && state.expected.is_none() =>
            {
                let entry = Arc::new(held.renewed(epoch, self.times(at)));
                let (landing, _) = settle(cell, &mut state, entry);
                return Verdict::Landed(landing);
            }
            // Asked with a stamp whose value was purged, or overtaken by an event, meanwhile.
            (Err(error), _) if error.kind() == ErrorKind::NotModified => {
                return Verdict::Outdated;
            }
            // The event named what is not served, or not any more: what is current is read instead.
            (Err(error), _)
                if error.kind() == ErrorKind::VersionDisabled
                    && asked.is_some()
                    && state.expected.as_ref().map(|expected| &expected.version)
                        == asked.as_ref() =>
            {
                state.expected = None;
                return Verdict::Outdated;
            }
            // The event was here before the data.
            (Err(error), _) if error.kind() == ErrorKind::NotFound && state.expected.is_some() => {
                return Verdict::Lagging;
            }
            (Err(error), _) => {
                drop(state);
                return Verdict::Landed(self.fail(cell, epoch, error));
            }
        };
        // Version order wins over arrival order.
        let newer_expected = state.expected.as_ref().is_some_and(|expected| {
            fetched.version.is_older_than(&expected.version)
                && !cell.may_be_older(&state, expected.epoch, epoch)
        });
        let newer_held = held.as_ref().is_some_and(|held| {
            fetched.version.is_older_than(&held.version)
                && !cell.may_be_older(&state, held.epoch, epoch)
        });
        if newer_expected || newer_held {
            return Verdict::Lagging;
        }
        let name = (&cell.source.id, cell.key(), cell.pin().map(|pin| &**pin));
        let checked = self.options.verify().check(&fetched.value, cell);
        if let Err(error) = checked.and_then(|()| self.kinds.check(&fetched.value, name)) {
            drop(state);
            tracing::warn!(target: "oneiric", secret = %cell, error = %error, "a value is refused");
            self.tell(SecretEvent::Refused {
                provider: cell.source.id.clone(),
                key: cell.key().clone(),
                error: error.clone(),
            });
            return Verdict::Landed(self.fail(cell, epoch, error));
        }
        let changed = held.is_none_or(|held| held.version != fetched.version);
        let version = fetched.version.clone();
        let entry = Arc::new(Entry::new(fetched, epoch, self.times(at)));
        let (landing, first) = settle(cell, &mut state, entry);
        drop(state);
        if first {
            cell.touch(self.ticker.now());
            self.cache.enrol(cell);
        }
        if changed {
            let (provider, key) = (cell.source.id.clone(), cell.key().clone());
            self.tell(SecretEvent::Changed { provider, key, version });
        }
        Verdict::Landed(landing)
    }

    /// Notes a failure, so that the next reads know how long to leave the provider alone.
    fn fail(&self, cell: &Arc<Cell>, epoch: u64, error: Error) -> Landing {
        let mut state = cell.state();
        let times = state.failing.as_ref().map_or(0, |failing| failing.times) + 1;
        let pause = match error.kind() {
            ErrorKind::NotFound => self.options.negative_ttl,
            ErrorKind::Throttled { retry_after: Some(wait) } => wait.max(self.jittered(times)),
            _ => self.jittered(times),
        };
        let until = self.options.clock.now().after(pause);
        state.failing = Some(Box::new(Failing { times, error: error.clone(), until, epoch }));
        state.flight = None;
        drop(state);
        if error.kind() == ErrorKind::NotFound {
            self.cache.remember_missing(cell);
        }
        Err(error)
    }

    /// Full jitter: anything up to a bound that doubles with each failure.
    pub(crate) fn jittered(&self, times: u32) -> Duration {
        let bound = PAUSE.saturating_mul(1 << times.min(12)).min(LONGEST_PAUSE);
        PAUSE.max(bound.mul_f64(self.random()))
    }
}

/// When a fetch began. A value is as old as its fetch, however long the answer was on its way.
#[derive(Clone, Copy)]
struct Began {
    epoch: u64,
    at: Moment,
}

/// The duty to land the flight of one secret.
struct Claim {
    cell: Arc<Cell>,
    flight: Arc<Flight>,
    /// The version that the request names because an event did.
    asked: Option<Version>,
}

impl Claim {
    fn request(&mut self, give_up: Instant) -> FetchRequest {
        let mut request = FetchRequest::new(self.cell.key().clone());
        request.deadline = Some(give_up);
        let state = self.cell.state();
        let exact = self.cell.source.provider.descriptor().capabilities.versions;
        let pin = self.cell.pin();
        // Aliases such as `latest` lag behind events; the number that the event named does not.
        let named = state.expected.as_ref().filter(|_| exact && pin.is_none());
        self.asked = named.map(|expected| expected.version.clone());
        request.version = match (pin, &self.asked) {
            (Some(pin), _) => Some(Arc::clone(pin)),
            (None, Some(version)) => Some(version.id().into()),
            (None, None) => None,
        };
        if request.version.is_none() && state.expected.is_none() {
            request.if_none_match = self.cell.entry().and_then(|entry| entry.stamp().cloned());
        }
        request
    }
}

impl Drop for Claim {
    /// A flight that breaks off leaves the cell free for the next one. One that lands has left it
    /// before, together with what it brought.
    fn drop(&mut self) {
        if !self.flight.has_landed() {
            self.cell.state().flight = None;
            let message = format!("the fetch of `{}` broke off", self.cell);
            self.flight.land(Err(Error::new(ErrorKind::Bug, message)));
        }
    }
}

enum Verdict {
    /// The flight is over.
    Landed(Landing),
    /// An invalidation overtook it.
    Outdated,
    /// The provider answered with an older version than is known to exist.
    Lagging,
}

/// Installs what was fetched and ends the flight, both under the state's lock: whoever looks sees
/// either the flight or what it brought. Says also whether the cell holds a value for the first
/// time.
fn settle(cell: &Cell, state: &mut CellState, entry: Arc<Entry>) -> (Landing, bool) {
    let first = cell.install(state, &entry);
    state.failing = None;
    state.flight = None;
    // Whatever was judged good enough to be installed also answers what was expected.
    state.expected = None;
    (Ok(entry), first)
}

fn overtaken(cell: &Cell) -> Error {
    let message = format!("no current version of `{cell}` could be read in time");
    Error::new(ErrorKind::DeadlineExceeded, message)
}
