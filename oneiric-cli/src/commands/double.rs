//! A store for tests of commands that write: its replies can be lost, and its calls are kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched,
    Result as CoreResult, SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter,
    Stamp, Version, VersionInfo, VersionState, fetch_each,
};

use super::store::Store;

/// How long commands wait for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// One secret, `vault:db`, with its versions.
#[derive(Debug)]
pub(super) struct Vault {
    descriptor: Descriptor,
    /// Whether it tells which versions there are.
    lists: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether the secret was made.
    pub(super) there: bool,
    pub(super) versions: BTreeMap<u64, Kept>,
    pub(super) current: Option<u64>,
    /// Every call that changes something.
    pub(super) calls: Vec<String>,
    /// The call that is not answered well, and how.
    pub(super) trouble: Option<(&'static str, Trouble)>,
    /// What somebody else makes current as soon as a version was written.
    pub(super) overtaken_by: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) state: VersionState,
    pub(super) value: SecretValue,
    token: String,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// Refused.
    Fails(ErrorKind),
    /// Done, and the reply is lost.
    Lost,
    /// Never answered.
    Hangs,
}

impl Vault {
    /// One that holds these versions, the last of them the current one.
    pub(super) fn holding(numbers: &[u64]) -> Arc<Self> {
        Self::new(numbers, true, true)
    }

    pub(super) fn new(numbers: &[u64], versions: bool, lists: bool) -> Arc<Self> {
        let capabilities = Capabilities { versions, ..Capabilities::default() };
        let kept = |&number: &u64| (number, Kept::new(format!("value {number}"), ""));
        let state = State {
            there: !numbers.is_empty(),
            versions: numbers.iter().map(kept).collect(),
            current: numbers.last().copied(),
            ..State::default()
        };
        let descriptor = Descriptor::new("vault", "vault:", capabilities);
        Arc::new(Self { descriptor, lists, state: Mutex::new(state) })
    }

    pub(super) fn store(self: &Arc<Self>) -> Store {
        let provider = Arc::clone(self) as _;
        let aliases = Default::default();
        Store { id: "vault".parse().unwrap(), provider, patience: PATIENCE, aliases }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Does something to the state, and answers as it was told to.
    async fn act<T>(
        &self,
        name: &'static str,
        call: String,
        act: impl FnOnce(&mut State) -> CoreResult<T>,
    ) -> CoreResult<T> {
        let (trouble, answer) = {
            let mut state = self.state();
            state.calls.push(call);
            let trouble = state.trouble.filter(|(of, _)| *of == name).map(|(_, trouble)| trouble);
            if let Some(Trouble::Fails(kind)) = trouble {
                return Err(Error::new(kind, "the vault was told to fail"));
            }
            (trouble, act(&mut state))
        };
        match trouble {
            Some(Trouble::Hangs) => std::future::pending().await,
            Some(_) => Err(Error::new(ErrorKind::Ambiguous, "the connection broke")),
            None => answer,
        }
    }

    async fn turn(&self, name: &'static str, version: &str, to: VersionState) -> CoreResult<()> {
        let number = version.parse().unwrap_or(0);
        self.act(name, format!("{name} {version}"), |state| {
            let kept = state.versions.get_mut(&number);
            kept.ok_or_else(|| Error::new(ErrorKind::NotFound, "no version"))?.state = to;
            Ok(())
        })
        .await
    }
}

impl Kept {
    fn new(value: impl Into<SecretValue>, token: &str) -> Self {
        Self { state: VersionState::Enabled, value: value.into(), token: token.to_owned() }
    }
}

#[async_trait]
impl SecretProvider for Vault {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, _: &FetchRequest) -> CoreResult<Fetched> {
        let state = self.state();
        let current = state.current.and_then(|of| Some((of, state.versions.get(&of)?)));
        let (number, kept) = current.ok_or_else(|| Error::new(ErrorKind::NotFound, "no secret"))?;
        Ok(Fetched::new(kept.value.clone(), Version::numbered(number)))
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<CoreResult<Fetched>> {
        fetch_each(self, requests).await
    }

    async fn stamps(&self, _: &[SecretKey]) -> Vec<CoreResult<Stamp>> {
        Vec::new()
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        Some(self)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        self.lists.then_some(self)
    }
}

#[async_trait]
impl SecretLister for Vault {
    async fn list(&self) -> CoreResult<Vec<SecretKey>> {
        Ok(Vec::new())
    }

    async fn versions(&self, _: &SecretKey) -> CoreResult<Vec<VersionInfo>> {
        let state = self.state();
        if let Some(("versions", Trouble::Fails(kind))) = state.trouble {
            return Err(Error::new(kind, "the vault was told to fail"));
        }
        if !state.there {
            return Err(Error::new(ErrorKind::NotFound, "no secret"));
        }
        let info = |(number, kept): (&u64, &Kept)| {
            let mut info = VersionInfo::new(Version::numbered(*number), kept.state);
            info.current = state.current == Some(*number);
            info.labels = vec![format!("label-{number}")];
            info
        };
        Ok(state.versions.iter().rev().map(info).collect())
    }
}

#[async_trait]
impl SecretWriter for Vault {
    async fn create_secret(&self, _: &SecretKey) -> CoreResult<()> {
        self.act("create_secret", "create_secret".into(), |state| {
            state.there = true;
            Ok(())
        })
        .await
    }

    async fn create_version(
        &self,
        _: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> CoreResult<Version> {
        self.act("create_version", "create_version".into(), |state| {
            if !state.there {
                return Err(Error::new(ErrorKind::NotFound, "no secret"));
            }
            let same = |kept: &Kept| kept.token == token && kept.value.same_as(value);
            let known = state.versions.iter().find(|(_, kept)| same(kept)).map(|(of, _)| *of);
            let number = known.unwrap_or_else(|| {
                let next = state.versions.keys().max().unwrap_or(&0) + 1;
                state.versions.insert(next, Kept::new(value.clone(), token));
                next
            });
            if let Some(other) = state.overtaken_by {
                state.current = Some(other);
            }
            Ok(Version::numbered(number))
        })
        .await
    }

    async fn promote(
        &self,
        _: &SecretKey,
        version: &str,
        expected: Option<&str>,
    ) -> CoreResult<()> {
        let call = format!("promote {version} over {}", expected.unwrap_or("nothing"));
        self.act("promote", call, |state| {
            let now = state.current.map(|of| of.to_string());
            if now.as_deref() != Some(version) && now.as_deref() != expected {
                return Err(Error::new(ErrorKind::Conflict, "another one is current"));
            }
            state.current = version.parse().ok();
            Ok(())
        })
        .await
    }

    async fn disable(&self, _: &SecretKey, version: &str) -> CoreResult<()> {
        self.turn("disable", version, VersionState::Disabled).await
    }

    async fn enable(&self, _: &SecretKey, version: &str) -> CoreResult<()> {
        self.turn("enable", version, VersionState::Enabled).await
    }

    async fn destroy(&self, _: &SecretKey, version: &str) -> CoreResult<()> {
        self.turn("destroy", version, VersionState::Destroyed).await
    }
}
