//! Time that a test can hold.
//!
//! Ages are measured on a clock that never jumps and goes on while the machine is suspended, so
//! that a value which was fresh before a laptop slept for an hour is not fresh after it. Wall
//! time plays no part in any age; it is used only for an expiry that a secret itself carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment on a [`Clock`]. Only differences mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment that [`as_nanos`](Self::as_nanos) was of, so that one can be kept in an atomic.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds on the clock, from wherever it counts.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero if it was later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment this much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Where ages come from: the system's, or one that a test moves by hand.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    held: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's monotonic time, counting suspended time where the system can
    /// (`CLOCK_BOOTTIME` on Linux).
    pub fn system() -> Self {
        Self { held: None }
    }

    /// A clock that stands still until [`Clock::advance`] moves it. Clones move together.
    pub fn held() -> Self {
        Self { held: Some(Arc::new(AtomicU64::new(1_000_000_000))) }
    }

    /// Whether a test holds it.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Now.
    pub fn now(&self) -> Moment {
        match &self.held {
            Some(held) => Moment(held.load(Ordering::SeqCst)),
            None => Moment(system_nanos()),
        }
    }

    /// The nanoseconds of a held clock, for those who cannot afford to look where time comes from.
    #[doc(hidden)]
    pub fn held_nanos(&self) -> Option<&Arc<AtomicU64>> {
        self.held.as_ref()
    }

    /// Moves a held clock forward.
    ///
    /// # Panics
    /// If the clock is the system's.
    pub fn advance(&self, span: Duration) {
        let held = self.held.as_ref().expect("only a held clock is moved by hand");
        held.fetch_add(Moment(0).after(span).0, Ordering::SeqCst);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn system_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn system_nanos() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_clock_moves_only_by_hand() {
        let clock = Clock::held();
        let other = clock.clone();
        let start = clock.now();
        assert_eq!(clock.now(), start);
        other.advance(Duration::from_secs(5));
        assert_eq!(clock.now().since(start), Duration::from_secs(5));
        assert_eq!(start.since(clock.now()), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_moves_on() {
        let clock = Clock::system();
        let start = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now().since(start) >= Duration::from_millis(1));
    }
}
