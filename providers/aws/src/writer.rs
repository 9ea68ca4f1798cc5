//! Writing: each step can be repeated, and the label of the current version is moved only from the
//! version that the caller has seen.

use async_trait::async_trait;
use aws_sdk_secretsmanager::types::Tag;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretValue, SecretWriter, Version};

use crate::api::{Patience, name_of, version};
use crate::client::AwsProvider;
use crate::error::{Call, about};
use crate::known::Sight;
use crate::names::{self, CURRENT, Wanted};
use crate::payload::Payload;

#[async_trait]
impl SecretWriter for AwsProvider {
    /// One that exists is left as it is.
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        let id = names::secret_id(key)?;
        if id.starts_with("arn:") {
            let message = format!("`{key}` is an ARN, and a secret is made by its name");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let create = &self.api.config.create;
        let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
        let tags: Vec<Tag> = create.tags.iter().map(tag).collect();
        let made = self
            .api
            .call(Call::Write, id, Patience::until(None), async |client| {
                client
                    .create_secret()
                    .name(id)
                    .client_request_token(names::version_id(id))
                    .set_kms_key_id(create.kms_key_id.clone())
                    .set_description(create.description.clone())
                    .set_tags((!tags.is_empty()).then_some(tags))
                    .send()
                    .await
            })
            .await;
        match made {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            made => made.map(drop),
        }
    }

    /// The version bears the configured label. `AWSPENDING` is not taken: on a version of ours it
    /// would stop the rotations of AWS, and they would take it for theirs.
    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let id = names::secret_id(key)?;
        let payload = Payload::make(value, id)?;
        let made = self
            .api
            .call(Call::WriteOfValue, id, Patience::until(None), async |client| {
                client
                    .put_secret_value()
                    .secret_id(id)
                    .client_request_token(names::version_id(token))
                    .set_secret_string(payload.text)
                    .set_secret_binary(payload.bytes)
                    .version_stages(&self.api.config.stage)
                    .send()
                    .await
            })
            .await?;
        let made = version(made.version_id, id).map_err(|error| {
            Error::with_source(ErrorKind::Ambiguous, "a version was added", error)
        })?;
        Ok(Version::opaque(made))
    }

    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let id = names::secret_id(key)?;
        let state = self.api.describe(id, Patience::until(None)).await?;
        if state.is_deleted {
            return Err(about(ErrorKind::VersionDisabled, id));
        }
        let what = name_of(id, Wanted::Version(version));
        if !names::is_version_id(version) {
            return Err(about(ErrorKind::NotFound, &what));
        }
        let mut current = state.version(CURRENT);
        let learn = || {
            let (arn, name) = (state.arn.clone(), state.name.clone());
            let sight = Sight { arn, name, version: version.into(), changed: None, created: None };
            self.api.books.learn(key, &sight);
        };
        // A look may show what was a while ago, so that it is current already is for the store to
        // say: it moves the label if it is elsewhere, and refuses if there is nothing to move.
        let remove = if current == Some(version) {
            expected.filter(|expected| *expected != version)
        } else {
            // A current version without a value is none: nobody can have used it.
            let mut remove = current;
            if expected.is_none() && current.is_some() && self.is_empty(id).await? {
                current = None;
            } else {
                remove = expected;
            }
            if current != expected {
                return Err(another(id, current, expected));
            }
            remove
        };
        let moved = self
            .api
            .call(Call::Write, &what, Patience::until(None), async |client| {
                client
                    .update_secret_version_stage()
                    .secret_id(id)
                    .version_stage(CURRENT)
                    .move_to_version_id(version)
                    .set_remove_from_version_id(remove.map(Into::into))
                    .send()
                    .await
            })
            .await;
        match moved {
            Ok(_) => {}
            // That the label is elsewhere looks like any other request that makes no sense.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {
                self.why(key, version, remove, error).await?;
            }
            Err(error) => return Err(error),
        }
        learn();
        Ok(())
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        Err(unsupported(key, version, "disabled"))
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        Err(unsupported(key, version, "enabled"))
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        Err(unsupported(key, version, "destroyed"))
    }
}

impl AwsProvider {
    async fn is_empty(&self, id: &str) -> Result<bool> {
        match self.api.get(id, Wanted::Current, Patience::until(None)).await {
            Ok(got) => Ok(got.payload.is_empty()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Why the label could not be moved.
    async fn why(
        &self,
        key: &SecretKey,
        wanted: &str,
        removed: Option<&str>,
        error: Error,
    ) -> Result<()> {
        let id = names::secret_id(key)?;
        let state = self.api.describe(id, Patience::until(None)).await?;
        // What is known to be older than what was seen before proves nothing.
        let known = state.sight(id).ok().map(|sight| self.api.books.settle(key, &sight));
        let current = known.as_deref();
        if current == Some(wanted) {
            return Ok(());
        }
        if current != removed {
            return Err(another(id, current, removed));
        }
        let is_it = |entry: &aws_sdk_secretsmanager::types::SecretVersionsListEntry| {
            entry.version_id() == Some(wanted)
        };
        if !self.api.versions(id).await?.iter().any(is_it) {
            return Err(about(ErrorKind::NotFound, &name_of(id, Wanted::Version(wanted))));
        }
        Err(error)
    }
}

/// AWS has no such thing: a version can be read until AWS deletes it, a day or more after its last
/// label is gone.
fn unsupported(key: &SecretKey, version: &str, what: &str) -> Error {
    let message = format!(
        "`{key}@{version}` cannot be {what}: AWS keeps a version readable until it deletes it, \
         some time after its last label is gone"
    );
    Error::new(ErrorKind::Unsupported, message)
}

fn another(id: &str, current: Option<&str>, expected: Option<&str>) -> Error {
    let said = |version: Option<&str>| version.map_or("none".into(), |of| format!("version {of}"));
    let (current, expected) = (said(current), said(expected));
    let message = format!("{current} of `{id}` is current, and not {expected}");
    Error::new(ErrorKind::Conflict, message)
}
