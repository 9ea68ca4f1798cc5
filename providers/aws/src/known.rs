//! What is known of each secret: which version has been seen to be current, and since when.
//!
//! Every answer of Secrets Manager may be old, and ids of versions stand in no order, so an answer
//! is held against what was seen before. Dates of the store decide where there are such: a state
//! with an earlier date of change is an older state. A value comes with the date of its version
//! alone, which decides if it was made after all that is known. What neither decides is looked at.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use oneiric_core::SecretKey;
use tokio::time::Instant;

use crate::names;

/// For how long a version that was replaced is not believed to be back without a newer date: twice
/// the five minutes for which lists may show an old state.
pub(crate) const SETTLES: Duration = Duration::from_secs(600);
/// The same for what only an event has told: whoever may write to the queue can tell anything.
const TOLD_SETTLES: Duration = Duration::from_secs(60);
/// For how long after a version was made the secret shows that date without the version being
/// current: it waits for its label.
const STAGED: Duration = Duration::from_secs(1);
/// How far the clock of an event, of a secret and of this machine may be apart.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);
/// How many versions that were replaced are remembered.
const MOST_BEFORE: usize = 8;

/// What one answer shows of one secret.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) arn: String,
    pub(crate) name: String,
    /// The version that is current in it.
    pub(crate) version: Arc<str>,
    /// When the secret was changed last, in the state that is shown.
    pub(crate) changed: Option<SystemTime>,
    /// When the version was made.
    pub(crate) created: Option<SystemTime>,
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It shows what is known.
    Same,
    /// It shows a newer state.
    Newer,
    /// It shows an older state: the answer lags behind.
    Older,
    /// It shows another state, and nothing says which one is newer.
    Unclear,
}

/// An event that is not proven to be about the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) version: Option<Arc<str>>,
    pub(crate) time: Option<SystemTime>,
}

/// All secrets that somebody has asked for and that were there.
#[derive(Debug, Default)]
pub(crate) struct Books(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    secrets: HashMap<SecretKey, Known>,
    by_name: HashMap<String, BTreeSet<SecretKey>>,
}

#[derive(Debug)]
struct Known {
    arn: String,
    name: String,
    version: Arc<str>,
    changed: Option<SystemTime>,
    created: Option<SystemTime>,
    /// When it became current, as long as an event alone has said so.
    told: Option<SystemTime>,
    /// The version that was named to whoever follows events, and when, until somebody has read it.
    named: Option<(Arc<str>, Instant)>,
    /// What was current before, the latest last.
    before: VecDeque<Arc<str>>,
    /// Since when the version is known to be current, on both clocks.
    since: (Instant, SystemTime),
    /// When an answer has shown it last.
    confirmed: Instant,
    hint: Option<Hint>,
}

impl Books {
    /// Holds an answer against what is known, and notes it unless it is older or unclear.
    pub(crate) fn see(&self, key: &SecretKey, sight: &Sight) -> Verdict {
        let mut inner = self.inner();
        let verdict = match inner.secrets.get(key) {
            None => Verdict::Newer,
            Some(known) => known.judge(sight),
        };
        if matches!(verdict, Verdict::Same | Verdict::Newer) {
            inner.learn(key, sight);
        }
        verdict
    }

    /// The same for a look at one secret that was made to find out: what nothing speaks against is
    /// believed. Answers with the version that is current.
    pub(crate) fn settle(&self, key: &SecretKey, sight: &Sight) -> Arc<str> {
        let mut inner = self.inner();
        match inner.secrets.get(key) {
            Some(known) if known.judge(sight) == Verdict::Older => Arc::clone(&known.version),
            _ => {
                inner.learn(key, sight);
                Arc::clone(&sight.version)
            }
        }
    }

    /// Notes what is certain: it was our own doing.
    pub(crate) fn learn(&self, key: &SecretKey, sight: &Sight) {
        self.inner().learn(key, sight);
    }

    /// The version that is known to be current, and whether it has been for so short a time that
    /// an old answer is likelier than a way back.
    pub(crate) fn current(&self, key: &SecretKey) -> Option<(Arc<str>, bool)> {
        let inner = self.inner();
        inner.secrets.get(key).map(|known| (Arc::clone(&known.version), known.is_young()))
    }

    /// Whether only an event has said that this version is current.
    pub(crate) fn is_told(&self, key: &SecretKey, version: &str) -> bool {
        let inner = self.inner();
        inner
            .secrets
            .get(key)
            .is_some_and(|known| known.told.is_some() && *known.version == *version)
    }

    /// The version that is known if an answer has shown it since then, with the place it is in and its name.
    pub(crate) fn since(
        &self,
        key: &SecretKey,
        then: Instant,
    ) -> Option<(Arc<str>, String, String)> {
        let inner = self.inner();
        let known = inner.secrets.get(key).filter(|known| known.confirmed >= then)?;
        let place = names::Arn::parse(&known.arn)?.place.to_owned();
        Some((Arc::clone(&known.version), place, known.name.clone()))
    }

    /// All keys that name this secret; those of other accounts and regions do not.
    pub(crate) fn keys(&self, place: Option<&str>, name: &str) -> Vec<SecretKey> {
        let inner = self.inner();
        let keys = inner.by_name.get(name).into_iter().flatten();
        let ours = keys.filter(|key| {
            let arn = inner.secrets.get(*key).and_then(|known| names::Arn::parse(&known.arn));
            arn.is_none_or(|arn| place.is_none_or(|place| arn.place == place))
        });
        ours.cloned().collect()
    }

    /// Whether whoever reads this version may do so because an event has named it.
    pub(crate) fn is_named(&self, key: &SecretKey, version: &str) -> bool {
        let inner = self.inner();
        let named = inner.secrets.get(key).and_then(|known| known.named.as_ref());
        named.is_some_and(|(of, when)| **of == *version && when.elapsed() < TOLD_SETTLES)
    }

    /// Notes that it was read, and found to be current or not to be.
    pub(crate) fn forget_named(&self, key: &SecretKey, version: &str) {
        if let Some(known) = self.inner().secrets.get_mut(key) {
            known.named.take_if(|(of, _)| **of == *version);
        }
    }

    /// Notes an event that says which version became current and when. Whether it is certain that
    /// this is newer than all that is known; if not, the next look at the secret clears it up.
    pub(crate) fn told(
        &self,
        key: &SecretKey,
        version: &Arc<str>,
        time: Option<SystemTime>,
    ) -> bool {
        let mut inner = self.inner();
        let Some(known) = inner.secrets.get_mut(key) else { return false };
        if known.version == *version {
            known.named = Some((Arc::clone(version), Instant::now()));
            return true;
        }
        // The later of the two moments at which another version was current.
        let then = known.changed.unwrap_or(known.since.1);
        let later = time.is_some_and(|time| time > then + MARGIN);
        if later && !known.before.contains(version) {
            let (arn, name) = (known.arn.clone(), known.name.clone());
            let version = Arc::clone(version);
            inner.learn(key, &Sight { arn, name, version, changed: None, created: None });
            if let Some(known) = inner.secrets.get_mut(key) {
                known.told = time;
                known.named = Some((Arc::clone(&known.version), Instant::now()));
            }
            return true;
        }
        // Events come in any order, and a look waits for the newest of them.
        if known.hint.as_ref().is_none_or(|hint| hint.time <= time) {
            known.hint = Some(Hint { version: Some(Arc::clone(version)), time });
        }
        false
    }

    /// Notes that the secret is to be looked at by itself, and not in a list.
    pub(crate) fn hint(&self, key: &SecretKey) {
        if let Some(known) = self.inner().secrets.get_mut(key) {
            known.hint.get_or_insert(Hint { version: None, time: None });
        }
    }

    /// What events have said that no look has cleared up.
    pub(crate) fn hinted(&self, key: &SecretKey) -> Option<Hint> {
        self.inner().secrets.get(key)?.hint.clone()
    }

    /// Forgets a hint, unless another has come since.
    pub(crate) fn clear(&self, key: &SecretKey, hint: &Hint) {
        if let Some(known) = self.inner().secrets.get_mut(key)
            && known.hint.as_ref() == Some(hint)
        {
            known.hint = None;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn learn(&mut self, key: &SecretKey, sight: &Sight) {
        let now = (Instant::now(), SystemTime::now());
        match self.secrets.get_mut(key) {
            Some(known) => known.learn(sight, now),
            None => {
                let Sight { arn, name, version, changed, created } = sight.clone();
                let (before, hint, told, named) = (VecDeque::new(), None, None, None);
                let known = Known {
                    arn,
                    version,
                    changed,
                    created,
                    told,
                    named,
                    before,
                    since: now,
                    confirmed: now.0,
                    hint,
                    name: name.clone(),
                };
                self.secrets.insert(key.clone(), known);
                self.by_name.entry(name).or_default().insert(key.clone());
            }
        }
    }
}

impl Known {
    fn judge(&self, sight: &Sight) -> Verdict {
        if sight.version == self.version {
            return Verdict::Same;
        }
        let was_replaced = self.before.contains(&sight.version);
        match (self.changed, sight.changed) {
            (Some(known), Some(seen)) if seen > known => Verdict::Newer,
            (Some(known), Some(seen)) if seen < known => Verdict::Older,
            // Two changes within the second that dates have.
            (Some(_), Some(_)) if was_replaced && self.is_young() => Verdict::Older,
            (Some(_), Some(_)) => Verdict::Newer,
            (None, Some(seen)) if self.is_before(seen) => Verdict::Older,
            (None, Some(seen)) if self.is_after(seen) => Verdict::Newer,
            (None, Some(_)) if was_replaced && self.is_young() => Verdict::Older,
            (None, Some(_)) => Verdict::Unclear,
            (_, None) => {
                let floor = self.changed.max(self.created);
                let made_later = sight.created.zip(floor).is_some_and(|(made, floor)| made > floor);
                if made_later && !was_replaced { Verdict::Newer } else { Verdict::Unclear }
            }
        }
    }

    /// Whether a state of this date is certainly from before the version became current. What an
    /// event has told is good for that as long as it may still be confirmed.
    fn is_before(&self, date: SystemTime) -> bool {
        self.created.is_some_and(|made| date < made)
            || self.told.is_some_and(|told| date + MARGIN < told && self.is_young())
    }

    /// Whether it is certainly from after it.
    fn is_after(&self, date: SystemTime) -> bool {
        date > self.since.1 + MARGIN
            || self.created.is_some_and(|made| date > made + STAGED)
            || self.told.is_some_and(|told| date > told + MARGIN)
    }

    fn learn(&mut self, sight: &Sight, now: (Instant, SystemTime)) {
        self.confirmed = now.0;
        self.told = None;
        self.arn.clone_from(&sight.arn);
        if self.version == sight.version {
            self.changed = self.changed.max(sight.changed);
            self.created = self.created.or(sight.created);
            return;
        }
        self.before.retain(|before| *before != sight.version);
        self.before.push_back(std::mem::replace(&mut self.version, Arc::clone(&sight.version)));
        if self.before.len() > MOST_BEFORE {
            self.before.pop_front();
        }
        (self.changed, self.created, self.since) = (sight.changed, sight.created, now);
    }

    fn is_young(&self) -> bool {
        let settles = if self.told.is_some() { TOLD_SETTLES } else { SETTLES };
        self.since.0.elapsed() < settles
    }
}

#[cfg(test)]
mod tests;
