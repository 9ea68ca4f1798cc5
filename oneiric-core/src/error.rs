//! What can go wrong when a secret is asked for, told apart by what the caller should do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The short form of `Result` for everything that asks for secrets.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure. Retrying, serving stale and caching the failure are decided by it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store said that there is no such secret, version or field. The only kind that is
    /// cached, shortly.
    NotFound,
    /// The stamp of the request still holds; no value was read.
    NotModified,
    /// The store knows us and refuses. Never answered with a stale value.
    Denied,
    /// The store does not know us, or our own credential has expired.
    Unauthenticated,
    /// Too many requests; come back after the given time, where the store gave one.
    Throttled {
        /// How long the store wants us to wait.
        retry_after: Option<Duration>,
    },
    /// The store cannot be reached, or says that it cannot answer now.
    Unavailable,
    /// Somebody else changed the thing first (a failed compare-and-swap).
    Conflict,
    /// The version exists and may not be read: disabled, destroyed or not yet valid.
    VersionDisabled,
    /// What was asked or what was read makes no sense: a malformed name, a damaged value, a
    /// placeholder instead of a secret.
    Invalid,
    /// The provider cannot do this.
    Unsupported,
    /// The answer did not come in time.
    DeadlineExceeded,
    /// A write whose reply was lost: it may or may not have happened.
    Ambiguous,
    /// A defect in Oneiric or in a provider, for example a panic.
    Bug,
}

impl ErrorKind {
    /// A stable token for logs, metrics and `--json`.
    pub fn token(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NotModified => "not_modified",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::VersionDisabled => "version_disabled",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Ambiguous => "ambiguous",
            Self::Bug => "bug",
        }
    }

    /// Whether the last good value may be served instead, up to `secrets_stale_if_error`: only
    /// where the store could not answer, never where it answered no.
    pub fn may_serve_stale(self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable | Self::DeadlineExceeded)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A failure to get, list, watch or write a secret.
///
/// It never holds a value. Its Display is one sentence about one layer; the layers below are its
/// [`source`](StdError::source)s. A clone is cheap, since one failed fetch answers all who waited
/// for it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind. The message is one sentence that names the secret or the place and
    /// has no value in it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: None }))
    }

    /// The same, caused by something. The cause must not show a value either.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// The same failure seen from one layer further out.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self::with_source(self.kind(), message, self)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The whole chain in one line, outermost first, for a place that has only one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_layer_and_chain_is_all() {
        let inner = Error::new(ErrorKind::Unavailable, "connection refused");
        let outer = inner.context("cannot read `files:a`");
        assert_eq!(outer.to_string(), "cannot read `files:a`");
        assert_eq!(outer.chain(), "cannot read `files:a`: connection refused");
        assert_eq!(outer.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn only_silence_may_be_answered_with_a_stale_value() {
        assert!(ErrorKind::Unavailable.may_serve_stale());
        assert!(ErrorKind::DeadlineExceeded.may_serve_stale());
        assert!(ErrorKind::Throttled { retry_after: None }.may_serve_stale());
        for kind in [ErrorKind::Denied, ErrorKind::NotFound, ErrorKind::Invalid, ErrorKind::Bug] {
            assert!(!kind.may_serve_stale(), "{kind}");
        }
    }
}
