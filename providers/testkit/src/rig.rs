//! What the author of a provider brings along to be tested.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{Result, SecretKey, SecretProvider, SecretValue};

/// A store that the suite may change and put out of order, and the provider that is tested on it.
#[async_trait]
pub trait Rig: Send + Sync {
    /// A provider of the store. It is asked for once per run.
    fn provider(&self) -> Arc<dyn SecretProvider>;

    /// Whether the store keeps a version that was written apart from the current one until it is
    /// promoted. Of no meaning where the provider has no writer.
    fn stages(&self) -> bool;

    /// Sets secrets, all at one moment if the provider declares snapshots, and makes them current.
    /// When it returns, the provider can see them, unless [`Fault::Lagging`] is played.
    ///
    /// Answers with the ids of the versions that they became, in their order, or with nothing
    /// where the store has no ids of its own. Where the provider declares versions there must be
    /// ids: without them nobody can say which version is the right one.
    ///
    /// # Errors
    /// `Invalid` if the store does not take such a value, so that there is nothing to test; any
    /// other kind is a failure of the case.
    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>>;

    /// Takes a secret away, with all its versions.
    ///
    /// # Errors
    /// Any is a failure of the case.
    async fn remove(&self, key: &SecretKey) -> Result<()>;

    /// Puts the store out of order in this way, until [`mend`](Self::mend). It concerns the
    /// provider alone: [`put`](Self::put) and [`remove`](Self::remove) go on. One fault is played
    /// at a time.
    ///
    /// What a rig cannot play is skipped, with its reason; a match on the fault needs a last arm
    /// that says so, since there will be more of them. But the faults of push must be possible
    /// where the provider declares push.
    async fn fault(&self, fault: Fault) -> Ability;

    /// Ends every fault. When it returns, the provider can see all that was set. It is called at
    /// the end of each case, after those without a fault too.
    ///
    /// # Errors
    /// Any is a failure of the case.
    async fn mend(&self) -> Result<()>;
}

/// A way in which a store can be out of order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It cannot be reached.
    Unreachable,
    /// It knows the provider and refuses whatever it asks for.
    Denied,
    /// It does not know the provider, or no longer.
    UnknownIdentity,
    /// It refuses for the number of requests, and says how long to wait or does not.
    Throttled {
        /// What it says.
        retry_after: Option<Duration>,
    },
    /// Every answer takes this long.
    Slow(Duration),
    /// Requests are taken and never answered, until it is mended.
    Hanging,
    /// What is set from now on is not yet seen by reads that name no version. A read of the exact
    /// version may see it.
    Lagging,
    /// The current version of this secret is disabled; mending enables it again.
    Disabled(SecretKey),
    /// The next write is done, and its reply never arrives.
    LostReply,
    /// Events of what is set from now on do not arrive. The subscription may end.
    PushLost,
    /// Events of what is set from now on arrive twice.
    PushDoubled,
    /// Events of what is set from now on arrive in another order, at the latest when it is mended.
    PushReordered,
}

/// Whether a rig can put its store out of order in some way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "what cannot be tried is to be said"]
pub enum Ability {
    /// It has done so.
    Done,
    /// It cannot, and why, in a few words.
    Cannot(String),
}

impl Ability {
    /// The rig cannot, for this reason.
    pub fn cannot(why: impl Into<String>) -> Self {
        Self::Cannot(why.into())
    }
}
