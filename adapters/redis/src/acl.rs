//! One user of the server that has two passwords for a while: the half of a rotation that is done
//! at the server.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use oneiric_core::SecretValue;
use redis::{Cmd, ConnectionInfo, FromRedisValue, RedisError, Value};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::error::Trouble;
use crate::link::{Link, Sessions};
use crate::login::{Login, Server, WITHIN};
use crate::mark::is_of;

/// How many random bytes a password is made of.
const RANDOM: usize = 32;

/// A user of one server whose password is replaced: it gets a second one, which serves next, and
/// loses the first one when no connection is left that was authenticated with it. Redis lets a
/// connection live on when its password is removed, so that is looked at before.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use oneiric_adapter_redis::AclUser;
/// use redis::IntoConnectionInfo as _;
///
/// let admin = "redis://admin:its-password@cache.internal/".into_connection_info()?;
/// let user = AclUser::new(admin, "shop");
/// let next = user.add().await?;
/// // Put `next.password()` into the store, and rotate. When that is done everywhere, with the
/// // version that the report of the rotation names:
/// user.keep_only(next.password(), "7").await?;
/// user.save().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Rights
/// The administrator needs `+acl +client|list`, and `+config` or an ACL file to
/// [`save`](Self::save).
///
/// # Passwords
/// They are made here, of 256 random bits. The server is told what it keeps of one, its SHA-256, so
/// that none is in a command but to log in with it.
///
/// # Several servers
/// Neither replicas nor other nodes of a cluster learn of an ACL: each has an `AclUser` of its own.
///
/// # Concurrency
/// One rotation at a time. Two that add a password at the same time may both do so.
pub struct AclUser {
    admin: Server,
    name: String,
}

impl AclUser {
    /// This user of this server, which is logged into as the address says.
    pub fn new(admin: ConnectionInfo, name: impl Into<String>) -> Self {
        Self { admin: Server::new(admin), name: name.into() }
    }

    /// Gives the user a new password beside the one that it has, and logs in with it.
    ///
    /// # Errors
    /// [`AclError`]; above all [`Unfinished`](AclError::Unfinished), and then nothing has changed:
    /// an earlier rotation has not come to its end.
    ///
    /// # Cancellation
    /// The user may have a password then that nobody knows: [`keep_only`](Self::keep_only) removes
    /// it.
    pub async fn add(&self) -> Result<NewPassword, AclError> {
        let before = self.passwords().await?;
        if before.len() != 1 {
            return Err(AclError::Unfinished { passwords: before.len() });
        }
        let password = random()?;
        let kept = kept_of(password.as_bytes());
        self.change(&format!("#{kept}")).await?;
        let new = NewPassword(SecretValue::from(password.as_bytes()));
        if let Err(error) = self.check(&new.0).await {
            self.change(&format!("!{kept}")).await?;
            return Err(error);
        }
        Ok(new)
    }

    /// Logs in as the user over a fresh connection.
    ///
    /// # Errors
    /// [`AclError::NotAccepted`], or that the server cannot be asked.
    pub async fn check(&self, password: &SecretValue) -> Result<(), AclError> {
        let login = Login {
            user: self.name.clone(),
            password: password.clone(),
            mark: "oneiric-check".to_owned(),
        };
        let sessions = Arc::<Sessions>::default();
        let tried = Link::open(&self.admin, &login, &sessions, None).await.map(drop);
        sessions.ended().await;
        tried.map_err(|error| match Trouble::from(&error) {
            trouble if trouble.is_refusal() => AclError::NotAccepted { user: self.name.clone() },
            trouble => AclError::Server(trouble.to_string()),
        })
    }

    /// Which connections the server has of the user, and which of them were authenticated with this
    /// version of its password, by what they are called. See [`Holders`].
    ///
    /// # Errors
    /// [`AclError::Server`].
    pub async fn holders(&self, version: &str) -> Result<Holders, AclError> {
        let list: String = self.ask(redis::cmd("CLIENT").arg("LIST")).await?;
        let clients = list.lines().filter_map(Client::parse);
        Ok(Holders::among(clients.filter(|client| client.user == self.name), version))
    }

    /// Removes every password of the user but this one, which has this version in the store, once
    /// every connection of the user was authenticated with it.
    ///
    /// # Errors
    /// [`AclError`]; above all [`InUse`](AclError::InUse), and then the user has the passwords that
    /// it had: try again later, or see to the connections that it names.
    ///
    /// # Cancellation
    /// The others may be removed then, with a connection that came in between; call it again.
    pub async fn keep_only(
        &self,
        password: &SecretValue,
        version: &str,
    ) -> Result<Holders, AclError> {
        let kept = kept_of(password.expose());
        let mut others = self.passwords().await?;
        let before = others.len();
        others.retain(|other| *other != kept);
        if others.len() == before {
            return Err(AclError::NotAccepted { user: self.name.clone() });
        }
        self.unused(version).await?;
        for other in &others {
            self.change(&format!("!{other}")).await?;
        }
        // One may have come in between.
        let unused = self.unused(version).await;
        if unused.is_err() {
            for other in &others {
                self.change(&format!("#{other}")).await?;
            }
        }
        unused
    }

    /// Writes down what the server knows of its users, so that it is known after a restart: into
    /// its ACL file where it has one, otherwise into its configuration.
    ///
    /// # Errors
    /// [`AclError::Server`], such as that it has neither.
    pub async fn save(&self) -> Result<(), AclError> {
        let settings: HashMap<String, String> =
            self.ask(redis::cmd("CONFIG").arg("GET").arg("aclfile")).await?;
        let in_a_file = settings.get("aclfile").is_some_and(|file| !file.is_empty());
        let mut save = if in_a_file { redis::cmd("ACL") } else { redis::cmd("CONFIG") };
        self.ask(save.arg(if in_a_file { "SAVE" } else { "REWRITE" })).await
    }

    async fn unused(&self, version: &str) -> Result<Holders, AclError> {
        let holders = self.holders(version).await?;
        if holders.is_clear() { Ok(holders) } else { Err(AclError::InUse(holders)) }
    }

    /// What the server keeps of the passwords of the user.
    async fn passwords(&self) -> Result<Vec<String>, AclError> {
        let user: Option<HashMap<String, Value>> =
            self.ask(redis::cmd("ACL").arg("GETUSER").arg(&self.name)).await?;
        let user = user.ok_or_else(|| AclError::Unknown { user: self.name.clone() })?;
        let part = |name: &str| {
            let part = user.get(name).cloned().unwrap_or(Value::Nil);
            Vec::<String>::from_redis_value(part).map_err(|_| unexpected())
        };
        if part("flags")?.iter().any(|flag| flag == "nopass") {
            return Err(AclError::AnyPassword { user: self.name.clone() });
        }
        part("passwords")
    }

    async fn change(&self, rule: &str) -> Result<(), AclError> {
        self.ask(redis::cmd("ACL").arg("SETUSER").arg(&self.name).arg(rule)).await
    }

    /// Asks over a connection of its own: what is asked is rare.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AclError> {
        let server = |error: &RedisError| AclError::Server(Trouble::from(error).to_string());
        let client = redis::Client::open(self.admin.as_given().clone());
        let client = client.map_err(|error| server(&error))?;
        let connection = client.get_multiplexed_async_connection_with_config(&self.admin.config);
        let mut connection = connection.await.map_err(|error| server(&error))?;
        connection.set_response_timeout(WITHIN);
        command.query_async(&mut connection).await.map_err(|error| server(&error))
    }
}

impl fmt::Debug for AclUser {
    /// Without the login of the administrator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AclUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A new password, for the store. It is of letters and digits, and the server accepts it.
#[derive(Clone, Debug)]
pub struct NewPassword(SecretValue);

impl NewPassword {
    /// It.
    pub fn password(&self) -> &SecretValue {
        &self.0
    }
}

/// The connections that the server has of a user, sorted by what can be known of them. The server
/// does not say which password a connection was authenticated with; an adapter of ours does, by the
/// name that it gives to its connection in the same step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    moved: Vec<Client>,
    old: Vec<Client>,
    unknown: Vec<Client>,
}

impl Holders {
    fn among(clients: impl Iterator<Item = Client>, version: &str) -> Self {
        let mut holders = Self::default();
        for client in clients {
            let of = match is_of(&client.name, version) {
                Some(true) => &mut holders.moved,
                Some(false) => &mut holders.old,
                None => &mut holders.unknown,
            };
            of.push(client);
        }
        holders
    }

    /// Connections of ours that were authenticated with the version in question.
    pub fn moved(&self) -> &[Client] {
        &self.moved
    }

    /// Connections of ours that were authenticated with another version.
    pub fn old(&self) -> &[Client] {
        &self.old
    }

    /// Connections of somebody else. What they were authenticated with is not known.
    pub fn unknown(&self) -> &[Client] {
        &self.unknown
    }

    /// Whether all of them have moved.
    pub fn is_clear(&self) -> bool {
        self.old.is_empty() && self.unknown.is_empty()
    }
}

/// A connection, as the server shows it in `CLIENT LIST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    id: u64,
    name: String,
    address: String,
    user: String,
}

impl Client {
    fn parse(line: &str) -> Option<Self> {
        let fields: HashMap<_, _> =
            line.split(' ').filter_map(|field| field.split_once('=')).collect();
        let field = |name| fields.get(name).map(|text: &&str| (*text).to_owned());
        Some(Self {
            id: fields.get("id")?.parse().ok()?,
            name: field("name")?,
            address: field("addr")?,
            user: field("user")?,
        })
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it calls itself; empty if it does not.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {} from {}", self.id, self.address)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " ({})", self.name) }
    }
}

/// Why the user has the passwords that it had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AclError {
    /// There is no such user.
    #[error("the server has no user `{user}`")]
    Unknown {
        /// The name that was given.
        user: String,
    },
    /// It is let in whatever it says, so that a first password would lock others out.
    #[error("`{user}` has no password and is let in with any")]
    AnyPassword {
        /// Which user.
        user: String,
    },
    /// A rotation begins with one password.
    #[error("the user has {passwords} passwords, and a rotation begins with one")]
    Unfinished {
        /// How many it has.
        passwords: usize,
    },
    /// The password is none of the user's, or the user is turned off.
    #[error("the server does not let `{user}` in with this password")]
    NotAccepted {
        /// Which user.
        user: String,
    },
    /// There are connections that may need another password.
    #[error("{}", in_use(.0))]
    InUse(Holders),
    /// The server did not do it, or could not be asked. It says nothing of the command.
    #[error("the user could not be looked at or changed: {0}")]
    Server(String),
    /// There is no randomness to make a password of.
    #[error("the system has no randomness for a password")]
    NoRandomness,
}

fn in_use(holders: &Holders) -> String {
    let (old, unknown) = (holders.old(), holders.unknown());
    let mut said = format!(
        "the server has {} connections with an older password and {} of unknown ones",
        old.len(),
        unknown.len()
    );
    for (at, client) in old.iter().chain(unknown).enumerate() {
        let before = if at == 0 { ": " } else { ", " };
        write!(said, "{before}{client}").expect("a string takes any text");
    }
    said
}

fn unexpected() -> AclError {
    AclError::Server("it answered with something else".to_owned())
}

/// What the server keeps of a password.
fn kept_of(password: &[u8]) -> String {
    hex(&Sha256::digest(password))
}

/// Letters and digits, which no format and no shell of the way between must escape.
fn random() -> Result<Zeroizing<String>, AclError> {
    let mut random = Zeroizing::new([0; RANDOM]);
    getrandom::fill(&mut *random).map_err(|_| AclError::NoRandomness)?;
    Ok(Zeroizing::new(hex(&*random)))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
id=4 addr=127.0.0.1:50 laddr=127.0.0.1:6379 fd=8 name=oneiric:cache:7 age=3 db=0 user=shop cmd=get
id=5 addr=127.0.0.1:51 laddr=127.0.0.1:6379 fd=9 name=oneiric:cache:6 age=3 db=0 user=shop cmd=get
id=6 addr=127.0.0.1:52 laddr=127.0.0.1:6379 fd=10 name= age=3 db=0 user=shop cmd=blpop
id=7 addr=127.0.0.1:53 laddr=127.0.0.1:6379 fd=11 name= age=3 db=0 user=default cmd=ping";

    #[test]
    fn who_does_not_say_what_he_holds_is_counted_and_not_guessed() {
        let clients = LIST.lines().filter_map(Client::parse);
        let holders = Holders::among(clients.filter(|client| client.user == "shop"), "7");
        let ids = |clients: &[Client]| clients.iter().map(Client::id).collect::<Vec<_>>();
        assert_eq!((ids(holders.moved()), ids(holders.old())), (vec![4], vec![5]));
        assert_eq!(ids(holders.unknown()), [6]);
        assert!(!holders.is_clear());
        let said = AclError::InUse(holders).to_string();
        assert!(said.contains("1 connections with an older password and 1 of unknown"), "{said}");
        assert!(said.contains("id 5 from 127.0.0.1:51 (oneiric:cache:6), id 6 from"), "{said}");
    }

    #[test]
    fn only_those_that_have_moved_leave_it_clear() {
        let moved = LIST.lines().take(1).filter_map(Client::parse);
        assert!(Holders::among(moved, "7").is_clear());
        assert!(Holders::default().is_clear());
    }

    #[test]
    fn no_two_passwords_are_the_same_and_none_is_printed() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(one.len() == 64 && *one != *other);
        let new = NewPassword(SecretValue::from(one.as_bytes()));
        assert!(!format!("{new:?}").contains(one.as_str()));
        let kept = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert_eq!(kept_of(b"secret"), kept);
    }
}
