//! What is read, and in which order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// The one provider.
pub const PROVIDER: &str = "files";
/// How many bytes a value has.
pub const VALUE: usize = 64;
/// How many secrets are read from.
pub const ENTRIES: usize = 10_000;
/// How long everything lives: longer than any measurement.
pub const TTL: Duration = Duration::from_secs(3600);

/// The name of a secret.
pub fn key(at: usize) -> String {
    format!("app/service-{at:07}")
}

/// The bytes of a secret.
pub fn value(at: usize) -> [u8; VALUE] {
    let mut bytes = [b'.'; VALUE];
    bytes[..7].copy_from_slice(&format!("{at:07}").as_bytes()[..7]);
    bytes
}

/// Which secrets are read how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One and the same.
    Hot,
    /// A few often and most seldom (exponent 1).
    Zipf,
    /// All alike: every read misses the processor's caches.
    Uniform,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hot, Self::Zipf, Self::Uniform];

    /// For the names of figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Zipf => "zipf",
            Self::Uniform => "uniform",
        }
    }

    /// So many reads out of so many secrets.
    pub fn draw(self, reads: usize, entries: usize, seed: u64) -> Vec<u32> {
        let mut random = fastrand::Rng::with_seed(seed);
        match self {
            Self::Hot => vec![0; reads],
            Self::Uniform => (0..reads).map(|_| index(random.usize(..entries))).collect(),
            Self::Zipf => {
                let mut places: Vec<u32> = (0..entries).map(index).collect();
                // The same secrets are hot for everyone.
                fastrand::Rng::with_seed(1).shuffle(&mut places);
                let mut sum = 0.0;
                let mut sums = Vec::with_capacity(entries);
                for rank in 1..=entries {
                    sum += 1.0 / rank as f64;
                    sums.push(sum);
                }
                let mut read = || {
                    let drawn = random.f64() * sum;
                    places[sums.partition_point(|&below| below < drawn).min(entries - 1)]
                };
                (0..reads).map(|_| read()).collect()
            }
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer than four billion secrets")
}

/// The coarse clock of the peers that have none: an atomic that a thread writes every 20 ms, the
/// cheapest there is, so that what they pay is the cache and not the time.
static SECONDS: LazyLock<Arc<AtomicU64>> = LazyLock::new(|| {
    let seconds = Arc::new(AtomicU64::new(0));
    let weak = Arc::downgrade(&seconds);
    let start = Instant::now();
    std::thread::spawn(move || {
        while let Some(seconds) = weak.upgrade() {
            seconds.store(start.elapsed().as_secs(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    seconds
});

/// A clock for a peer.
pub fn coarse_clock() -> Arc<AtomicU64> {
    Arc::clone(&SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_reads_the_first_tenth_as_often_as_all_the_rest() {
        let order = Order::Zipf.draw(100_000, ENTRIES, 7);
        let mut counts = vec![0_u32; ENTRIES];
        order.iter().for_each(|&at| counts[at as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let hot: u32 = counts[..100].iter().sum();
        assert!((45_000..60_000).contains(&hot), "{hot}");
        assert!((9_000..11_500).contains(&counts[0]), "{}", counts[0]);
    }

    #[test]
    fn the_bytes_tell_the_secrets_apart() {
        assert_ne!(value(1), value(2));
        assert_eq!(value(ENTRIES).len(), VALUE);
    }
}
