//! The time that reads go by: one atomic load, no call of the system.
//!
//! A thread of its own writes it, every [`TICK`], so it goes on however starved the async runtime
//! is. A read may therefore take a value for fresh for up to one tick, and whatever the operating
//! system keeps that thread waiting, after its time has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oneiric_core::{Clock, Moment};

/// How old the time may be that a read goes by.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Where reads get the time.
#[derive(Debug)]
pub(crate) enum Ticker {
    /// A clock that a test holds is exact.
    Held(Clock),
    /// The system's, as of the last tick.
    Ticking(Arc<Ticks>),
}

/// The last tick, as nanoseconds since `start`.
#[derive(Debug)]
pub(crate) struct Ticks {
    start: Moment,
    since: AtomicU64,
}

/// The one ticker of the process; it ends with the last resolver that uses it.
static SHARED: Mutex<Weak<Ticks>> = Mutex::new(Weak::new());

impl Ticker {
    pub(crate) fn new(clock: &Clock) -> Self {
        if clock.is_held() { Self::Held(clock.clone()) } else { Self::Ticking(shared()) }
    }

    pub(crate) fn now(&self) -> Moment {
        match self {
            Self::Held(clock) => clock.now(),
            Self::Ticking(ticks) => {
                ticks.start.after(Duration::from_nanos(ticks.since.load(Ordering::Relaxed)))
            }
        }
    }
}

fn shared() -> Arc<Ticks> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ticks) = shared.upgrade() {
        return ticks;
    }
    let clock = Clock::system();
    let ticks = Arc::new(Ticks { start: clock.now(), since: AtomicU64::new(0) });
    *shared = Arc::downgrade(&ticks);
    let weak = Arc::downgrade(&ticks);
    let tick = move || {
        while let Some(ticks) = weak.upgrade() {
            let since = clock.now().since(ticks.start).as_nanos();
            ticks.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
            drop(ticks);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("oneiric-ticker".into())
        .spawn(tick)
        .expect("the system has a thread to spare");
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_clock_without_a_runtime() {
        let clock = Clock::system();
        let ticker = Ticker::new(&clock);
        // Nothing async runs here at all. The bound is a tick; the rest is for a busy machine.
        let deadline = clock.now().after(Duration::from_secs(20));
        let start = ticker.now();
        while ticker.now().since(start) < Duration::from_millis(200) {
            assert!(clock.now() < deadline, "the ticker stands still");
            std::thread::yield_now();
        }
        assert!(ticker.now() <= clock.now(), "it is never ahead");
    }

    #[test]
    fn a_held_clock_is_exact() {
        let clock = Clock::held();
        let ticker = Ticker::new(&clock);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(ticker.now(), clock.now());
    }
}
