//! From what a program says, or fails to say, to the kinds. No message has a value in it.

use std::time::Duration;

use oneiric_core::{Error, ErrorKind};

/// What a program said in the place of an answer. `None` for a word that there is not.
pub(crate) fn kind_of(token: &str, retry_after: Option<Duration>) -> Option<ErrorKind> {
    Some(match token {
        "not_found" => ErrorKind::NotFound,
        "denied" => ErrorKind::Denied,
        "unauthenticated" => ErrorKind::Unauthenticated,
        "throttled" => ErrorKind::Throttled { retry_after },
        "unavailable" => ErrorKind::Unavailable,
        "conflict" => ErrorKind::Conflict,
        "version_disabled" => ErrorKind::VersionDisabled,
        "invalid" => ErrorKind::Invalid,
        "unsupported" => ErrorKind::Unsupported,
        "deadline_exceeded" => ErrorKind::DeadlineExceeded,
        "ambiguous" => ErrorKind::Ambiguous,
        "bug" => ErrorKind::Bug,
        _ => return None,
    })
}

/// The program answered with an error.
pub(crate) fn said(kind: ErrorKind, what: &str, words: Option<String>) -> Error {
    let message = format!("the program answers for {what} with `{kind}`");
    match words {
        Some(words) => Error::with_source(kind, message, Error::new(kind, words)),
        None => Error::new(kind, message),
    }
}

/// The program did not answer: it is not there, or not any more.
pub(crate) fn gone(what: &str, sent_write: bool, why: Error) -> Error {
    let kind = if sent_write { ErrorKind::Ambiguous } else { ErrorKind::Unavailable };
    Error::with_source(kind, format!("the program has not answered for {what}"), why)
}

/// The deadline passed.
pub(crate) fn late(what: &str, sent_write: bool) -> Error {
    let kind = if sent_write { ErrorKind::Ambiguous } else { ErrorKind::DeadlineExceeded };
    Error::new(kind, format!("the program did not answer for {what} in time"))
}

/// An answer without what was asked for, or with something that cannot be used.
pub(crate) fn damaged(what: &str, how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the program's answer for {what} {how}"))
}

/// What the settings do not say of the program.
pub(crate) fn unsupported(what: &str) -> Error {
    let message = format!("`capabilities` of this exec provider do not have `{what}`");
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_a_program_may_answer_with_has_its_own_token() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Unauthenticated,
            ErrorKind::Throttled { retry_after: None },
            ErrorKind::Unavailable,
            ErrorKind::Conflict,
            ErrorKind::VersionDisabled,
            ErrorKind::Invalid,
            ErrorKind::Unsupported,
            ErrorKind::DeadlineExceeded,
            ErrorKind::Ambiguous,
            ErrorKind::Bug,
        ] {
            assert_eq!(kind_of(kind.token(), None), Some(kind));
        }
        // There are no conditional requests, so that nobody could have meant it.
        assert_eq!(kind_of(ErrorKind::NotModified.token(), None), None);
    }
}
