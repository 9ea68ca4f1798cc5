//! How connections are logged in, when they are opened and again while they live.

use std::collections::HashMap;
use std::time::Duration;

use oneiric_core::SecretValue;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
    RedisResult, Value,
};

/// How long a connection may take to be there, and how long the server to answer what is said to
/// it for a login, unless it is said.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

/// Where the server is, and how it is talked to.
#[derive(Clone)]
pub(crate) struct Server {
    info: ConnectionInfo,
    pub(crate) config: AsyncConnectionConfig,
}

impl Server {
    /// RESP3 it is, whatever the address says: with it a connection that has subscribed takes
    /// other commands as well, so that it can be authenticated anew.
    pub(crate) fn new(info: ConnectionInfo) -> Self {
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(WITHIN));
        Self { info: info.set_redis_settings(settings), config }
    }

    /// The user that the address names, or the one that every server has.
    pub(crate) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }

    /// The address with a login.
    pub(crate) fn with(&self, login: &Login) -> RedisResult<ConnectionInfo> {
        let password = login.password.expose_str().unwrap_or_default();
        let settings = self.info.redis_settings().clone();
        let settings = settings.set_username(&login.user).set_password(password);
        self.info.clone().set_redis_settings(settings).into_connection_info()
    }

    /// The address as it was given.
    pub(crate) fn as_given(&self) -> &ConnectionInfo {
        &self.info
    }
}

/// Who a connection is for the server.
pub(crate) struct Login {
    pub(crate) user: String,
    /// It is a text.
    pub(crate) password: SecretValue,
    /// The name of its connections.
    pub(crate) mark: String,
}

impl Login {
    /// Authenticates a connection and names it, in one step that needs no rights, and answers with
    /// its number at the server. On a connection that lives nothing else changes, and where it is
    /// refused, nothing at all.
    ///
    /// # Cancellation
    /// Whether it was done is not known then.
    pub(crate) async fn greet(&self, connection: &mut MultiplexedConnection) -> RedisResult<u64> {
        let mut hello = redis::cmd("HELLO");
        hello.arg(3).arg("AUTH").arg(&self.user).arg(self.password.expose());
        hello.arg("SETNAME").arg(&self.mark);
        let answer: HashMap<String, Value> = hello.query_async(connection).await?;
        let number = answer.get("id").cloned().map(redis::from_redis_value::<u64>);
        match number {
            Some(Ok(number)) => Ok(number),
            _ => Err(RedisError::from((redis::ErrorKind::UnexpectedReturnType, "no id"))),
        }
    }
}
