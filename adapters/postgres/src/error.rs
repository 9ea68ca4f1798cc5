//! What a driver's error says about a login, told without the driver's words: they may quote the
//! login, or the whole connection string.

use oneiric_core::HookError;

/// Insufficient privilege.
const NO_RIGHTS: &str = "42501";

pub(crate) fn refusal(error: &sqlx::Error) -> HookError {
    match error {
        sqlx::Error::Database(reply) => from_server(reply.code().as_deref()),
        sqlx::Error::Io(error) => failed(&format!("the connection failed ({:?})", error.kind())),
        sqlx::Error::Tls(_) => failed("the encrypted connection could not be set up"),
        sqlx::Error::PoolTimedOut => no_answer(),
        sqlx::Error::Configuration(_) => failed("the connection options do not fit together"),
        sqlx::Error::Protocol(_) => failed("the server does not speak the expected protocol"),
        _ => failed("the driver gave up"),
    }
}

pub(crate) fn no_answer() -> HookError {
    failed("the server did not answer in time")
}

fn failed(why: &str) -> HookError {
    HookError::failed(format!("PostgreSQL could not prove the login: {why}"))
}

fn from_server(sqlstate: Option<&str>) -> HookError {
    match sqlstate {
        Some(code) if code.starts_with("28") => {
            HookError::refused(format!("PostgreSQL does not accept the login (SQLSTATE {code})"))
        }
        Some(NO_RIGHTS) => {
            HookError::refused("the role may not run the proof (SQLSTATE 42501)".to_owned())
        }
        Some(code) => failed(&format!("it answered with SQLSTATE {code}")),
        None => failed("it answered with an error without SQLSTATE"),
    }
}
