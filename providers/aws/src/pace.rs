//! The quota of batches, kept here because nobody else can see it: the resolver counts what it asks
//! for, and not how many calls that becomes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets calls pass at a steady rate, after a burst that was saved up.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How long one call stands for.
    each: Duration,
    /// How far ahead of their turn calls may be.
    burst: Duration,
    /// The turn of the next call.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many calls a second, and so many at once. No second sees more than both together.
    pub(crate) fn new(a_second: u32, at_once: u32) -> Self {
        let each = Duration::from_secs(1) / a_second.max(1);
        Self { each, burst: each * at_once.saturating_sub(1), next: Mutex::default() }
    }

    /// Waits until one more call may be made. If that is later than the deadline it does not wait,
    /// takes no turn, and answers with `false`.
    pub(crate) async fn admit(&self, deadline: Instant) -> bool {
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // What nobody has used is saved up, but no more than a burst.
            let turn = next.map_or(now, |next| next.max(now));
            let until = turn.checked_sub(self.burst).unwrap_or(now).max(now);
            if until > deadline {
                return false;
            }
            *next = Some(turn + self.each);
            until
        };
        sleep_until(until).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_the_rate_and_the_burst() {
        let pace = Pace::new(40, 50);
        let (mut seen, seen_by) = (Vec::new(), Instant::now() + Duration::from_secs(3600));
        for _ in 0..400 {
            assert!(pace.admit(seen_by).await);
            seen.push(Instant::now());
        }
        assert_eq!(seen[49], seen[0], "a burst passes at once");
        for (first, last) in seen.iter().zip(&seen[90..]) {
            assert!(*last - *first >= Duration::from_millis(999), "{:?}", *last - *first);
        }
        let whole = *seen.last().unwrap() - seen[0];
        assert!(whole < Duration::from_millis(8_800), "the rate is made use of: {whole:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_beyond_his_deadline_is_told_at_once_and_takes_no_turn() {
        let pace = Pace::new(10, 1);
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert!(pace.admit(start).await);
        for _ in 0..100 {
            assert!(!pace.admit(after(99)).await);
        }
        assert_eq!(Instant::now(), start);
        assert!(pace.admit(after(100)).await);
        assert_eq!(Instant::now(), after(100));
    }
}
