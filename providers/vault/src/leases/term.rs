//! How long a lease lives, and what is to be done about it when: arithmetic without IO.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest pause after a failed call.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What the first pause is at most; each next may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// No lease lives for ever, and no clock counts so far.
const LONGEST_TERM: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long a lease lives, as the server has last said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Term {
    /// What was granted at first, and is asked for again.
    granted: Duration,
    /// When the request was sent that was answered with `ttl`.
    since: Instant,
    ttl: Duration,
    renewable: bool,
    /// Whether less was granted than was asked for: it cannot live any longer than this.
    utmost: bool,
}

/// What is to be done next, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    Renew(Instant),
    /// Another lease is to take its place.
    Succeed(Instant),
}

impl Term {
    /// `None` where the lease ends before it begins.
    pub(super) fn new(since: Instant, seconds: u64, renewable: bool) -> Option<Self> {
        let ttl = Duration::from_secs(seconds).min(LONGEST_TERM);
        let term = Self { granted: ttl, since, ttl, renewable, utmost: false };
        (!ttl.is_zero()).then_some(term)
    }

    pub(super) fn granted(&self) -> Duration {
        self.granted
    }

    /// When it ends. A token takes its leases along, so it ends with the one it was taken by.
    pub(super) fn ends(&self, token_ends: Option<Instant>) -> Instant {
        let own = self.since + self.ttl;
        token_ends.map_or(own, |ends| own.min(ends))
    }

    /// What a renewal has granted.
    pub(super) fn renew(&mut self, since: Instant, seconds: u64) {
        self.since = since;
        self.ttl = Duration::from_secs(seconds).min(LONGEST_TERM);
        self.utmost |= self.ttl < self.granted;
    }

    /// That it may not be renewed.
    pub(super) fn fix(&mut self) {
        self.renewable = false;
    }

    /// That it has ended.
    pub(super) fn end(&mut self, now: Instant) {
        (self.since, self.ttl, self.renewable) = (now, Duration::ZERO, false);
    }

    /// What to do while it is the current one.
    ///
    /// It is renewed at two thirds of what is left, up to a tenth of that earlier by `jitter`, so
    /// that those who came together do not come together again. Where it cannot be renewed, its
    /// successor comes at that time; and at once when the server has granted less than was asked
    /// for, since its utmost end is near then. So at least a third of a term is left for a rotation
    /// and its drain, and more the sooner that was known.
    pub(super) fn next(&self, jitter: f64) -> Next {
        let early = self.since + self.ttl.mul_f64(2.0 / 3.0 * (1.0 - jitter / 10.0));
        match (self.utmost, self.renewable) {
            (true, _) => Next::Succeed(self.since),
            (false, true) => Next::Renew(early),
            (false, false) => Next::Succeed(early),
        }
    }
}

/// How long to wait after so many failures in a row: anything up to a bound that doubles, and that
/// leaves several attempts before a lease of this length has ended.
pub(super) fn pause(times: u32, granted: Duration, random: f64) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(1 << times.min(12)).min(LONGEST_PAUSE);
    bound.min((granted / 10).max(FIRST_PAUSE)).mul_f64(random).max(SHORTEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn term(seconds: u64, renewable: bool) -> (Term, Instant) {
        let now = Instant::now();
        (Term::new(now, seconds, renewable).unwrap(), now)
    }

    #[test]
    fn a_lease_is_renewed_at_two_thirds_and_not_by_all_at_once() {
        let (mut term, now) = term(3600, true);
        assert_eq!(term.next(0.0), Next::Renew(now + 2400 * SECOND));
        assert_eq!(term.next(1.0), Next::Renew(now + 2160 * SECOND));
        let later = now + 2400 * SECOND;
        term.renew(later, 3600);
        assert_eq!(term.next(0.0), Next::Renew(later + 2400 * SECOND));
        assert_eq!(term.ends(None), later + 3600 * SECOND);
    }

    #[test]
    fn a_successor_comes_when_less_is_granted_than_was_asked_for() {
        let (mut term, now) = term(3600, true);
        let renewed = now + 2400 * SECOND;
        term.renew(renewed, 3599);
        assert_eq!(term.next(1.0), Next::Succeed(renewed));
        assert_eq!(term.ends(None), renewed + 3599 * SECOND);
        // The end that was known stays the utmost one.
        term.renew(renewed, 3600);
        assert_eq!(term.next(1.0), Next::Succeed(renewed));
    }

    #[test]
    fn a_rotation_has_at_least_a_third_of_a_term() {
        // Whatever the utmost life is, and however the server rounds it.
        for utmost in 5_u32..100 {
            for jitter in [0.0, 0.3, 1.0] {
                let (mut term, start) = term(4, true);
                let due = loop {
                    match term.next(jitter) {
                        Next::Succeed(at) => break at,
                        Next::Renew(at) => {
                            let left = (start + utmost * SECOND).duration_since(at);
                            term.renew(at, left.as_secs().min(4));
                        }
                    }
                };
                let left = term.ends(None).duration_since(due);
                // The server has rounded down by up to a second of the four.
                let third = Duration::from_secs_f64(4.0 / 3.0 - 1.0);
                assert!(left >= third, "{utmost} {jitter}: {left:?}");
                assert!(left <= 4 * SECOND, "{utmost} {jitter}: {left:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_renewed_has_its_successor_at_two_thirds() {
        let (mut other, now) = term(60, false);
        assert_eq!(other.next(0.0), Next::Succeed(now + 40 * SECOND));
        assert_eq!(other.next(1.0), Next::Succeed(now + 36 * SECOND));
        other = term(60, true).0;
        other.fix();
        assert!(matches!(other.next(0.0), Next::Succeed(_)));
    }

    #[test]
    fn the_end_is_the_first_of_all_ends() {
        let (mut term, now) = term(60, true);
        assert_eq!(term.ends(None), now + 60 * SECOND);
        assert_eq!(term.ends(Some(now + 59 * SECOND)), now + 59 * SECOND);
        assert_eq!(term.ends(Some(now + 61 * SECOND)), now + 60 * SECOND);
        term.renew(now + 40 * SECOND, 5);
        assert_eq!(term.ends(Some(now + 59 * SECOND)), now + 45 * SECOND);
        term.end(now);
        assert_eq!(term.ends(None), now);
        assert_eq!(term.next(1.0), Next::Succeed(now));
    }

    #[test]
    fn a_term_of_nothing_is_none_and_one_of_ever_is_a_long_one() {
        assert_eq!(Term::new(Instant::now(), 0, true), None);
        let (term, now) = term(u64::MAX, true);
        assert_eq!(term.ends(None), now + LONGEST_TERM);
    }

    #[test]
    fn pauses_grow_are_spread_and_leave_time_for_more_attempts() {
        let hour = 3600 * SECOND;
        assert_eq!(pause(0, hour, 1.0), FIRST_PAUSE);
        assert_eq!(pause(2, hour, 1.0), 4 * FIRST_PAUSE);
        assert_eq!(pause(60, hour, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(60, hour, 0.5), LONGEST_PAUSE / 2);
        assert_eq!(pause(60, hour, 0.0), SHORTEST_PAUSE);
        assert_eq!(pause(60, 4 * SECOND, 1.0), Duration::from_millis(400));
    }
}
