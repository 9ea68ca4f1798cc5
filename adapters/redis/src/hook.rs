//! How a generation is built, proven and ended.

use std::fmt;
use std::sync::Arc;

use oneiric_core::{AdapterId, HookError, ManagedHook, SecretRef, SecretSet, Version};
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo};

use crate::error::Trouble;
use crate::login::{Login, Server};
use crate::mark::mark;
use crate::shared::Redis;

/// A connection to Redis in the making.
///
/// ```no_run
/// use oneiric_adapter_redis::RedisConnection;
/// use redis::IntoConnectionInfo as _;
///
/// let server = "redis://shop@cache.internal/".into_connection_info()?;
/// let hook = RedisConnection::new(server, "vault:cache#password".parse()?)
///     .proof(redis::cmd("GET").arg("greeting").to_owned())
///     .into_hook("cache".parse()?);
/// # let _ = hook;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Connections
/// One per generation that all requests share, by [`acquire`](crate::acquire), and those that are
/// [`dedicated`](crate::dedicated) to one user. Between a prepare and the end of the old generation
/// there is one more. They speak RESP3, so the server is Redis 6 or newer, which ACLs need as well.
///
/// # What draining waits for
/// For the last [`Lease`](crate::Lease), whose connection is closed then, and until every dedicated
/// connection was authenticated anew. At the deadline both are closed, whatever is under way on
/// them, and reported as *forced*; a lease that somebody does not let go of after that is *leaked*,
/// though nothing can be done with it any more.
///
/// An encrypted connection needs one of the driver's TLS features in your own `Cargo.toml`, and an
/// address with `rediss://`.
#[must_use]
pub struct RedisConnection {
    server: Server,
    user: Option<SecretRef>,
    password: SecretRef,
    proof: Option<Cmd>,
}

impl RedisConnection {
    /// A connection to this server, with this secret as password. The user is the one that the
    /// address names, or `default`; a password in the address is replaced.
    pub fn new(server: ConnectionInfo, password: SecretRef) -> Self {
        Self { server: Server::new(server), user: None, password, proof: None }
    }

    /// The user is a secret, too. Two fields of one secret change together, so prefer them over
    /// two secrets.
    pub fn user(mut self, user: SecretRef) -> Self {
        self.user = Some(user);
        self
    }

    /// How connections are timed and buffered. Unless it is said, one may take 10 s to be there, and
    /// an answer as long as the driver allows. Whoever is to receive what the server pushes is not
    /// asked: see [`Dedicated::message`](crate::Dedicated::message).
    pub fn connection_config(mut self, config: AsyncConnectionConfig) -> Self {
        self.server.config = config;
        self
    }

    /// The command that proves a login on a fresh connection, `PING` by default. It must be
    /// harmless. One that reads a key of the application also proves that the user has its rights.
    pub fn proof(mut self, command: Cmd) -> Self {
        self.proof = Some(command);
        self
    }

    /// The adapter.
    ///
    /// # Errors
    /// Its `prepare` is *refused* where the server does not accept the login (`WRONGPASS`,
    /// `NOAUTH`) or the user may not run the proof that you have named (`NOPERM`), and *failed* for
    /// everything else. Neither shows more of what the server said than its code.
    pub fn into_hook(self, id: AdapterId) -> ManagedHook<Redis> {
        let secrets: Vec<_> = self.user.iter().chain([&self.password]).cloned().collect();
        let (server, config) = (Arc::new(self.server.clone()), Arc::new(self));
        let adapter = id.clone();
        ManagedHook::new(id, secrets, move |secrets| {
            let (server, config, adapter) =
                (Arc::clone(&server), Arc::clone(&config), adapter.clone());
            async move { build(server, &config, &adapter, &secrets).await }
        })
        .close(|redis: Arc<Redis>| async move { redis.close().await })
    }
}

impl fmt::Debug for RedisConnection {
    /// Without the address and the proof, which may hold what nobody is to read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConnection")
            .field("user", &self.user)
            .field("password", &self.password)
            .finish_non_exhaustive()
    }
}

/// The connection that proves the login is the one that serves.
async fn build(
    server: Arc<Server>,
    config: &RedisConnection,
    adapter: &AdapterId,
    secrets: &SecretSet,
) -> Result<Redis, HookError> {
    let user = match &config.user {
        Some(reference) => text(secrets, reference)?,
        None => server.user(),
    };
    text(secrets, &config.password)?;
    let password = secrets.get(&config.password).cloned();
    let login = Login {
        user: user.to_owned(),
        password: password.expect("it was read as a text"),
        mark: mark(adapter, secrets.version(&config.password).unwrap_or(&Version::numbered(0))),
    };
    let redis = Redis::new(server, login);
    prove(&redis, config.proof.as_ref()).await.map_err(|error| Trouble::from(&error).of_proof())?;
    Ok(redis)
}

async fn prove(redis: &Redis, command: Option<&Cmd>) -> redis::RedisResult<()> {
    let mut connection = redis.link().await?.patient();
    match command {
        Some(command) => command.exec_async(&mut connection).await,
        // A user without the right to ping has shown by this answer that he is let in.
        None => match redis::cmd("PING").exec_async(&mut connection).await {
            Err(error) if Trouble::from(&error).is_lack_of_rights() => Ok(()),
            answer => answer,
        },
    }
}

fn text<'a>(secrets: &'a SecretSet, reference: &SecretRef) -> Result<&'a str, HookError> {
    let text = secrets.get(reference).and_then(|value| value.expose_str());
    text.ok_or_else(|| HookError::failed(format!("`{reference}` is not a text")))
}
