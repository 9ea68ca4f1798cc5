//! As much of `tokio` as the cache uses, on the scheduler of the checker. Timers are due at once
//! and timeouts never: time is not what is checked here. The broadcast of events is the real one,
//! since the cache only sends on it.
#![forbid(unsafe_code)]

pub use shuttle_tokio::select;

/// Twins of `tokio::sync`.
pub mod sync {
    pub use shuttle_tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
    pub use tokio_real::sync::broadcast;
}

/// Twins of `tokio::time`.
pub mod time {
    pub use shuttle_tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
}
