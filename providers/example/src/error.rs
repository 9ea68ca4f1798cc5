//! What the shelf's answers mean. The kind comes from the status, never from what the body says.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use oneiric_core::{Error, ErrorKind};

/// The error that an answer is. `what` was asked for, as in "the secret `db`".
pub(crate) fn refused(status: StatusCode, headers: &HeaderMap, what: &str) -> Error {
    let (kind, why) = match status {
        StatusCode::UNAUTHORIZED => (ErrorKind::Unauthenticated, "the shelf does not know us"),
        StatusCode::FORBIDDEN => (ErrorKind::Denied, "the shelf refuses us"),
        StatusCode::NOT_FOUND => (ErrorKind::NotFound, "the shelf does not have it"),
        StatusCode::GONE => (ErrorKind::VersionDisabled, "it is disabled"),
        StatusCode::TOO_MANY_REQUESTS => {
            let retry_after = retry_after(headers);
            (ErrorKind::Throttled { retry_after }, "the shelf was asked too often")
        }
        status if status.is_client_error() => (ErrorKind::Invalid, "the shelf wants no such thing"),
        _ => (ErrorKind::Unavailable, "the shelf cannot answer now"),
    };
    Error::new(kind, format!("no answer for {what}: {why} ({})", status.as_u16()))
}

/// That no answer came, or only a part of one.
pub(crate) fn unreachable(
    what: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    let message = format!("the shelf cannot be reached for {what}");
    Error::with_source(ErrorKind::Unavailable, message, source)
}

/// That an answer came and makes no sense. What it was is not said: it could be a secret.
pub(crate) fn damaged(what: &str, how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the answer for {what} {how}"))
}

pub(crate) fn late(what: &str) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, format!("no answer for {what} came in time"))
}

/// The wait in seconds. A date is not understood, and then the shelf has named no time.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
