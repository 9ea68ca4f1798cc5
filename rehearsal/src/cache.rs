//! A private Redis with one user, whose password an operator replaces.

use std::collections::HashMap;
use std::time::Duration;

use oneiric_adapter_redis::{AclError, AclUser, NewPassword};
use oneiric_core::SecretValue;
use oneiric_testkit::live::Redis;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

pub(crate) const USER: &str = "shop";
/// How long the server may take to forget a connection that its client has closed.
const FORGET: Duration = Duration::from_secs(5);
/// Longer than the server ever takes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, and who may change its user.
pub(crate) struct Cache {
    server: Redis,
    admin: MultiplexedConnection,
    user: AclUser,
}

impl Cache {
    /// Starts it with a user that has this password.
    pub(crate) async fn start(password: &str) -> Result<Self, String> {
        let server = block_in_place(Redis::start)?;
        let admin = address(&server, "admin", Some(server.admin_password()))?;
        let user = AclUser::new(admin.clone(), USER);
        let cache = Self { admin: connect(admin).await?, user, server };
        let rights = ["on", "~*", "&*", "+@all", "-@admin", "-@dangerous"];
        let user = &mut redis::cmd("ACL");
        user.arg("SETUSER").arg(USER).arg(format!(">{password}")).arg(&rights);
        cache.ask::<()>(user).await?;
        Ok(cache)
    }

    /// Where the user logs in.
    pub(crate) fn address(&self) -> Result<ConnectionInfo, String> {
        address(&self.server, USER, None)
    }

    pub(crate) fn login(&self, password: &str) -> Result<ConnectionInfo, String> {
        address(&self.server, USER, Some(password))
    }

    /// A second password for the user.
    pub(crate) async fn add(&self) -> Result<NewPassword, String> {
        self.user.add().await.map_err(|error| error.to_string())
    }

    /// Takes every other password from the user, as soon as the server shows nobody who needs one,
    /// and answers with how many it shows after all.
    pub(crate) async fn keep_only(
        &self,
        password: &SecretValue,
        version: &str,
    ) -> Result<u64, String> {
        let until = Instant::now() + FORGET;
        loop {
            match self.user.keep_only(password, version).await {
                Ok(_) => return Ok(0),
                Err(AclError::InUse(holders)) if Instant::now() > until => {
                    let left = holders.old().len() + holders.unknown().len();
                    return Ok(left as u64);
                }
                Err(AclError::InUse(_)) => sleep(Duration::from_millis(5)).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Gives the user another password, whoever has the old one.
    pub(crate) async fn replace(&self, password: &str) -> Result<(), String> {
        let rules = ["resetpass".to_owned(), format!(">{password}")];
        self.ask(redis::cmd("ACL").arg("SETUSER").arg(USER).arg(&rules)).await
    }

    /// How many logins the server has refused since it was asked last.
    pub(crate) async fn refused_logins(&self) -> Result<u64, String> {
        let log: Vec<HashMap<String, redis::Value>> =
            self.ask(redis::cmd("ACL").arg("LOG")).await?;
        self.ask::<()>(redis::cmd("ACL").arg("LOG").arg("RESET")).await?;
        let text = |entry: &HashMap<String, redis::Value>, name: &str| {
            let value = entry.get(name).cloned().unwrap_or(redis::Value::Nil);
            redis::from_redis_value::<String>(value).unwrap_or_default()
        };
        let logins = log.iter().filter(|entry| text(entry, "reason") == "auth");
        Ok(logins.filter_map(|entry| text(entry, "count").parse::<u64>().ok()).sum())
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, String> {
        let mut admin = self.admin.clone();
        command.query_async(&mut admin).await.map_err(|error| format!("{USER}: {error}"))
    }
}

/// A plain connection.
pub(crate) async fn connect(address: ConnectionInfo) -> Result<MultiplexedConnection, String> {
    let client = redis::Client::open(address).map_err(|error| error.to_string())?;
    let connection = client.get_multiplexed_async_connection_with_config(&config()).await;
    connection.map_err(|error| format!("no connection: {error}"))
}

/// What the other scenarios have, too: nobody is given up because the machine is busy.
pub(crate) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
}

fn address(server: &Redis, user: &str, password: Option<&str>) -> Result<ConnectionInfo, String> {
    let address = ("127.0.0.1", server.port()).into_connection_info();
    let address = address.map_err(|error| error.to_string())?;
    let settings = address.redis_settings().clone().set_username(user);
    let settings = match password {
        Some(password) => settings.set_password(password),
        None => settings,
    };
    Ok(address.set_redis_settings(settings))
}
