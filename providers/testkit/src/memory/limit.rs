//! A store that answers so many calls in any second and no more.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// The calls of the last second.
pub(super) struct Limit {
    a_second: usize,
    recent: VecDeque<Instant>,
    refused: u64,
}

impl Limit {
    pub(super) fn new(a_second: usize) -> Self {
        Self { a_second, recent: VecDeque::with_capacity(a_second), refused: 0 }
    }

    /// Takes a call on, or says after what time it may come again.
    pub(super) fn refuse(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.recent.retain(|at| now.duration_since(*at) < SECOND);
        let wait = match self.recent.front() {
            Some(first) if self.recent.len() >= self.a_second => *first + SECOND - now,
            _ => {
                self.recent.push_back(now);
                return None;
            }
        };
        self.refused += 1;
        Some(wait)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}
