//! Every call with its time, and the quotas that are counted from them.

use std::time::Duration;

use tokio::time::Instant;

/// What the service counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Reads of values.
    Access,
    /// Every other read.
    Read,
    /// Every change.
    Write,
    /// Calls of Pub/Sub, which are not limited here.
    PubSub,
}

impl Quota {
    /// The documented limit of a project in a minute.
    pub(crate) fn a_minute(self) -> usize {
        match self {
            Self::Access => 90_000,
            Self::Read | Self::Write => 600,
            Self::PubSub => usize::MAX,
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When it arrived.
    pub at: Instant,
    /// Its name in the API, such as `AccessSecretVersion`.
    pub method: &'static str,
    /// What it was about, as it was asked.
    pub resource: String,
    /// Which quota it counts for.
    pub quota: Quota,
    /// The HTTP status of its answer; 0 if it has none.
    pub status: u16,
}

const WINDOW: Duration = Duration::from_secs(60);

/// Whether one more call would break its quota.
pub(crate) fn is_full(books: &[Entry], quota: Quota, now: Instant) -> bool {
    let recent = books.iter().rev().take_while(|entry| now.duration_since(entry.at) < WINDOW);
    let counted = |entry: &&Entry| entry.quota == quota && entry.status != 429;
    recent.filter(counted).count() >= quota.a_minute()
}

/// The most calls of this quota that any minute has seen, refused ones included.
pub(crate) fn busiest_minute(books: &[Entry], quota: Quota) -> usize {
    let times: Vec<Instant> =
        books.iter().filter(|entry| entry.quota == quota).map(|entry| entry.at).collect();
    let mut busiest = 0;
    let mut first = 0;
    for (index, at) in times.iter().enumerate() {
        while at.duration_since(times[first]) >= WINDOW {
            first += 1;
        }
        busiest = busiest.max(index + 1 - first);
    }
    busiest
}
