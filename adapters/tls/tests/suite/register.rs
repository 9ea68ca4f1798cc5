//! The certificates of a rig: who is which, who is believed, and where they were seen.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use oneiric_core::{SecretSet, SecretValue, Version};
use oneiric_testkit::{Credential, Minted};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error, RootCertStore};

use crate::authority::{Authority, Wish};
use crate::pem;

/// What the other end knows of the certificates that an adapter may show.
pub(crate) struct Register {
    /// Whose certificates are believed, and whose are not.
    authority: Authority,
    stranger: Authority,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    numbers: HashMap<CertificateDer<'static>, u64>,
    revoked: HashSet<u64>,
    shown: HashMap<u64, u64>,
    sessions: HashMap<u64, usize>,
}

impl Register {
    pub(crate) fn new() -> Self {
        let (authority, stranger) = (Authority::new("root"), Authority::new("stranger"));
        Self { authority, stranger, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        self.authority.roots()
    }

    /// A certificate with its key, under the next number.
    pub(crate) fn mint(&self, kind: Credential, canary: &str, wish: Wish) -> Minted {
        let by = if kind == Credential::Refused { &self.stranger } else { &self.authority };
        let issued = by.issue(wish);
        let number = {
            let mut state = self.state();
            let number = state.numbers.len() as u64 + 1;
            state.numbers.insert(issued.leaf.clone(), number);
            number
        };
        // The first line of a key is partly the same in all of them.
        let part = issued.key.lines().nth(2).unwrap().to_owned();
        // Text before the first certificate is none of it.
        let mut value = format!("{canary}\n{}", issued.bundle());
        if kind == Credential::Malformed {
            value = value.replace(&part, &part.replacen(|_| true, "!", 1));
        }
        let secret = (pem(), SecretValue::from(value), Version::numbered(number));
        Minted::new(number, SecretSet::new([secret])).with_secret_part(part)
    }

    pub(crate) fn revoke(&self, number: u64) {
        self.state().revoked.insert(number);
    }

    pub(crate) fn shown(&self, number: u64) -> u64 {
        self.state().shown.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn sessions(&self, number: u64) -> usize {
        self.state().sessions.get(&number).copied().unwrap_or_default()
    }

    pub(crate) fn number(&self, leaf: &CertificateDer<'_>) -> Option<u64> {
        self.state().numbers.get(leaf).copied()
    }

    /// What a verifier does first with a certificate that it is shown.
    ///
    /// # Errors
    /// It was revoked.
    pub(crate) fn look_at(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let mut state = self.state();
        let Some(number) = state.numbers.get(leaf).copied() else { return Ok(()) };
        *state.shown.entry(number).or_default() += 1;
        match state.revoked.contains(&number) {
            true => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            false => Ok(()),
        }
    }

    /// Counts a session of this certificate for as long as it is open.
    pub(crate) fn open(self: &Arc<Self>, leaf: &CertificateDer<'_>) -> Session {
        let number = self.number(leaf).expect("no other certificates are believed");
        *self.state().sessions.entry(number).or_default() += 1;
        Session { register: Arc::clone(self), number }
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").finish_non_exhaustive()
    }
}

/// One that is open.
pub(crate) struct Session {
    register: Arc<Register>,
    pub(crate) number: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        *self.register.state().sessions.entry(self.number).or_default() -= 1;
    }
}
