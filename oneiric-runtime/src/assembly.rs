//! Assembly: from settings to the parts of a runtime.
//!
//! Which providers and adapters there are is handed in as a [`Registry`]: the runtime names none.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use oneiric_core::settings::{Section, Settings, nearest};
use oneiric_core::{
    AdapterId, AliasId, Error, ErrorKind, InstanceId, LifecycleHook, ProviderId, Result,
    SecretProvider,
};
use oneiric_secrets::{Resolver, ResolverOptions};

use crate::admin::AdminOptions;
use crate::runtime::RuntimeOptions;

/// Makes a provider of one kind from its section of the settings.
pub type ProviderFactory = fn(&ProviderId, &Section) -> Result<Arc<dyn SecretProvider>>;
/// Makes an adapter of one kind from its section of the settings.
pub type AdapterFactory = fn(&AdapterId, &Section) -> Result<Arc<dyn LifecycleHook>>;

/// The kinds of providers and adapters that are linked into a program.
#[derive(Default, Clone)]
pub struct Registry {
    providers: BTreeMap<&'static str, ProviderFactory>,
    adapters: BTreeMap<&'static str, AdapterFactory>,
}

impl Registry {
    /// The same with one more kind of provider.
    #[must_use]
    pub fn provider(mut self, kind: &'static str, factory: ProviderFactory) -> Self {
        self.providers.insert(kind, factory);
        self
    }

    /// The same with one more kind of adapter.
    #[must_use]
    pub fn adapter(mut self, kind: &'static str, factory: AdapterFactory) -> Self {
        self.adapters.insert(kind, factory);
        self
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("providers", &self.providers.keys())
            .field("adapters", &self.adapters.keys())
            .finish()
    }
}

/// The parts that settings describe. Nothing runs yet: see [`RuntimeOptions::build`].
#[derive(Debug)]
pub struct Assembly {
    /// The door to secrets.
    pub resolver: Resolver,
    /// How the runtime is to behave.
    pub options: RuntimeOptions,
    /// The adapters to register.
    pub adapters: Vec<Arc<dyn LifecycleHook>>,
}

impl Assembly {
    /// Builds every provider and adapter of the settings.
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong: a kind that is not linked, an adapter that names
    /// a provider or an alias which is not there, and whatever a part says of its own section.
    pub fn from_settings(settings: &Settings, registry: &Registry) -> Result<Self> {
        let mut problems = Vec::new();
        let mut note = |error: Error| problems.push(error.chain());
        let mut providers: Vec<(ProviderId, Arc<dyn SecretProvider>)> = Vec::new();
        for (id, section) in &settings.providers {
            let factory = linked(&registry.providers, section, "provider");
            match factory.and_then(|factory| factory(id, section)) {
                Ok(provider) => providers.push((id.clone(), provider)),
                Err(error) => note(error),
            }
        }
        let mut adapters: Vec<Arc<dyn LifecycleHook>> = Vec::new();
        for (id, section) in &settings.adapters {
            let factory = linked(&registry.adapters, section, "adapter");
            match factory.and_then(|factory| factory(id, section)) {
                Ok(adapter) => {
                    for reference in adapter.secrets() {
                        if let Some(alias) = reference.alias() {
                            if !settings.secrets.contains_key(alias) {
                                note(unknown_alias(settings, section, alias));
                            }
                        } else if !settings.providers.contains_key(reference.provider()) {
                            note(Error::new(
                                ErrorKind::Invalid,
                                format!(
                                    "`{}` needs `{reference}`, and there is no provider `{}`",
                                    section.path(),
                                    reference.provider()
                                ),
                            ));
                        }
                    }
                    adapters.push(adapter);
                }
                Err(error) => note(error),
            }
        }
        if !problems.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, problems.join("\n")));
        }
        let resolver = Resolver::new(providers, resolver_options(settings));
        Ok(Self { resolver, options: runtime_options(settings), adapters })
    }
}

fn linked<F: Copy>(
    factories: &BTreeMap<&'static str, F>,
    section: &Section,
    what: &str,
) -> Result<F> {
    factories.get(section.kind()).copied().ok_or_else(|| {
        let known: Vec<_> = factories.keys().copied().collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!(
            "`{}.kind` is `{}`, and no such {what} is linked into this program; linked: {known}",
            section.path(),
            section.kind()
        );
        Error::new(ErrorKind::Invalid, message)
    })
}

fn unknown_alias(settings: &Settings, section: &Section, alias: &str) -> Error {
    let known = settings.secrets.keys().map(AliasId::as_str);
    let hint = match nearest(alias, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if settings.secrets.is_empty() => "the settings define none".to_owned(),
        None => format!("the settings define {}", known.collect::<Vec<_>>().join(", ")),
    };
    let path = section.path();
    let message = format!("`{path}` needs `{alias}`, and there is no such alias; {hint}");
    Error::new(ErrorKind::Invalid, message)
}

fn resolver_options(settings: &Settings) -> ResolverOptions {
    let mut options = ResolverOptions::default();
    options.ttl = settings.secrets_cache_ttl;
    options.stale_if_error = settings.secrets_stale_if_error;
    options.negative_ttl = settings.secrets_negative_ttl;
    options.calls_at_once = settings.secrets_calls_at_once;
    options.calls_a_second = settings.secrets_calls_a_second;
    options.fetch_timeout = settings.agent.fetch_timeout;
    options.aliases = settings.secrets.clone();
    options
}

fn runtime_options(settings: &Settings) -> RuntimeOptions {
    let agent = &settings.agent;
    let instance = agent.instance.clone().unwrap_or_else(default_instance);
    let mut options = RuntimeOptions::new(instance);
    options.watch_interval = settings.secrets_watch_interval;
    options.push_sweep_interval = settings.secrets_push_sweep_interval;
    options.prepare_timeout = agent.prepare_timeout;
    options.prepares_at_once =
        NonZeroUsize::new(agent.prepares_at_once).expect("the settings refuse a zero");
    options.fall_back_within = agent.fall_back_within;
    options.drain_timeout = agent.drain_timeout;
    options.shutdown_grace = agent.shutdown_grace;
    options.admin = settings.admin.enabled.then(|| AdminOptions::from_settings(settings));
    options
}

/// The name of an instance that was given none: host and process id, this process's alone.
pub fn default_instance() -> InstanceId {
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(40)
        .collect();
    let host = host.trim_matches('-');
    let host = if host.is_empty() { "host" } else { host };
    format!("{host}-{}", std::process::id()).parse().expect("what is left is a valid instance id")
}

#[cfg(test)]
mod tests {
    use oneiric_core::settings::Sources;

    use super::*;

    #[test]
    fn the_limits_of_the_settings_reach_the_resolver() {
        let flags = [("secrets_calls_at_once", "3"), ("secrets_calls_a_second", "7")];
        let settings = Settings::load(&Sources::new().with_flags(flags)).unwrap();
        let options = resolver_options(&settings);
        assert_eq!((options.calls_at_once, options.calls_a_second), (3, 7));
    }
}
