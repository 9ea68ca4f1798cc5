//! The quota of metadata reads, kept here because nobody else can see it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What the quota counts.
const WINDOW: Duration = Duration::from_secs(60);

/// What a read of metadata is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody waits for a secret, or writes one.
    Answer,
    /// A look at how everything stands, which leaves a tenth of the quota to the others.
    Sweep,
    /// It only saves something else, and is not worth a wait.
    Saving,
}

/// Lets so many calls pass that no minute at the store sees more than the quota.
///
/// A call counts from when it is let pass until a minute after it has ended. The store sees it
/// somewhere in between, so the count holds there too, however slow the way is.
#[derive(Debug)]
pub(crate) struct Pace {
    a_minute: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    ended: VecDeque<Instant>,
}

/// One call that may be made; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Pace);

impl Pace {
    pub(crate) fn new(a_minute: u32) -> Self {
        let a_minute = usize::try_from(a_minute).unwrap_or(usize::MAX);
        Self { a_minute, state: Mutex::default(), freed: Notify::new() }
    }

    /// How many calls of a sweep may pass in a minute.
    pub(crate) fn of_a_sweep(a_minute: u32) -> u32 {
        (a_minute - a_minute / 10).max(1)
    }

    /// Waits until one more call may be made. `None` if it would have to wait and is not worth it.
    pub(crate) async fn admit(&self, purpose: Purpose) -> Option<Pass<'_>> {
        let most = match purpose {
            Purpose::Answer => self.a_minute,
            Purpose::Sweep | Purpose::Saving => (self.a_minute - self.a_minute / 10).max(1),
        };
        loop {
            let freed = self.freed.notified();
            let full_until = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                while state.ended.front().is_some_and(|ended| *ended + WINDOW <= now) {
                    state.ended.pop_front();
                }
                if state.running + state.ended.len() < most {
                    state.running += 1;
                    return Some(Pass(self));
                }
                if purpose == Purpose::Saving {
                    return None;
                }
                state.ended.front().map(|ended| *ended + WINDOW)
            };
            match full_until {
                Some(until) => sleep_until(until).await,
                None => freed.await,
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1;
        state.ended.push_back(Instant::now());
        drop(state);
        self.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use futures_util::stream;

    use super::*;

    /// At the store a call is seen at any moment between its start and its end.
    #[tokio::test(start_paused = true)]
    async fn no_minute_sees_more_than_the_quota() {
        let pace = Pace::new(50);
        let seen = Mutex::new(Vec::new());
        let call = async |number: u64| {
            let _pass = pace.admit(Purpose::Answer).await;
            // Slow and quick ones, each seen early or late.
            let (before, after) = (number * 7919 % 1500, number * 104_729 % 900);
            tokio::time::sleep(Duration::from_millis(before)).await;
            seen.lock().unwrap().push(Instant::now());
            tokio::time::sleep(Duration::from_millis(after)).await;
        };
        stream::iter(0..400).for_each_concurrent(16, call).await;
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        assert_eq!(seen.len(), 400);
        for (first, last) in seen.iter().zip(&seen[50..]) {
            assert!(*last - *first >= WINDOW, "51 calls within {:?}", *last - *first);
        }
        let whole = seen[399] - seen[0];
        assert!(whole < Duration::from_secs(500), "the quota is made use of: {whole:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_leaves_room_for_an_answer() {
        let pace = Arc::new(Pace::new(20));
        for _ in 0..18 {
            drop(pace.admit(Purpose::Sweep).await);
        }
        let start = Instant::now();
        assert!(pace.admit(Purpose::Saving).await.is_none());
        assert!(pace.admit(Purpose::Answer).await.is_some());
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(pace.admit(Purpose::Sweep).await);
        assert!(start.elapsed() >= Duration::from_secs(59), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_running_call_is_woken() {
        let pace = Pace::new(1);
        let first = pace.admit(Purpose::Answer).await;
        let start = Instant::now();
        let waiting = pace.admit(Purpose::Answer);
        let end = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
        };
        let (_pass, ()) = tokio::join!(waiting, end);
        assert_eq!(start.elapsed(), Duration::from_secs(65));
    }
}
