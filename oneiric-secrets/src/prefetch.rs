//! Reading much before anybody needs it: in as few calls as the stores allow, and no faster than
//! they like.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use oneiric_core::{Error, ErrorKind, ProviderId, Result, SecretRef};
use tokio::time::{Instant, sleep_until};

use crate::cell::Cell;
use crate::read::Answer;
use crate::shared::Shared;
use crate::sync::{Mutex, PoisonError};

/// How it goes with one provider, for all batches that are read from it.
struct Going(Mutex<Times>);

#[derive(Clone, Copy)]
struct Times {
    /// Nothing is asked before, since the store wants it so.
    not_before: Instant,
    /// When a batch was last answered without being throttled.
    answered: Instant,
}

impl Shared {
    /// Reads several references as [`read_each`](Self::read_each) does, but begins no more calls at
    /// a time than a provider may have, and comes back when a store that has throttled a batch says
    /// so, for as long as it answers at least one within the time of a fetch.
    pub(crate) async fn read_patiently(
        self: &Arc<Self>,
        references: &[&SecretRef],
    ) -> Vec<Result<Answer>> {
        let mut missing: BTreeMap<ProviderId, Vec<Arc<Cell>>> = BTreeMap::new();
        let mut failures = HashMap::new();
        for reference in references {
            // A provider that is not there is reported by the read that follows.
            let Ok(cell) = self.cache.cell(reference) else { continue };
            let held = cell.entry().is_some_and(|entry| self.is_fresh(&cell, &entry));
            // Each once, however many ask for it.
            if !held && failures.insert(address(&cell), None).is_none() {
                missing.entry(cell.source.id.clone()).or_default().push(cell);
            }
        }
        let reads = missing.into_values().map(|cells| self.read_batches(cells));
        for (cell, failure) in join_all(reads).await.into_iter().flatten() {
            failures.insert(address(&cell), Some(failure));
        }
        let mut answers = Vec::with_capacity(references.len());
        for reference in references {
            let cell = self.cache.cell(reference);
            let failure = cell.as_ref().ok().and_then(|cell| failures.get(&address(cell)));
            answers.push(match (cell, failure.cloned().flatten()) {
                (Ok(cell), Some(failure)) => self.stale_or(cell, failure),
                _ => self.read_plain(reference).await,
            });
        }
        answers
    }

    /// Reads secrets of one provider; what could not be read, with the reason.
    async fn read_batches(self: &Arc<Self>, cells: Vec<Arc<Cell>>) -> Vec<(Arc<Cell>, Error)> {
        let batch = cells.first().map_or(1, |cell| cell.source.batch()).min(cells.len().max(1));
        let now = Instant::now();
        let going = Going(Mutex::new(Times { not_before: now, answered: now }));
        let batches: Vec<_> =
            cells.chunks(batch).map(|batch| self.read_batch(batch.to_vec(), &going)).collect();
        let at_once = self.options.calls_at_once.max(1);
        let failed = stream::iter(batches).buffer_unordered(at_once).collect::<Vec<_>>().await;
        failed.into_iter().flatten().collect()
    }

    async fn read_batch(
        self: &Arc<Self>,
        mut batch: Vec<Arc<Cell>>,
        going: &Going,
    ) -> Vec<(Arc<Cell>, Error)> {
        let mut failed = Vec::new();
        for tries in 1.. {
            sleep_until(going.times().not_before).await;
            let mut throttled = Vec::new();
            for (cell, flight) in batch.iter().zip(self.board(&batch)) {
                match flight.landing().await {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::Throttled { .. }) => {
                        throttled.push((Arc::clone(cell), error));
                    }
                    Err(error) => failed.push((Arc::clone(cell), error)),
                }
            }
            let now = Instant::now();
            if throttled.len() < batch.len() {
                going.change(|times| times.answered = now);
            }
            let named = throttled.iter().filter_map(|(_, error)| match error.kind() {
                ErrorKind::Throttled { retry_after } => retry_after,
                _ => None,
            });
            let again = now + named.max().unwrap_or_else(|| self.jittered(tries));
            let is_late = again > going.times().answered + self.options.fetch_timeout;
            if throttled.is_empty() || is_late || self.stop.is_cancelled() {
                failed.extend(throttled);
                break;
            }
            going.change(|times| times.not_before = times.not_before.max(again));
            batch = throttled.into_iter().map(|(cell, _)| cell).collect();
        }
        failed
    }
}

/// What tells one cell from another.
fn address(cell: &Arc<Cell>) -> usize {
    Arc::as_ptr(cell).addr()
}

impl Going {
    fn times(&self) -> Times {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
