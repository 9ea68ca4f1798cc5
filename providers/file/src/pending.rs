//! What was seen and not yet told: changes wait here until their file is quiet, and melt into
//! one meanwhile.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oneiric_core::{Change, SecretKey};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How many keys may wait before they become [`Change::Anything`].
const MOST: usize = 1024;

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Anything,
    Key(SecretKey),
}

impl From<Subject> for Change {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Anything => Self::Anything,
            Subject::Key(key) => Self::Secret { key, version: None },
        }
    }
}

/// Whether more is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The change is complete: a rename, or the end of a write. It is told at once, unless the
    /// same was told just before.
    Complete,
    /// It may be going on: it is told when it has been quiet for a while.
    Ongoing,
}

/// The changes that wait to be told to one subscriber.
#[derive(Debug)]
pub(crate) struct Pending {
    debounce: Duration,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Subject, (Instant, Pace)>,
    /// When what was told last.
    told: BTreeMap<Subject, Instant>,
    lost: bool,
}

impl Pending {
    pub(crate) fn new(debounce: Duration) -> Self {
        Self { debounce, state: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a change down.
    pub(crate) fn note(&self, subject: Subject, pace: Pace) {
        let now = Instant::now();
        let mut state = self.state();
        state.told.retain(|_, told| *told + self.debounce > now);
        let subject = if state.waiting.len() < MOST { subject } else { Subject::Anything };
        let due = match (pace, state.waiting.get(&subject)) {
            // What is complete and only waits for its turn is not put off.
            (Pace::Ongoing, Some((_, Pace::Complete))) => return,
            (Pace::Ongoing, _) => now + self.debounce,
            (Pace::Complete, _) => {
                state.told.get(&subject).map_or(now, |told| *told + self.debounce)
            }
        };
        state.waiting.insert(subject, (due, pace));
        drop(state);
        self.wake.notify_one();
    }

    /// Takes down that the root is no longer where it was.
    pub(crate) fn lose(&self) {
        self.state().lost = true;
        self.wake.notify_one();
    }

    /// The next change, or `None` if the root was lost. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> Option<Change> {
        loop {
            let due = {
                let mut state = self.state();
                if state.lost {
                    return None;
                }
                let now = Instant::now();
                match state.waiting.iter().map(|(subject, (due, _))| (*due, subject)).min() {
                    Some((due, subject)) if due <= now => {
                        let subject = subject.clone();
                        return Some(state.tell(subject, now));
                    }
                    Some((due, _)) => Some(due),
                    None => None,
                }
            };
            match due {
                None => self.wake.notified().await,
                // Woken or not, the loop looks again.
                Some(due) => _ = timeout_at(due, self.wake.notified()).await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, subject: Subject, now: Instant) -> Change {
        self.waiting.remove(&subject);
        if subject == Subject::Anything {
            // Whatever was complete before is part of it.
            self.waiting.retain(|_, (due, pace)| *pace == Pace::Ongoing && *due > now);
        }
        self.told.insert(subject.clone(), now);
        subject.into()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(50);

    fn key(name: &str) -> Subject {
        Subject::Key(name.parse().unwrap())
    }

    fn secret(name: &str) -> Option<Change> {
        Some(key(name).into())
    }

    async fn quiet(pending: &Pending) -> bool {
        timeout(Duration::from_secs(5), pending.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_complete_change_is_told_at_once() {
        let pending = Pending::new(DEBOUNCE);
        let start = Instant::now();
        pending.note(key("a"), Pace::Complete);
        assert_eq!(pending.next().await, secret("a"));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(quiet(&pending).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ongoing_change_is_told_when_it_is_quiet_or_complete() {
        let pending = Pending::new(DEBOUNCE);
        let start = Instant::now();
        for _ in 0..10 {
            pending.note(key("a"), Pace::Ongoing);
            assert!(timeout(DEBOUNCE / 2, pending.next()).await.is_err());
        }
        assert_eq!(pending.next().await, secret("a"));
        assert!(start.elapsed() >= DEBOUNCE * 5);
        pending.note(key("b"), Pace::Ongoing);
        pending.note(key("b"), Pace::Complete);
        let start = Instant::now();
        assert_eq!(pending.next().await, secret("b"));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_at_its_beginning_and_at_its_end() {
        let pending = Pending::new(DEBOUNCE);
        let mut told = 0;
        for _ in 0..100 {
            pending.note(key("a"), Pace::Complete);
            if timeout(Duration::ZERO, pending.next()).await.is_ok() {
                told += 1;
            }
        }
        assert_eq!(pending.next().await, secret("a"));
        assert_eq!(told, 1);
        assert!(quiet(&pending).await);
    }

    #[tokio::test(start_paused = true)]
    async fn anything_covers_what_waits() {
        let pending = Pending::new(DEBOUNCE);
        pending.note(key("a"), Pace::Complete);
        pending.note(Subject::Anything, Pace::Complete);
        pending.note(key("b"), Pace::Ongoing);
        assert_eq!(pending.next().await, Some(Change::Anything));
        assert_eq!(pending.next().await, secret("b"));
        assert!(quiet(&pending).await);
        for number in 0..2 * MOST {
            pending.note(key(&number.to_string()), Pace::Complete);
        }
        assert!(pending.state().waiting.len() <= MOST + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_ends_the_wait() {
        let pending = Pending::new(DEBOUNCE);
        let (next, ()) = tokio::join!(pending.next(), async {
            sleep(DEBOUNCE).await;
            pending.lose();
        });
        assert_eq!(next, None);
    }
}
