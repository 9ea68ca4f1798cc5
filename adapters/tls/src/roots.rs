//! Whom certificates are believed from.

use std::sync::Arc;

use oneiric_core::{HookError, SecretRef, SecretSet};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Root certificates: fixed ones, or a bundle in PEM that changes like any other secret.
///
/// # Replacing an authority
/// Verifiers come first. Put old *and* new root into the bundle of everybody who verifies, and wait
/// until all have it; then replace the certificates; only then take the old root out. A verifier
/// that was missed refuses every new certificate.
#[derive(Debug, Clone)]
pub enum Roots {
    /// These, for as long as the process runs.
    Fixed(Arc<RootCertStore>),
    /// The certificates in this secret.
    Secret(SecretRef),
}

impl From<RootCertStore> for Roots {
    fn from(store: RootCertStore) -> Self {
        Self::Fixed(Arc::new(store))
    }
}

impl From<Arc<RootCertStore>> for Roots {
    fn from(store: Arc<RootCertStore>) -> Self {
        Self::Fixed(store)
    }
}

impl From<SecretRef> for Roots {
    fn from(bundle: SecretRef) -> Self {
        Self::Secret(bundle)
    }
}

impl Roots {
    pub(crate) fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Fixed(_) => None,
            Self::Secret(reference) => Some(reference),
        }
    }

    pub(crate) fn load(&self, secrets: &SecretSet) -> Result<Arc<RootCertStore>, HookError> {
        match self {
            Self::Fixed(store) if store.is_empty() => {
                Err(HookError::failed("there is no root certificate to verify against"))
            }
            Self::Fixed(store) => Ok(Arc::clone(store)),
            Self::Secret(reference) => read(reference, secrets).map(Arc::new),
        }
    }
}

fn read(reference: &SecretRef, secrets: &SecretSet) -> Result<RootCertStore, HookError> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(reference, secrets)?.into_iter().enumerate() {
        store.add(certificate).map_err(|error| {
            let number = index + 1;
            HookError::failed(format!("`{reference}`: certificate {number} is not a root"))
                .caused_by(error)
        })?;
    }
    Ok(store)
}

/// All certificates of a secret in PEM, at least one.
pub(crate) fn certificates(
    reference: &SecretRef,
    secrets: &SecretSet,
) -> Result<Vec<CertificateDer<'static>>, HookError> {
    let value = secrets
        .get(reference)
        .ok_or_else(|| HookError::failed(format!("`{reference}` was not given")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(value.expose()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(HookError::failed(format!("`{reference}` has no certificate in PEM"))),
        // The cause may quote a line, and a line may be one of a key.
        Err(_) => Err(HookError::failed(format!("`{reference}` is not well-formed PEM"))),
    }
}

/// Whether both believe the same authorities.
pub(crate) fn same(a: &RootCertStore, b: &RootCertStore) -> bool {
    a.len() == b.len() && a.roots.iter().all(|root| b.roots.contains(root))
}
