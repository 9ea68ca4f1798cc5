//! What a driver's error says about a login, told without the driver's words: they may quote what
//! the server said, and that what it was sent.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use oneiric_core::HookError;
use redis::{ErrorKind, RedisError, Value};

/// The login is not accepted, or was never accepted on this connection.
const REFUSALS: [&str; 2] = ["WRONGPASS", "NOAUTH"];
/// The user may not run this command.
const NO_RIGHTS: &str = "NOPERM";

type Shared = Arc<dyn std::error::Error + Send + Sync>;

/// What went wrong, as far as it may be told.
pub(crate) enum Trouble {
    /// The server answered with this code.
    Answered(String),
    /// It came to no answer, and why.
    Other(String),
}

impl Trouble {
    /// Whether the server did not accept the login. Any other answer, such as that it is loading or
    /// has too many clients, says nothing of it.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Answered(code) if REFUSALS.contains(&code.as_str()))
    }

    /// Whether the server knew who asks, and did not let him.
    pub(crate) fn is_lack_of_rights(&self) -> bool {
        matches!(self, Self::Answered(code) if code == NO_RIGHTS)
    }

    /// Why a proof was not given.
    pub(crate) fn of_proof(self) -> HookError {
        match self {
            Self::Answered(code) if REFUSALS.contains(&code.as_str()) => {
                HookError::refused(format!("Redis does not accept the login ({code})"))
            }
            Self::Answered(code) if code == NO_RIGHTS => {
                HookError::refused(format!("the user may not run the proof ({code})"))
            }
            other => HookError::failed(format!("Redis could not prove the login: {other}")),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(code) => write!(f, "it answered with {code}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl From<&RedisError> for Trouble {
    fn from(error: &RedisError) -> Self {
        if let Some(code) = error.code() {
            return Self::Answered(code.to_owned());
        }
        let other = |why: &str| Self::Other(why.to_owned());
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => other("the server did not answer in time"),
            ErrorKind::Io => {
                // The driver shares its causes, so that its errors can be cloned.
                let shared = error.source().and_then(|cause| cause.downcast_ref::<Shared>());
                let io = shared.and_then(|cause| cause.downcast_ref::<io::Error>());
                Self::Other(match io {
                    Some(error) => format!("the connection failed ({:?})", error.kind()),
                    None => "the connection failed".to_owned(),
                })
            }
            ErrorKind::InvalidClientConfig => other("the address cannot be used"),
            ErrorKind::RESP3NotSupported => other("the server is older than Redis 6"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                other("the server does not speak the expected protocol")
            }
            _ => other("the driver gave up"),
        }
    }
}

/// Whether a request was answered by a refusal of the login: as an error, or as a value that the
/// driver makes an error of later.
pub(crate) fn refuses(answer: &Result<Value, RedisError>) -> bool {
    match answer {
        Ok(value) => refuses_in(value),
        Err(error) => Trouble::from(error).is_refusal(),
    }
}

/// The same of one value among those of a pipeline.
pub(crate) fn refuses_in(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if REFUSALS.contains(&error.code()))
}

/// The error of a connection that was ended from here.
pub(crate) fn ended() -> RedisError {
    io::Error::new(io::ErrorKind::BrokenPipe, "the generation of the connection has ended").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), Some("hunter2 was sent".to_owned()))
    }

    #[test]
    fn only_what_the_server_says_of_the_login_is_a_refusal() {
        for code in ["WRONGPASS", "NOAUTH"] {
            assert!(Trouble::from(&answered(code)).of_proof().is_refused(), "{code}");
            assert!(refuses(&Err(answered(code))), "{code}");
        }
        let rights = Trouble::from(&answered("NOPERM"));
        assert!(rights.is_lack_of_rights() && !rights.is_refusal());
        assert!(rights.of_proof().is_refused());
        for code in ["LOADING", "ERR", "MASTERDOWN", "BUSY", "DENIED", "OOM"] {
            let trouble = Trouble::from(&answered(code));
            assert!(!trouble.is_refusal() && !trouble.of_proof().is_refused(), "{code}");
        }
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused] {
            let error = RedisError::from(io::Error::from(kind));
            assert!(!Trouble::from(&error).of_proof().is_refused(), "{kind:?}");
            assert!(!refuses(&Err(error)));
        }
    }

    #[test]
    fn nothing_of_what_the_server_says_is_repeated_but_its_code() {
        let said = Trouble::from(&answered("WRONGPASS")).of_proof().to_string();
        assert_eq!(said, "Redis does not accept the login (WRONGPASS)");
        let said = Trouble::from(&answered("LOADING")).to_string();
        assert_eq!(said, "it answered with LOADING");
    }
}
