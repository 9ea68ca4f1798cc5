//! How long values live.

use std::collections::BTreeMap;
use std::time::Duration;

use oneiric_core::settings::SecretSettings;
use oneiric_core::{AliasId, Clock, Moment, Result, SecretRef, SecretValue};

use crate::entry::{Name, Times};
use crate::verify::{Kinds, Verify};

/// The times and rules of a resolver. The defaults are those of the settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResolverOptions {
    /// How long a value is fresh, less up to a tenth of jitter; zero keeps nothing.
    pub ttl: Duration,
    /// How long after that it may be served while the provider cannot answer.
    pub stale_if_error: Duration,
    /// How long "there is no such secret" is believed.
    pub negative_ttl: Duration,
    /// How long one fetch may take, repeated tries included.
    pub fetch_timeout: Duration,
    /// How many calls of one provider may run at a time.
    pub calls_at_once: usize,
    /// How many calls of one provider are made a second in the long run; a second's worth of them
    /// may be made at once.
    pub calls_a_second: u32,
    /// How many secrets are held at most. What a handle or an adapter follows is never evicted
    /// and may go beyond it.
    pub capacity: usize,
    /// What aliases stand for: who may answer, the first one first, none of them an alias, and what
    /// is expected of them. A field that is asked for is one within the candidate's.
    pub aliases: BTreeMap<AliasId, SecretSettings>,
    /// Whether an empty value is a value.
    pub allow_empty: bool,
    /// Whether `changeme`, `***` and the like are values.
    pub allow_placeholders: bool,
    /// Where ages come from.
    pub clock: Clock,
    /// Fixes the jitter, for tests.
    pub seed: Option<u64>,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            stale_if_error: Duration::from_secs(3600),
            negative_ttl: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(10),
            calls_at_once: 32,
            calls_a_second: 500,
            capacity: 100_000,
            aliases: BTreeMap::new(),
            allow_empty: false,
            allow_placeholders: false,
            clock: Clock::system(),
            seed: None,
        }
    }
}

impl ResolverOptions {
    /// Whether a value is one that a resolver with these options takes over, also as what an alias
    /// wants it to be: for those who write secrets, who should know before.
    ///
    /// # Errors
    /// `Invalid`, with the reason and without the value.
    pub fn check(&self, value: &SecretValue, of: &SecretRef) -> Result<()> {
        self.verify().check(value, &Name(of))?;
        Kinds::new(&self.aliases).check(value, (of.provider(), of.key(), of.version()))
    }

    pub(crate) fn verify(&self) -> Verify {
        Verify { allow_empty: self.allow_empty, allow_placeholders: self.allow_placeholders }
    }

    /// The times of a value whose fetch began at this moment. Each value gets its own jitter, so
    /// that what was fetched together does not expire together.
    pub(crate) fn times(&self, fetched: Moment, jitter: f64) -> Times {
        let fresh = self.ttl.mul_f64(1.0 - 0.1 * jitter);
        let fresh_until = fetched.after(fresh);
        // The time that hits go by may lag behind that of the fetch.
        let refresh = match fresh.is_zero() {
            true => Moment::from_nanos(0),
            false => fetched.after(fresh.mul_f64(0.8)),
        };
        Times { refresh, fresh_until, fetched }
    }

    /// Until when a value may be served while the provider cannot answer.
    pub(crate) fn usable_until(&self, times: &Times) -> Moment {
        if self.ttl.is_zero() { times.fetched } else { self.followed_until(times) }
    }

    /// Until when a handle shows a value: the same, also where reads keep nothing.
    pub(crate) fn followed_until(&self, times: &Times) -> Moment {
        times.fresh_until.after(self.stale_if_error)
    }
}
