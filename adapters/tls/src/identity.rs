//! Who one is: a certificate with its chain, its key, and what must be true of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oneiric_core::{HookError, SecretRef, SecretSet};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use zeroize::Zeroizing;

use crate::proof::{self, Role};
use crate::roots::{Roots, certificates};

/// A certificate with its chain, and its private key, both in PEM.
///
/// The key may be PKCS #8, SEC 1 or PKCS #1, without a passphrase. The chain has the certificate
/// itself first and then those that vouch for it, each for the one before.
///
/// # What is proven
/// Before a generation serves: the chain and the key can be read; the key is that of the
/// certificate; it is valid now and for the [least life](Self::least_life); each certificate of the
/// chain is signed by the next; it [covers its names](Self::covers); and the
/// [roots](Self::verify_against) of those who will see it vouch for it. No proof's message shows
/// anything of the key.
///
/// # Wiping
/// The key's encoded form is wiped when it has been read. The parsed key within ring, and the
/// decoder's buffers, are not wiped when they are freed, unless the process's allocator does that.
#[derive(Debug, Clone)]
#[must_use]
pub struct Identity {
    certificate: SecretRef,
    key: SecretRef,
    names: Vec<ServerName<'static>>,
    least_life: Duration,
    roots: Option<Roots>,
}

impl Identity {
    /// The chain in one secret, the key in another. They are read as one set; in a store where they
    /// cannot change together, a moment between the two changes is refused, and the old pair serves
    /// on. Prefer a [`bundle`](Self::bundle), or two fields of one secret.
    pub fn pair(certificate: SecretRef, key: SecretRef) -> Self {
        Self { certificate, key, names: vec![], least_life: Duration::ZERO, roots: None }
    }

    /// The chain and the key in one secret, in any order.
    pub fn bundle(secret: SecretRef) -> Self {
        Self::pair(secret.clone(), secret)
    }

    /// A certificate that is not valid for one of these names is refused.
    pub fn covers(mut self, names: impl IntoIterator<Item = ServerName<'static>>) -> Self {
        self.names.extend(names);
        self
    }

    /// A certificate that ends sooner than this is refused; by default one that has ended.
    pub fn least_life(mut self, life: Duration) -> Self {
        self.least_life = life;
        self
    }

    /// A certificate that these do not vouch for is refused. Give the roots that the other side
    /// believes: then a certificate of an authority which is not known there yet never serves.
    pub fn verify_against(mut self, roots: impl Into<Roots>) -> Self {
        self.roots = Some(roots.into());
        self
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = SecretRef> {
        let roots = self.roots.as_ref().and_then(Roots::secret);
        [&self.certificate, &self.key].into_iter().chain(roots).cloned()
    }

    /// Reads and judges it.
    pub(crate) fn load(&self, secrets: &SecretSet, role: Role) -> Result<Credential, HookError> {
        let chain = certificates(&self.certificate, secrets)?;
        let roots = self.roots.as_ref().map(|roots| roots.load(secrets)).transpose()?;
        let requirements = proof::Requirements {
            of: &self.certificate,
            names: &self.names,
            least_life: self.least_life,
            roots: roots.as_deref(),
            role,
        };
        let not_after = requirements.judge(&chain, SystemTime::now())?;
        let certified = CertifiedKey::new(chain, self.signing_key(secrets)?);
        match certified.keys_match() {
            Ok(()) => Ok(Credential { certified: Arc::new(certified), not_after }),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let (key, certificate) = (&self.key, &self.certificate);
                Err(HookError::refused(format!(
                    "the key in `{key}` is not the key of the certificate in `{certificate}`"
                )))
            }
            Err(error) => Err(HookError::failed(format!(
                "whether the key in `{}` belongs to its certificate cannot be said",
                self.key
            ))
            .caused_by(error)),
        }
    }

    /// The one private key of the secret.
    fn signing_key(&self, secrets: &SecretSet) -> Result<Arc<dyn SigningKey>, HookError> {
        let reference = &self.key;
        let fails = |what: &str| HookError::failed(format!("`{reference}` {what}"));
        let value = secrets.get(reference).ok_or_else(|| fails("was not given"))?;
        let encrypted = || {
            let mut lines = value.expose().split(|byte| *byte == b'\n');
            lines.any(|line| line.windows(9).any(|word| word == b"ENCRYPTED"))
        };
        let mut keys = PrivateKeyDer::pem_slice_iter(value.expose());
        // No cause is passed on: it may quote the key.
        let key = match keys.next() {
            Some(Ok(key)) => Zeroizing::new(key),
            _ if encrypted() => return Err(fails("has a key that needs a passphrase")),
            Some(Err(_)) => return Err(fails("is not well-formed PEM")),
            None => return Err(fails("has no private key in PEM")),
        };
        if let Some(another) = keys.next() {
            drop(another.map(Zeroizing::new));
            return Err(fails("has more than one private key"));
        }
        any_supported_type(&key)
            .map_err(|_| fails("has a private key that cannot be read, or of an unknown kind"))
    }
}

/// What an identity was read to.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) certified: Arc<CertifiedKey>,
    /// When its certificate ends.
    pub(crate) not_after: SystemTime,
}
