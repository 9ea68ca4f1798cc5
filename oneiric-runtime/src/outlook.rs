//! What watching a provider promises and costs, computed from what the provider says of itself
//! and from the settings. Nothing here asks anybody.

use std::time::Duration;

use oneiric_core::{Capabilities, Detection};

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// A month, as prices have it.
const DAYS_A_MONTH: f64 = 30.0;
/// How much an interval is lengthened or shortened at most, so that a fleet does not ask in step.
pub(crate) const JITTER: f64 = 0.1;
/// How long a look at the store may take beyond what its quota makes of it: for a few calls over a
/// bad network.
const SLACK: Duration = Duration::from_secs(60);
/// What one call is reckoned with where the store has no quota.
const UNMETERED_CALL: Duration = Duration::from_millis(10);

/// How a provider is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watching {
    pub(crate) capabilities: Capabilities,
    pub(crate) detection: Detection,
    /// How many secrets are watched.
    pub(crate) keys: usize,
    pub(crate) pace: Pace,
    /// Whether the subscription to the store's change events is there now.
    pub(crate) live: bool,
}

/// The times that settings give to all providers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How often the store is swept; zero watches nothing.
    pub(crate) interval: Duration,
    /// How often while push is there and a sweep has a price.
    pub(crate) behind_push: Duration,
    /// The time to live of what is cached; zero if nothing is kept.
    pub(crate) ttl: Duration,
}

impl Pace {
    /// These times. An interval is a year at most: beyond that, clocks overflow.
    pub(crate) fn new(interval: Duration, behind_push: Duration, ttl: Duration) -> Self {
        Self { interval: interval.min(YEAR), behind_push: behind_push.min(YEAR), ttl }
    }
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outlook {
    pub(crate) mode: Mode,
    /// When a change is noticed at the latest; `None` if only by somebody who asks for a rotation.
    pub(crate) noticed: Option<Bound>,
    /// How many calls the sweep makes in a day.
    pub(crate) calls_a_day: f64,
    /// What they cost in a month of 30 days, where the price is public.
    pub(crate) usd_a_month: Option<f64>,
}

/// By what a change is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The store tells at once, and the sweep finds what it did not tell.
    PushAndSweep,
    /// The store tells at once. What it does not tell is found when the time to live ends.
    PushAndTtl,
    /// The sweep alone: the store cannot tell, or its subscription is lost.
    Sweep,
    /// What is cached is read anew when its time to live ends.
    Ttl,
}

impl Mode {
    /// A stable token for tables and `--json`.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::PushAndSweep => "push+sweep",
            Self::PushAndTtl => "push+ttl",
            Self::Sweep => "sweep",
            Self::Ttl => "ttl",
        }
    }
}

/// The longest time from a change in the store until it is noticed here, while the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// No longer than this.
    Within(Duration),
    /// It has no bound, since the store may show an old state for as long as it likes; this much
    /// is ours.
    AtLeast(Duration),
}

impl Bound {
    fn new(ours: Duration, settles_within: Option<Duration>) -> Self {
        match settles_within {
            Some(settles) => Self::Within(ours.saturating_add(settles)),
            None => Self::AtLeast(ours),
        }
    }

    fn ours(self) -> Duration {
        match self {
            Self::Within(duration) | Self::AtLeast(duration) => duration,
        }
    }

    /// The better of two for one store: both have a bound, or neither has.
    fn sooner(self, other: Self) -> Self {
        if other.ours() < self.ours() { other } else { self }
    }
}

impl Watching {
    /// What is to be expected of it.
    pub(crate) fn outlook(&self) -> Outlook {
        let sweep = self.by_sweep();
        // Without a time to live nothing is kept for reads, and so nothing is read anew either.
        let ttl = self.pace.ttl;
        let ttl = (!ttl.is_zero()).then(|| Bound::new(ttl, self.detection.settles_within));
        let watched = !self.pace.interval.is_zero();
        let mode = match (watched && self.live, sweep.is_some()) {
            (true, true) => Mode::PushAndSweep,
            (true, false) => Mode::PushAndTtl,
            (false, true) => Mode::Sweep,
            (false, false) => Mode::Ttl,
        };
        let noticed = match (sweep, ttl) {
            (Some(sweep), Some(ttl)) => Some(sweep.sooner(ttl)),
            (sweep, ttl) => sweep.or(ttl),
        };
        let calls_a_day = if sweep.is_some() { self.calls_a_day() } else { 0.0 };
        let usd = |price: f64| calls_a_day * DAYS_A_MONTH * price / 1e6;
        Outlook { mode, noticed, calls_a_day, usd_a_month: self.detection.usd_a_million.map(usd) }
    }

    /// How long after a sweep the next one begins, on average. A sweep that costs neither money nor
    /// quota and sees the truth at once is not slowed by push: nothing is gained by it, and what a
    /// file system does not tell is found the sooner.
    pub(crate) fn interval(&self) -> Duration {
        let Detection { calls_a_minute, settles_within, usd_a_million, .. } = self.detection;
        let local = calls_a_minute.is_none()
            && settles_within == Some(Duration::ZERO)
            && usd_a_million == Some(0.0);
        let Pace { interval, behind_push, .. } = self.pace;
        if self.live && !local { interval.max(behind_push) } else { interval }
    }

    /// How long a look at all keys may take before it counts as failed: twice what the quota makes
    /// of it, and some slack. Without a quota a call is reckoned with a hundredth of a second.
    pub(crate) fn patience(&self) -> Duration {
        let calls = u32::try_from(self.calls()).unwrap_or(u32::MAX);
        let quota = self.by_quota();
        let needed = if quota.is_zero() { UNMETERED_CALL.saturating_mul(calls) } else { quota };
        SLACK.saturating_add(needed.saturating_mul(2))
    }

    /// The worst is a secret that changes right after the sweep has looked at it: it waits for the
    /// rest of that sweep, for the interval, and for the end of the next sweep, which may look at
    /// it last.
    fn by_sweep(&self) -> Option<Bound> {
        if self.pace.interval.is_zero() || !self.capabilities.stamps {
            return None;
        }
        let interval = self.interval().mul_f64(1.0 + JITTER);
        let ours = interval.saturating_add(self.by_quota().saturating_mul(2));
        Some(Bound::new(ours, self.detection.settles_within))
    }

    fn calls_a_day(&self) -> f64 {
        let round = self.interval().saturating_add(self.by_quota());
        self.calls() as f64 * DAY.as_secs_f64() / round.as_secs_f64()
    }

    /// How many calls one sweep takes.
    fn calls(&self) -> usize {
        match self.detection.keys_a_call {
            None => usize::from(self.keys > 0),
            Some(at_once) => {
                self.keys.div_ceil(usize::try_from(at_once.get()).unwrap_or(usize::MAX))
            }
        }
    }

    /// How long one sweep takes by the store's quota alone.
    fn by_quota(&self) -> Duration {
        let Some(calls_a_minute) = self.detection.calls_a_minute else { return Duration::ZERO };
        let minutes = self.calls() as f64 / f64::from(calls_a_minute.get());
        Duration::try_from_secs_f64(minutes * 60.0).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests;
