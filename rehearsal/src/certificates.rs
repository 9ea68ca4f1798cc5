//! A small authority, and the one list of certificates that are good at this moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

/// The name of the server.
pub(crate) const NAME: &str = "shop.internal";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Issues certificates, and says which of them may be served. It is stricter than any client of
/// real life: it revokes at once, and everybody asks it every time.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    states: RwLock<HashMap<CertificateDer<'static>, State>>,
    uses_after_commit: AtomicU64,
    uses_after_revoke: AtomicU64,
}

/// In the order of a certificate's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Still good, though nobody should be shown it any more.
    Replaced,
    Revoked,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) leaf: CertificateDer<'static>,
}

impl Issued {
    /// Both in one PEM.
    #[cfg(feature = "tls")]
    pub(crate) fn bundle(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

impl Authority {
    pub(crate) fn new() -> Result<Arc<Self>, String> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = KeyPair::generate()
            .and_then(|key| CertifiedIssuer::self_signed(params, key))
            .map_err(|error| format!("no authority: {error}"))?;
        Ok(Arc::new(Self {
            issuer,
            states: RwLock::default(),
            uses_after_commit: AtomicU64::new(0),
            uses_after_revoke: AtomicU64::new(0),
        }))
    }

    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).map_err(|error| format!("no root: {error}"))?;
        Ok(Arc::new(roots))
    }

    /// A certificate that is good from now on.
    pub(crate) fn issue(&self) -> Result<Issued, String> {
        self.issue_until(SystemTime::now() + 90 * DAY)
    }

    /// One that was good until yesterday.
    pub(crate) fn expired(&self) -> Result<Issued, String> {
        self.issue_until(SystemTime::now() - DAY)
    }

    fn issue_until(&self, end: SystemTime) -> Result<Issued, String> {
        let issued = self.mint(end).map_err(|error| format!("no certificate: {error}"))?;
        self.set(&issued, State::Good);
        Ok(issued)
    }

    fn mint(&self, end: SystemTime) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        params.not_before = (SystemTime::now() - 2 * DAY).into();
        params.not_after = end.into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let leaf = certificate.der().clone();
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem(), leaf })
    }

    /// From here on each use is counted, though it succeeds.
    pub(crate) fn replaced(&self, issued: &Issued) {
        self.set(issued, State::Replaced);
    }

    pub(crate) fn revoke(&self, issued: &Issued) {
        self.set(issued, State::Revoked);
    }

    fn set(&self, issued: &Issued, state: State) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.insert(issued.leaf.clone(), state);
    }

    /// Whether a client may go on with a server that has shown this one.
    pub(crate) fn check(&self, shown: &CertificateDer<'_>) -> Result<(), String> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        match states.get(shown) {
            Some(State::Good) => Ok(()),
            Some(State::Replaced) => {
                self.uses_after_commit.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Some(State::Revoked) => {
                self.uses_after_revoke.fetch_add(1, Ordering::SeqCst);
                Err("the server's certificate is revoked".to_owned())
            }
            None => Err("the server's certificate is unknown".to_owned()),
        }
    }

    /// Uses of certificates after they were replaced (revoked or not), and after they were revoked.
    pub(crate) fn old_uses(&self) -> (u64, u64) {
        let revoked = self.uses_after_revoke.load(Ordering::SeqCst);
        (self.uses_after_commit.load(Ordering::SeqCst) + revoked, revoked)
    }
}
