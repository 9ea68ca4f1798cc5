//! What the double holds, and what it is told to do wrong.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use oneiric_core::{
    Capabilities, Change, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretValue,
    Snapshot, Stamp, Version, VersionInfo, VersionState,
};
use tokio::sync::broadcast;

use super::limit::Limit;
use crate::rig::Fault;

/// How many changes a subscriber may be behind before it is told [`Change::Anything`].
const BACKLOG: usize = 1024;

pub(super) struct State {
    secrets: HashMap<String, History>,
    /// Counts every change of the store, and so names its moments.
    moment: u64,
    pub(super) failure: Option<ErrorKind>,
    /// How long a fetch takes, and how long everything does.
    pub(super) latency: Duration,
    pub(super) pace: Duration,
    pub(super) panic_next: bool,
    pub(super) limit: Option<Limit>,
    /// What was current when the store began to lag.
    lagging: Option<HashMap<String, u64>>,
    /// What was disabled to be enabled again.
    disabled: Vec<(SecretKey, u64)>,
    lose_reply: bool,
    push: Push,
    pub(super) changes: broadcast::Sender<Change>,
}

/// What becomes of an event.
enum Push {
    Sent,
    Lost,
    Doubled,
    Held(Vec<Change>),
}

#[derive(Default)]
struct History {
    current: Option<u64>,
    last: u64,
    versions: BTreeMap<u64, Held>,
}

struct Held {
    value: SecretValue,
    /// The moment at which it was put: a version that is put again has another stamp.
    stamp: Stamp,
    state: VersionState,
    /// The attempt that wrote it.
    token: Option<String>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            secrets: HashMap::new(),
            moment: 0,
            failure: None,
            latency: Duration::ZERO,
            pace: Duration::ZERO,
            panic_next: false,
            limit: None,
            lagging: None,
            disabled: Vec::new(),
            lose_reply: false,
            push: Push::Sent,
            changes: Self::channel(),
        }
    }

    pub(super) fn channel() -> broadcast::Sender<Change> {
        broadcast::Sender::new(BACKLOG)
    }

    /// The moment after now.
    pub(super) fn advance(&mut self) {
        self.moment += 1;
    }

    /// Holds a value as this version, or as the next one.
    pub(super) fn hold(&mut self, key: &str, value: SecretValue, number: Option<u64>) -> u64 {
        let stamp = Stamp::from(self.moment.to_string());
        let history = self.secrets.entry(key.to_owned()).or_default();
        let number = number.unwrap_or(history.last + 1);
        let held = Held { value, stamp, state: VersionState::Enabled, token: None };
        history.versions.insert(number, held);
        history.last = history.last.max(number);
        number
    }

    pub(super) fn make_current(&mut self, key: &str, number: u64) {
        if let Some(history) = self.secrets.get_mut(key) {
            history.current = Some(number);
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(history) = self.secrets.get_mut(key) {
            history.current = None;
            history.versions.clear();
        }
    }

    /// Plays what is not played by waiting.
    pub(super) fn play(&mut self, fault: Fault) {
        match fault {
            Fault::Unreachable => self.failure = Some(ErrorKind::Unavailable),
            Fault::Denied => self.failure = Some(ErrorKind::Denied),
            Fault::UnknownIdentity => self.failure = Some(ErrorKind::Unauthenticated),
            Fault::Throttled { retry_after } => {
                self.failure = Some(ErrorKind::Throttled { retry_after });
            }
            Fault::Slow(pace) => self.pace = pace,
            Fault::Lagging => {
                let current = |(key, history): (&String, &History)| {
                    history.current.map(|current| (key.clone(), current))
                };
                self.lagging = Some(self.secrets.iter().filter_map(current).collect());
            }
            Fault::Disabled(key) => {
                let current = self.secrets.get(key.as_str()).and_then(|history| history.current);
                let number = current.expect("what is disabled is there");
                self.held(&key, number).expect("the current one is there").state =
                    VersionState::Disabled;
                self.disabled.push((key, number));
            }
            Fault::LostReply => self.lose_reply = true,
            Fault::PushLost => self.push = Push::Lost,
            Fault::PushDoubled => self.push = Push::Doubled,
            Fault::PushReordered => self.push = Push::Held(Vec::new()),
            Fault::Hanging => {}
        }
    }

    pub(super) fn mend(&mut self) {
        self.failure = None;
        self.pace = Duration::ZERO;
        self.lagging = None;
        self.lose_reply = false;
        for (key, number) in std::mem::take(&mut self.disabled) {
            // It may have been removed meanwhile.
            if let Ok(held) = self.held(&key, number) {
                held.state = VersionState::Enabled;
            }
        }
        if let Push::Held(held) = std::mem::replace(&mut self.push, Push::Sent) {
            held.into_iter().rev().for_each(|change| self.announce(change));
        }
    }

    pub(super) fn announce(&mut self, change: Change) {
        // Without subscribers nobody hears it, as with a real store.
        let send = |change| _ = self.changes.send(change);
        match &mut self.push {
            Push::Sent => send(change),
            Push::Lost => {}
            Push::Doubled => {
                send(change.clone());
                send(change);
            }
            Push::Held(held) => held.push(change),
        }
    }

    pub(super) fn answer(
        &self,
        request: &FetchRequest,
        capabilities: Capabilities,
    ) -> Result<Fetched> {
        let key = &request.key;
        self.check_up(key)?;
        let (number, held) = match request.version.as_deref() {
            Some(_) if !capabilities.versions => {
                return Err(Error::new(ErrorKind::Unsupported, "the double has no versions"));
            }
            version => self.find(key, version)?,
        };
        let refuse = |kind, what| Err(Error::new(kind, format!("`{key}` {what}")));
        if held.state != VersionState::Enabled {
            return refuse(ErrorKind::VersionDisabled, held.state.token());
        }
        if capabilities.stamps && request.if_none_match.as_ref() == Some(&held.stamp) {
            return refuse(ErrorKind::NotModified, "has not changed");
        }
        if held.value.is_empty() {
            return refuse(ErrorKind::Invalid, "is empty");
        }
        if capabilities.max_value.is_some_and(|most| held.value.expose().len() as u64 > most) {
            return refuse(ErrorKind::Invalid, "is too large");
        }
        if !capabilities.binary && held.value.expose_str().is_none() {
            return refuse(ErrorKind::Invalid, "is no text");
        }
        let mut fetched = Fetched::new(held.value.clone(), Version::numbered(number));
        fetched.stamp = capabilities.stamps.then(|| held.stamp.clone());
        fetched.snapshot = capabilities.snapshots.then(|| Snapshot::from(self.moment.to_string()));
        Ok(fetched)
    }

    pub(super) fn stamp(&self, key: &SecretKey) -> Result<Stamp> {
        self.check_up(key)?;
        Ok(self.find(key, None)?.1.stamp.clone())
    }

    pub(super) fn keys(&self) -> Vec<SecretKey> {
        let held = self.secrets.iter().filter(|(_, history)| !history.versions.is_empty());
        let mut keys: Vec<SecretKey> =
            held.map(|(key, _)| key.parse().expect("the tests put valid keys")).collect();
        keys.sort();
        keys
    }

    pub(super) fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let history = self.secrets.get(key.as_str());
        let history =
            history.filter(|history| !history.versions.is_empty()).ok_or_else(|| missing(key))?;
        let info = |(&number, held): (&u64, &Held)| {
            let mut info = VersionInfo::new(Version::numbered(number), held.state);
            info.current = history.current == Some(number);
            info
        };
        Ok(history.versions.iter().rev().map(info).collect())
    }

    pub(super) fn check_up(&self, what: &impl std::fmt::Display) -> Result<()> {
        let scripted = |kind| Error::new(kind, format!("`{what}` fails as the test told it to"));
        self.failure.map_or(Ok(()), |kind| Err(scripted(kind)))
    }

    /// Adds a version that is not the current one, once for a token.
    pub(super) fn create(
        &mut self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let written = self.secrets.get(key.as_str()).and_then(|history| {
            let of_token = |(_, held): &(&u64, &Held)| held.token.as_deref() == Some(token);
            history.versions.iter().find(of_token)
        });
        match written {
            Some((&number, held)) if held.value.same_as(value) => Ok(Version::numbered(number)),
            Some(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("`{key}` has another value of the same attempt"),
            )),
            None => {
                self.advance();
                let number = self.hold(key.as_str(), value.clone(), None);
                self.held(key, number)?.token = Some(token.to_owned());
                Ok(Version::numbered(number))
            }
        }
    }

    /// Makes a version current if the expected one is.
    pub(super) fn promote(
        &mut self,
        key: &SecretKey,
        version: &str,
        expected: Option<&str>,
    ) -> Result<()> {
        let number = self.number(key, version)?;
        if self.held(key, number)?.state != VersionState::Enabled {
            let message = format!("`{key}` cannot be read as its version {version}");
            return Err(Error::new(ErrorKind::VersionDisabled, message));
        }
        let current = self.secrets.get(key.as_str()).and_then(|history| history.current);
        if current == Some(number) {
            return Ok(());
        }
        if current.map(|current| current.to_string()).as_deref() != expected {
            let message = format!("`{key}` has another current version than was expected");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.advance();
        self.make_current(key.as_str(), number);
        self.announce(Change::Secret {
            key: key.clone(),
            version: Some(Version::numbered(number)),
        });
        Ok(())
    }

    /// Moves a version to another state, unless it is destroyed.
    pub(super) fn set_state(
        &mut self,
        key: &SecretKey,
        version: &str,
        state: VersionState,
    ) -> Result<()> {
        let number = self.number(key, version)?;
        let held = self.held(key, number)?;
        if held.state == VersionState::Destroyed && state != VersionState::Destroyed {
            let message = format!("the version {version} of `{key}` is destroyed");
            return Err(Error::new(ErrorKind::VersionDisabled, message));
        }
        held.state = state;
        if state == VersionState::Destroyed {
            held.value = SecretValue::from("");
        }
        Ok(())
    }

    /// Whether the reply of this write is the one that is lost.
    pub(super) fn loses_reply(&mut self) -> bool {
        std::mem::take(&mut self.lose_reply)
    }

    fn find(&self, key: &SecretKey, version: Option<&str>) -> Result<(u64, &Held)> {
        let history = self.secrets.get(key.as_str()).ok_or_else(|| missing(key))?;
        let number = match (version, &self.lagging) {
            (Some(version), _) => version.parse().ok(),
            (None, Some(lagging)) => lagging.get(key.as_str()).copied(),
            (None, None) => history.current,
        };
        let number = number.ok_or_else(|| missing(key))?;
        let held = history.versions.get(&number).ok_or_else(|| missing(key))?;
        Ok((number, held))
    }

    fn number(&self, key: &SecretKey, version: &str) -> Result<u64> {
        self.find(key, Some(version)).map(|(number, _)| number)
    }

    fn held(&mut self, key: &SecretKey, number: u64) -> Result<&mut Held> {
        let history = self.secrets.get_mut(key.as_str()).ok_or_else(|| missing(key))?;
        history.versions.get_mut(&number).ok_or_else(|| missing(key))
    }
}

fn missing(key: &SecretKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no secret `{key}`, or no such version"))
}
