//! Where secrets come from: the contract that a store's code fulfils.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use crate::error::Result;
use crate::reference::SecretKey;
use crate::value::SecretValue;

/// A store of secrets: one configured instance of one kind of store.
///
/// # Contract
/// A provider reads and, where it can, writes and watches. It does not cache, retry, limit its
/// rate or count: the resolver does, led by the [`ErrorKind`](crate::ErrorKind) of its answers.
/// Only a quota that nobody else can see, such as one for metadata beside one for values, is the
/// provider's own to keep.
/// Absence is reported only when the store itself said so; denied, throttled and unreachable are
/// kinds of their own and are taken from typed codes, never from message text.
///
/// # Concurrency
/// Every method may run any number of times at once. A call never blocks its thread: blocking
/// work goes to `spawn_blocking`.
///
/// # Cancellation
/// Any future may be dropped at any await. A dropped read leaves nothing behind; a dropped write
/// may or may not have happened.
///
/// # Errors
/// | situation | kind |
/// |---|---|
/// | no such secret or version | `NotFound` |
/// | the stamp in `if_none_match` still holds | `NotModified` |
/// | permission refused / credential unknown or expired | `Denied` / `Unauthenticated` |
/// | rate limit, with the wait that the store named | `Throttled` |
/// | connection refused or reset, 5xx, sealed, I/O error | `Unavailable` |
/// | the version is disabled or destroyed | `VersionDisabled` |
/// | malformed key, damaged or oversized value | `Invalid` |
/// | `deadline` passed | `DeadlineExceeded` |
///
/// # Versions
/// An answer carries the version it is of. If the store orders its versions, the order is in the
/// [`Version`]; the resolver never lets an older one replace a newer one.
///
/// # Secrets in logs
/// No Debug, Display, error, URI or log line of a provider shows a value, its length or an
/// unkeyed hash of it. The descriptor's URI has no credential.
///
/// # Testing
/// `oneiric-testkit` has a conformance suite that chooses its cases by the declared
/// [`Capabilities`]; a declared one that does not hold is a failure.
///
/// # Example
/// ```
/// use async_trait::async_trait;
/// use oneiric_core::{
///     Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
///     SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp, Version,
/// };
///
/// /// One secret, compiled in. (Do not.)
/// #[derive(Debug)]
/// struct Fixed(Descriptor);
///
/// #[async_trait]
/// impl SecretProvider for Fixed {
///     fn descriptor(&self) -> &Descriptor {
///         &self.0
///     }
///     async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
///         match request.key.as_str() {
///             "answer" => Ok(Fetched::new(SecretValue::from("42"), Version::numbered(1))),
///             key => Err(Error::new(ErrorKind::NotFound, format!("there is no secret `{key}`"))),
///         }
///     }
///     async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
///         oneiric_core::fetch_each(self, requests).await
///     }
///     async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
///         keys.iter().map(|_| Ok(Stamp::from("1"))).collect()
///     }
///     fn changes(&self) -> Option<ChangeStream> {
///         None
///     }
///     fn writer(&self) -> Option<&dyn SecretWriter> {
///         None
///     }
///     fn lister(&self) -> Option<&dyn SecretLister> {
///         None
///     }
/// }
///
/// let fixed = Fixed(Descriptor::new("fixed", "fixed:", Capabilities::default()));
/// assert_eq!(fixed.descriptor().kind, "fixed");
/// ```
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync + 'static {
    /// What this provider is and can do. Constant for its lifetime.
    fn descriptor(&self) -> &Descriptor;

    /// Reads one secret.
    ///
    /// # Errors
    /// As the table in the trait's documentation says.
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched>;

    /// Reads several, in as few calls as the store allows. The answers are in the order of the
    /// requests and stand each for itself. With [`Capabilities::snapshots`] all answers of one
    /// call are of one moment of the store. [`fetch_each`] serves stores without batches.
    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>>;

    /// The cheapest proof of sameness for each key, without reading a value. In the order of the
    /// keys. `Unsupported` where the store has none.
    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>>;

    /// A new subscription to the store's own change events, or `None` where it has none.
    /// Events are hints: they may be lost, doubled or out of order, and a sweep backs them. A
    /// stream that ends means that the subscription was lost.
    fn changes(&self) -> Option<ChangeStream>;

    /// The ability to write, where it is there.
    fn writer(&self) -> Option<&dyn SecretWriter>;

    /// The ability to list keys, where it is there.
    fn lister(&self) -> Option<&dyn SecretLister>;

    /// Gives back what the store keeps for us for as long as we run, such as leases, and ends at
    /// the deadline at the latest. It is called last of all, when nothing uses a secret of this
    /// provider any more; what is fetched after it may be `Unavailable`. By default there is
    /// nothing to give back, as with most stores. A wrapper passes it on.
    ///
    /// Returns whether the store confirmed that it keeps nothing which the provider knows of. What
    /// it may still keep is logged, and ends by itself.
    async fn release(&self, _deadline: Instant) -> bool {
        true
    }
}

/// The ability to name the secrets that a provider has, and the versions of each. Never a value.
#[async_trait]
pub trait SecretLister: Send + Sync {
    /// All keys, sorted.
    ///
    /// # Errors
    /// As in [`SecretProvider`].
    async fn list(&self) -> Result<Vec<SecretKey>>;

    /// The versions of one secret, the newest first, those that cannot be read any more included.
    ///
    /// # Errors
    /// As in [`SecretProvider`], and `Unsupported` where the store keeps no versions.
    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>>;
}

/// What a store says of one version without showing its value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// Which one.
    pub version: Version,
    /// Whether it can be read.
    pub state: VersionState,
    /// Whether it is the one that a read without a version answers with.
    pub current: bool,
    /// The names by which the store also knows it: aliases, stages.
    pub labels: Vec<String>,
    /// When it was made, where the store says so.
    pub created: Option<SystemTime>,
}

impl VersionInfo {
    /// A version that has no other names and may not be the current one.
    pub fn new(version: Version, state: VersionState) -> Self {
        Self { version, state, current: false, labels: Vec::new(), created: None }
    }
}

/// Whether a version can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionState {
    /// It can.
    Enabled,
    /// Not until it is enabled again.
    Disabled,
    /// Never again.
    Destroyed,
}

impl VersionState {
    /// A stable token for tables and `--json`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Destroyed => "destroyed",
        }
    }
}

/// The ability to change secrets. Each operation is safe to repeat: doing it again when it has
/// already been done is a success.
///
/// # Errors
/// As in [`SecretProvider`], and `Conflict` when a compare-and-swap found something else,
/// `Ambiguous` when the reply was lost, `Unsupported` where the store has no such thing.
#[async_trait]
pub trait SecretWriter: Send + Sync {
    /// Makes room for a secret that the store does not know yet, without a version. Nothing to do
    /// where the first version makes the secret.
    async fn create_secret(&self, key: &SecretKey) -> Result<()>;

    /// Adds a version without making it current, where the store tells the two apart. `token`
    /// names the attempt: the same token with the same value makes no second version. `NotFound`
    /// where the store wants the secret made first, by [`create_secret`](Self::create_secret).
    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version>;

    /// Makes `version` the current one if `expected` is current now; if none is, for `None`. That
    /// it is current already is a success, whatever was expected.
    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()>;

    /// Makes a version unreadable; [`enable`](Self::enable) takes it back.
    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()>;

    /// Makes a disabled version readable again.
    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()>;

    /// Ends a version for good.
    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()>;
}

/// Serves [`SecretProvider::fetch_many`] for a store without batches: one fetch after the other,
/// each answer standing for itself.
pub async fn fetch_each<P: SecretProvider + ?Sized>(
    provider: &P,
    requests: &[FetchRequest],
) -> Vec<Result<Fetched>> {
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(provider.fetch(request).await);
    }
    answers
}

/// What a provider is.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// The kind of store, as in `kind = "…"` of the settings.
    pub kind: &'static str,
    /// Which one, for people and logs. It has no credential in it.
    pub uri: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What it takes to notice a change by [`SecretProvider::stamps`], with its settings.
    pub detection: Detection,
}

impl Descriptor {
    /// A descriptor from its parts. Its detection is that of a local store: each secret is looked
    /// at by itself, at once and for nothing.
    pub fn new(kind: &'static str, uri: impl Into<String>, capabilities: Capabilities) -> Self {
        let detection = Detection::default();
        Self { kind, uri: uri.into(), capabilities, detection }
    }

    /// The same with another detection.
    #[must_use]
    pub fn with_detection(mut self, detection: Detection) -> Self {
        self.detection = detection;
        self
    }
}

/// What it takes to notice a change by [`SecretProvider::stamps`]: from this the worst staleness
/// of a watched secret is computed, and what watching costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// How many secrets one call of the store looks at; all of them if `None`.
    pub keys_a_call: Option<NonZeroU32>,
    /// How many such calls the provider makes in a minute at most, where the store has a quota.
    pub calls_a_minute: Option<NonZeroU32>,
    /// For how long after a change the store may still show the old state, by its own manual;
    /// `None` where the manual promises no bound.
    pub settles_within: Option<Duration>,
    /// What a million such calls cost in US dollars, where the price is public.
    pub usd_a_million: Option<f64>,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            keys_a_call: Some(NonZeroU32::MIN),
            calls_a_minute: None,
            settles_within: Some(Duration::ZERO),
            usd_a_million: Some(0.0),
        }
    }
}

/// What a provider can do. The default is: read the current version of one secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Reads an exact version by its id.
    pub versions: bool,
    /// [`SecretProvider::stamps`] answers without reading values.
    pub stamps: bool,
    /// [`SecretProvider::changes`] is there.
    pub push: bool,
    /// Answers carry a [`Snapshot`], and those of one `fetch_many` are of one moment.
    pub snapshots: bool,
    /// Values that are not UTF-8 can be read.
    pub binary: bool,
    /// The largest value in bytes, where there is a limit.
    pub max_value: Option<u64>,
    /// How many secrets one call of the store reads. [`SecretProvider::fetch_many`] is asked for
    /// at most that many at a time, so that the limits of calls count what the store counts.
    /// `None` where it reads any number at once, or for nothing.
    pub batch: Option<NonZeroU32>,
}

/// One question to a provider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchRequest {
    /// Which secret.
    pub key: SecretKey,
    /// An exact version, alias or stage; the current one if `None`.
    pub version: Option<Arc<str>>,
    /// If the stamp is still this, the answer may be `NotModified`.
    pub if_none_match: Option<Stamp>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

impl FetchRequest {
    /// Asks for the current version, without conditions.
    pub fn new(key: SecretKey) -> Self {
        Self { key, version: None, if_none_match: None, deadline: None }
    }

    /// The same for one exact version, alias or stage.
    #[must_use]
    pub fn at_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.version = Some(version.into());
        self
    }
}

/// One answer of a provider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// The value.
    pub value: SecretValue,
    /// Which version it is.
    pub version: Version,
    /// The proof of sameness that belongs to it.
    pub stamp: Option<Stamp>,
    /// The moment of the store that it was read at.
    pub snapshot: Option<Snapshot>,
    /// When the secret itself ends, in wall time (a lease, a certificate).
    pub expires_at: Option<SystemTime>,
}

impl Fetched {
    /// An answer with a value and its version alone.
    pub fn new(value: SecretValue, version: Version) -> Self {
        Self { value, version, stamp: None, snapshot: None, expires_at: None }
    }
}

/// The store's own name for one state of a secret, with its place in the order where the store
/// has one. It is printed in reports and logs, so nothing about the value may show in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Id);

/// A number is kept as one: a cache holds a version for each of its secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Id {
    Number(u64),
    Text(Arc<str>),
}

impl Version {
    /// A version that stands in no order, such as a random id.
    pub fn opaque(id: impl Into<Arc<str>>) -> Self {
        Self(Id::Text(id.into()))
    }

    /// A version that is its own place in the order.
    pub fn numbered(number: u64) -> Self {
        Self(Id::Number(number))
    }

    /// The store's id.
    pub fn id(&self) -> Cow<'_, str> {
        match &self.0 {
            Id::Number(number) => number.to_string().into(),
            Id::Text(text) => Cow::Borrowed(text),
        }
    }

    /// Whether the store's order puts this one before `other`. Without an order: no.
    pub fn is_older_than(&self, other: &Self) -> bool {
        matches!((&self.0, &other.0), (Id::Number(a), Id::Number(b)) if a < b)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Id::Number(number) => write!(f, "{number}"),
            Id::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The cheapest proof of sameness that a provider can give without reading the value. It may be
/// made from things that say something about the value, its size for one, so it is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Stamp(Arc<str>);

impl<T: Into<Arc<str>>> From<T> for Stamp {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[stamp]")
    }
}

/// One moment of a store, or of a part of it, that changes as a whole, such as the target of a
/// `..data` link. Values of one snapshot belong together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    of: Arc<str>,
    id: Arc<str>,
}

impl Snapshot {
    /// A moment of the part of a store that is called `of`. Parts change each on their own.
    pub fn within(of: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        Self { of: of.into(), id: id.into() }
    }

    /// Whether values of the two do not belong together: they are of the same part of the store
    /// and of different moments.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.of == other.of && self.id != other.id
    }
}

impl<T: Into<Arc<str>>> From<T> for Snapshot {
    /// A moment of the whole store.
    fn from(id: T) -> Self {
        Self::within("", id)
    }
}

/// A hint from a store that something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// This secret changed, to this version where the store says so.
    Secret {
        /// Which one.
        key: SecretKey,
        /// The version the event speaks of.
        version: Option<Version>,
    },
    /// Something changed, or events were lost: compare everything.
    Anything,
}

/// A subscription to a store's changes.
pub type ChangeStream = BoxStream<'static, Change>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_an_order_are_never_older() {
        assert!(Version::numbered(1).is_older_than(&Version::numbered(2)));
        assert!(!Version::numbered(2).is_older_than(&Version::numbered(2)));
        assert!(!Version::opaque("1").is_older_than(&Version::numbered(2)));
        assert!(!Version::numbered(1).is_older_than(&Version::opaque("2")));
    }

    #[test]
    fn snapshots_conflict_only_within_one_part_of_a_store() {
        let (a1, a2, b2) =
            (Snapshot::within("a", "1"), Snapshot::within("a", "2"), Snapshot::within("b", "2"));
        assert!(a1.conflicts_with(&a2));
        assert!(!a1.conflicts_with(&a1.clone()));
        assert!(!a1.conflicts_with(&b2));
    }

    #[test]
    fn a_stamp_is_never_printed() {
        assert_eq!(format!("{:?}", Stamp::from("4711")), "[stamp]");
    }
}
