//! What a failed call means. Kinds come from typed codes alone; no value is in any message.

use std::fmt;
use std::time::Duration;

use google_cloud_gax::error::rpc::{Code, StatusDetails};
use google_cloud_gax::error::{CredentialsError, Error as Failure};
use oneiric_core::{Error, ErrorKind};

/// Whether a lost reply leaves something open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// It changes nothing.
    Read,
    /// It may have happened although no reply says so.
    Write,
    /// The same, with a value in the request, which an answer could quote.
    WriteOfValue,
}

/// What is known of a failure, apart from its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Seen {
    /// The service said so, with the wait that it named.
    Said(Code, Option<Duration>),
    /// An answer of this HTTP status that is not the service's own.
    Http(u16, Option<Duration>),
    /// Nothing was sent: no connection.
    NoConnection,
    /// Nothing was sent: our own credential cannot be had, now or at all.
    NoCredential {
        /// Whether it may be had later.
        later: bool,
    },
    /// Nothing was sent: the request cannot be written down.
    NoRequest,
    /// The time was up.
    Timeout,
    /// The connection broke after the request was sent.
    Lost,
    /// An answer came that cannot be read.
    Garbled,
}

impl Seen {
    /// Reads the types of a failure.
    pub(crate) fn of(failure: &Failure) -> Self {
        if let Some(status) = failure.status() {
            return Self::Said(status.code, wait(failure));
        }
        if failure.is_authentication() {
            return Self::NoCredential { later: transient(failure) };
        }
        match failure.http_status_code() {
            Some(status) => Self::Http(status, wait(failure)),
            None if failure.is_connect() => Self::NoConnection,
            None if failure.is_timeout() => Self::Timeout,
            None if failure.is_binding() || failure.is_serialization() => Self::NoRequest,
            None if failure.is_deserialization() => Self::Garbled,
            None => Self::Lost,
        }
    }

    /// What the caller should make of it.
    pub(crate) fn kind(self, call: Call) -> ErrorKind {
        let write = call != Call::Read;
        let or_ambiguous = |kind| if write { ErrorKind::Ambiguous } else { kind };
        match self {
            Self::Said(code, retry_after) => match code {
                Code::NotFound => ErrorKind::NotFound,
                Code::PermissionDenied => ErrorKind::Denied,
                Code::Unauthenticated => ErrorKind::Unauthenticated,
                Code::ResourceExhausted => ErrorKind::Throttled { retry_after },
                // Of a read: the version is disabled or destroyed. Of a write: the etag is not
                // the current one; what else it can be, the writer has looked at before.
                Code::FailedPrecondition if write => ErrorKind::Conflict,
                Code::FailedPrecondition => ErrorKind::VersionDisabled,
                Code::Aborted | Code::AlreadyExists => ErrorKind::Conflict,
                Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
                Code::Unimplemented => ErrorKind::Unsupported,
                Code::Unavailable => ErrorKind::Unavailable,
                Code::DeadlineExceeded => or_ambiguous(ErrorKind::DeadlineExceeded),
                _ => or_ambiguous(ErrorKind::Unavailable),
            },
            Self::Http(status, retry_after) => match status {
                401 => ErrorKind::Unauthenticated,
                403 => ErrorKind::Denied,
                429 => ErrorKind::Throttled { retry_after },
                500.. => or_ambiguous(ErrorKind::Unavailable),
                // A bare 404 comes from something in between: the service says what is missing.
                _ => ErrorKind::Unavailable,
            },
            Self::NoConnection | Self::NoCredential { later: true } => ErrorKind::Unavailable,
            Self::NoCredential { later: false } => ErrorKind::Unauthenticated,
            Self::NoRequest => ErrorKind::Invalid,
            Self::Timeout => or_ambiguous(ErrorKind::DeadlineExceeded),
            Self::Lost | Self::Garbled => or_ambiguous(ErrorKind::Unavailable),
        }
    }
}

/// The failure of a call that was about `what`.
pub(crate) fn failed(failure: &Failure, call: Call, what: &str) -> Error {
    let kind = Seen::of(failure).kind(call);
    Error::with_source(kind, sentence(kind, what), Cause::of(failure, call))
}

/// The time of a call about `what` was up.
pub(crate) fn late(call: Call, what: &str) -> Error {
    let kind = Seen::Timeout.kind(call);
    Error::new(kind, sentence(kind, what))
}

fn sentence(kind: ErrorKind, what: &str) -> String {
    match kind {
        ErrorKind::NotFound => format!("there is no `{what}`"),
        ErrorKind::Denied => format!("access to `{what}` is refused"),
        ErrorKind::Unauthenticated => format!("`{what}` is refused to an unknown identity"),
        ErrorKind::Throttled { .. } => format!("`{what}` is refused for the number of requests"),
        ErrorKind::VersionDisabled => format!("`{what}` is disabled or destroyed"),
        ErrorKind::Conflict => format!("`{what}` was changed by somebody else"),
        ErrorKind::DeadlineExceeded => format!("`{what}` was not answered in time"),
        ErrorKind::Ambiguous => format!("whether `{what}` was changed is not known"),
        ErrorKind::Invalid => format!("`{what}` is refused as malformed"),
        ErrorKind::Unsupported => format!("Secret Manager does not do this with `{what}`"),
        _ => format!("Secret Manager cannot be reached for `{what}`"),
    }
}

/// What the layer below said. It is no part of the client's own error, since that keeps headers
/// and bodies, which could hold a value.
#[derive(Debug)]
struct Cause(String);

impl Cause {
    fn of(failure: &Failure, call: Call) -> Self {
        let text = match (Seen::of(failure), failure.status()) {
            (Seen::Said(code, _), _) if call == Call::WriteOfValue => {
                format!("the service said {code}")
            }
            (Seen::Said(code, _), Some(status)) => {
                format!("the service said {code}: {}", status.message)
            }
            (Seen::Said(code, _), None) => format!("the service said {code}"),
            (Seen::Http(status, _), _) => format!("an answer with the HTTP status {status} came"),
            (Seen::NoCredential { .. } | Seen::NoConnection | Seen::Lost | Seen::Timeout, _) => {
                chain(failure)
            }
            (Seen::NoRequest, _) => "the request cannot be written down".into(),
            (Seen::Garbled, _) => "the answer cannot be read".into(),
        };
        Self(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

/// The innermost layers, which know what happened; the outer ones repeat them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn transient(failure: &Failure) -> bool {
    let source = std::error::Error::source(failure);
    source
        .and_then(|source| source.downcast_ref::<CredentialsError>())
        .is_none_or(CredentialsError::is_transient)
}

/// How long the service wants us to wait, from its own details or from the header.
fn wait(failure: &Failure) -> Option<Duration> {
    let named = failure.status().into_iter().flat_map(|status| &status.details);
    let delay = named.filter_map(|detail| match detail {
        StatusDetails::RetryInfo(info) => info.retry_delay,
        _ => None,
    });
    let delay = delay.filter_map(|delay| Duration::try_from(delay).ok()).next();
    delay.or_else(|| {
        let header = failure.http_headers()?.get(http::header::RETRY_AFTER)?;
        header.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
    })
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;
    use google_cloud_rpc::model::RetryInfo;
    use google_cloud_wkt as wkt;

    use super::*;

    #[test]
    fn kinds_come_from_codes() {
        use ErrorKind::{
            Ambiguous, Conflict, DeadlineExceeded, Denied, Invalid, NotFound, Throttled,
            Unauthenticated, Unavailable, Unsupported, VersionDisabled,
        };
        let wait = Some(Duration::from_secs(3));
        let throttled = Throttled { retry_after: wait };
        for (seen, read, write) in [
            (Seen::Said(Code::NotFound, None), NotFound, NotFound),
            (Seen::Said(Code::PermissionDenied, None), Denied, Denied),
            (Seen::Said(Code::Unauthenticated, None), Unauthenticated, Unauthenticated),
            (Seen::Said(Code::ResourceExhausted, wait), throttled, throttled),
            (Seen::Said(Code::FailedPrecondition, None), VersionDisabled, Conflict),
            (Seen::Said(Code::Aborted, None), Conflict, Conflict),
            (Seen::Said(Code::AlreadyExists, None), Conflict, Conflict),
            (Seen::Said(Code::InvalidArgument, None), Invalid, Invalid),
            (Seen::Said(Code::OutOfRange, None), Invalid, Invalid),
            (Seen::Said(Code::Unimplemented, None), Unsupported, Unsupported),
            (Seen::Said(Code::Unavailable, None), Unavailable, Unavailable),
            (Seen::Said(Code::DeadlineExceeded, None), DeadlineExceeded, Ambiguous),
            (Seen::Said(Code::Internal, None), Unavailable, Ambiguous),
            (Seen::Said(Code::Unknown, None), Unavailable, Ambiguous),
            (Seen::Said(Code::Cancelled, None), Unavailable, Ambiguous),
            (Seen::Said(Code::DataLoss, None), Unavailable, Ambiguous),
            (Seen::Http(401, None), Unauthenticated, Unauthenticated),
            (Seen::Http(403, None), Denied, Denied),
            (Seen::Http(404, None), Unavailable, Unavailable),
            (Seen::Http(429, wait), throttled, throttled),
            (Seen::Http(502, None), Unavailable, Ambiguous),
            (Seen::NoConnection, Unavailable, Unavailable),
            (Seen::NoCredential { later: true }, Unavailable, Unavailable),
            (Seen::NoCredential { later: false }, Unauthenticated, Unauthenticated),
            (Seen::NoRequest, Invalid, Invalid),
            (Seen::Timeout, DeadlineExceeded, Ambiguous),
            (Seen::Lost, Unavailable, Ambiguous),
            (Seen::Garbled, Unavailable, Ambiguous),
        ] {
            assert_eq!(seen.kind(Call::Read), read, "{seen:?}");
            assert_eq!(seen.kind(Call::Write), write, "{seen:?}");
            assert_eq!(seen.kind(Call::WriteOfValue), write, "{seen:?}");
        }
    }

    #[test]
    fn types_of_failures_are_told_apart() {
        let headers =
            http::HeaderMap::from_iter([(http::header::RETRY_AFTER, "7".parse().unwrap())]);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let status = Status::default().set_code(Code::ResourceExhausted);
        let info = RetryInfo::new().set_retry_delay(wkt::Duration::clamp(2, 0));
        let named = status.clone().set_details([StatusDetails::RetryInfo(info)]);
        let with_header =
            |status| Failure::service_with_http_metadata(status, Some(429), Some(headers.clone()));
        let credential = |later| Failure::authentication(CredentialsError::from_msg(later, "x"));
        let garbled = serde_json::from_str::<u8>("x").unwrap_err();
        for (failure, seen) in [
            (Failure::service(status.clone()), Seen::Said(Code::ResourceExhausted, None)),
            (with_header(status), Seen::Said(Code::ResourceExhausted, seconds(7))),
            (with_header(named), Seen::Said(Code::ResourceExhausted, seconds(2))),
            (Failure::http(429, headers.clone(), "x".into()), Seen::Http(429, seconds(7))),
            (Failure::connect("x"), Seen::NoConnection),
            (Failure::timeout("x"), Seen::Timeout),
            (Failure::io("x"), Seen::Lost),
            (Failure::deser(garbled), Seen::Garbled),
            (Failure::ser("x"), Seen::NoRequest),
            (credential(true), Seen::NoCredential { later: true }),
            (credential(false), Seen::NoCredential { later: false }),
        ] {
            assert_eq!(Seen::of(&failure), seen, "{failure:?}");
        }
    }

    #[test]
    fn an_answer_that_quotes_the_value_is_not_quoted() {
        let status = Status::default().set_code(Code::InvalidArgument).set_message("bad: canary");
        let error = failed(&Failure::service(status.clone()), Call::WriteOfValue, "s");
        assert!(!format!("{error:?} {}", error.chain()).contains("canary"));
        let error = failed(&Failure::service(status), Call::Read, "s");
        assert!(error.chain().contains("bad: canary"), "{}", error.chain());
        let garbled = serde_json::from_str::<u8>("\"canary\"").unwrap_err();
        let error = failed(&Failure::deser(garbled), Call::Read, "s");
        assert!(!format!("{error:?} {}", error.chain()).contains("canary"));
        let proxy = Failure::http(502, http::HeaderMap::new(), "canary".into());
        let error = failed(&proxy, Call::Read, "s");
        assert!(!format!("{error:?} {}", error.chain()).contains("canary"));
    }
}
