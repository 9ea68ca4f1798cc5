//! Stamps, by one list for all: the id of the version that is current.
//!
//! The list is sorted by the date of the last change, so the newest changes are on its first page,
//! and each of its entries says which version is current. It may show an old state for five
//! minutes, so what was changed before the newest date may show after it: each walk goes on until
//! it is ten minutes before the newest date that any walk has seen. Ten minutes after that date was
//! first seen all that is older shows, so from then on walks end at it: were many secrets changed
//! at once, it does not cost pages for ever. What no walk has shown since the first one has not
//! changed. Dates are those of the store alone, and time is measured here: no two clocks are
//! compared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{Error, ErrorKind, Result, SecretKey, Stamp};
use tokio::time::{Instant, sleep};

use crate::api::{Api, Patience, State};
use crate::known::{Hint, MARGIN, SETTLES, Verdict};
use crate::names::{self, Arn};

/// How often a secret is looked at that lags behind an event.
const LOOKS: u32 = 6;
/// The pause before the second look; each one after may be twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of the list.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The newest date of a change that was seen, and when a walk began that was the first to.
    newest: Option<(SystemTime, Instant)>,
    /// All changes before this date have been seen.
    floor: Option<SystemTime>,
    /// When the first walk began.
    since: Option<Instant>,
    /// The account and region of what is listed.
    place: Option<String>,
    /// Whether it was said that the list is denied to us.
    is_denied: bool,
}

/// What one walk has shown.
#[derive(Default)]
struct Shown {
    /// Whether entries came in the order that was asked for.
    is_sorted: bool,
    last: Option<SystemTime>,
    newest: Option<SystemTime>,
    place: Option<String>,
}

impl Api {
    /// The stamp of each key, without reading a value.
    pub(crate) async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        // For one secret a look costs as much as a list, and sees more.
        let unseen = if self.config.describe || keys.len() == 1 {
            keys.iter().collect()
        } else {
            match self.walk(keys).await {
                Ok(unseen) => unseen,
                Err(error) if error.kind() == ErrorKind::Denied => {
                    self.say_denied(keys.len()).await;
                    keys.iter().collect()
                }
                Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
            }
        };
        let unseen: HashSet<&SecretKey> = unseen;
        let mut each = Vec::with_capacity(keys.len());
        for key in keys {
            let known = self.books.current(key).filter(|_| !unseen.contains(key));
            let stamp = async move {
                let version = match known {
                    Some((version, _)) => version,
                    None => self.look(key, Patience::until(None)).await?,
                };
                Ok(Stamp::from(version))
            };
            each.push(stamp.boxed());
        }
        stream::iter(each).buffered(self.concurrency()).collect().await
    }

    /// Looks at one secret by itself, and answers with its current version. What lags behind an
    /// event is looked at again for a while.
    pub(crate) async fn look(&self, key: &SecretKey, patience: Patience) -> Result<Arc<str>> {
        let id = names::secret_id(key)?;
        let mut looks = 0;
        loop {
            let hint = self.books.hinted(key);
            let sight = self.describe(id, patience).await?.sight(id)?;
            let version = self.books.settle(key, &sight);
            let Some(hint) = hint else { return Ok(version) };
            looks += 1;
            let lags = lags(&hint, &version, sight.changed);
            if lags && looks < LOOKS {
                sleep(PAUSE.mul_f64(f64::from(1 << (looks - 1)) * (0.5 + fastrand::f64() / 2.0)))
                    .await;
                continue;
            }
            // The sweep finds what this does not.
            self.books.clear(key, &hint);
            if lags {
                let message = format!("`{key}` does not show yet what an event has told of it");
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            return Ok(version);
        }
    }

    /// Walks through what has changed; answers with the keys that are to be looked at one by one.
    async fn walk<'k>(&self, keys: &'k [SecretKey]) -> Result<HashSet<&'k SecretKey>> {
        let mut walk = self.walk.lock().await;
        let began = Instant::now();
        let since = walk.since.unwrap_or(began);
        let spelled: HashMap<&str, &'k SecretKey> =
            keys.iter().map(|key| (key.as_str(), key)).collect();
        let mut unseen: HashSet<&SecretKey> =
            keys.iter().filter(|key| !self.is_followed(key, since, &walk)).collect();
        let mut unclear = HashSet::new();
        let mut shown = Shown { is_sorted: true, ..Shown::default() };
        let (mut token, mut pages) = (None, 0);
        loop {
            let (entries, next) = self.page(token, Patience::until(None)).await?;
            pages += 1;
            for entry in &entries {
                shown.note(entry);
                self.note(entry);
                for key in names::spellings(&entry.arn, &entry.name) {
                    let Some(&key) = spelled.get(key) else { continue };
                    unseen.remove(key);
                    if !self.is_noted(key, entry) {
                        unclear.insert(key);
                    }
                }
            }
            let is_past = match (walk.floor, shown.last) {
                // Dates have seconds, so an equal one says nothing.
                (Some(floor), Some(last)) => last < floor,
                (None, _) => true,
                (Some(_), None) => false,
            };
            // What is not listed soon is looked at, if that takes fewer calls.
            let is_found = unseen.len() <= pages;
            if next.is_none() || (shown.is_sorted && is_past && is_found) {
                break;
            }
            token = next;
        }
        walk.is_over(began, shown);
        let hinted = keys.iter().filter(|key| self.books.hinted(key).is_some());
        unseen.extend(unclear);
        unseen.extend(hinted);
        Ok(unseen)
    }

    /// Notes an entry for all who have ever asked for the secret, and not for those of this walk
    /// alone: the next walks end before it. What it leaves open is looked at when somebody asks,
    /// however often a look fails.
    fn note(&self, entry: &State) {
        let place = Arn::parse(&entry.arn).map(|arn| arn.place);
        for key in self.books.keys(place, &entry.name) {
            if !self.is_noted(&key, entry) {
                self.books.hint(&key);
            }
        }
    }

    /// Whether an entry of the list says how the secret stands, which is noted then.
    fn is_noted(&self, key: &SecretKey, entry: &State) -> bool {
        match entry.sight(key.as_str()) {
            Ok(sight) => self.books.see(key, &sight) != Verdict::Unclear,
            Err(_) => false,
        }
    }

    /// Whether the walks since the first one would have shown each change of this secret.
    fn is_followed(&self, key: &SecretKey, since: Instant, walk: &Walk) -> bool {
        let Some((_, place, name)) = self.books.since(key, since) else { return false };
        let is_listed = self.config.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix));
        is_listed && walk.place.as_ref() == Some(&place)
    }

    async fn say_denied(&self, keys: usize) {
        let mut walk = self.walk.lock().await;
        if !std::mem::replace(&mut walk.is_denied, true) {
            tracing::warn!(
                target: "oneiric",
                keys,
                "secrets may not be listed, so each is looked at by itself, which costs a call each"
            );
        }
    }
}

impl Walk {
    /// Notes how far a walk has come that began then.
    fn is_over(&mut self, began: Instant, shown: Shown) {
        self.since.get_or_insert(began);
        self.place = shown.place.or(self.place.take());
        self.is_denied = false;
        let Some(newest) = shown.newest else { return };
        match self.newest {
            Some((known, since)) if newest <= known => {
                if began >= since + SETTLES {
                    self.floor = self.floor.max(Some(known));
                }
            }
            _ => {
                self.newest = Some((newest, began));
                self.floor = self.floor.max(newest.checked_sub(SETTLES));
            }
        }
    }
}

impl Shown {
    fn note(&mut self, entry: &State) {
        if self.place.is_none() {
            self.place = Arn::parse(&entry.arn).map(|arn| arn.place.to_owned());
        }
        let Some(changed) = entry.changed else { return };
        self.is_sorted &= self.last.is_none_or(|last| changed <= last);
        self.last = Some(changed);
        self.newest = self.newest.max(Some(changed));
    }
}

/// Whether a look shows a state from before the event.
fn lags(hint: &Hint, version: &Arc<str>, changed: Option<SystemTime>) -> bool {
    let (Some(told), Some(time)) = (&hint.version, hint.time) else { return false };
    told != version && changed.is_none_or(|changed| changed + MARGIN < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(second: u64) -> Shown {
        Shown { newest: at(second), ..Shown::default() }
    }

    fn at(second: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(10_000 + second))
    }

    /// Whatever is before the floor must have been shown, with five minutes for what shows late.
    #[tokio::test(start_paused = true)]
    async fn a_walk_ends_where_everything_was_seen() {
        let mut walk = Walk::default();
        let start = Instant::now();
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        walk.is_over(minutes(0), shown(1000));
        assert_eq!(walk.floor, at(400));
        walk.is_over(minutes(9), shown(1000));
        assert_eq!(walk.floor, at(400));
        walk.is_over(minutes(10), shown(1000));
        assert_eq!(walk.floor, at(1000), "what is older has shown by now");
        // An hour later another changes, and something of before it may show after it.
        walk.is_over(minutes(70), shown(4600));
        assert_eq!(walk.floor, at(4000));
        // The list lags and shows less: nothing is taken back.
        walk.is_over(minutes(71), shown(1000));
        assert_eq!((walk.floor, walk.newest.unwrap().0), (at(4000), at(4600).unwrap()));
        walk.is_over(minutes(80), shown(1000));
        assert_eq!(walk.floor, at(4600));
        walk.is_over(minutes(81), Shown::default());
        assert_eq!(walk.floor, at(4600));
    }
}
