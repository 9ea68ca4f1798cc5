//! What a driver's error says about a login, told without the driver's words: they may quote the
//! login, or the whole connection string.

use oneiric_core::HookError;

/// Insufficient privilege.
const NO_RIGHTS: &str = "42501";

/// What went wrong, as far as it may be told.
pub(crate) enum Trouble {
    /// The server answered with this SQLSTATE.
    Answered(String),
    /// It came to no answer, and why.
    Other(String),
}

impl Trouble {
    /// Whether the server did not accept the login, by the class "invalid authorization".
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Answered(code) if code.starts_with("28"))
    }

    /// Why a proof was not given.
    pub(crate) fn of_proof(self) -> HookError {
        match self {
            Self::Answered(code) if code.starts_with("28") => HookError::refused(format!(
                "PostgreSQL does not accept the login (SQLSTATE {code})"
            )),
            Self::Answered(code) if code == NO_RIGHTS => {
                HookError::refused(format!("the role may not run the proof (SQLSTATE {code})"))
            }
            other => HookError::failed(format!("PostgreSQL could not prove the login: {other}")),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(code) => write!(f, "it answered with SQLSTATE {code}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

pub(crate) fn no_answer() -> HookError {
    other("the server did not answer in time").of_proof()
}

fn other(why: &str) -> Trouble {
    Trouble::Other(why.to_owned())
}

fn io(error: &std::io::Error) -> Trouble {
    Trouble::Other(format!("the connection failed ({:?})", error.kind()))
}

#[cfg(feature = "sqlx")]
impl From<&sqlx::Error> for Trouble {
    fn from(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(reply) => match reply.code() {
                Some(code) => Self::Answered(code.into_owned()),
                None => other("it answered with an error without SQLSTATE"),
            },
            sqlx::Error::Io(error) => io(error),
            sqlx::Error::Tls(_) => other("the encrypted connection could not be set up"),
            sqlx::Error::PoolTimedOut => other("the server did not answer in time"),
            sqlx::Error::PoolClosed => other("the pool was closed"),
            sqlx::Error::Configuration(_) => other("the connection options do not fit together"),
            sqlx::Error::Protocol(_) => other("the server does not speak the expected protocol"),
            _ => other("the driver gave up"),
        }
    }
}

#[cfg(feature = "deadpool")]
impl From<&tokio_postgres::Error> for Trouble {
    fn from(error: &tokio_postgres::Error) -> Self {
        if let Some(code) = error.code() {
            return Self::Answered(code.code().to_owned());
        }
        if error.is_closed() {
            return other("the connection was closed");
        }
        let cause = std::error::Error::source(error);
        match cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
            Some(error) => io(error),
            None => other("the driver gave up"),
        }
    }
}

#[cfg(feature = "deadpool")]
impl From<&deadpool_postgres::PoolError> for Trouble {
    fn from(error: &deadpool_postgres::PoolError) -> Self {
        use deadpool_postgres::PoolError;
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(_) => other("the server did not answer in time"),
            PoolError::Closed => other("the pool was closed"),
            _ => other("the pool gave up"),
        }
    }
}
