//! What every case works with: the rig, the provider, fresh secrets, and a record of everything
//! that the provider let be printed.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oneiric_core::{
    Capabilities, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretProvider,
    SecretValue, SecretWriter, Stamp, Version, VersionInfo,
};

use crate::capture::Capture;
use crate::report::{Check, Stop, ensure};
use crate::rig::{Ability, Fault, Rig};

pub(crate) struct Bench<'r> {
    pub(crate) rig: &'r dyn Rig,
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) capabilities: Capabilities,
    /// Part of every value. Nothing that is printed may show it.
    pub(crate) canary: String,
    pub(crate) capture: Option<Capture>,
    run: String,
    count: AtomicU64,
    keys: Mutex<BTreeSet<SecretKey>>,
    printed: Mutex<String>,
}

impl<'r> Bench<'r> {
    pub(crate) fn new(rig: &'r dyn Rig) -> Self {
        let capture = Capture::start();
        let provider = rig.provider();
        let letters = |count| -> String { (0..count).map(|_| fastrand::alphanumeric()).collect() };
        Self {
            rig,
            capabilities: provider.descriptor().capabilities,
            provider,
            // Characters in the middle that every encoding treats in its own way.
            canary: format!("{}/+\"{}", letters(12), letters(12)),
            capture,
            run: letters(6).to_ascii_lowercase(),
            count: AtomicU64::new(0),
            keys: Mutex::default(),
            printed: Mutex::default(),
        }
    }

    /// A key of this run. Whatever is there under it at the end is taken away.
    pub(crate) fn key(&self, name: &str) -> SecretKey {
        let key = format!("conformance-{}-{name}", self.run);
        let key: SecretKey = key.parse().expect("letters, digits and dashes are a key");
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        key
    }

    /// A value that was never there before.
    pub(crate) fn secret(&self) -> SecretValue {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.canary).into()
    }

    /// A value like that, of this length.
    pub(crate) fn long_secret(&self, length: usize) -> SecretValue {
        let secret = self.secret();
        secret.expose().iter().copied().cycle().take(length).collect::<Vec<u8>>().into()
    }

    /// Sets one secret.
    pub(crate) async fn put(&self, key: &SecretKey, value: &SecretValue) -> Check {
        self.put_version(key, value).await.map(drop)
    }

    /// Sets several at one moment, and says which versions they became.
    pub(crate) async fn put_all(&self, secrets: &[(SecretKey, SecretValue)]) -> Check<Vec<String>> {
        match self.rig.put(secrets).await {
            Ok(versions) if self.capabilities.versions && versions.len() != secrets.len() => {
                Err(Stop::Fail("versions are declared, and the rig does not name them".into()))
            }
            Ok(versions) => Ok(versions),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Err(Stop::Skip(format!("the store does not take such a value: {error}")))
            }
            Err(error) => Err(Stop::Fail(format!("the rig cannot set it: {}", error.chain()))),
        }
    }

    /// Sets one secret, and says which version it became, where the store has ids.
    pub(crate) async fn put_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
    ) -> Check<Option<String>> {
        Ok(self.put_all(&[(key.clone(), value.clone())]).await?.pop())
    }

    /// Takes one away.
    pub(crate) async fn remove(&self, key: &SecretKey) -> Check {
        let removed = self.rig.remove(key).await;
        removed.map_err(|error| Stop::Fail(format!("the rig cannot remove it: {}", error.chain())))
    }

    /// Puts the store out of order; what the rig cannot play is skipped.
    pub(crate) async fn play(&self, fault: Fault) -> Check {
        match self.rig.fault(fault).await {
            Ability::Done => Ok(()),
            Ability::Cannot(why) => Err(Stop::Skip(why)),
        }
    }

    /// The same for what the provider's own declaration makes a duty of the rig.
    pub(crate) async fn play_declared(&self, fault: Fault, declared: &str) -> Check {
        match self.play(fault).await {
            Err(Stop::Skip(why)) => {
                Err(Stop::Fail(format!("{declared} is declared, and the rig cannot try it: {why}")))
            }
            played => played,
        }
    }

    /// The writer, where there is one.
    pub(crate) fn writer(&self) -> Check<Writer<'_>> {
        match self.provider.writer() {
            Some(writer) => Ok(Writer { writer, bench: self }),
            None => Err(Stop::Skip("there is no writer".into())),
        }
    }

    /// The versions as the store lists them, or `None` where it keeps none or lists nothing.
    pub(crate) async fn versions(&self, key: &SecretKey) -> Check<Option<Vec<VersionInfo>>> {
        let Some(lister) = self.provider.lister().filter(|_| self.capabilities.versions) else {
            return Ok(None);
        };
        let versions = lister.versions(key).await;
        self.note_answer(&versions);
        versions.map(Some).map_err(|error| unexpected("a list of versions", &error))
    }

    /// Puts the store in order again.
    pub(crate) async fn mend(&self) -> Check {
        let mended = self.rig.mend().await;
        mended.map_err(|error| Stop::Fail(format!("the rig cannot mend it: {}", error.chain())))
    }

    /// Takes all away that was set.
    pub(crate) async fn clean_up(&self) {
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        for key in keys {
            // Many are gone already.
            let _ = self.rig.remove(&key).await;
        }
    }

    /// Fetches the current version.
    pub(crate) async fn fetch(&self, key: &SecretKey) -> Result<Fetched> {
        self.ask(&FetchRequest::new(key.clone())).await
    }

    /// Fetches what must be there.
    pub(crate) async fn fetched(&self, key: &SecretKey) -> Check<Fetched> {
        self.fetch(key).await.map_err(|error| unexpected("a value", &error))
    }

    pub(crate) async fn ask(&self, request: &FetchRequest) -> Result<Fetched> {
        let answer = self.provider.fetch(request).await;
        self.note_answer(&answer);
        answer
    }

    pub(crate) async fn ask_many(&self, requests: &[FetchRequest]) -> Check<Vec<Result<Fetched>>> {
        let answers = self.provider.fetch_many(requests).await;
        answers.iter().for_each(|answer| self.note_answer(answer));
        let (asked, came) = (requests.len(), answers.len());
        ensure(came == asked, || format!("{came} answers came to {asked} requests"))?;
        Ok(answers)
    }

    /// The stamp of one key.
    pub(crate) async fn stamp(&self, key: &SecretKey) -> Check<Result<Stamp>> {
        let mut stamps = self.provider.stamps(std::slice::from_ref(key)).await;
        stamps.iter().for_each(|answer| self.note_answer(answer));
        ensure(stamps.len() == 1, || format!("{} stamps came for one key", stamps.len()))?;
        Ok(stamps.pop().expect("there is one"))
    }

    /// A secret that exists, by its key.
    pub(crate) async fn given(&self, name: &str) -> Check<(SecretKey, SecretValue)> {
        let (key, value) = (self.key(name), self.secret());
        self.put(&key, &value).await?;
        Ok((key, value))
    }

    /// Remembers how something prints.
    pub(crate) fn note(&self, thing: &impl Debug) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(printed, "{thing:?}\n{thing:#?}").expect("a string takes any text");
    }

    /// Everything that was printed.
    pub(crate) fn printed(&self) -> String {
        self.note(&self.provider);
        self.note(self.provider.descriptor());
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers how an answer prints, and all that caused it.
    pub(crate) fn note_answer<T: Debug>(&self, answer: &Result<T>) {
        self.note(answer);
        if let Err(error) = answer {
            self.note(&error.chain());
        }
    }
}

/// The writer of the provider, with everything noted that it lets be printed.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'b> {
    writer: &'b dyn SecretWriter,
    bench: &'b Bench<'b>,
}

impl Writer<'_> {
    /// Makes room for a secret, which must be possible.
    pub(crate) async fn room(self, key: &SecretKey) -> Check {
        let made = self.noted(self.writer.create_secret(key).await);
        made.map_err(|error| unexpected("room for a secret", &error))
    }

    pub(crate) async fn create(
        self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        self.noted(self.writer.create_version(key, value, token).await)
    }

    /// Adds a version, which must be possible.
    pub(crate) async fn created(
        self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Check<Version> {
        let created = self.create(key, value, token).await;
        created.map_err(|error| unexpected("a new version", &error))
    }

    pub(crate) async fn promote(
        self,
        key: &SecretKey,
        version: &str,
        expected: Option<&str>,
    ) -> Result<()> {
        self.noted(self.writer.promote(key, version, expected).await)
    }

    pub(crate) async fn disable(self, key: &SecretKey, version: &str) -> Result<()> {
        self.noted(self.writer.disable(key, version).await)
    }

    pub(crate) async fn enable(self, key: &SecretKey, version: &str) -> Result<()> {
        self.noted(self.writer.enable(key, version).await)
    }

    pub(crate) async fn destroy(self, key: &SecretKey, version: &str) -> Result<()> {
        self.noted(self.writer.destroy(key, version).await)
    }

    fn noted<T: Debug>(self, answer: Result<T>) -> Result<T> {
        self.bench.note_answer(&answer);
        answer
    }
}

/// Fails unless it was done.
pub(crate) fn ensure_done(answer: Result<()>, what: &str) -> Check {
    answer.map_err(|error| unexpected(what, &error))
}

/// Fails unless the bytes are these.
pub(crate) fn ensure_value(answer: &Fetched, expected: &SecretValue) -> Check {
    ensure(answer.value.same_as(expected), || "the value is not the one that was set".into())
}

/// Fails unless it is an error of one of these kinds.
pub(crate) fn ensure_error<T>(answer: &Result<T>, kinds: &[ErrorKind]) -> Check<Error> {
    let expected = || {
        let tokens: Vec<_> = kinds.iter().map(|kind| kind.token()).collect();
        format!("an error of kind {}", tokens.join(" or "))
    };
    match answer {
        Err(error) if kinds.contains(&error.kind()) => Ok(error.clone()),
        Err(error) => Err(unexpected(&expected(), error)),
        Ok(_) => Err(Stop::Fail(format!("an answer came instead of {}", expected()))),
    }
}

pub(crate) fn unexpected(expected: &str, error: &Error) -> Stop {
    let (kind, chain) = (error.kind(), error.chain());
    Stop::Fail(format!("{kind} came instead of {expected}: {chain}"))
}
