//! Exit codes, and what to do about each.

use oneiric_runtime::report::Outcome;

/// How the program ends, as a number for the shell. The manual has the same table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Done.
    pub(crate) const DONE: Self = Self(0);
    /// Failed; nothing changed.
    pub(crate) const FAILED: Self = Self(1);
    /// The command line makes no sense. Clap has the same.
    pub(crate) const USAGE: Self = Self(2);
    /// Rolled back; the old secrets serve.
    pub(crate) const ROLLED_BACK: Self = Self(3);
    /// Committed, but an old generation is not drained.
    pub(crate) const NOT_DRAINED: Self = Self(4);
    /// Another rotation is in the way.
    pub(crate) const CONFLICT: Self = Self(5);
    /// It is not known what happened.
    pub(crate) const AMBIGUOUS: Self = Self(6);
    /// Nobody was reached.
    pub(crate) const UNREACHED: Self = Self(7);
    /// The command cannot be run. Shells have the same.
    #[cfg(all(feature = "process", target_os = "linux"))]
    pub(crate) const CANNOT_RUN: Self = Self(126);
    /// There is no such command. Shells have the same.
    #[cfg(all(feature = "process", target_os = "linux"))]
    pub(crate) const NO_COMMAND: Self = Self(127);
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::DONE,
            Outcome::Failed => Self::FAILED,
            Outcome::RolledBack => Self::ROLLED_BACK,
            Outcome::NotDrained => Self::NOT_DRAINED,
            Outcome::Conflict => Self::CONFLICT,
            Outcome::Unreached => Self::UNREACHED,
            Outcome::Ambiguous => Self::AMBIGUOUS,
        }
    }
}

/// What a person does after a rotation that ended like this; `None` after a good one.
pub(crate) fn remedy(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Done => None,
        Outcome::Failed => Some("nothing changed; correct the cause and rotate again"),
        Outcome::RolledBack => Some(
            "the old secrets serve on: do not revoke them; correct the new ones and rotate again",
        ),
        Outcome::NotDrained => Some(
            "the new secrets serve, but somebody still uses the old ones: revoke them only when \
             `oneiric status` shows nothing draining",
        ),
        Outcome::Conflict => Some("wait for the other rotation, then rotate again"),
        Outcome::Unreached => Some(
            "start `oneiric agent`, or name an endpoint with --target; whoever was not reached \
             serves the old secrets on",
        ),
        Outcome::Ambiguous => {
            Some("look at `oneiric status` for what each instance serves before you rotate again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_code_of_its_own_and_all_but_success_a_remedy() {
        let outcomes = [
            Outcome::Done,
            Outcome::Failed,
            Outcome::RolledBack,
            Outcome::NotDrained,
            Outcome::Conflict,
            Outcome::Ambiguous,
            Outcome::Unreached,
        ];
        let codes = outcomes.map(|outcome| Exit::from(outcome).0);
        assert_eq!(codes, [0, 1, 3, 4, 5, 6, 7]);
        for outcome in outcomes {
            assert_eq!(remedy(outcome).is_none(), outcome == Outcome::Done, "{outcome:?}");
        }
    }
}
