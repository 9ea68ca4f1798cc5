//! Who uses secrets: the contract that an adapter fulfils.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use crate::id::{AdapterId, ProviderId};
use crate::provider::Version;
use crate::reference::SecretRef;
use crate::value::SecretValue;

/// An adapter: whoever uses secrets, and can be moved from one generation to the next while it
/// serves. [`Managed`](crate::Managed) is the everyday way to write one.
///
/// # Contract
/// [`prepare`](Self::prepare) builds the next generation beside the serving one *and proves it*
/// with a fresh connection or a real use: a credential that was never used is not proven.
/// [`Prepared::commit`] makes it the serving one; it cannot fail, so everything that can belongs
/// into `prepare`. [`Retired::drain`] ends the old one when its last user is done. A `prepare`
/// that fails changes nothing that serves. [`release`](Self::release) comes once, at the very end.
///
/// # Concurrency
/// One adapter is prepared by one rotation at a time; users load generations all the while.
///
/// # Cancellation
/// A `prepare` whose future is dropped, and a [`Prepared`] that is dropped uncommitted, leave the
/// serving generation as it was and release what they built. A dropped `drain` leaks the old
/// generation and nothing else.
///
/// # Errors
/// [`HookError::refused`] when the proof failed, so that the credential is to blame;
/// [`HookError::failed`] when the adapter could not try. Both leave the old generation serving.
///
/// # Secrets in logs
/// Nothing printed by an adapter shows a value; errors of drivers that quote connection strings
/// are not passed on.
///
/// # Testing
/// `adapter_conformance` of `oneiric-testkit` drives it as the runtime does, against a server that
/// is put out of order: `prepare`, drop; `prepare`, `commit`, `drain`, with users in between.
#[async_trait]
pub trait LifecycleHook: fmt::Debug + Send + Sync + 'static {
    /// The adapter's name in reports. Constant.
    fn id(&self) -> &AdapterId;

    /// The secrets it is built from. Constant.
    fn secrets(&self) -> &[SecretRef];

    /// Builds and proves the next generation. The old one serves meanwhile. `next` has exactly
    /// the secrets of [`secrets`](Self::secrets), of one consistent moment.
    ///
    /// # Errors
    /// [`HookError`], and then nothing that serves has changed.
    async fn prepare(&self, next: &SecretSet) -> Result<Box<dyn Prepared>, HookError>;

    /// What its users report of credentials that were not accepted where they are used, or `None`
    /// where nobody can report. It is asked for once, when the first generation serves.
    fn refusals(&self) -> Option<RefusalStream>;

    /// Ends what it keeps running by itself, such as a child process, by the deadline. Called once,
    /// when the program ends and no rotation of the adapter is running any more; after that none
    /// begins. Most adapters keep nothing, since what is in the program ends with it.
    ///
    /// Dropping its future may leave running what would have ended.
    async fn release(&self, deadline: Instant);
}

/// Word of an adapter that the other end did not accept a credential that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The secrets of the generation that was refused, with their versions.
    pub versions: Vec<(SecretRef, Version)>,
}

impl Refusal {
    /// The generation that was built from these was refused.
    pub fn new(versions: impl Into<Vec<(SecretRef, Version)>>) -> Self {
        Self { versions: versions.into() }
    }
}

/// The refusals that an adapter's users report. Where reports come faster than they are heard, the
/// adapter may drop all but one: each says the same.
pub type RefusalStream = BoxStream<'static, Refusal>;

/// A generation that is built and proven, and not yet serving. Dropping it gives it up.
pub trait Prepared: Send {
    /// Makes it the serving one, at once and without failing, and hands out the one it replaced.
    fn commit(self: Box<Self>) -> Box<dyn Retired>;
}

/// A generation that no longer serves new users.
#[async_trait]
pub trait Retired: Send {
    /// Waits until its last user is done, then releases it. At the deadline it is forced: users
    /// that remain are cut off where that is possible, and counted.
    async fn drain(self: Box<Self>, deadline: Instant) -> DrainReport;
}

/// How an old generation ended.
#[non_exhaustive]
pub struct DrainReport {
    /// In which way.
    pub outcome: DrainOutcome,
    /// How many users there still were at the deadline.
    pub in_flight: usize,
    /// What went wrong while it was released, if anything did. The new generation is unaffected.
    pub error: Option<String>,
    later: Option<BoxFuture<'static, ()>>,
}

impl DrainReport {
    /// Every user was done in time.
    pub fn drained() -> Self {
        Self { outcome: DrainOutcome::Drained, in_flight: 0, error: None, later: None }
    }

    /// This many users were cut off at the deadline.
    pub fn forced(in_flight: usize) -> Self {
        Self { outcome: DrainOutcome::Forced, in_flight, error: None, later: None }
    }

    /// This many users still hold the old generation and cannot be cut off. Until it is known
    /// to have ended (see [`ended_by`](Self::ended_by)) no rotation of its adapter is called done.
    pub fn leaked(in_flight: usize) -> Self {
        Self { outcome: DrainOutcome::Leaked, in_flight, error: None, later: None }
    }

    /// The same, with what went wrong.
    #[must_use]
    pub fn with_error(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// The same for what leaked, with a future that resolves when it has ended after all. It may
    /// work towards that end; it is dropped when the runtime shuts down. Without one a leak is
    /// believed until the adapter's next generation has been drained.
    #[must_use]
    pub fn ended_by(mut self, later: impl Future<Output = ()> + Send + 'static) -> Self {
        self.later = Some(Box::pin(later));
        self
    }

    /// Takes the future that tells of the late end, if there is one.
    pub fn take_later(&mut self) -> Option<BoxFuture<'static, ()>> {
        self.later.take()
    }
}

impl fmt::Debug for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainReport")
            .field("outcome", &self.outcome)
            .field("in_flight", &self.in_flight)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// What is reported is compared, not what may come later.
impl PartialEq for DrainReport {
    fn eq(&self, other: &Self) -> bool {
        (self.outcome, self.in_flight, &self.error)
            == (other.outcome, other.in_flight, &other.error)
    }
}

impl Eq for DrainReport {}

/// The ways in which an old generation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainOutcome {
    /// Every user was done in time.
    Drained,
    /// Users were cut off at the deadline; none holds it now.
    Forced,
    /// Somebody still holds it.
    Leaked,
}

impl DrainOutcome {
    /// A stable token for reports.
    pub fn token(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Forced => "forced",
            Self::Leaked => "leaked",
        }
    }
}

/// Why a next generation could not be made.
#[derive(Debug)]
pub struct HookError {
    refused: bool,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl HookError {
    /// The proof failed: the new secret does not work.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { refused: true, message: message.into(), source: None }
    }

    /// The adapter could not try.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { refused: false, message: message.into(), source: None }
    }

    /// The same, with its cause, which must not show a value.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the new secret was tried and did not work.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for HookError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Several secrets of one consistent moment: never a new user with an old password.
#[derive(Debug, Clone)]
pub struct SecretSet(Arc<[SetEntry]>);

#[derive(Debug, Clone)]
struct SetEntry {
    reference: SecretRef,
    value: SecretValue,
    version: Version,
    fallback: Option<ProviderId>,
    is_default: bool,
}

impl SecretSet {
    /// A set from its parts. The caller vouches that they belong together.
    pub fn new(parts: impl IntoIterator<Item = (SecretRef, SecretValue, Version)>) -> Self {
        let entry = |(reference, value, version)| SetEntry {
            reference,
            value,
            version,
            fallback: None,
            is_default: false,
        };
        Self(parts.into_iter().map(entry).collect())
    }

    /// The same, saying of each part, in the order of the set, which provider answered in the
    /// place of another.
    #[must_use]
    pub fn answered_by(self, fallbacks: impl IntoIterator<Item = Option<ProviderId>>) -> Self {
        let fallbacks = fallbacks.into_iter().chain(std::iter::repeat(None));
        let marked = self.0.iter().zip(fallbacks);
        Self(marked.map(|(entry, fallback)| SetEntry { fallback, ..entry.clone() }).collect())
    }

    /// The same, saying of each part, in the order of the set, whether it is the default of an alias
    /// whose secret is not there.
    #[must_use]
    pub fn with_defaults(self, defaults: impl IntoIterator<Item = bool>) -> Self {
        let defaults = defaults.into_iter().chain(std::iter::repeat(false));
        let marked = self.0.iter().zip(defaults);
        Self(marked.map(|(entry, is_default)| SetEntry { is_default, ..entry.clone() }).collect())
    }

    /// Whether a part is the default of an alias whose secret is not there.
    pub fn is_default(&self, reference: &SecretRef) -> bool {
        self.entry(reference).is_some_and(|entry| entry.is_default)
    }

    /// The provider that answered for a part in the place of the first candidate of its alias, if
    /// it did.
    pub fn fallback(&self, reference: &SecretRef) -> Option<&ProviderId> {
        self.entry(reference)?.fallback.as_ref()
    }

    /// The value of one of its references.
    pub fn get(&self, reference: &SecretRef) -> Option<&SecretValue> {
        self.entry(reference).map(|entry| &entry.value)
    }

    /// The version of one of its references.
    pub fn version(&self, reference: &SecretRef) -> Option<&Version> {
        self.entry(reference).map(|entry| &entry.version)
    }

    /// The references with their versions, in the order in which they were asked for.
    pub fn versions(&self) -> impl Iterator<Item = (&SecretRef, &Version)> {
        self.0.iter().map(|entry| (&entry.reference, &entry.version))
    }

    /// The values, in the order in which they were asked for.
    pub fn values(&self) -> impl Iterator<Item = &SecretValue> {
        self.0.iter().map(|entry| &entry.value)
    }

    /// Whether both have the same bytes for the same references, whatever the versions say.
    pub fn same_values(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(other.0.iter())
                .all(|(a, b)| a.reference == b.reference && a.value.same_as(&b.value))
    }

    fn entry(&self, reference: &SecretRef) -> Option<&SetEntry> {
        self.0.iter().find(|entry| entry.reference == *reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_answers_by_reference() {
        let user: SecretRef = "files:db#/user".parse().unwrap();
        let other: SecretRef = "files:db#/other".parse().unwrap();
        let part = (user.clone(), SecretValue::from("u"), Version::numbered(3));
        let set = SecretSet::new([part]);
        assert_eq!(set.get(&user).unwrap().expose(), b"u");
        assert_eq!(set.version(&user).unwrap().id(), "3");
        assert!(set.get(&other).is_none());
    }

    #[test]
    fn sameness_looks_at_values_not_versions() {
        let user: SecretRef = "files:user".parse().unwrap();
        let set = |value: &str, version| {
            SecretSet::new([(user.clone(), SecretValue::from(value), Version::numbered(version))])
        };
        assert!(set("u", 1).same_values(&set("u", 2)));
        assert!(!set("u", 1).same_values(&set("v", 1)));
    }
}
