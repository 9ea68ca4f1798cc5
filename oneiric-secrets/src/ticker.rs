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

/// Where reads get the time: nanoseconds on the clock, as of the last tick, or of a clock that a
/// test holds and that is exact.
#[derive(Debug)]
pub(crate) struct Ticker(Arc<AtomicU64>);

/// The one that ticks in this process; it ends with the last resolver that uses it.
static TICKING: Mutex<Weak<AtomicU64>> = Mutex::new(Weak::new());

impl Ticker {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self(clock.held_nanos().map_or_else(ticking, Arc::clone))
    }

    #[inline]
    pub(crate) fn now(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn ticking() -> Arc<AtomicU64> {
    let mut ticking = TICKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nanos) = ticking.upgrade() {
        return nanos;
    }
    let clock = Clock::system();
    let nanos = Arc::new(AtomicU64::new(clock.now().as_nanos()));
    *ticking = Arc::downgrade(&nanos);
    let weak = Arc::downgrade(&nanos);
    let tick = move || {
        while let Some(nanos) = weak.upgrade() {
            nanos.store(clock.now().as_nanos(), Ordering::Relaxed);
            drop(nanos);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("oneiric-ticker".into())
        .spawn(tick)
        .expect("the system has a thread to spare");
    nanos
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
