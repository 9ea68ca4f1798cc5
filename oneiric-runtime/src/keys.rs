//! The secrets of a rotation in its report: what was held before, what was found, and where.

use std::collections::BTreeMap;

use oneiric_core::{ProviderId, SecretRef, Version};
use oneiric_secrets::{Resolver, Scope};

use crate::gate::whole;
use crate::report::KeyReport;

/// See the module's documentation.
pub(crate) struct Keys<'a> {
    scope: &'a Scope,
    resolver: &'a Resolver,
    found: BTreeMap<SecretRef, KeyReport>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(scope: &'a Scope, resolver: &'a Resolver) -> Self {
        Self { scope, resolver, found: BTreeMap::new() }
    }

    /// Notes what was held of a secret before.
    pub(crate) fn before(&mut self, reference: &SecretRef, from_version: Option<String>) {
        let report = KeyReport {
            key: self.name(reference, None),
            alias: reference.alias().map(ToOwned::to_owned),
            fallback: None,
            from_version,
            to_version: None,
        };
        self.found.entry(whole(reference)).or_insert(report);
    }

    /// Notes what was read and, if it was in the place of another, where.
    pub(crate) fn found(
        &mut self,
        reference: &SecretRef,
        version: &Version,
        fallback: Option<&ProviderId>,
    ) {
        let key = self.name(reference, fallback);
        if let Some(report) = self.found.get_mut(&whole(reference)) {
            report.key = key;
            report.fallback = fallback.cloned();
            report.to_version = Some(version.to_string());
        }
    }

    /// In the order of the references.
    pub(crate) fn into_reports(self) -> impl Iterator<Item = KeyReport> {
        self.found.into_values()
    }

    /// The key, where the rotation is about one provider; of an alias the name of who answered.
    fn name(&self, reference: &SecretRef, fallback: Option<&ProviderId>) -> String {
        if reference.alias().is_some() {
            let candidates = self.resolver.candidates(reference).unwrap_or_default();
            let answers = |of: &&SecretRef| fallback.is_none_or(|id| of.provider() == id);
            let answering = candidates.iter().find(answers).unwrap_or(reference);
            return whole(answering).to_string();
        }
        match self.scope {
            Scope::Keys(provider, _) | Scope::Provider(provider)
                if reference.provider() == provider =>
            {
                reference.key().to_string()
            }
            _ => format!("{}:{}", reference.provider(), reference.key()),
        }
    }
}
