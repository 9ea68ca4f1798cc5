//! A private PostgreSQL with two roles that alternate, and one table that they may read.

use std::time::Duration;

use oneiric_adapter_postgres::{NewLogin, RoleError, TwoRoles};
use oneiric_testkit::live::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

pub(crate) const ROLES: [&str; 2] = ["app_a", "app_b"];
/// What the service asks for.
pub(crate) const QUERY: &str = "SELECT text FROM greetings";
/// How long the server may take to forget a connection that its client has closed.
const FORGET: Duration = Duration::from_secs(5);

/// The server, and who may change roles.
pub(crate) struct Database {
    pub(crate) server: Postgres,
    admin: PgPool,
    roles: TwoRoles,
}

impl Database {
    pub(crate) fn start() -> Result<Self, String> {
        let server = block_in_place(Postgres::start)?;
        let options = address(server.port()).username("admin").password(server.admin_password());
        let admin = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let database = Self { server, admin, roles: TwoRoles::new(ROLES[0], ROLES[1]) };
        database
            .sql("CREATE TABLE greetings (text text); INSERT INTO greetings VALUES ('hello')")?;
        for role in ROLES {
            database
                .sql(&format!("CREATE ROLE {role} NOLOGIN; GRANT SELECT ON greetings TO {role}"))?;
        }
        Ok(database)
    }

    pub(crate) fn sql(&self, statements: &str) -> Result<String, String> {
        block_in_place(|| self.server.psql(statements))
    }

    /// Opens the role that does not serve under a new password.
    pub(crate) async fn open(&self, serving: &str) -> Result<NewLogin, String> {
        self.roles.open(&self.admin, serving).await.map_err(|error| error.to_string())
    }

    /// Closes a role that no adapter uses, and answers with how many sessions of it are left
    /// nevertheless.
    pub(crate) async fn close(&self, role: &str) -> Result<u64, String> {
        let until = Instant::now() + FORGET;
        loop {
            match self.roles.close(&self.admin, role).await {
                Ok(()) => return Ok(0),
                Err(RoleError::InUse { sessions, .. }) if Instant::now() > until => {
                    return Ok(sessions);
                }
                Err(RoleError::InUse { .. }) => sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Closes a role, whoever uses it, and answers with how many sessions of it there are.
    pub(crate) fn close_at_once(&self, role: &str) -> Result<u64, String> {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
        let answer = self.sql(&format!("ALTER ROLE {role} NOLOGIN; {count}"))?;
        answer.trim().parse().map_err(|_| format!("`{answer}` is not a number of sessions"))
    }

    /// How many sessions there are of roles that exist no more.
    #[cfg(feature = "postgres-vault")]
    pub(crate) fn orphans(&self) -> Result<u64, String> {
        let count = "SELECT count(*) FROM pg_stat_activity \
                     WHERE usesysid IS NOT NULL AND usename IS NULL";
        let answer = self.sql(count)?;
        answer.trim().parse().map_err(|_| format!("`{answer}` is not a number of sessions"))
    }

    pub(crate) fn address(&self) -> PgConnectOptions {
        address(self.server.port())
    }
}

fn address(port: u16) -> PgConnectOptions {
    PgConnectOptions::new().host("127.0.0.1").port(port).database("postgres")
}
