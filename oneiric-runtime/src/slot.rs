//! One adapter, as the manager knows it: what it serves, what it has left behind, and what is to
//! be made of a report that its credential was refused.

use std::sync::Arc;

use oneiric_core::{AdapterId, LifecycleHook, Refusal, SecretRef, SecretSet, Version};
use oneiric_secrets::{Handle, Resolver};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gate::Ask;
use crate::needs::{self, Needs};
use crate::report::{AdapterStatus, HeldVersion};
use crate::rotation::{Adopted, Old, Step, Target};

/// See the module's documentation.
pub(crate) struct Slot {
    pub(crate) hook: Arc<dyn LifecycleHook>,
    pub(crate) needs: Needs,
    generation: u64,
    current: Option<SecretSet>,
    /// What it served before, while it may go back to it.
    previous: Option<Previous>,
    /// Whether its users report that what it serves is refused.
    refused: bool,
    /// What it has gone back from: it is not moved there again unasked.
    shunned: Vec<(SecretRef, Version)>,
    draining: usize,
    /// Old generations that were still held at their deadline.
    leaks: Vec<Known>,
    /// The same two, in numbers, for rotations to wait for.
    old: watch::Sender<Old>,
    /// What is wrong with it, and how often in a row its rotation has failed.
    pub(crate) error: Option<String>,
    pub(crate) failures: u32,
    /// Keep its secrets fresh, and tell of their changes.
    pub(crate) handles: Vec<Handle>,
}

struct Previous {
    secrets: SecretSet,
    until: Instant,
}

/// A leak that is known of, with its reason.
pub(crate) struct Known {
    pub(crate) id: u64,
    pub(crate) error: String,
    /// Whether it tells of its own end.
    pub(crate) tells: bool,
}

/// What a report of a refused credential comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing: the adapter serves something else by now.
    Late,
    /// It is the first about what is served.
    First,
    /// It has been said before.
    Again,
}

impl Slot {
    pub(crate) fn new(hook: Arc<dyn LifecycleHook>, needs: Needs) -> Self {
        Self {
            hook,
            needs,
            generation: 0,
            current: None,
            previous: None,
            refused: false,
            shunned: Vec::new(),
            draining: 0,
            leaks: Vec::new(),
            old: watch::Sender::new(Old::default()),
            error: None,
            failures: 0,
            handles: Vec::new(),
        }
    }

    /// The adapter as a rotation sees it.
    pub(crate) fn target(&self) -> Target {
        Target {
            hook: Arc::clone(&self.hook),
            generation: self.generation,
            current: self.current.clone(),
            old: self.old.subscribe(),
        }
    }

    /// Notes that it stands on other ground. What it stood on before may be gone back to until
    /// `keep_until`. Says whether this is its first generation.
    pub(crate) fn adopt(&mut self, adopted: Adopted, keep_until: Option<Instant>) -> bool {
        let Adopted { generation, secrets, step, .. } = adopted;
        let before = self.current.replace(secrets);
        let first = before.is_none();
        self.generation = generation;
        self.draining += usize::from(step != Step::Unchanged);
        self.show_old();
        self.error = None;
        self.failures = 0;
        match step {
            // Other names for the same values are refused like these.
            Step::Unchanged => return first,
            Step::Next => {
                // What was refused is nothing to go back to.
                let until = keep_until.filter(|_| !self.refused);
                let previous = before.zip(until);
                self.previous = previous.map(|(secrets, until)| Previous { secrets, until });
                self.shunned.clear();
            }
            Step::Back => {
                self.shunned = before.as_ref().map(versions_of).unwrap_or_default();
                self.error = Some(format!(
                    "{} was refused where it is used; the generation before serves",
                    name(&self.shunned)
                ));
                self.previous = None;
            }
        }
        self.refused = false;
        first
    }

    /// Takes in a report of its users that a credential was refused.
    pub(crate) fn hear(&mut self, refusal: &Refusal) -> Heard {
        let serves = |(of, version): &(SecretRef, Version)| {
            self.current.as_ref().and_then(|current| current.version(of)) == Some(version)
        };
        if refusal.versions.is_empty() || !refusal.versions.iter().all(serves) {
            return Heard::Late;
        }
        // Where the one that it went back to has ended as well, the other is to be tried again.
        self.shunned.clear();
        if std::mem::replace(&mut self.refused, true) { Heard::Again } else { Heard::First }
    }

    /// The versions that it serves, if they were refused and nothing newer has come.
    pub(crate) fn refused_versions(&self) -> Option<String> {
        let current = self.current.as_ref().filter(|_| self.refused)?;
        Some(name(&versions_of(current)))
    }

    /// What it may go back to.
    pub(crate) fn previous(&self) -> Option<&SecretSet> {
        let previous = self.previous.as_ref().filter(|of| of.until > Instant::now())?;
        Some(&previous.secrets)
    }

    /// Lets go of what it may no longer go back to; of all of it, if it has leaked.
    pub(crate) fn forget_previous(&mut self, leaked: bool) {
        self.previous.take_if(|of| leaked || of.until <= Instant::now());
    }

    pub(crate) fn shunned(&self) -> &[(SecretRef, Version)] {
        &self.shunned
    }

    /// Notes the end of a drain. What has leaked stands in the way of "done" until it is known to
    /// have ended; where the adapter cannot tell, until its next generation was drained.
    pub(crate) fn drained(&mut self, leak: Option<Known>) {
        self.draining = self.draining.saturating_sub(1);
        match leak {
            None => self.leaks.retain(|known| known.tells),
            Some(leak) => self.leaks.push(leak),
        }
        self.show_old();
    }

    /// One that had leaked has ended after all.
    pub(crate) fn ended_after_all(&mut self, leak: u64) {
        self.leaks.retain(|known| known.id != leak);
        self.show_old();
    }

    fn show_old(&self) {
        let telling = self.leaks.iter().filter(|known| known.tells).count();
        let (draining, leaked) = (self.draining, self.leaks.len());
        self.old.send_replace(Old { draining, leaked, telling });
    }

    /// Whether a rotation for this ask is about this adapter. One without a first generation is
    /// left to its registration.
    pub(crate) fn is_meant(&self, ask: &Ask) -> bool {
        match &ask.only {
            Some(adapter) => adapter == self.hook.id(),
            None => self.current.is_some() && self.needs.are_covered_by(ask),
        }
    }

    /// Whether it serves another version of this secret than this one, or somebody else's.
    pub(crate) fn is_behind(&self, of: &SecretRef, version: &Version, resolver: &Resolver) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| self.needs.are_behind(current, of, version, resolver))
    }

    /// Whether it serves this alias from another than its first candidate.
    pub(crate) fn serves_fallback(&self, alias: &SecretRef) -> bool {
        self.current.as_ref().is_some_and(|current| needs::is_from_fallback(current, alias))
    }

    pub(crate) fn status(&self, id: &AdapterId) -> AdapterStatus {
        let versions = self.current.iter().flat_map(SecretSet::versions);
        AdapterStatus {
            adapter: id.clone(),
            generation: self.generation,
            draining: self.draining + self.leaks.len(),
            versions: versions
                .map(|(reference, version)| HeldVersion {
                    reference: reference.to_string(),
                    version: version.to_string(),
                    fallback: self.current.as_ref().and_then(|of| of.fallback(reference).cloned()),
                })
                .collect(),
            error: self
                .error
                .clone()
                .or_else(|| self.leaks.last().map(|known| known.error.clone())),
        }
    }
}

fn versions_of(set: &SecretSet) -> Vec<(SecretRef, Version)> {
    set.versions().map(|(of, version)| (of.clone(), version.clone())).collect()
}

/// How versions are named in messages.
fn name(versions: &[(SecretRef, Version)]) -> String {
    let name = |(of, version): &(SecretRef, Version)| format!("version {version} of `{of}`");
    versions.iter().map(name).collect::<Vec<_>>().join(", ")
}
