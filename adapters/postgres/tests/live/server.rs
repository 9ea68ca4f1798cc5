//! The server, and logins for it.

use std::time::Duration;

use oneiric_core::{SecretRef, SecretSet, SecretValue, Version};
use oneiric_testkit::live::{Postgres, require};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

pub(crate) fn user() -> SecretRef {
    "files:db#user".parse().unwrap()
}

pub(crate) fn password() -> SecretRef {
    "files:db#password".parse().unwrap()
}

pub(crate) fn login(name: &str, secret: &str) -> SecretSet {
    let part = |reference, value: &str| (reference, SecretValue::from(value), Version::numbered(1));
    SecretSet::new([part(user(), name), part(password(), secret)])
}

/// The server, or `None` with a loud word where it cannot be had.
pub(crate) fn server() -> Option<Postgres> {
    match block_in_place(Postgres::start) {
        Ok(server) => Some(server),
        Err(why) => {
            require("postgres", &why);
            None
        }
    }
}

/// The same with two roles, `app_a` and `app_b`, whose passwords are `a` and `b`.
pub(crate) fn with_roles() -> Option<Postgres> {
    let server = server()?;
    sql(&server, "CREATE ROLE app_a LOGIN PASSWORD 'a'; CREATE ROLE app_b LOGIN PASSWORD 'b'");
    Some(server)
}

pub(crate) fn sql(server: &Postgres, statement: &str) -> String {
    block_in_place(|| server.psql(statement)).unwrap()
}

pub(crate) fn sessions(server: &Postgres, role: &str) -> usize {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    sql(server, &count).parse().unwrap()
}

/// Waits until the server has forgotten every session of a role: it does so a moment after the
/// client closed them.
pub(crate) async fn until_gone(server: &Postgres, role: &str) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while sessions(server, role) > 0 {
        assert!(Instant::now() < give_up, "sessions of {role} remain");
        sleep(Duration::from_millis(20)).await;
    }
}
