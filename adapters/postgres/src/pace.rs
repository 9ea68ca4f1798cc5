//! At most so many a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Hands out turns at even distances, to whomever asks.
#[derive(Debug)]
pub(crate) struct Pacer {
    between: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    /// None at all is one a second.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { between: Duration::from_secs(1) / per_second.max(1), next: Mutex::default() }
    }

    /// Waits for the next turn. One that is dropped is lost.
    pub(crate) async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.between);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_even_distances_whoever_asks() {
        let pacer = Pacer::new(10);
        let started = Instant::now();
        for _ in 0..3 {
            tokio::join!(pacer.turn(), pacer.turn());
        }
        assert_eq!(started.elapsed().as_millis(), 500);
        // What was not used is not saved up.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let later = Instant::now();
        pacer.turn().await;
        pacer.turn().await;
        assert_eq!(later.elapsed().as_millis(), 100);
    }
}
