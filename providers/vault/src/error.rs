//! What a failed call means. Kinds come from HTTP statuses and from what stands in an answer in a
//! fixed place, never from its text; no value is in any message.

use std::fmt;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind};

/// Whether a lost reply leaves something open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// It changes nothing that anybody could miss.
    Read,
    /// The same, about a lease that is ours. A server that cannot ask its own store, or the system
    /// that the lease is of, says so with the status of a malformed request, and ours is none.
    OfLease,
    /// It brings what is given once, as a lease or what was wrapped: whoever asks again gets
    /// another one, or nothing. For who waits for it, it is a read.
    Once,
    /// It may have happened although no reply says so.
    Write,
    /// The same, with a value in the request, which an answer could quote.
    WriteOfValue,
}

/// What is known of a failure, apart from its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Seen {
    /// An answer of this status.
    Status {
        status: u16,
        /// The wait that it names.
        retry_after: Option<Duration>,
        /// Whether it is the server's own, and not that of something in between.
        own: bool,
        /// Whether the server says in words what is wrong. Of what is merely absent it says
        /// nothing.
        explained: bool,
    },
    /// Nothing was sent: no connection.
    NoConnection,
    /// Nothing was sent: the request cannot be written down.
    NoRequest,
    /// The time was up.
    Timeout,
    /// The connection broke after the request was sent.
    Lost,
    /// An answer came that cannot be read.
    Garbled,
    /// An answer came that is larger than any secret.
    TooLarge,
}

impl Seen {
    /// What the caller should make of it.
    pub(crate) fn kind(self, call: Call) -> ErrorKind {
        let write = matches!(call, Call::Write | Call::WriteOfValue);
        let or_ambiguous = |kind| if write { ErrorKind::Ambiguous } else { kind };
        match self {
            Self::Status { status, retry_after, own, explained } => match status {
                400 if call == Call::OfLease => ErrorKind::Unavailable,
                400 | 413 | 414 | 431 => ErrorKind::Invalid,
                401 => ErrorKind::Unauthenticated,
                403 => ErrorKind::Denied,
                // A bare 404 comes from something in between.
                404 if !own => ErrorKind::Unavailable,
                // No such mount or namespace, which is no absence of a secret.
                404 if explained => ErrorKind::Invalid,
                404 => ErrorKind::NotFound,
                405 => ErrorKind::Unsupported,
                429 => ErrorKind::Throttled { retry_after },
                // The server is sealed or does not take requests, so it has done nothing.
                503 if own => ErrorKind::Unavailable,
                // A standby that sends us elsewhere, one of a recovery site, one of the kind that
                // only reads; and one that has not caught up yet.
                307 | 308 | 412 | 472 | 473 => ErrorKind::Unavailable,
                _ => or_ambiguous(ErrorKind::Unavailable),
            },
            Self::NoConnection => ErrorKind::Unavailable,
            Self::NoRequest | Self::TooLarge => ErrorKind::Invalid,
            Self::Timeout => or_ambiguous(ErrorKind::DeadlineExceeded),
            Self::Lost | Self::Garbled => or_ambiguous(ErrorKind::Unavailable),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Status { status, .. } => format!("the answer has the HTTP status {status}"),
            Self::NoConnection => "there is no connection".into(),
            Self::NoRequest => "the request cannot be written down".into(),
            Self::Timeout => "the time was up".into(),
            Self::Lost => "the connection broke".into(),
            Self::Garbled => "the answer cannot be read".into(),
            Self::TooLarge => "the answer is larger than any secret".into(),
        }
    }
}

/// The failure of a call that was about `what`, with what the server or the connection said.
pub(crate) fn failed(seen: Seen, call: Call, what: &str, said: &[String]) -> Error {
    let kind = seen.kind(call);
    let mut cause = seen.words();
    if call != Call::WriteOfValue && !said.is_empty() {
        let said: Vec<&str> = said.iter().flat_map(|text| text.split_whitespace()).collect();
        cause = format!("{cause}: {}", said.join(" "));
    }
    Error::with_source(kind, sentence(kind, what), Cause(cause))
}

/// An error of this kind about `what`.
pub(crate) fn about(kind: ErrorKind, what: &str) -> Error {
    Error::new(kind, sentence(kind, what))
}

/// The time of a call about `what` was up before it was sent.
pub(crate) fn late(what: &str) -> Error {
    about(ErrorKind::DeadlineExceeded, what)
}

fn sentence(kind: ErrorKind, what: &str) -> String {
    match kind {
        ErrorKind::NotFound => format!("there is no `{what}`"),
        ErrorKind::Denied => format!("access to `{what}` is refused"),
        ErrorKind::Unauthenticated => format!("`{what}` is refused to an unknown identity"),
        ErrorKind::Throttled { .. } => format!("`{what}` is refused for the number of requests"),
        ErrorKind::VersionDisabled => format!("`{what}` is deleted or destroyed"),
        ErrorKind::Conflict => format!("`{what}` was changed by somebody else"),
        ErrorKind::DeadlineExceeded => format!("`{what}` was not answered in time"),
        ErrorKind::Ambiguous => format!("whether `{what}` was changed is not known"),
        ErrorKind::Invalid => {
            format!("`{what}` is refused as malformed, or nothing is mounted there")
        }
        ErrorKind::Unsupported => format!("the server does not do this with `{what}`"),
        _ => format!("the server cannot be reached for `{what}`, or cannot answer now"),
    }
}

/// What the layer below said.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_from_statuses() {
        use ErrorKind::{
            Ambiguous, DeadlineExceeded, Denied, Invalid, NotFound, Throttled, Unauthenticated,
            Unavailable, Unsupported,
        };
        let wait = Some(Duration::from_secs(3));
        let own = |status| Seen::Status { status, retry_after: wait, own: true, explained: false };
        let said = |status| Seen::Status { status, retry_after: None, own: true, explained: true };
        let bare =
            |status| Seen::Status { status, retry_after: None, own: false, explained: false };
        let throttled = Throttled { retry_after: wait };
        for (seen, read, write) in [
            (own(404), NotFound, NotFound),
            (said(404), Invalid, Invalid),
            (bare(404), Unavailable, Unavailable),
            (said(400), Invalid, Invalid),
            (bare(413), Invalid, Invalid),
            (said(403), Denied, Denied),
            (bare(401), Unauthenticated, Unauthenticated),
            (said(405), Unsupported, Unsupported),
            (own(429), throttled, throttled),
            (said(503), Unavailable, Unavailable),
            (bare(503), Unavailable, Ambiguous),
            (own(307), Unavailable, Unavailable),
            (own(412), Unavailable, Unavailable),
            (own(472), Unavailable, Unavailable),
            (own(473), Unavailable, Unavailable),
            (said(500), Unavailable, Ambiguous),
            (bare(502), Unavailable, Ambiguous),
            (Seen::NoConnection, Unavailable, Unavailable),
            (Seen::NoRequest, Invalid, Invalid),
            (Seen::Timeout, DeadlineExceeded, Ambiguous),
            (Seen::Lost, Unavailable, Ambiguous),
            (Seen::Garbled, Unavailable, Ambiguous),
        ] {
            assert_eq!(seen.kind(Call::Read), read, "{seen:?}");
            assert_eq!(seen.kind(Call::Once), read, "{seen:?}");
            let refused = matches!(seen, Seen::Status { status: 400, .. });
            let of_lease = if refused { Unavailable } else { read };
            assert_eq!(seen.kind(Call::OfLease), of_lease, "{seen:?}");
            assert_eq!(seen.kind(Call::Write), write, "{seen:?}");
            assert_eq!(seen.kind(Call::WriteOfValue), write, "{seen:?}");
        }
    }

    #[test]
    fn what_could_quote_a_value_is_not_quoted() {
        let seen = Seen::Status { status: 400, retry_after: None, own: true, explained: true };
        let said = ["bad:\n\t* canary".to_owned()];
        let error = failed(seen, Call::WriteOfValue, "s", &said);
        assert!(!format!("{error:?} {}", error.chain()).contains("canary"));
        let error = failed(seen, Call::Read, "s", &said);
        assert!(error.chain().ends_with("400: bad: * canary"), "{}", error.chain());
    }
}
