//! What must be true of a chain before it may serve, told with what is wrong and where.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::{format_duration, format_rfc3339_seconds};
use oneiric_core::{HookError, SecretRef};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;

/// Whose certificate it is, and so what it must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

impl Role {
    fn usage(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }
}

/// The cryptography of everything in this crate.
pub(crate) fn crypto() -> Arc<CryptoProvider> {
    static CRYPTO: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(CRYPTO.get_or_init(|| Arc::new(ring::default_provider())))
}

/// What one chain must fulfil.
pub(crate) struct Requirements<'a> {
    /// Where it is from.
    pub(crate) of: &'a SecretRef,
    pub(crate) names: &'a [ServerName<'static>],
    pub(crate) least_life: Duration,
    pub(crate) roots: Option<&'a RootCertStore>,
    pub(crate) role: Role,
}

impl Requirements<'_> {
    /// When the first certificate of a good chain ends, or what is wrong with a bad one.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<SystemTime, HookError> {
        let parsed: Vec<X509Certificate<'_>> = chain
            .iter()
            .enumerate()
            .map(|(index, der)| parse(der).ok_or_else(|| self.unreadable(index)))
            .collect::<Result<_, _>>()?;
        let leaf = EndEntityCert::try_from(&chain[0])
            .map_err(|error| self.unreadable(0).caused_by(error))?;
        self.check_time(&parsed, now)?;
        self.check_order(&parsed)?;
        self.check_signatures(&leaf, chain, now)?;
        self.check_names(&leaf)?;
        Ok(time(parsed[0].validity().not_after.timestamp()))
    }

    fn check_time(&self, chain: &[X509Certificate<'_>], now: SystemTime) -> Result<(), HookError> {
        // With roots it is their path that must be valid: a chain may carry one certificate more,
        // for the sake of somebody else.
        let to_check = if self.roots.is_some() { &chain[..1] } else { chain };
        for (index, certificate) in to_check.iter().enumerate() {
            let (start, end) = validity(certificate);
            if now < start {
                let start = format_rfc3339_seconds(start);
                return Err(self.refuse(index, &format!("is not valid before {start}")));
            }
            if end <= now {
                let end = format_rfc3339_seconds(end);
                return Err(self.refuse(index, &format!("has expired at {end}")));
            }
            if end < now + self.least_life {
                let (end, least) = (format_rfc3339_seconds(end), format_duration(self.least_life));
                let what = format!("ends at {end}, which is in less than {least}");
                return Err(self.refuse(index, &what));
            }
        }
        Ok(())
    }

    /// TLS 1.2 asks for it, and not every client sorts a chain by itself.
    fn check_order(&self, chain: &[X509Certificate<'_>]) -> Result<(), HookError> {
        for (index, pair) in chain.windows(2).enumerate() {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                let next = index + 2;
                let what = format!("was not issued by certificate {next}, which follows it");
                return Err(self.refuse(index, &what));
            }
        }
        Ok(())
    }

    /// Up to the roots; where there are none, up to the end of the chain.
    fn check_signatures(
        &self,
        leaf: &EndEntityCert<'_>,
        chain: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<(), HookError> {
        let last: Vec<TrustAnchor<'_>>;
        let (anchors, intermediates) = match (self.roots, chain) {
            (Some(roots), _) => (&roots.roots[..], &chain[1..]),
            (None, [_]) => return Ok(()),
            (None, _) => {
                let end = chain.len() - 1;
                let anchor = anchor_from_trusted_cert(&chain[end])
                    .map_err(|error| self.unreadable(end).caused_by(error))?;
                last = vec![anchor];
                (&last[..], &chain[1..end])
            }
        };
        let algorithms = crypto().signature_verification_algorithms.all;
        for moment in [now, now + self.least_life] {
            let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
            leaf.verify_for_usage(
                algorithms,
                anchors,
                intermediates,
                UnixTime::since_unix_epoch(since),
                self.role.usage(),
                None,
                None,
            )
            .map_err(|error| self.unverified(error))?;
        }
        Ok(())
    }

    fn check_names(&self, leaf: &EndEntityCert<'_>) -> Result<(), HookError> {
        for name in self.names {
            if leaf.verify_is_valid_for_subject_name(name).is_err() {
                let valid: Vec<_> = leaf.valid_dns_names().collect();
                let valid = if valid.is_empty() { "no name".into() } else { valid.join(", ") };
                let name = name.to_str();
                let what = format!("is not valid for `{name}`, but for {valid}");
                return Err(self.refuse(0, &what));
            }
        }
        Ok(())
    }

    fn unverified(&self, error: webpki::Error) -> HookError {
        use webpki::Error as E;
        let what = match &error {
            E::UnknownIssuer if self.roots.is_some() => {
                "is vouched for by none of the roots that it must be verified against"
            }
            E::InvalidSignatureForPublicKey | E::UnknownIssuer => {
                "is not signed by the one that its chain names as its issuer"
            }
            E::RequiredEkuNotFoundContext(_) => match self.role {
                Role::Server => "is not meant for servers",
                Role::Client => "is not meant for clients",
            },
            E::CertExpired { .. } => "depends on a certificate that has expired, or will too soon",
            _ => "could not be verified",
        };
        self.refuse(0, what).caused_by(error)
    }

    fn refuse(&self, index: usize, what: &str) -> HookError {
        HookError::refused(format!("`{}`: certificate {} {what}", self.of, index + 1))
    }

    fn unreadable(&self, index: usize) -> HookError {
        HookError::failed(format!("`{}`: certificate {} cannot be read", self.of, index + 1))
    }
}

/// When a certificate ends, and under which number it was issued.
pub(crate) fn end_and_serial(der: &CertificateDer<'_>) -> Option<(SystemTime, String)> {
    let certificate = parse(der)?;
    Some((validity(&certificate).1, certificate.raw_serial_as_string()))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0))
}
