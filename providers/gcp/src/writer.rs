//! Writing: each step can be repeated, and each change of something that exists is a
//! compare-and-swap by etag.

use std::time::Duration;

use async_trait::async_trait;
use google_cloud_secretmanager_v1::model::replication::{Automatic, UserManaged, user_managed};
use google_cloud_secretmanager_v1::model::secret_version::State;
use google_cloud_secretmanager_v1::model::{Replication, Secret, SecretVersion, Topic};
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretValue, SecretWriter, Version};

use crate::api::{Api, Patience, Turn};
use crate::attempts::{ANNOTATION, Attempts};
use crate::client::GcpProvider;
use crate::config::Current;
use crate::current::number_of;
use crate::lister::is_absent;
use crate::names::SecretName;
use crate::payload;

/// How often a note of an attempt is tried again because somebody else changed the secret.
const NOTES: u32 = 5;
/// The pause before that, each time as much more: what was read may show late.
const PAUSE: Duration = Duration::from_millis(100);
/// How many versions are looked through for one that an earlier attempt made.
const MOST_PROBES: u64 = 1000;

#[async_trait]
impl SecretWriter for GcpProvider {
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        let name = self.api.place.secret(key)?;
        let made = self.api.create(&name, new_secret(&self.api)).await;
        match made {
            // There is room already, unless it is another conflict.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let found = self.api.secret(&name, Patience::until(None)).await;
                if is_absent(&found) { Err(error) } else { found.map(drop) }
            }
            made => made.map(|made| self.api.place.learn(&name, &made.name)),
        }
    }

    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let name = self.api.place.secret(key)?;
        let payload = payload::make(value, &name.to_string())?;
        if let Some(base) = self.begin(&name, token).await?
            && let Some(number) = self.made_before(&name, base, value).await?
        {
            return Ok(Version::numbered(number));
        }
        let version = self.api.add(&name, payload).await?;
        let number = number_of(&version, &name.to_string()).map_err(|error| {
            Error::with_source(ErrorKind::Ambiguous, "a version was added", error)
        })?;
        if !version.client_specified_payload_checksum {
            let message = format!(
                "`{}` was added without its checksum being looked at, so it may be damaged",
                name.version(&number.to_string())
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Version::numbered(number))
    }

    /// Moves the pointer. Without one the newest version is current, and nothing can be moved.
    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let name = self.api.place.secret(key)?;
        let wanted = number(version)?;
        let found = self.api.version(&name, version, Patience::until(None)).await?;
        if found.state != State::Enabled {
            let message = format!("`{}` is disabled or destroyed", name.version(version));
            return Err(Error::new(ErrorKind::VersionDisabled, message));
        }
        if !self.api.config.current.is_pointer() {
            return self.is_newest(&name, wanted).await;
        }
        let mut secret = self.api.secret(&name, Patience::until(None)).await?;
        let pointed = self.api.config.current.pointed(&secret);
        if pointed == Some(wanted) {
            return Ok(());
        }
        if pointed != expected.map(number).transpose()? {
            let said = |number: Option<String>| {
                number.map_or("none".into(), |number| format!("version {number}"))
            };
            let now = said(pointed.map(|number| number.to_string()));
            let expected = said(expected.map(Into::into));
            let message = format!("{now} of `{name}` is current, and not {expected}");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let field = match &self.api.config.current {
            Current::Alias(alias) => {
                let number = i64::try_from(wanted).map_err(|_| no_number(version))?;
                secret.version_aliases.insert(alias.clone(), number);
                "version_aliases"
            }
            Current::Annotation(key) => {
                secret.annotations.insert(key.clone(), wanted.to_string());
                "annotations"
            }
            Current::Latest | Current::NewestEnabled => return Ok(()),
        };
        self.api.update(renamed(secret, &name), &[field]).await.map(drop)
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Disable).await
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Enable).await
    }

    /// Where the secret delays the destruction of its versions, it is done when it is scheduled.
    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Destroy).await
    }
}

impl GcpProvider {
    /// Notes that an attempt begins. If the same one was begun before, answers with the newest
    /// version of that time.
    async fn begin(&self, name: &SecretName, token: &str) -> Result<Option<u64>> {
        let mut tries = 0;
        loop {
            let mut secret = self.api.secret(name, Patience::until(None)).await?;
            let noted = secret.annotations.get(ANNOTATION).map_or("", String::as_str);
            let attempts = Attempts::parse(noted);
            if let Some(base) = attempts.base(token) {
                return Ok(Some(base));
            }
            let base = self.newest(name).await?;
            secret.annotations.insert(ANNOTATION.into(), attempts.with(token, base));
            match self.api.update(renamed(secret, name), &["annotations"]).await {
                Ok(_) => return Ok(None),
                // Somebody else changed the secret, or the note was made and we were not told.
                Err(error)
                    if tries < NOTES
                        && matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Ambiguous) =>
                {
                    tries += 1;
                    tokio::time::sleep(PAUSE * tries).await;
                }
                // No version was added, so nothing is open.
                Err(error) if error.kind() == ErrorKind::Ambiguous => {
                    let message = format!("`{name}` cannot be changed");
                    return Err(Error::with_source(ErrorKind::Unavailable, message, error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The version that an earlier attempt made: the first after `base` that has this value.
    async fn made_before(
        &self,
        name: &SecretName,
        base: u64,
        value: &SecretValue,
    ) -> Result<Option<u64>> {
        for number in base + 1..base.saturating_add(MOST_PROBES) {
            match self.api.access(name, &number.to_string(), Patience::until(None)).await {
                Ok((held, _)) if held.same_as(value) => return Ok(Some(number)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                // Whose value cannot be seen is not the one.
                Err(error) if error.kind() == ErrorKind::VersionDisabled => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The number of the newest version, 0 if there is none. What `latest` says may be old, so
    /// numbers from there on are tried.
    async fn newest(&self, name: &SecretName) -> Result<u64> {
        let latest = self.api.version(name, "latest", Patience::until(None)).await;
        let mut newest = if is_absent(&latest) { 0 } else { number_of(&latest?, "latest")? };
        while self.exists(name, newest + 1).await?.is_some() {
            newest += 1;
        }
        Ok(newest)
    }

    async fn exists(&self, name: &SecretName, number: u64) -> Result<Option<SecretVersion>> {
        let version = self.api.version(name, &number.to_string(), Patience::until(None)).await;
        if is_absent(&version) { Ok(None) } else { version.map(Some) }
    }

    /// Without a pointer a version is current by being the newest, or it cannot be made so.
    async fn is_newest(&self, name: &SecretName, wanted: u64) -> Result<()> {
        let mut next = wanted + 1;
        while let Some(newer) = self.exists(name, next).await? {
            let counts =
                self.api.config.current == Current::Latest || newer.state == State::Enabled;
            if counts {
                let message = format!(
                    "`{}` is newer, and without a pointer the newest version is current",
                    name.version(&next.to_string())
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            next += 1;
        }
        Ok(())
    }

    async fn turn(&self, key: &SecretKey, version: &str, turn: Turn) -> Result<()> {
        let name = self.api.place.secret(key)?;
        number(version)?;
        let found = self.api.version(&name, version, Patience::until(None)).await?;
        let scheduled = found.scheduled_destroy_time.is_some();
        match (turn, &found.state) {
            (Turn::Disable, State::Disabled)
            | (Turn::Enable, State::Enabled)
            | (Turn::Destroy, State::Destroyed) => return Ok(()),
            (Turn::Destroy, _) if scheduled => return Ok(()),
            (Turn::Disable | Turn::Enable, State::Destroyed) => {
                let message = format!("`{}` is destroyed for good", name.version(version));
                return Err(Error::new(ErrorKind::VersionDisabled, message));
            }
            _ => {}
        }
        self.api.turn(&name, version, &found.etag, turn).await.map(drop)
    }
}

/// What a secret is made with.
fn new_secret(api: &Api) -> Secret {
    let create = &api.config.create;
    let secret = Secret::new()
        .set_labels(create.labels.clone())
        .set_annotations(create.annotations.clone())
        .set_topics(create.topics.iter().map(|topic| Topic::new().set_name(topic)));
    if api.place.location.is_some() {
        return secret;
    }
    let replication = if create.replicas.is_empty() {
        Replication::new().set_automatic(Automatic::new())
    } else {
        let replica =
            |location: &String| user_managed::Replica::new().set_location(location.clone());
        let replicas = create.replicas.iter().map(replica);
        Replication::new().set_user_managed(UserManaged::new().set_replicas(replicas))
    };
    secret.set_replication(replication)
}

/// The same secret under the name by which we ask for it: it answers by its project's number.
fn renamed(secret: Secret, name: &SecretName) -> Secret {
    secret.set_name(name.to_string())
}

fn number(version: &str) -> Result<u64> {
    let digits = version.bytes().all(|byte| byte.is_ascii_digit());
    let number = version.parse().ok().filter(|number| digits && *number > 0);
    number.ok_or_else(|| no_number(version))
}

fn no_number(version: &str) -> Error {
    let message = format!("`{version}` is no number, and only a version by its number is changed");
    Error::new(ErrorKind::Invalid, message)
}
