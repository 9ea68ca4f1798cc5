//! What the author of an adapter brings along to be tested.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{LifecycleHook, SecretSet};

use crate::rig::Ability;

/// A server that the suite may put out of order and whose credentials it may mint and revoke, and
/// the adapters that are tested on it.
///
/// # Evidence
/// Wherever the server can tell, it is the server's word that counts and not the adapter's: which
/// credential it was shown, which one a piece of work was done with, and how many uses of one
/// there are at this moment.
///
/// # What a rig cannot do
/// It answers with a reason, in a few words, and what needs it is skipped, loudly. Where it should
/// be able to and something went wrong, it panics: that fails the case.
///
/// # Time
/// The suite waits by tokio's clock. Where the server is in the same process the test may pause it
/// (`#[tokio::test(start_paused = true)]`); with sockets or processes it must run.
#[async_trait]
pub trait AdapterRig: Send + Sync {
    /// A new adapter of the server, that has no generation yet. Each case asks for one or more of
    /// its own; what is left of them ends when they are dropped. All have the same id and the same
    /// secrets.
    async fn adapter(&self) -> Box<dyn AdapterInUse>;

    /// Makes the next credential, of this kind, as secrets for the adapter's references. `canary`
    /// is a random text of letters and digits: put it into every value that may hold any text, so
    /// that the suite can search for it in everything that is printed.
    ///
    /// # Errors
    /// Why the server has no credentials of this kind. There must be [`Credential::Accepted`].
    async fn mint(&self, kind: Credential, canary: &str) -> Result<Minted, String>;

    /// Lets the server accept a credential no more. Sessions that are open may go on.
    async fn revoke(&self, number: u64) -> Ability;

    /// How many uses of a credential the server has at this moment: its open sessions, its
    /// unfinished requests, or whatever keeps the credential from being taken away.
    ///
    /// # Errors
    /// Why the server cannot tell.
    async fn uses(&self, number: u64) -> Result<usize, String>;

    /// How often the server was shown a credential since it was minted, whatever it said to it.
    ///
    /// # Errors
    /// Why the server cannot tell.
    async fn shown(&self, number: u64) -> Result<u64, String>;

    /// Puts the server out of order in this way, until [`mend`](Self::mend). It concerns adapters
    /// alone: minting, revoking and counting go on. One fault is played at a time. A match on the
    /// fault needs a last arm that says what cannot be played, since there will be more of them.
    async fn fault(&self, fault: ServerFault) -> Ability;

    /// Ends every fault. When it returns, the server serves. It is called at the end of each case,
    /// after those without a fault too.
    async fn mend(&self);

    /// Whether the adapter has this habit, or why it is made in another way. What holds of those
    /// alone that have it is skipped for it, with this reason.
    fn has(&self, habit: Habit) -> Ability;
}

/// One adapter and those who use it, through its own public face.
#[async_trait]
pub trait AdapterInUse: Send + Sync {
    /// The adapter, as the runtime drives it.
    fn hook(&self) -> Arc<dyn LifecycleHook>;

    /// Does one unit of work in the way that a user of the adapter does, with whatever it hands
    /// out at this moment, and answers with the number of the credential that served it: the one
    /// that the server saw, if it can tell. It repeats nothing that failed.
    ///
    /// Its future may be dropped at any await.
    ///
    /// # Errors
    /// Why it was not done. It is searched for secrets like everything that is printed.
    async fn work(&self) -> Result<u64, String>;

    /// Begins a unit of work that lasts until it is [finished](LongWork::finish) or abandoned. It
    /// is under way at the server when this returns.
    ///
    /// # Errors
    /// Why this adapter has no such work, so that there is nothing to drain, or no user that
    /// behaves in this manner.
    async fn begin(&self, manner: Manner) -> Result<Box<dyn LongWork>, String>;
}

/// A unit of work that is under way. Dropping it abandons it: its user lets go of the adapter at
/// once, and the work is not done.
#[async_trait]
pub trait LongWork: Send {
    /// Lets it come to its end, and answers like [`AdapterInUse::work`].
    ///
    /// # Errors
    /// It was cut off before.
    async fn finish(self: Box<Self>) -> Result<u64, String>;
}

/// How a user behaves when its generation ends under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manner {
    /// It lets go when it is cut off, where an adapter can do that.
    Yielding,
    /// It holds on, whatever the adapter does, until it is finished or abandoned.
    Stubborn,
}

/// What most adapters do, and some by design do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Habit {
    /// It moves to a generation when that is committed: no unit of work that begins after is done
    /// with the old one. Others move while the old one is drained.
    MovesAtCommit,
    /// It knows how many users there are at a drain deadline, and reports that number.
    CountsUsers,
    /// It tells the users of several old generations apart, so that each is drained when its own
    /// users are done.
    DrainsApart,
    /// Its users report a credential that is refused where they use it, and units of work of the
    /// rig do so.
    ReportsRefusals,
}

/// The kinds of credentials that a rig mints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// The server accepts it.
    Accepted,
    /// It can be tried, and the server refuses it.
    Refused,
    /// It cannot even be tried, such as a token with a line break or a key that does not parse.
    Malformed,
}

/// A credential, with the number by which a rig knows it.
#[derive(Clone)]
pub struct Minted {
    pub(crate) number: u64,
    pub(crate) secrets: SecretSet,
    pub(crate) parts: Vec<Vec<u8>>,
}

impl Minted {
    /// A credential as the secrets that make it. Numbers grow, and no two have the same values.
    pub fn new(number: u64, secrets: SecretSet) -> Self {
        Self { number, secrets, parts: Vec::new() }
    }

    /// The same, with a part of a value that is searched for in what is printed. It is random and
    /// at least 16 bytes long. This is for values in which the suite's own text has no place, such
    /// as keys.
    #[must_use]
    pub fn with_secret_part(mut self, part: impl Into<Vec<u8>>) -> Self {
        self.parts.push(part.into());
        self
    }
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A way in which the server of an adapter can be out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerFault {
    /// It is gone: sessions are cut off, and nobody can connect.
    Down,
    /// It takes connections and requests, and answers none until it is mended.
    Hanging,
    /// Every exchange takes this long.
    Slow(Duration),
    /// Every connection is cut off once there were so many exchanges on it; with 0 before the
    /// first answer.
    CutOff {
        /// How many exchanges there may be: of whatever the server answers one by one, such as
        /// messages or requests.
        after: usize,
    },
    /// Every connection is kept open and no longer answered on once there were so many exchanges
    /// on it, until it is mended; with 0 there is no first answer.
    Stalled {
        /// How many exchanges there may be, counted like those of a cut-off.
        after: usize,
    },
    /// It turns everybody away for a reason that is none of the credential's, such as too many
    /// connections.
    Busy,
}
