//! What an adapter depends on: its secrets and, of an alias, all who may answer for it.

use oneiric_core::{LifecycleHook, Result, SecretRef, SecretSet, Version};
use oneiric_secrets::Resolver;

use crate::gate::{Ask, is_same};

/// See the module's documentation.
pub(crate) struct Needs(Vec<SecretRef>);

impl Needs {
    /// Those of an adapter.
    ///
    /// # Errors
    /// If it needs an alias that is not there.
    pub(crate) fn of(hook: &dyn LifecycleHook, resolver: &Resolver) -> Result<Self> {
        let mut needs = Vec::with_capacity(hook.secrets().len());
        for reference in hook.secrets() {
            needs.push(reference.clone());
            if reference.alias().is_some() {
                let candidates = resolver.candidates(reference).map_err(|error| {
                    error.context(format!("adapter `{}` needs `{reference}`", hook.id()))
                })?;
                needs.extend(candidates);
            }
        }
        Ok(Self(needs))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SecretRef> {
        self.0.iter()
    }

    /// Whether a rotation for this ask concerns it.
    pub(crate) fn are_covered_by(&self, ask: &Ask) -> bool {
        self.0.iter().any(|of| ask.covers(of))
    }

    /// Whether this secret or alias is among them, in any version and field.
    pub(crate) fn have(&self, reference: &SecretRef) -> bool {
        self.0.iter().any(|of| is_same(of, reference))
    }

    /// Whether what an adapter serves is of another version of this secret than this one, is from
    /// somebody who stands behind it in an alias, or lacks it.
    pub(crate) fn are_behind(
        &self,
        current: &SecretSet,
        secret: &SecretRef,
        version: &Version,
        resolver: &Resolver,
    ) -> bool {
        let lacks = |of: &&SecretRef| of.alias().is_some() && current.version(of).is_none();
        let is_candidate = |of: &SecretRef| {
            resolver.candidates(of).is_ok_and(|all| all.iter().any(|of| is_same(of, secret)))
        };
        // What was left out because it was not there, and is there now.
        if self.0.iter().filter(lacks).any(is_candidate) {
            return true;
        }
        self.have(secret)
            && current.versions().any(|(of, held)| {
                if of.alias().is_none() {
                    return is_same(of, secret) && held != version;
                }
                let candidates = resolver.candidates(of).unwrap_or_default();
                let served = current.fallback(of).map_or(Some(0), |fallback| {
                    candidates.iter().rposition(|of| of.provider() == fallback)
                });
                match (candidates.iter().position(|of| is_same(of, secret)), served) {
                    (Some(at), Some(served)) => at < served || (at == served && held != version),
                    _ => false,
                }
            })
    }
}

/// Whether this alias is served from another than its first candidate.
pub(crate) fn is_from_fallback(current: &SecretSet, alias: &SecretRef) -> bool {
    let mut of_alias = current.versions().filter(|(of, _)| is_same(of, alias));
    of_alias.any(|(of, _)| current.fallback(of).is_some())
}
