//! What every case works with: the rig, the provider, fresh secrets, and a record of everything
//! that the provider let be printed.

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oneiric_core::{
    Capabilities, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretProvider,
    SecretValue, Stamp,
};

use crate::capture::Capture;
use crate::rig::{Ability, Fault, Rig};

/// How a case ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It cannot be tried, and why.
    Skip(String),
    /// The provider does not hold the contract, and how that shows.
    Fail(String),
}

/// What a case comes to.
pub(crate) type Check<T = ()> = std::result::Result<T, Stop>;

pub(crate) struct Bench<'r> {
    pub(crate) rig: &'r dyn Rig,
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) capabilities: Capabilities,
    /// Part of every value. Nothing that is printed may show it.
    pub(crate) canary: String,
    pub(crate) capture: Option<Capture>,
    run: String,
    count: AtomicU64,
    keys: Mutex<Vec<SecretKey>>,
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

    /// A key of this run.
    pub(crate) fn key(&self, name: &str) -> SecretKey {
        let key = format!("conformance-{}-{name}", self.run);
        key.parse().expect("letters, digits and dashes are a key")
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
        self.put_all(&[(key.clone(), value.clone())]).await
    }

    /// Sets several at one moment.
    pub(crate) async fn put_all(&self, secrets: &[(SecretKey, SecretValue)]) -> Check {
        self.note_keys(secrets.iter().map(|(key, _)| key));
        match self.rig.put(secrets).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Err(Stop::Skip(format!("the store does not take such a value: {error}")))
            }
            Err(error) => Err(Stop::Fail(format!("the rig cannot set it: {}", error.chain()))),
        }
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

    fn note_answer<T: Debug>(&self, answer: &Result<T>) {
        self.note(answer);
        if let Err(error) = answer {
            self.note(&error.chain());
        }
    }

    fn note_keys<'k>(&self, keys: impl Iterator<Item = &'k SecretKey>) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.cloned());
    }
}

/// Fails with a sentence unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Stop::Fail(otherwise())) }
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
