//! Whether several secrets that were read one after the other belong together.

use std::sync::Arc;
use std::time::Duration;

use crate::cell::Cell;
use crate::read::Answer;
use crate::shared::Shared;

/// What can be said of a set.
pub(crate) enum Consistency {
    /// All of it was true at one moment.
    Whole,
    /// Something changed while it was read.
    Moved,
    /// These are of different moments of one store.
    Mixed(Vec<Arc<Cell>>),
    /// This one is older than an invalidation that others are from after.
    Torn(String),
}

impl Shared {
    /// Whether what was read one after the other was all true at one moment. Every entry is
    /// looked at a second time: if none was invalidated or replaced since the first look, all of
    /// them stood together in between.
    pub(crate) fn consistency(&self, answers: &[Answer]) -> Consistency {
        let _saying = self.saying();
        for answer in answers {
            // A default is true for as long as nobody has the secret.
            if let Some(absence) = answer.entry.instead_of() {
                let held = answer.cell.entry();
                let is_kept = self.options.ttl > Duration::ZERO;
                let is_absent = !is_kept || absence.is_of(held.as_ref());
                if !is_absent || !answer.cell.is_valid(answer.entry.epoch) {
                    return Consistency::Moved;
                }
                continue;
            }
            let still = answer.cell.entry().is_some_and(|entry| Arc::ptr_eq(&entry, &answer.entry));
            if !still && self.options.ttl > Duration::ZERO {
                return Consistency::Moved;
            }
            // A value from before an invalidation goes only with others from before it.
            let fresh_from = answer.cell.fresh_from();
            let overtaken = answer.entry.epoch < fresh_from;
            if overtaken && answers.iter().any(|other| other.entry.epoch >= fresh_from) {
                return match answer.stale {
                    Some(_) => Consistency::Torn(answer.cell.to_string()),
                    None => Consistency::Moved,
                };
            }
            if overtaken && answer.stale.is_none() {
                return Consistency::Moved;
            }
        }
        for (at, answer) in answers.iter().enumerate() {
            let Some(snapshot) = answer.entry.snapshot() else { continue };
            let conflicts = |other: &&Answer| {
                let other = (&other.cell.source.id, other.entry.snapshot());
                other.0 == &answer.cell.source.id
                    && other.1.is_some_and(|other| other.conflicts_with(snapshot))
            };
            if answers[at + 1..].iter().any(|other| conflicts(&other)) {
                let id = &answer.cell.source.id;
                let of_provider = answers.iter().filter(|of| of.cell.source.id == *id);
                return Consistency::Mixed(of_provider.map(|of| Arc::clone(&of.cell)).collect());
            }
        }
        Consistency::Whole
    }
}
