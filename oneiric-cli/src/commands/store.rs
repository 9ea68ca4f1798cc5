//! The store behind a reference, for commands that change secrets or ask for their versions.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use oneiric_core::settings::{SecretSettings, Settings};
use oneiric_core::{
    AliasId, Error, ErrorKind, FetchRequest, ProviderId, Result as CoreResult, SecretKey,
    SecretLister, SecretProvider, SecretRef, SecretWriter, VersionInfo,
};
use tokio::time::{sleep, timeout};

use super::providers;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// One provider of the settings, and how long it may take for each answer.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) id: ProviderId,
    pub(super) provider: Arc<dyn SecretProvider>,
    pub(super) patience: Duration,
    /// What the settings want its secrets to be.
    pub(super) aliases: BTreeMap<AliasId, SecretSettings>,
}

/// Which version is the current one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Current {
    /// This one, if any.
    Known(Option<String>),
    /// We may not see it, or it cannot be read.
    Unknown,
}

impl Current {
    pub(super) fn version(&self) -> Option<&str> {
        match self {
            Self::Known(version) => version.as_deref(),
            Self::Unknown => None,
        }
    }
}

impl Store {
    /// The one that a reference names.
    ///
    /// # Errors
    /// If the settings do not have it, or it is an alias, which may stand for several.
    pub(super) fn of(settings: &Settings, reference: &SecretRef) -> Result<Self> {
        let resolver = providers(settings)?.resolver;
        if reference.alias().is_some() {
            // Whoever changes a store says which one.
            let candidates = resolver.candidates(reference)?;
            let candidates: Vec<_> = candidates.iter().map(|of| format!("`{of}`")).collect();
            let message = format!("`{reference}` is an alias, and only its stores can be changed");
            let remedy = format!("it stands for {}", candidates.join(", "));
            return Err(Failure::new(Exit::USAGE, message).remedy(remedy));
        }
        let found = resolver.providers().find(|(id, _)| *id == reference.provider());
        let Some((id, provider)) = found else {
            let known: Vec<_> = resolver.providers().map(|(id, _)| id.as_str()).collect();
            let message = format!("there is no provider `{}`", reference.provider());
            let remedy = format!("the settings have: {}", known.join(", "));
            return Err(Failure::new(Exit::FAILED, message).remedy(remedy));
        };
        let (id, provider) = (id.clone(), Arc::clone(provider));
        let (patience, aliases) = (settings.agent.fetch_timeout, settings.secrets.clone());
        Ok(Self { id, provider, patience, aliases })
    }

    /// The ability to write.
    ///
    /// # Errors
    /// If it is not there.
    pub(super) fn writer(&self) -> Result<&dyn SecretWriter> {
        self.provider.writer().ok_or_else(|| self.cannot("change secrets"))
    }

    /// The versions of a secret, the newest first.
    ///
    /// # Errors
    /// Those of the store, and `Unsupported` where it cannot list or keeps no versions.
    pub(super) async fn versions(&self, key: &SecretKey) -> CoreResult<Vec<VersionInfo>> {
        let lister = self.lister()?;
        self.read(lister.versions(key)).await.map_err(|error| {
            error.context(format!("cannot list the versions of `{}:{key}`", self.id))
        })
    }

    /// The version that a read without a version answers with.
    ///
    /// # Errors
    /// If the store does not answer.
    pub(super) async fn current(&self, key: &SecretKey) -> CoreResult<Current> {
        let found = match self.versions(key).await {
            Ok(versions) => {
                let current = versions.into_iter().find(|info| info.current);
                Ok(current.map(|info| info.version))
            }
            // What keeps no versions names the one that it has with its value.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let request = FetchRequest::new(key.clone());
                self.read(self.provider.fetch(&request)).await.map(|of| Some(of.version))
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(version) => Ok(Current::Known(version.map(|version| version.to_string()))),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Ok(Current::Known(None)),
                ErrorKind::Denied | ErrorKind::Invalid | ErrorKind::VersionDisabled => {
                    Ok(Current::Unknown)
                }
                _ => {
                    let what =
                        format!("cannot see which version of `{}:{key}` is current", self.id);
                    Err(error.context(what))
                }
            },
        }
    }

    /// That it cannot be seen which version is current, and so not whether it changes meanwhile.
    pub(super) fn which_is_current(&self, name: &str) -> Failure {
        let message = format!("which version of `{name}` is current cannot be read from here");
        Failure::new(Exit::FAILED, message).remedy("say by --expect which one is to be replaced")
    }

    /// Waits for an answer that changes nothing.
    ///
    /// # Errors
    /// Those of the call, and `DeadlineExceeded`.
    pub(super) async fn read<T>(&self, call: impl Future<Output = CoreResult<T>>) -> CoreResult<T> {
        timeout(self.patience, call)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::DeadlineExceeded, self.silent())))
    }

    /// Waits for a change to be made. One that is not answered in time, or that somebody breaks
    /// off, may or may not have been.
    ///
    /// # Errors
    /// Those of the call, and `Ambiguous`.
    pub(super) async fn write<T>(
        &self,
        call: impl Future<Output = CoreResult<T>>,
    ) -> CoreResult<T> {
        tokio::select! {
            answer = call => answer,
            () = sleep(self.patience) => Err(Error::new(ErrorKind::Ambiguous, self.silent())),
            Ok(()) = tokio::signal::ctrl_c() => {
                Err(Error::new(ErrorKind::Ambiguous, "it was broken off before it was answered"))
            }
        }
    }

    /// That the provider has not this ability, and which setting says what it is.
    pub(super) fn cannot(&self, what: &str) -> Failure {
        let kind = self.provider.descriptor().kind;
        let failure = Failure::new(
            Exit::FAILED,
            format!("provider `{}` cannot {what}: it is of kind `{kind}`", self.id),
        );
        failure.remedy(format!(
            "`providers.{}` of the settings says what it is; docs/providers has what a kind can do",
            self.id
        ))
    }

    fn lister(&self) -> CoreResult<&dyn SecretLister> {
        self.provider.lister().ok_or_else(|| {
            let kind = self.provider.descriptor().kind;
            let message = format!("provider `{}` lists no versions: no `{kind}` does", self.id);
            Error::new(ErrorKind::Unsupported, message)
        })
    }

    fn silent(&self) -> String {
        let patience = humantime::format_duration(self.patience);
        format!("provider `{}` did not answer within {patience}", self.id)
    }
}

/// The key of a reference to a whole secret.
///
/// # Errors
/// If it names a version or a field.
pub(super) fn whole(reference: &SecretRef) -> Result<&SecretKey> {
    let failure = |what| {
        let message = format!("`{reference}` names {what}, and this is about the whole secret");
        Failure::new(Exit::USAGE, message).remedy("give PROVIDER:KEY")
    };
    match (reference.version(), reference.field()) {
        (Some(_), _) => Err(failure("a version")),
        (_, Some(_)) => Err(failure("a field")),
        (None, None) => Ok(reference.key()),
    }
}

/// The key and the version of a reference to one version.
///
/// # Errors
/// If it names none, or a field.
pub(super) fn one_version(reference: &SecretRef) -> Result<(&SecretKey, &str)> {
    let failure = |message| Failure::new(Exit::USAGE, message).remedy("give PROVIDER:KEY@VERSION");
    match (reference.version(), reference.field()) {
        (_, Some(_)) => Err(failure(format!("`{reference}` names a field, not a version"))),
        (None, None) => Err(failure(format!("`{reference}` does not say which version"))),
        (Some(version), None) => Ok((reference.key(), version)),
    }
}
