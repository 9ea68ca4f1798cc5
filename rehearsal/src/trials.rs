//! Rotations that must not succeed: what the operator is told then, and that nothing breaks.
//!
//! They are held under the same load as all others, so a request that fails in one of them is
//! counted like any other.

use std::fmt;
use std::time::Duration;

use oneiric_runtime::report::{AdapterOutcome, Outcome};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::operator::{Attempt, Operator};

/// How long old generations get where one of their users does not end.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long it may take until the state after a trial is a good one again.
const RECOVERY: Duration = Duration::from_secs(20);

/// How one of them ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trial {
    trial: &'static str,
    expected_exit_code: i32,
    exit_code: Option<i32>,
    outcome: Outcome,
    pub(crate) adapter: Option<AdapterOutcome>,
    /// Users of the old generation at the deadline.
    in_flight: usize,
    /// What was not as it must be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

impl Trial {
    pub(crate) fn went_right(&self) -> bool {
        self.wrong.is_empty()
    }

    pub(crate) fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.exit_code.map_or("none".to_owned(), |code| code.to_string());
        write!(f, "{:<33} {code:>9}  {}", self.trial, self.outcome.token())?;
        if let Some(adapter) = self.adapter {
            write!(f, ", the adapter: {}", word(adapter))?;
        }
        if self.in_flight > 0 {
            write!(f, ", {} of the old left", self.in_flight)?;
        }
        self.wrong.iter().try_for_each(|wrong| write!(f, "; WRONG: {wrong}"))
    }
}

/// The trials of one service: its operator, the key that is rotated, and which generation serves.
pub(crate) struct Trials<'a, G> {
    pub(crate) operator: &'a Operator,
    pub(crate) key: &'static str,
    pub(crate) generation: G,
}

impl<G: Fn() -> u64> Trials<'_, G> {
    /// A credential that does not work is refused and rolled back. After it the good one is in the
    /// store again.
    pub(crate) async fn bad_credential(
        &self,
        what: &'static str,
        bad: &str,
        good: &str,
    ) -> Result<Trial, String> {
        let before = (self.generation)();
        self.operator.store(self.key, bad)?;
        let attempt = self.operator.attempt(self.key, None).await?;
        let mut trial = judge(what, 3, &attempt);
        trial.must(trial.adapter == Some(AdapterOutcome::Refused), || {
            format!("it was not refused: {}", attempt.said)
        });
        self.operator.store(self.key, good)?;
        self.is_as_before(trial, before).await
    }

    /// A secret that lacks a field which the adapter needs cannot be read as a whole. After it the
    /// good one is in the store again.
    pub(crate) async fn lacks_a_field(
        &self,
        what: &'static str,
        bad: &str,
        good: &str,
    ) -> Result<Trial, String> {
        let before = (self.generation)();
        self.operator.store(self.key, bad)?;
        let attempt = self.operator.attempt(self.key, None).await?;
        let mut trial = judge(what, 1, &attempt);
        trial.must(trial.adapter.is_none(), || "an adapter was touched".to_owned());
        self.operator.store(self.key, good)?;
        self.is_as_before(trial, before).await
    }

    /// Without the store nothing changes.
    pub(crate) async fn store_down(&self) -> Result<Trial, String> {
        let before = (self.generation)();
        self.operator.lose_store()?;
        let attempt = self.operator.attempt(self.key, None).await;
        self.operator.find_store()?;
        let mut trial = judge("the store is down", 1, &attempt?);
        trial.must(trial.adapter.is_none(), || "an adapter was touched".to_owned());
        self.is_as_before(trial, before).await
    }

    /// A user of the old generation does not end by itself: the next one serves, and it is said
    /// that the old one is not gone. `let_go` ends that user.
    pub(crate) async fn cannot_drain(
        &self,
        what: &'static str,
        next: &str,
        expected: AdapterOutcome,
        let_go: impl AsyncFnOnce() -> Result<(), String>,
    ) -> Result<Trial, String> {
        let before = (self.generation)();
        self.operator.store(self.key, next)?;
        let attempt = self.operator.attempt(self.key, Some(PATIENCE)).await?;
        let mut trial = judge(what, 4, &attempt);
        trial.must(trial.adapter == Some(expected), || {
            format!("it was to be {}: {}", word(expected), attempt.said)
        });
        trial.must(trial.in_flight == 1, || "the user was not counted".to_owned());
        let_go().await?;
        self.is_as_before(trial, before + 1).await
    }

    /// This generation serves, and a rotation of what is in the store is done.
    async fn is_as_before(&self, mut trial: Trial, generation: u64) -> Result<Trial, String> {
        let give_up = Instant::now() + RECOVERY;
        while self.operator.attempt(self.key, None).await?.exit_code != Some(0) {
            if Instant::now() > give_up {
                trial.wrong.push("rotations after it were not done".to_owned());
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let serving = (self.generation)();
        trial.must(serving == generation, || {
            format!("generation {serving} serves, and not {generation}")
        });
        Ok(trial)
    }
}

/// How it ended, and whether with the exit code that it must have.
pub(crate) fn judge(trial: &'static str, expected_exit_code: i32, attempt: &Attempt) -> Trial {
    let adapters = attempt.report.instances.iter().flat_map(|of| &of.adapters);
    // Of several adapters the one that it is about.
    let adapter = adapters.max_by_key(|of| (of.in_flight, of.outcome == AdapterOutcome::Refused));
    let mut trial = Trial {
        trial,
        expected_exit_code,
        exit_code: attempt.exit_code,
        outcome: attempt.report.outcome,
        adapter: adapter.map(|adapter| adapter.outcome),
        in_flight: adapter.map_or(0, |adapter| adapter.in_flight),
        wrong: Vec::new(),
    };
    trial.must(trial.exit_code == Some(expected_exit_code), || {
        format!("the exit code must be {expected_exit_code}: {}", attempt.said)
    });
    trial
}

/// The same word as in `--json`.
fn word(outcome: AdapterOutcome) -> String {
    let word = serde_json::to_value(outcome).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}
