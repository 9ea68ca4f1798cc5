//! What a failed call means. Kinds come from typed codes alone; no value is in any message.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::config::http::HttpResponse;
use aws_sdk_secretsmanager::error::{ConnectorError, ProvideErrorMetadata, SdkError};
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// The service said so: its code, the HTTP status, and the wait that it named.
    Said(String, u16, Option<Duration>),
    /// An answer of this HTTP status without a code of the service.
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
    pub(crate) fn of<E>(failure: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        // Whoever looks for credentials fails in any of the phases of a call.
        if let Some(error) = find::<CredentialsError>(failure) {
            return Self::NoCredential { later: may_be_had_later(error) };
        }
        match failure {
            SdkError::ServiceError(said) => {
                let (status, wait) = (said.raw().status().as_u16(), wait(said.raw()));
                match said.err().code() {
                    Some(code) => Self::Said(code.into(), status, wait),
                    None => Self::Http(status, wait),
                }
            }
            SdkError::ResponseError(answer) if answer.raw().status().is_success() => Self::Garbled,
            SdkError::ResponseError(answer) => {
                Self::Http(answer.raw().status().as_u16(), wait(answer.raw()))
            }
            SdkError::ConstructionFailure(_) => Self::NoRequest,
            SdkError::TimeoutError(_) => Self::Timeout,
            // There is a timeout for connecting and no other in the client.
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::NoConnection,
            SdkError::DispatchFailure(failure) if failure.is_user() => Self::NoRequest,
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(error) if refused(error) => Self::NoConnection,
                _ => Self::Lost,
            },
            _ => Self::Lost,
        }
    }

    /// What the caller should make of it.
    pub(crate) fn kind(&self, call: Call) -> ErrorKind {
        let or_ambiguous = |kind| if call == Call::Read { kind } else { ErrorKind::Ambiguous };
        match self {
            Self::Said(code, status, wait) => by_code(code, *wait)
                .unwrap_or_else(|| by_status(*status, *wait, or_ambiguous, ErrorKind::Invalid)),
            // Something in between has answered, and not the service.
            Self::Http(status, wait) => {
                by_status(*status, *wait, or_ambiguous, ErrorKind::Unavailable)
            }
            Self::NoConnection | Self::NoCredential { later: true } => ErrorKind::Unavailable,
            Self::NoCredential { later: false } => ErrorKind::Unauthenticated,
            Self::NoRequest => ErrorKind::Invalid,
            Self::Timeout => or_ambiguous(ErrorKind::DeadlineExceeded),
            Self::Lost | Self::Garbled => or_ambiguous(ErrorKind::Unavailable),
        }
    }
}

/// The kind of a code that is known, whatever the HTTP status: throttles come with 400.
pub(crate) fn by_code(code: &str, retry_after: Option<Duration>) -> Option<ErrorKind> {
    let kind = match code {
        "ResourceNotFoundException" => ErrorKind::NotFound,
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" | "OptInRequired" => {
            ErrorKind::Denied
        }
        "ExpiredTokenException"
        | "ExpiredToken"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired"
        | "UnrecognizedClientException" => ErrorKind::Unauthenticated,
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown"
        // Too many versions in a day, or secrets, or labels: there is room again later.
        | "LimitExceededException" => ErrorKind::Throttled { retry_after },
        // It is there and may not be read: it is marked for deletion, or its KMS key is off.
        "InvalidRequestException" | "DecryptionFailure" | "EncryptionFailure" => {
            ErrorKind::VersionDisabled
        }
        "ResourceExistsException" | "PreconditionNotMetException" => ErrorKind::Conflict,
        "InvalidParameterException" | "ValidationException" | "SerializationException" => {
            ErrorKind::Invalid
        }
        // A list was cut off, and begins anew.
        "InvalidNextTokenException" => ErrorKind::Unavailable,
        _ => return None,
    };
    Some(kind)
}

fn by_status(
    status: u16,
    retry_after: Option<Duration>,
    or_ambiguous: impl Fn(ErrorKind) -> ErrorKind,
    otherwise: ErrorKind,
) -> ErrorKind {
    match status {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Denied,
        429 => ErrorKind::Throttled { retry_after },
        500.. => or_ambiguous(ErrorKind::Unavailable),
        _ => otherwise,
    }
}

/// The failure of a call that was about `what`.
pub(crate) fn failed<E>(failure: &SdkError<E>, call: Call, what: &str) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let kind = Seen::of(failure).kind(call);
    Error::with_source(kind, sentence(kind, what), Cause(cause(failure, call)))
}

/// What happened, in the words of whoever said it, and nothing of what the call was about. For a
/// service that is not Secrets Manager it is all that is to be said.
pub(crate) fn cause<E>(failure: &SdkError<E>, call: Call) -> String
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let seen = Seen::of(failure);
    let message = failure.as_service_error().and_then(ProvideErrorMetadata::message);
    match (&seen, message) {
        (Seen::Said(code, ..), Some(message)) if call != Call::WriteOfValue => {
            format!("the service said {code}: {message}")
        }
        (Seen::Said(code, ..), _) => format!("the service said {code}"),
        (Seen::Http(status, _), _) => format!("an answer with the HTTP status {status} came"),
        (Seen::NoRequest, _) => "the request cannot be written down".into(),
        (Seen::Garbled, _) => "the answer cannot be read".into(),
        _ => innermost(failure),
    }
}

/// What a batch says of one of its secrets.
pub(crate) fn of_a_batch(code: &str, message: &str, what: &str) -> Error {
    let seen = Seen::Said(code.into(), 400, None);
    let kind = match code {
        "InternalServiceError" | "InternalFailure" => ErrorKind::Unavailable,
        _ => seen.kind(Call::Read),
    };
    let cause = Cause(format!("the service said {code}: {message}"));
    Error::with_source(kind, sentence(kind, what), cause)
}

/// The time of a call about `what` was up.
pub(crate) fn late(call: Call, what: &str) -> Error {
    let kind = Seen::Timeout.kind(call);
    Error::new(kind, sentence(kind, what))
}

/// One sentence about a failure that is known by its kind.
pub(crate) fn about(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, sentence(kind, what))
}

fn sentence(kind: ErrorKind, what: &str) -> String {
    match kind {
        ErrorKind::NotFound => format!("there is no `{what}`"),
        ErrorKind::NotModified => format!("`{what}` has not changed"),
        ErrorKind::Denied => format!("access to `{what}` is refused"),
        ErrorKind::Unauthenticated => format!("`{what}` is refused to an unknown identity"),
        ErrorKind::Throttled { .. } => format!("`{what}` is refused for the number of requests"),
        ErrorKind::VersionDisabled => {
            format!("`{what}` is marked for deletion, or its KMS key cannot be used")
        }
        ErrorKind::Conflict => format!("`{what}` was changed by somebody else"),
        ErrorKind::DeadlineExceeded => format!("`{what}` was not answered in time"),
        ErrorKind::Ambiguous => format!("whether `{what}` was changed is not known"),
        ErrorKind::Invalid => format!("`{what}` is refused as malformed"),
        _ => format!("Secrets Manager cannot be reached for `{what}`"),
    }
}

/// What the layer below said. It is no part of the client's own error, since that keeps headers
/// and bodies, which could hold a value.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// Whoever can be reached later may know us then. Who answers that he does not know us, or who is
/// not set up at all, is not asked again in vain.
fn may_be_had_later(error: &CredentialsError) -> bool {
    match error {
        CredentialsError::ProviderTimedOut(_) => true,
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            false
        }
        other => find::<ConnectorError>(other).is_some() || find::<io::Error>(other).is_some(),
    }
}

/// Whether the connection was not made, so that nothing was sent.
fn refused(error: &ConnectorError) -> bool {
    use io::ErrorKind as Io;
    find::<io::Error>(error).is_some_and(|error| {
        matches!(
            error.kind(),
            Io::ConnectionRefused
                | Io::HostUnreachable
                | Io::NetworkUnreachable
                | Io::AddrNotAvailable
        )
    })
}

/// The first of the layers of an error that is of this type.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(layer) = next {
        if let Some(found) = layer.downcast_ref() {
            return Some(found);
        }
        next = layer.source();
    }
    None
}

/// The innermost layer, which knows what happened; the outer ones repeat it.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn wait(answer: &HttpResponse) -> Option<Duration> {
    answer.headers().get("retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
