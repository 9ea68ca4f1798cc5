//! What the watcher knows of each secret: the stamp it saw last, and the change of it that is
//! under way. From this it tells news from what is known, and what push missed from what it told.

use std::collections::HashMap;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, SecretKey, Stamp, Version};
use tokio::time::Instant;

/// What the cache holds, by key.
pub(super) type Held = HashMap<SecretKey, Holding>;

/// What the cache holds of one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) version: Version,
    pub(super) stamp: Option<Stamp>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ledger {
    /// How long a change that was not carried through is left alone.
    pause: Duration,
    seen: HashMap<SecretKey, Seen>,
    pending: HashMap<SecretKey, Pending>,
}

/// The last stamp of a secret, and what was held when it was seen: what values without a stamp of
/// their own are compared with.
#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    held: Version,
}

/// A change that is known of, as long as the cache holds what it held before it.
#[derive(Debug)]
struct Pending {
    held: Version,
    since: Instant,
    /// The version that an event named.
    version: Option<Version>,
    /// The stamp under which it was followed up.
    stamp: Option<Stamp>,
    /// Whether an event has told of a change since the last look.
    told: bool,
    /// When it may be followed up again.
    again: Instant,
    looked: Instant,
}

/// What to do about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing: it is known, or older than what is held.
    NoNews,
    /// Read it.
    Follow,
    /// See whether it has changed.
    Look,
}

/// The stamps of some secrets, and what was held when they were asked for.
pub(super) struct Look {
    pub(super) began: Instant,
    pub(super) before: Held,
    /// Whether it was a look at everything.
    pub(super) sweep: bool,
    pub(super) stamps: Vec<(SecretKey, Result<Stamp, Error>)>,
}

impl Look {
    /// Whether anything was seen: also that what was not there is still not there.
    pub(super) fn saw_anything(&self) -> bool {
        self.stamps.iter().any(|(key, stamp)| match stamp {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::NotFound && !self.before.contains_key(key),
        })
    }
}

/// What a look has shown.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// These have changed and are to be read.
    pub(super) changed: Vec<SecretKey>,
    /// How many of the changes no event had told of.
    pub(super) missed: u64,
    /// What is held changed while they were looked at: it takes another look.
    pub(super) unclear: Vec<SecretKey>,
    /// Why a stamp could not be had, where that is so.
    pub(super) failed: Option<Error>,
}

impl Ledger {
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, seen: HashMap::new(), pending: HashMap::new() }
    }

    /// Notes an event about a secret of which `held` is held.
    pub(super) fn tell(
        &mut self,
        key: &SecretKey,
        version: Option<&Version>,
        held: &Version,
        now: Instant,
    ) -> Told {
        if version.is_some_and(|version| version == held || version.is_older_than(held)) {
            return Told::NoNews;
        }
        let known = self.pending.get_mut(key).filter(|pending| pending.held == *held);
        let Some(version) = version else {
            match known {
                Some(pending) => pending.told = true,
                None => _ = self.pending.insert(key.clone(), Pending::new(held, now)),
            }
            return Told::Look;
        };
        if let Some(pending) = &known
            && let Some(of) = &pending.version
            && (version == of || version.is_older_than(of))
            && now < pending.again
        {
            return Told::NoNews;
        }
        let again = now + self.pause;
        let version = Some(version.clone());
        self.pending.insert(key.clone(), Pending { version, again, ..Pending::new(held, now) });
        Told::Follow
    }

    /// When the next of the changes that were not carried through is to be looked at again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.due(self.pause)).min()
    }

    /// The changes that are to be looked at again now. Those that were carried through are
    /// forgotten.
    pub(super) fn due(&mut self, held: &Held, now: Instant) -> Vec<SecretKey> {
        self.pending.retain(|key, pending| pending.is_open(held.get(key)));
        let pause = self.pause;
        let due = self.pending.iter_mut().filter(|(_, pending)| pending.due(pause) <= now);
        due.map(|(key, pending)| {
            pending.looked = now;
            key.clone()
        })
        .collect()
    }

    /// Compares what a look has shown with what is held now.
    pub(super) fn compare(&mut self, look: Look, held: &Held, now: Instant) -> Findings {
        let mut findings = Findings::default();
        if look.sweep {
            self.seen.retain(|key, _| held.contains_key(key));
        }
        let Look { began, before, sweep, stamps } = look;
        for (key, stamp) in stamps {
            let (Some(now_held), Some(before)) = (held.get(&key), before.get(&key)) else {
                continue;
            };
            let stamp = match stamp {
                Ok(stamp) => stamp,
                // What was there and is gone, or is closed to us, serves on until it is asked
                // for; it is said, and nothing is thrown away.
                Err(error) => {
                    findings.failed = Some(error);
                    continue;
                }
            };
            let seen = Seen { stamp: stamp.clone(), held: now_held.version.clone() };
            let seen = self.seen.insert(key.clone(), seen);
            // Held against the value in the cache, so that a change which could not be carried
            // through is found again.
            let unchanged = match (&now_held.stamp, &seen) {
                (Some(of), _) => *of == stamp,
                (None, Some(seen)) => seen.stamp == stamp,
                (None, None) => true,
            };
            if unchanged {
                self.settle(&key, began, sweep);
            } else if before.version != now_held.version {
                // The stamp may be that of what was held before.
                if before.stamp.as_ref() != Some(&stamp) {
                    findings.unclear.push(key);
                }
            } else {
                // A value without a stamp of its own, read since the last look, is read once more
                // to be sure, and that proves nothing against push.
                let sure = now_held.stamp.is_some()
                    || seen.is_none_or(|seen| seen.held == now_held.version);
                let (follow, missed) = self.found(&key, &now_held.version, stamp, now);
                if follow {
                    findings.changed.push(key);
                }
                findings.missed += u64::from(missed && sure);
            }
        }
        findings
    }

    /// Notes a change that a look has shown; says whether to follow it up, and whether nothing
    /// was known of it.
    fn found(
        &mut self,
        key: &SecretKey,
        held: &Version,
        stamp: Stamp,
        now: Instant,
    ) -> (bool, bool) {
        let again = now + self.pause;
        let Some(pending) = self.pending.get_mut(key).filter(|pending| pending.held == *held)
        else {
            let pending = Pending { stamp: Some(stamp), again, ..Pending::new(held, now) };
            self.pending.insert(key.clone(), Pending { told: false, ..pending });
            return (true, true);
        };
        let another = pending.stamp.as_ref().is_some_and(|known| *known != stamp);
        let missed = another && !pending.told;
        let follow = another || now >= pending.again;
        pending.stamp = Some(stamp);
        pending.told = false;
        if follow {
            pending.again = again;
        }
        (follow, missed)
    }

    /// Forgets a change of which a look that began after it shows nothing. A version that was
    /// named may show later, so it is the sweep that disproves it.
    fn settle(&mut self, key: &SecretKey, began: Instant, sweep: bool) {
        let disproved =
            |pending: &Pending| pending.since <= began && (sweep || pending.version.is_none());
        if self.pending.get(key).is_some_and(disproved) {
            self.pending.remove(key);
        }
    }
}

impl Pending {
    /// A change that an event has told of and that may be followed up at once.
    fn new(held: &Version, now: Instant) -> Self {
        let held = held.clone();
        Self { held, since: now, version: None, stamp: None, told: true, again: now, looked: now }
    }

    fn due(&self, pause: Duration) -> Instant {
        self.again.max(self.looked + pause)
    }

    fn is_open(&self, held: Option<&Holding>) -> bool {
        held.is_some_and(|held| held.version == self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> SecretKey {
        "a".parse().unwrap()
    }

    fn held(version: u64, stamp: Option<&str>) -> Held {
        let version = Version::numbered(version);
        [(key(), Holding { version, stamp: stamp.map(Stamp::from) })].into()
    }

    fn look(began: Instant, before: Held, stamp: &str) -> Look {
        Look { began, before, sweep: true, stamps: vec![(key(), Ok(Stamp::from(stamp)))] }
    }

    #[test]
    fn values_without_a_stamp_are_compared_with_the_last_one_seen() {
        let (mut ledger, now) = (Ledger::new(30 * SECOND), Instant::now());
        let mut compare = |version, stamp| {
            let held = held(version, None);
            let findings = ledger.compare(look(now, held.clone(), stamp), &held, now);
            (findings.changed.len(), findings.missed)
        };
        assert_eq!(compare(1, "s1"), (0, 0), "the first is compared with nothing");
        assert_eq!(compare(1, "s1"), (0, 0));
        assert_eq!(compare(1, "s2"), (1, 1));
        // Read since by an event: it may be the value that is held, so it is no proof against push.
        assert_eq!(compare(2, "s3"), (1, 0));
        assert_eq!(compare(2, "s3"), (0, 0));
    }

    #[test]
    fn what_changes_twice_during_a_look_takes_another_look() {
        let (mut ledger, now) = (Ledger::new(30 * SECOND), Instant::now());
        let (before, after) = (held(1, Some("s1")), held(2, Some("s2")));
        let findings = ledger.compare(look(now, before.clone(), "s3"), &after, now);
        assert_eq!((findings.changed.len(), findings.unclear), (0, vec![key()]));
        let findings = ledger.compare(look(now, before, "s1"), &after, now);
        assert_eq!((findings.changed.len(), findings.unclear.len()), (0, 0));
    }

    #[test]
    fn a_version_that_an_event_named_is_given_up_when_a_later_sweep_does_not_show_it() {
        let (mut ledger, now) = (Ledger::new(30 * SECOND), Instant::now());
        let held = held(1, Some("s1"));
        let told = ledger.tell(&key(), Some(&Version::numbered(2)), &Version::numbered(1), now);
        assert_eq!(told, Told::Follow);
        let earlier = look(now - SECOND, held.clone(), "s1");
        ledger.compare(earlier, &held, now);
        assert_eq!(ledger.due(&held, now + 30 * SECOND), [key()]);
        ledger.compare(Look { sweep: false, ..look(now, held.clone(), "s1") }, &held, now);
        assert!(ledger.next_due().is_some(), "it may be an event ahead of its data");
        ledger.compare(look(now + SECOND, held.clone(), "s1"), &held, now);
        assert_eq!(ledger.next_due(), None);
    }

    #[test]
    fn each_change_that_nobody_told_of_is_missed_once_whatever_look_shows_it() {
        let (mut ledger, now) = (Ledger::new(30 * SECOND), Instant::now());
        let held = held(1, Some("s1"));
        let mut compare = |stamp, sweep| {
            let look = Look { sweep, ..look(now, held.clone(), stamp) };
            let findings = ledger.compare(look, &held, now);
            (findings.changed.len(), findings.missed)
        };
        assert_eq!(compare("s2", true), (1, 1));
        assert_eq!(compare("s2", true), (0, 0));
        assert_eq!(compare("s2", false), (0, 0));
        assert_eq!(compare("s3", false), (1, 1), "another one on top of it");
        assert_eq!(compare("s3", true), (0, 0));
        ledger.tell(&key(), None, &Version::numbered(1), now);
        let findings = ledger.compare(look(now, held.clone(), "s4"), &held, now);
        assert_eq!((findings.changed.len(), findings.missed), (1, 0), "an event told of it");
    }

    #[test]
    fn what_was_carried_through_is_forgotten() {
        let (mut ledger, now) = (Ledger::new(30 * SECOND), Instant::now());
        ledger.tell(&key(), Some(&Version::numbered(2)), &Version::numbered(1), now);
        assert!(ledger.due(&held(2, Some("s2")), now + 60 * SECOND).is_empty());
        assert_eq!(ledger.next_due(), None);
    }
}
