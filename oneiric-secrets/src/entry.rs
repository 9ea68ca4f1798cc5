//! One fetched version of one secret, as the cache holds it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::Guard;
use oneiric_core::{
    Error, Fetched, Field, Moment, ProviderId, Result, SecretKey, SecretRef, SecretValue, Snapshot,
    Stamp, Version,
};

use crate::field;

/// What the version of a default is called in reports.
const DEFAULT_VERSION: &str = "default";

/// One fetched version. Never changed once made: a renewal makes a new one around the same bytes.
///
/// What every read looks at comes first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) value: SecretValue,
    /// The epoch in which its fetch began.
    pub(crate) epoch: u64,
    pub(crate) times: Times,
    pub(crate) version: Version,
    /// Only where there is something in it: there may be a million entries.
    extras: Option<Box<Extras>>,
}

/// What not every entry has.
#[derive(Debug, Default)]
struct Extras {
    stamp: Option<Stamp>,
    snapshot: Option<Snapshot>,
    /// When the secret itself ends, whatever the times of the cache are.
    ends: Option<Moment>,
    /// The fields that were asked for so far; each is decoded once per version.
    fields: Mutex<Vec<(Field, SecretValue)>>,
    /// In an answer: who gave it in the place of another.
    fallback: Option<ProviderId>,
    /// In an answer: that it stands in the place of a secret that is not there.
    instead_of: Option<Absence>,
}

/// That a secret is not there: nothing is, or what is there lacks the field that is meant.
#[derive(Debug)]
pub(crate) struct Absence(Option<Arc<Entry>>);

impl Absence {
    /// Whether it is not there in this, either.
    pub(crate) fn is_of(&self, held: Option<&Arc<Entry>>) -> bool {
        match (&self.0, held) {
            (None, None) => true,
            (Some(known), Some(held)) => Arc::ptr_eq(known, held),
            _ => false,
        }
    }
}

/// Until when a fetched value is what.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Times {
    /// From here on a read also asks for the next one, without waiting for it.
    pub(crate) refresh: Moment,
    pub(crate) fresh_until: Moment,
    /// When its fetch began.
    pub(crate) fetched: Moment,
}

impl Times {
    /// The same for what itself ends then, if it does.
    fn until(mut self, ends: Option<Moment>) -> Self {
        if let Some(ends) = ends.filter(|ends| *ends < self.fresh_until) {
            self.fresh_until = ends;
            let early = self.fetched.after(ends.since(self.fetched).mul_f64(0.8));
            self.refresh = self.refresh.min(early);
        }
        self
    }
}

impl Entry {
    pub(crate) fn new(fetched: Fetched, epoch: u64, times: Times) -> Self {
        let Fetched { value, version, stamp, snapshot, expires_at, .. } = fetched;
        // What is left of it is counted from when its fetch began, which is never too late.
        let left = |end: SystemTime| end.duration_since(SystemTime::now()).unwrap_or_default();
        let ends = expires_at.map(|end| times.fetched.after(left(end)));
        let extras = Extras { stamp, snapshot, ends, ..Extras::default() };
        let wanted = extras.stamp.is_some()
            || extras.snapshot.is_some()
            || ends.is_some()
            || field::may_have(&value);
        let extras = wanted.then(|| Box::new(extras));
        Self { value, epoch, times: times.until(ends), version, extras }
    }

    /// The same version, found to be still the current one by a fetch that began in `epoch`.
    pub(crate) fn renewed(&self, epoch: u64, times: Times) -> Self {
        let renewed = |extras: &Extras| {
            let fields = extras.fields.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (stamp, snapshot) = (extras.stamp.clone(), extras.snapshot.clone());
            let (ends, fields) = (extras.ends, Mutex::new(fields));
            Box::new(Extras { stamp, snapshot, ends, fields, ..Extras::default() })
        };
        Self {
            value: self.value.clone(),
            epoch,
            times: times.until(self.ends()),
            version: self.version.clone(),
            extras: self.extras.as_deref().map(renewed),
        }
    }

    /// The same for an answer that is from elsewhere than it should be. It is never installed.
    fn of_fallback(&self, fallback: Option<ProviderId>) -> Self {
        Self {
            value: self.value.clone(),
            epoch: self.epoch,
            times: self.times,
            version: self.version.clone(),
            extras: Some(Box::new(Extras { fallback, ..Extras::default() })),
        }
    }

    /// What stands in the place of a secret that is not there. It is never installed.
    pub(crate) fn of_default(
        value: SecretValue,
        held: Option<Arc<Self>>,
        epoch: u64,
        times: Times,
    ) -> Self {
        let extras = Extras { instead_of: Some(Absence(held)), ..Extras::default() };
        let version = Version::opaque(DEFAULT_VERSION);
        Self { value, epoch, times, version, extras: Some(Box::new(extras)) }
    }

    /// The absence in whose place it stands, if it is a default.
    pub(crate) fn instead_of(&self) -> Option<&Absence> {
        self.extras.as_ref()?.instead_of.as_ref()
    }

    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.extras.as_ref()?.stamp.as_ref()
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.extras.as_ref()?.snapshot.as_ref()
    }

    /// When the secret itself ends, if it does: nobody is served it after that.
    pub(crate) fn ends(&self) -> Option<Moment> {
        self.extras.as_ref()?.ends
    }

    pub(crate) fn has_ended(&self, now: Moment) -> bool {
        self.ends().is_some_and(|end| now >= end)
    }

    /// The whole value, or one field of it.
    pub(crate) fn part(&self, field: Option<&Field>, of: &dyn fmt::Display) -> Result<SecretValue> {
        let Some(field) = field else { return Ok(self.value.clone()) };
        let Some(extras) = &self.extras else { return field::extract(&self.value, field, of) };
        let mut fields = extras.fields.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = fields.iter().find(|(known, _)| known == field) {
            return Ok(value.clone());
        }
        let value = field::extract(&self.value, field, of)?;
        fields.push((field.clone(), value.clone()));
        Ok(value)
    }
}

/// A hold on an entry that costs no reference count while it is short.
pub(crate) type EntryGuard = Guard<Option<Arc<Entry>>>;

/// The answer to a read: a value, which version it is, and whether it is fresh.
///
/// It is a hold on the cache's own copy; let go of it when it has been used.
pub struct Secret {
    entry: EntryGuard,
    field: Option<SecretValue>,
    stale: Option<Duration>,
}

impl Secret {
    /// The part that is meant of an entry that is there.
    pub(crate) fn new(
        entry: EntryGuard,
        reference: &SecretRef,
        stale: Option<Duration>,
    ) -> Result<Self> {
        let field = match (reference.field(), &*entry) {
            (Some(field), Some(entry)) => Some(entry.part(Some(field), &Name(reference))?),
            _ => None,
        };
        Ok(Self { entry, field, stale })
    }

    /// The same, from a provider that answered in the place of another. Seldom enough to have an
    /// entry of its own made for it, so that no other answer carries the mark about.
    #[must_use]
    pub(crate) fn of_fallback(mut self, provider: &ProviderId) -> Self {
        let marked = Arc::new(self.entry().of_fallback(Some(provider.clone())));
        self.entry = EntryGuard::from_inner(Some(marked));
        self
    }

    /// An entry that has the value of this answer, and who gave it, for its whole.
    pub(crate) fn into_entry(self, fallback: Option<&ProviderId>) -> EntryGuard {
        if self.field.is_none() && fallback.is_none() {
            return self.entry;
        }
        let mut entry = self.entry().of_fallback(fallback.cloned());
        entry.value = self.value().clone();
        EntryGuard::from_inner(Some(Arc::new(entry)))
    }

    /// All of a fresh entry that is there.
    #[inline]
    pub(crate) fn whole(entry: EntryGuard) -> Self {
        Self { entry, field: None, stale: None }
    }

    /// The bytes.
    #[inline]
    pub fn value(&self) -> &SecretValue {
        self.field.as_ref().unwrap_or(&self.entry().value)
    }

    /// The version they are of.
    pub fn version(&self) -> &Version {
        &self.entry().version
    }

    /// The age of the value if it was served past its time, because the provider could not
    /// answer; `None` if it is fresh.
    pub fn stale_for(&self) -> Option<Duration> {
        self.stale
    }

    /// The provider that answered in the place of the first candidate of an alias, because those
    /// before it could not; `None` if the answer is from where it belongs.
    pub fn fallback(&self) -> Option<&ProviderId> {
        self.entry().extras.as_ref()?.fallback.as_ref()
    }

    /// Whether it is the default that the settings have for an alias, because nobody has the secret.
    pub fn is_default(&self) -> bool {
        self.entry().instead_of().is_some()
    }

    #[inline]
    fn entry(&self) -> &Entry {
        self.entry.as_ref().expect("a secret is made of an entry that is there")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("version", self.version())
            .field("stale_for", &self.stale)
            .field("fallback", &self.fallback())
            .field("is_default", &self.is_default())
            .finish_non_exhaustive()
    }
}

/// Displays `provider:key` of a reference, or its alias.
pub(crate) struct Name<'a>(pub(crate) &'a SecretRef);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.alias() {
            Some(alias) => f.write_str(alias),
            None => write!(f, "{}:{}", self.0.provider(), self.0.key()),
        }
    }
}

/// What is known of a cached secret without its value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedSecret {
    /// Which one.
    pub key: SecretKey,
    /// The version that is held.
    pub version: Version,
    /// The stamp that came with it.
    pub stamp: Option<Stamp>,
}

pub(crate) fn shutting_down() -> Error {
    Error::new(oneiric_core::ErrorKind::Unavailable, "the resolver is shut down")
}
