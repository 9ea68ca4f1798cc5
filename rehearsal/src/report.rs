//! What a rehearsal counted, as a table or as one JSON object.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::Plan;
use crate::trials::Trial;

/// The counts and times of one rehearsal.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) rotations: u32,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Uses of a credential after it was revoked, as the one who enforces it counted them.
    pub(crate) old_credential_uses_after_revoke: u64,
    /// Uses of an old credential after the rotation was acknowledged, revoked or not.
    pub(crate) old_credential_uses_after_commit: u64,
    /// From the start of `prepare` to the commit.
    pub(crate) swap_ms: Spread,
    /// From the commit to the end of the old generation.
    pub(crate) drain_ms: Spread,
    /// Of a whole rotation as the operator sees it: the command's own time.
    pub(crate) command_ms: Spread,
    /// Rotations that must not succeed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) trials: Vec<Trial>,
    pub(crate) duration_s: f64,
    /// The first failures, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
}

/// Where the values of a sample lie.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut sample: Vec<f64>) -> Self {
        sample.sort_by(f64::total_cmp);
        // The smallest value that this share of the sample does not exceed.
        let at = |permille: usize| {
            let rank = (sample.len() * permille).div_ceil(1000);
            sample.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { p50: at(500), p99: at(990), max: at(1000) }
    }
}

impl Report {
    /// Of a load that has [ended](crate::load::Load::stop): its requests, those that failed, and some
    /// of these in words. Where nothing more is said, nobody rotated and no old credential was used.
    pub(crate) fn of(
        scenario: &'static str,
        plan: Plan,
        started: Instant,
        (requests, failed, failures): (u64, u64, Vec<String>),
    ) -> Self {
        Self {
            scenario,
            rotations: plan.rotations,
            requests,
            failed,
            old_credential_uses_after_revoke: 0,
            old_credential_uses_after_commit: 0,
            swap_ms: Spread::default(),
            drain_ms: Spread::default(),
            command_ms: Spread::default(),
            trials: Vec::new(),
            duration_s: seconds(started.elapsed()),
            failures,
        }
    }

    /// The same with the uses of old credentials: after the commit, and after they were revoked.
    pub(crate) fn old_uses(self, (after_commit, after_revoke): (u64, u64)) -> Self {
        Self {
            old_credential_uses_after_commit: after_commit,
            old_credential_uses_after_revoke: after_revoke,
            ..self
        }
    }

    /// The same with the [times](crate::operator::Operator::times) of an operator.
    pub(crate) fn times(self, (swap_ms, drain_ms, command_ms): (Spread, Spread, Spread)) -> Self {
        Self { swap_ms, drain_ms, command_ms, ..self }
    }

    /// The same with rotations that were not to succeed.
    pub(crate) fn trials(self, trials: Vec<Trial>) -> Self {
        Self { trials, ..self }
    }

    pub(crate) fn is_clean(&self) -> bool {
        let went_right = self.trials.iter().all(Trial::went_right);
        self.failed == 0 && self.old_credential_uses_after_revoke == 0 && went_right
    }

    fn verdict(&self) -> &'static str {
        if self.is_clean() {
            "nothing was dropped"
        } else if self.trials.iter().all(Trial::went_right) {
            "REQUESTS WERE DROPPED"
        } else {
            "A ROTATION DID NOT END AS IT MUST"
        }
    }

    #[expect(clippy::print_stdout, reason = "the report is this program's output")]
    pub(crate) fn print(&self, json: bool) {
        if json {
            println!("{}", serde_json::to_string(self).expect("a report is plain data"));
            return;
        }
        let spread = |of: Spread| match of.max > 0.0 {
            true => format!("{:>9.2} {:>9.2} {:>9.2}", of.p50, of.p99, of.max),
            // Nobody rotated, and what happened by itself is not timed.
            false => format!("{:>9} {:>9} {:>9}", "-", "-", "-"),
        };
        println!("scenario                            {}", self.scenario);
        println!("rotations                           {}", self.rotations);
        println!("requests                            {}", self.requests);
        println!("failed requests                     {}", self.failed);
        println!("old credential used after commit    {}", self.old_credential_uses_after_commit);
        println!("old credential used after revoke    {}", self.old_credential_uses_after_revoke);
        println!("ms                                        p50       p99       max");
        println!("  swap (prepare to commit)          {}", spread(self.swap_ms));
        println!("  drain (commit to last user)       {}", spread(self.drain_ms));
        println!("  the whole command                 {}", spread(self.command_ms));
        if !self.trials.is_empty() {
            println!("rotations that must not succeed     exit code");
        }
        for trial in &self.trials {
            println!("  {trial}");
        }
        println!("took                                {:.1} s", self.duration_s);
        for failure in &self.failures {
            println!("failure: {failure}");
        }
        println!("{}", self.verdict());
    }
}

/// Says on stderr why the rehearsal could not be held.
#[expect(clippy::print_stderr, reason = "talk goes to stderr")]
pub(crate) fn complain(error: &str) {
    eprintln!("error: the rehearsal could not be held: {error}");
}

pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_the_sample() {
        let spread = Spread::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((spread.p50, spread.p99, spread.max), (50.0, 99.0, 100.0));
        let one = Spread::of(vec![7.0]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(Vec::new()).max, 0.0);
    }
}
