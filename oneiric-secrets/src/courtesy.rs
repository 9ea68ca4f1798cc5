//! Courtesy towards a provider: how many calls at once, and how many a second. It holds for all
//! secrets of a provider together, so that neither a cold start nor the end of an outage makes a
//! herd. When a provider says to come back later, that is kept secret by secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// The least and the most of [`Courtesy::patience`], and how many times the usual it is between.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
const TIMES: u64 = 4;

/// The limits of one provider, and how far they are used up.
#[derive(Debug)]
pub(crate) struct Courtesy {
    calls: Semaphore,
    /// The time that one call costs, and how much may be saved up.
    cost: Duration,
    savings: Duration,
    /// A token bucket, kept as the moment until which all calls so far are paid for.
    paid_until: Mutex<Option<Instant>>,
    /// How long a call that brought something took lately, in nanoseconds.
    usual: AtomicU64,
}

impl Courtesy {
    /// At most `at_once` calls at a time and `a_second` in the long run, as many of them at once
    /// as may be made in one second.
    pub(crate) fn new(at_once: usize, a_second: u32) -> Self {
        Self {
            calls: Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)),
            cost: Duration::from_secs(1) / a_second.max(1),
            savings: Duration::from_secs(1),
            paid_until: Mutex::default(),
            usual: AtomicU64::new(nanos(PATIENCE.1) / TIMES),
        }
    }

    /// Notes how long a call took that brought something.
    pub(crate) fn took(&self, time: Duration) {
        // Two at once may lose one of them, which is as good.
        let usual = self.usual.load(Ordering::Relaxed);
        self.usual.store(usual - usual / 8 + nanos(time) / 8, Ordering::Relaxed);
    }

    /// How long after the begin of a call its answer is waited for by those who have a value that
    /// has only just outlived its time: a few times of what is usual.
    pub(crate) fn patience(&self) -> Duration {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (usual * u32::try_from(TIMES).expect("it is small")).clamp(PATIENCE.0, PATIENCE.1)
    }

    /// Waits for its turn. The call may last as long as the permit is held. Dropping the future
    /// gives the turn back.
    pub(crate) async fn admit(&self) -> SemaphorePermit<'_> {
        let permit = self.calls.acquire().await.expect("the semaphore is never closed");
        // A timer that is due at once still takes up to a millisecond.
        if let Some(turn) = self.turn() {
            sleep_until(turn).await;
        }
        permit
    }

    /// Books the next turn and says when it is, if it is not now.
    fn turn(&self) -> Option<Instant> {
        let now = Instant::now();
        // What was not used is saved up, and no more than that.
        let saved = now.checked_sub(self.savings).unwrap_or(now);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = paid_until.map_or(saved, |paid| paid.max(saved)) + self.cost;
        *paid_until = Some(paid);
        (paid > now).then_some(paid)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_is_usual_within_bounds() {
        let courtesy = Courtesy::new(1, 1);
        assert_eq!(courtesy.patience(), PATIENCE.1, "nothing is known yet");
        let settle = |millis| {
            (0..100).for_each(|_| courtesy.took(Duration::from_millis(millis)));
            courtesy.patience().as_millis()
        };
        assert_eq!(settle(0), PATIENCE.0.as_millis());
        assert!((55..=60).contains(&settle(15)), "{:?}", courtesy.patience());
        assert_eq!(settle(1000), PATIENCE.1.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_calls_may_be_made_at_once_and_then_it_is_the_rate() {
        let courtesy = Courtesy::new(1000, 10);
        let start = Instant::now();
        for _ in 0..10 {
            drop(courtesy.admit().await);
        }
        assert!(start.elapsed() <= Duration::from_millis(100), "{:?}", start.elapsed());
        for _ in 0..20 {
            drop(courtesy.admit().await);
        }
        let took = start.elapsed().as_millis();
        assert!((1900..=2200).contains(&took), "{took} ms for twenty more at ten a second");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_cap_at_once() {
        let courtesy = Courtesy::new(2, 1000);
        let held = (courtesy.admit().await, courtesy.admit().await);
        let third = tokio::time::timeout(Duration::from_secs(60), courtesy.admit()).await;
        assert!(third.is_err());
        drop(held);
        drop(courtesy.admit().await);
    }
}
