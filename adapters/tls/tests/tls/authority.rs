//! A small authority that issues what the tests need, good and bad.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Issued {
    /// Without its chain.
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) leaf: CertificateDer<'static>,
}

impl Issued {
    pub(crate) fn bundle(&self) -> String {
        format!("{}{}", self.pem, self.key)
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What one certificate is to be like.
pub(crate) struct Wish {
    pub(crate) names: Vec<String>,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) usage: ExtendedKeyUsagePurpose,
}

impl Wish {
    pub(crate) fn server(name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            start: SystemTime::now() - DAY,
            end: SystemTime::now() + 30 * DAY,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    pub(crate) fn client(name: &str) -> Self {
        Self { usage: ExtendedKeyUsagePurpose::ClientAuth, ..Self::server(name) }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(ca(name), key).unwrap() }
    }

    /// An authority that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::signed_by(ca(name), key, &self.issuer).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.issuer.der().clone()).unwrap();
        store
    }

    pub(crate) fn issue(&self, wish: Wish) -> Issued {
        self.issue_for(wish, &KeyPair::generate().unwrap())
    }

    pub(crate) fn issue_for(&self, wish: Wish, key: &KeyPair) -> Issued {
        let mut params = CertificateParams::new(wish.names).unwrap();
        params.not_before = wish.start.into();
        params.not_after = wish.end.into();
        params.extended_key_usages = vec![wish.usage];
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Issued { pem: certificate.pem(), key: key.serialize_pem(), leaf: certificate.der().clone() }
    }

    /// The usual one.
    pub(crate) fn server(&self, name: &str) -> Issued {
        self.issue(Wish::server(name))
    }

    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(Wish::client(name))
    }
}
