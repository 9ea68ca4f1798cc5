//! Two roles of the server that alternate: the half of a rotation that is done at the server.

use std::fmt;

use futures_util::future::BoxFuture;
use oneiric_core::SecretValue;
use postgres_protocol::password::scram_sha_256;
use thiserror::Error;
use zeroize::Zeroizing;

/// How many random bytes a password is made of.
const RANDOM: usize = 32;

/// Two login roles with the same rights, through a group role that both are members of. One of
/// them serves; the other one is idle, gets a new password, and serves next. So the old and the
/// new login are both accepted for as long as anybody needs the old one.
///
/// ```no_run
/// # #[cfg(feature = "sqlx")]
/// # async fn example(admin: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use oneiric_adapter_postgres::TwoRoles;
///
/// let roles = TwoRoles::new("shop_a", "shop_b");
/// let next = roles.open(&admin, "shop_a").await?;
/// // Put `next.secret()` into the store, and rotate. When that is done everywhere:
/// roles.close(&admin, "shop_a").await?;
/// # Ok(())
/// # }
/// ```
///
/// # Rights
/// The administrator needs `CREATEROLE` and the `ADMIN` option on both roles, and a server that
/// keeps passwords as `scram-sha-256`. The roles must exist.
///
/// # Passwords
/// They are made here, of 256 random bits. The server is not told a password but what it keeps of
/// it, so that none is in a statement, and so in no log of the server or of a driver.
///
/// # Concurrency
/// One rotation at a time: two that open the same role overwrite each other's password.
#[derive(Debug, Clone)]
pub struct TwoRoles {
    roles: [String; 2],
}

impl TwoRoles {
    /// The two, by their names as the server has them.
    pub fn new(one: impl Into<String>, other: impl Into<String>) -> Self {
        Self { roles: [one.into(), other.into()] }
    }

    /// Gives the role that is not `serving` a new password and lets it log in. `serving` is the
    /// one that the store has now; to begin with, the one that is to come second.
    ///
    /// # Errors
    /// [`RoleError`]; above all [`InUse`](RoleError::InUse), and then nothing has changed: somebody
    /// still uses the role from its last time, and would not be able to connect anew.
    ///
    /// # Cancellation
    /// Whether the role has a new password is not known then. It is idle, so open it again.
    pub async fn open(
        &self,
        admin: &impl Administrator,
        serving: &str,
    ) -> Result<NewLogin, RoleError> {
        let idle = match self.one(serving)? {
            0 => &self.roles[1],
            _ => &self.roles[0],
        };
        self.unused(admin, idle).await?;
        let password = password()?;
        let verifier = scram_sha_256(password.as_bytes());
        let statement = format!("ALTER ROLE {} LOGIN PASSWORD '{verifier}'", quoted(idle));
        admin.run(statement).await?;
        Ok(NewLogin { user: idle.clone(), password: SecretValue::from(password.as_bytes()) })
    }

    /// Lets a role log in no more, once the server has no session of it. No session is ended.
    ///
    /// # Errors
    /// [`RoleError`]; above all [`InUse`](RoleError::InUse), and then the role may log in as
    /// before: try again later.
    ///
    /// # Cancellation
    /// The role may be closed then, with a session that came in between; call it again.
    pub async fn close(&self, admin: &impl Administrator, retired: &str) -> Result<(), RoleError> {
        let role = &self.roles[self.one(retired)?];
        self.unused(admin, role).await?;
        admin.run(format!("ALTER ROLE {} NOLOGIN", quoted(role))).await?;
        // One may have come in between.
        let unused = self.unused(admin, role).await;
        if unused.is_err() {
            admin.run(format!("ALTER ROLE {} LOGIN", quoted(role))).await?;
        }
        unused
    }

    /// How many sessions the server has of a role, whoever has opened them.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn sessions(&self, admin: &impl Administrator, role: &str) -> Result<u64, RoleError> {
        admin.sessions(&self.roles[self.one(role)?]).await
    }

    fn one(&self, role: &str) -> Result<usize, RoleError> {
        let at = self.roles.iter().position(|of| of == role);
        at.ok_or_else(|| RoleError::Unknown { role: role.to_owned() })
    }

    async fn unused(&self, admin: &impl Administrator, role: &str) -> Result<(), RoleError> {
        match admin.sessions(role).await? {
            0 => Ok(()),
            sessions => Err(RoleError::InUse { role: role.to_owned(), sessions }),
        }
    }
}

/// A role with its new password, for the store.
#[derive(Clone)]
pub struct NewLogin {
    user: String,
    password: SecretValue,
}

impl NewLogin {
    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its password, of letters and digits.
    pub fn password(&self) -> &SecretValue {
        &self.password
    }

    /// Both as one secret, so that they change together: `{"user": "…", "password": "…"}`.
    pub fn secret(&self) -> SecretValue {
        let password = self.password.expose_str().expect("it was made of letters and digits");
        let user = serde_json::Value::from(self.user.as_str());
        let secret = Zeroizing::new(format!(r#"{{"user":{user},"password":"{password}"}}"#));
        SecretValue::from(secret.as_bytes())
    }
}

impl fmt::Debug for NewLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why the roles are as they were.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RoleError {
    /// It is none of the two.
    #[error("`{role}` is none of the two roles")]
    Unknown {
        /// The name that was given.
        role: String,
    },
    /// The server has sessions of it.
    #[error("the server has {sessions} sessions of `{role}`")]
    InUse {
        /// Which role.
        role: String,
        /// How many of them.
        sessions: u64,
    },
    /// The server did not do it, or could not be asked. It says nothing of the statement.
    #[error("the roles could not be looked at or changed: {0}")]
    Server(String),
    /// There is no randomness to make a password of.
    #[error("the system has no randomness for a password")]
    NoRandomness,
}

/// Whose rights roles are changed with: a pool of either driver, logged in as an administrator.
/// Nobody else implements it.
pub trait Administrator: Admin {}

impl<A: Admin> Administrator for A {}

/// What is asked of an administrator. It cannot be named outside, so that it may change.
pub trait Admin: Send + Sync {
    /// Runs one statement.
    fn run(&self, statement: String) -> BoxFuture<'_, Result<(), RoleError>>;
    /// Counts the sessions of a role.
    fn sessions<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<u64, RoleError>>;
}

#[cfg(any(feature = "sqlx", feature = "deadpool"))]
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1::text";

#[cfg(any(feature = "sqlx", feature = "deadpool"))]
fn server(error: impl Into<crate::error::Trouble>) -> RoleError {
    RoleError::Server(error.into().to_string())
}

#[cfg(feature = "sqlx")]
impl Admin for sqlx::PgPool {
    fn run(&self, statement: String) -> BoxFuture<'_, Result<(), RoleError>> {
        Box::pin(async move {
            let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(self).await;
            ran.map(drop).map_err(|error| server(&error))
        })
    }

    fn sessions<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<u64, RoleError>> {
        Box::pin(async move {
            let count = sqlx::query_scalar::<_, i64>(SESSIONS).bind(role).fetch_one(self).await;
            count.map(i64::unsigned_abs).map_err(|error| server(&error))
        })
    }
}

#[cfg(feature = "deadpool")]
impl Admin for deadpool_postgres::Pool {
    fn run(&self, statement: String) -> BoxFuture<'_, Result<(), RoleError>> {
        Box::pin(async move {
            let client = self.get().await.map_err(|error| server(&error))?;
            client.batch_execute(&statement).await.map_err(|error| server(&error))
        })
    }

    fn sessions<'a>(&'a self, role: &'a str) -> BoxFuture<'a, Result<u64, RoleError>> {
        Box::pin(async move {
            let client = self.get().await.map_err(|error| server(&error))?;
            let row = client.query_one(SESSIONS, &[&role]).await;
            row.map(|row| row.get::<_, i64>(0).unsigned_abs()).map_err(|error| server(&error))
        })
    }
}

/// A name as an identifier, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Letters and digits, which no format and no shell of the way between must escape.
fn password() -> Result<Zeroizing<String>, RoleError> {
    let mut random = Zeroizing::new([0; RANDOM]);
    getrandom::fill(&mut *random).map_err(|_| RoleError::NoRandomness)?;
    let mut password = Zeroizing::new(String::with_capacity(2 * RANDOM));
    for byte in *random {
        use fmt::Write as _;
        write!(password, "{byte:02x}").expect("a string takes any text");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_name_is_quoted_whatever_is_in_it() {
        assert_eq!(quoted("shop_a"), r#""shop_a""#);
        assert_eq!(quoted(r#"a"; DROP TABLE b"#), r#""a""; DROP TABLE b""#);
    }

    /// A server that has a session from the second look on, and what it was told.
    #[derive(Default)]
    struct Busy(Mutex<Vec<String>>);

    impl Admin for Busy {
        fn run(&self, statement: String) -> BoxFuture<'_, Result<(), RoleError>> {
            self.0.lock().unwrap().push(statement);
            Box::pin(async { Ok(()) })
        }

        fn sessions<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<u64, RoleError>> {
            let told = u64::try_from(self.0.lock().unwrap().len()).unwrap();
            Box::pin(async move { Ok(told) })
        }
    }

    #[tokio::test]
    async fn a_session_that_comes_in_between_keeps_its_role_open() {
        let (roles, server) = (TwoRoles::new("a", "b"), Busy::default());
        let error = roles.close(&server, "a").await.unwrap_err();
        assert_eq!(error, RoleError::InUse { role: "a".into(), sessions: 1 });
        let told = server.0.into_inner().unwrap();
        assert_eq!(told, [r#"ALTER ROLE "a" NOLOGIN"#, r#"ALTER ROLE "a" LOGIN"#]);
    }

    #[tokio::test]
    async fn a_role_that_is_in_use_is_not_touched() {
        let earlier = vec!["whatever it was told earlier".to_owned()];
        let (roles, server) = (TwoRoles::new("a", "b"), Busy(earlier.clone().into()));
        roles.close(&server, "a").await.unwrap_err();
        roles.open(&server, "b").await.unwrap_err();
        assert_eq!(server.0.into_inner().unwrap(), earlier);
    }

    #[test]
    fn no_two_passwords_are_the_same_and_none_is_printed() {
        let (one, other) = (password().unwrap(), password().unwrap());
        assert!(one.len() == 64 && *one != *other);
        let login = NewLogin { user: r#"a"b"#.into(), password: SecretValue::from(one.as_bytes()) };
        assert!(!format!("{login:?}").contains(one.as_str()));
        let secret = login.secret();
        let secret: serde_json::Value = serde_json::from_slice(secret.expose()).unwrap();
        assert_eq!(secret, serde_json::json!({ "user": r#"a"b"#, "password": *one }));
    }
}
