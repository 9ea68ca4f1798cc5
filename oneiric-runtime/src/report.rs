//! What a rotation did, in words that the library, the admin endpoint and `--json` share.
//!
//! Every type here is part of the wire and of the command line's output: fields are added, never
//! renamed.

use oneiric_core::{AdapterId, InstanceId, ProviderId, RotationId};
use serde::{Deserialize, Serialize};

/// How a rotation ended. The command line has an exit code for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every adapter serves the new secrets, or held them already, and no old generation is left.
    Done,
    /// Nothing was tried on any adapter: the secrets could not be read. Nothing changed.
    Failed,
    /// An adapter refused the new secrets: none was committed, the old generations serve on.
    RolledBack,
    /// Committed, but an old generation was not drained in time.
    NotDrained,
    /// Another rotation is in the way.
    Conflict,
    /// It is not known what happened: the connection broke after the rotation was asked for.
    Ambiguous,
    /// No running instance was reached.
    Unreached,
}

impl Outcome {
    /// A stable token, the same as in `--json`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::NotDrained => "not_drained",
            Self::Conflict => "conflict",
            Self::Ambiguous => "ambiguous",
            Self::Unreached => "unreached",
        }
    }

    /// The outcome of a whole out of its parts: the one that needs the most attention.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let weight = |outcome| match outcome {
            Self::Done => 0,
            Self::NotDrained => 1,
            Self::Conflict => 2,
            Self::Failed => 3,
            Self::RolledBack => 4,
            Self::Unreached => 5,
            Self::Ambiguous => 6,
        };
        if weight(other) > weight(self) { other } else { self }
    }
}

/// What one rotation did everywhere: the one object of `oneiric secrets rotate --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotationReport {
    /// The name of the rotation.
    pub rotation_id: RotationId,
    /// How it ended, all instances taken together.
    pub outcome: Outcome,
    /// The provider, if it was about one.
    pub provider: Option<ProviderId>,
    /// The secrets, with the versions before and after.
    pub keys: Vec<KeyReport>,
    /// What happened in each instance.
    pub instances: Vec<InstanceReport>,
    /// From the trigger to the end.
    pub duration_ms: f64,
}

/// What one rotation did in one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which one.
    pub instance: InstanceId,
    /// How it ended here.
    pub outcome: Outcome,
    /// Why, where it did not end well.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The secrets, with the versions before and after.
    pub keys: Vec<KeyReport>,
    /// What happened to each adapter that depends on them.
    pub adapters: Vec<AdapterReport>,
    /// How long it took here.
    pub duration_ms: f64,
}

/// One secret of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyReport {
    /// The key within its provider; `provider:key` where a rotation spans providers, and of the
    /// candidate that answered for an alias.
    pub key: String,
    /// The alias by which it was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alias: Option<String>,
    /// The provider that answered in the place of the alias's first candidate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fallback: Option<ProviderId>,
    /// The version that was held before, if any was.
    pub from_version: Option<String>,
    /// The version that was found; `None` if it could not be read.
    pub to_version: Option<String>,
}

/// What happened to one adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterReport {
    /// Which one.
    pub adapter: AdapterId,
    /// What happened.
    pub outcome: AdapterOutcome,
    /// The generation that serves now, counted from 1.
    pub generation: u64,
    /// How long building and proving took.
    pub prepare_ms: Option<f64>,
    /// How long the old generation took to end.
    pub drain_ms: Option<f64>,
    /// How many users still held the old generation at the deadline.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub in_flight: usize,
    /// Why, where it did not go well.
    pub error: Option<String>,
}

/// What happened to one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdapterOutcome {
    /// It held these values already.
    Unchanged,
    /// Committed; its old generation is still draining. Only in progress, never in a report.
    Committed,
    /// Committed, and its old generation ended.
    Drained,
    /// Committed; users of the old generation were cut off at the deadline.
    Forced,
    /// Committed; somebody still holds the old generation.
    Leaked,
    /// It tried the new secrets and they do not work.
    Refused,
    /// It could not try.
    Failed,
    /// It was ready, and was given up because another adapter was not.
    RolledBack,
}

/// One step of a rotation, told while it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
#[non_exhaustive]
pub enum Progress {
    /// It is waiting for another rotation of the same secrets, or has joined one.
    Waiting,
    /// The secrets are being read.
    Reading,
    /// This many adapters depend on them and are being prepared.
    Preparing {
        /// Which.
        adapters: Vec<AdapterId>,
    },
    /// Something happened to an adapter.
    Adapter(AdapterReport),
    /// It is over.
    Finished(InstanceReport),
}

/// The state of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Which one.
    pub instance: InstanceId,
    /// Its process.
    pub pid: u32,
    /// How long its runtime has been running.
    pub uptime_s: u64,
    /// Its adapters.
    pub adapters: Vec<AdapterStatus>,
    /// Its providers.
    #[serde(default)]
    pub providers: Vec<ProviderStatus>,
}

/// How the secrets of one provider are watched, and what that promises and costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// Which one.
    pub provider: ProviderId,
    /// The kind of store.
    pub kind: String,
    /// By what a change is noticed: `push+sweep`, `push+ttl`, `sweep` or `ttl`.
    pub mode: String,
    /// Whether the store has change events and the subscription to them is lost.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub push_lost: bool,
    /// How many secrets are watched: those that the cache holds.
    pub keys: usize,
    /// The longest time from a change until it is noticed, also if push tells nothing, while the
    /// store answers. `None` where there is no such bound.
    pub worst_case_s: Option<f64>,
    /// Where the store's own manual promises no bound: how long it takes by our own intervals, to
    /// which comes what the store takes.
    pub at_least_s: Option<f64>,
    /// How many calls the sweep makes in a day.
    pub calls_a_day: f64,
    /// What they cost in 30 days, where the price is public.
    pub usd_a_month: Option<f64>,
    /// How many changes only the sweep found since the start, though the store has change events.
    pub missed_events: u64,
}

/// The state of one adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterStatus {
    /// Which one.
    pub adapter: AdapterId,
    /// The generation that serves, counted from 1; 0 before the first.
    pub generation: u64,
    /// How many old generations have not ended.
    pub draining: usize,
    /// The versions that it serves, by reference.
    pub versions: Vec<HeldVersion>,
    /// Why its last rotation did not go well, if so.
    pub error: Option<String>,
}

/// A version that an adapter serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVersion {
    /// The reference.
    pub reference: String,
    /// The version.
    pub version: String,
    /// The provider that it is from, if that answered in the place of an alias's first candidate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fallback: Option<ProviderId>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_the_wire() {
        for outcome in [
            Outcome::Done,
            Outcome::Failed,
            Outcome::RolledBack,
            Outcome::NotDrained,
            Outcome::Conflict,
            Outcome::Ambiguous,
            Outcome::Unreached,
        ] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.token());
        }
    }
}
