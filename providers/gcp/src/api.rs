//! The calls of Secret Manager: each with a limit of time, and reads of metadata within the quota.

use std::fmt;

use futures_util::future::BoxFuture;
use google_cloud_gax::error::Error as Failure;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::{Secret, SecretPayload, SecretVersion};
use google_cloud_wkt::FieldMask;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::auth;
use crate::config::Config;
use crate::error::{Call, failed, late};
use crate::names::{self, Place, SecretName};
use crate::pace::{Pace, Purpose};
use crate::payload;

/// The most secrets and versions that one page may have.
const MAX_PAGE: i32 = 25_000;

/// One way to Secret Manager. The client is made by the first call.
pub(crate) struct Api {
    pub(crate) config: Config,
    pub(crate) place: Place,
    client: OnceCell<SecretManagerService>,
    pace: Pace,
}

impl fmt::Debug for Api {
    /// Without the client, which holds a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("config", &self.config)
            .field("place", &self.place)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

/// How long, and what for, somebody waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    purpose: Purpose,
    deadline: Option<Instant>,
}

impl Patience {
    /// Somebody waits, until then if it is said.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self { purpose: Purpose::Answer, deadline }
    }

    /// The same for a read that only saves another one.
    pub(crate) fn saving(self) -> Self {
        Self { purpose: Purpose::Saving, ..self }
    }

    /// Nobody waits.
    pub(crate) fn of_a_sweep() -> Self {
        Self { purpose: Purpose::Sweep, deadline: None }
    }
}

/// What a version is changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Disable,
    Enable,
    Destroy,
}

impl Api {
    pub(crate) fn new(config: Config) -> Self {
        let place = Place::new(
            &config.project,
            config.project_number.as_deref(),
            config.location.as_deref(),
        );
        let pace = Pace::new(config.metadata_reads_a_minute.get());
        Self { config, place, client: OnceCell::new(), pace }
    }

    /// The value of one version, and its number.
    pub(crate) async fn access(
        &self,
        secret: &SecretName,
        version: &str,
        patience: Patience,
    ) -> Result<(SecretValue, u64)> {
        let name = secret.version(version);
        let answer = self
            .call(Call::Read, &name, patience.deadline, |client| {
                Box::pin(client.access_secret_version().set_name(&name).send())
            })
            .await?;
        self.place.learn(secret, &answer.name);
        let nonsense = |what: &str| Error::new(ErrorKind::Invalid, format!("`{name}` {what}"));
        let number =
            names::number(&answer.name).ok_or_else(|| nonsense("was answered without a number"))?;
        let payload = answer.payload.ok_or_else(|| nonsense("was answered without a value"))?;
        Ok((payload::take(payload, &name)?, number))
    }

    /// What is known of one secret.
    pub(crate) async fn secret(&self, secret: &SecretName, patience: Patience) -> Result<Secret> {
        let name = secret.to_string();
        let answer = self
            .metadata(&name, patience, |client| {
                Box::pin(client.get_secret().set_name(&name).send())
            })
            .await?;
        self.place.learn(secret, &answer.name);
        Ok(answer)
    }

    /// All secrets of a project, or of one location of it.
    pub(crate) async fn secrets(&self, parent: &str, patience: Patience) -> Result<Vec<Secret>> {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self
                .metadata(parent, patience, |client| {
                    let list = client.list_secrets().set_parent(parent);
                    Box::pin(list.set_page_size(MAX_PAGE).set_page_token(&token).send())
                })
                .await?;
            all.extend(page.secrets);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            turn_page(&mut token, page.next_page_token, parent)?;
        }
    }

    /// What is known of one version, by its number or by another name.
    pub(crate) async fn version(
        &self,
        secret: &SecretName,
        version: &str,
        patience: Patience,
    ) -> Result<SecretVersion> {
        let name = secret.version(version);
        let answer = self
            .metadata(&name, patience, |client| {
                Box::pin(client.get_secret_version().set_name(&name).send())
            })
            .await?;
        self.place.learn(secret, &answer.name);
        Ok(answer)
    }

    /// The newest version that is enabled.
    pub(crate) async fn newest_enabled(
        &self,
        secret: &SecretName,
        patience: Patience,
    ) -> Result<Option<SecretVersion>> {
        let name = secret.to_string();
        let page = self
            .metadata(&name, patience, |client| {
                let list = client.list_secret_versions().set_parent(&name);
                Box::pin(list.set_filter("state:ENABLED").set_page_size(1).send())
            })
            .await?;
        Ok(page.versions.into_iter().next())
    }

    /// All versions of a secret, the newest first.
    pub(crate) async fn versions(
        &self,
        secret: &SecretName,
        patience: Patience,
    ) -> Result<Vec<SecretVersion>> {
        let name = secret.to_string();
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self
                .metadata(&name, patience, |client| {
                    let list = client.list_secret_versions().set_parent(&name);
                    Box::pin(list.set_page_size(MAX_PAGE).set_page_token(&token).send())
                })
                .await?;
            all.extend(page.versions);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            turn_page(&mut token, page.next_page_token, &name)?;
        }
    }

    /// Makes a secret without a version.
    pub(crate) async fn create(&self, secret: &SecretName, made: Secret) -> Result<Secret> {
        let name = secret.to_string();
        self.call(Call::Write, &name, None, |client| {
            let create = client.create_secret().set_parent(secret.parent());
            Box::pin(create.set_secret_id(&secret.id).set_secret(made).send())
        })
        .await
    }

    /// Adds a version. The value is part of the request, so what is answered is not quoted.
    pub(crate) async fn add(
        &self,
        secret: &SecretName,
        payload: SecretPayload,
    ) -> Result<SecretVersion> {
        let name = secret.to_string();
        self.call(Call::WriteOfValue, &name, None, |client| {
            Box::pin(client.add_secret_version().set_parent(&name).set_payload(payload).send())
        })
        .await
    }

    /// Changes the named fields of a secret, if it still has the etag that stands in it.
    pub(crate) async fn update(&self, secret: Secret, fields: &[&str]) -> Result<Secret> {
        let name = secret.name.clone();
        let mask = FieldMask::default().set_paths(fields.iter().copied());
        self.call(Call::Write, &name, None, |client| {
            Box::pin(client.update_secret().set_secret(secret).set_update_mask(mask).send())
        })
        .await
    }

    /// Changes the state of a version, if it still has this etag.
    pub(crate) async fn turn(
        &self,
        secret: &SecretName,
        version: &str,
        etag: &str,
        turn: Turn,
    ) -> Result<SecretVersion> {
        let name = secret.version(version);
        self.call(Call::Write, &name, None, |client| match turn {
            Turn::Disable => {
                Box::pin(client.disable_secret_version().set_name(&name).set_etag(etag).send())
            }
            Turn::Enable => {
                Box::pin(client.enable_secret_version().set_name(&name).set_etag(etag).send())
            }
            Turn::Destroy => {
                Box::pin(client.destroy_secret_version().set_name(&name).set_etag(etag).send())
            }
        })
        .await
    }

    /// A read of metadata: it waits for its turn within the quota.
    async fn metadata<'a, T>(
        &'a self,
        what: &str,
        patience: Patience,
        send: impl FnOnce(&'a SecretManagerService) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T> {
        let turn = self.pace.admit(patience.purpose);
        let pass = match patience.deadline {
            None => turn.await,
            Some(deadline) => {
                timeout_at(deadline, turn).await.map_err(|_| late(Call::Read, what))?
            }
        };
        let _pass = pass.ok_or_else(|| {
            let kind = ErrorKind::Throttled { retry_after: None };
            Error::new(kind, format!("the quota has no room for a look at `{what}`"))
        })?;
        self.call(Call::Read, what, patience.deadline, send).await
    }

    /// One call, ended by the deadline or by the time that a call may take.
    async fn call<'a, T>(
        &'a self,
        call: Call,
        what: &str,
        deadline: Option<Instant>,
        send: impl FnOnce(&'a SecretManagerService) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T> {
        let longest = Instant::now() + self.config.timeout;
        let deadline = deadline.map_or(longest, |deadline| deadline.min(longest));
        if deadline <= Instant::now() {
            return Err(late(Call::Read, what));
        }
        // Nothing is sent before there is a client.
        let client = timeout_at(deadline, self.client.get_or_try_init(|| self.connect()));
        let client = client.await.map_err(|_| late(Call::Read, what))??;
        match timeout_at(deadline, send(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => Err(failed(&failure, call, what)),
            Err(_) => Err(late(call, what)),
        }
    }

    async fn connect(&self) -> Result<SecretManagerService> {
        let credential = auth::credential(&self.config.identity).await?;
        let client = SecretManagerService::builder()
            .with_endpoint(endpoint(&self.config))
            .with_credentials(credential)
            // The resolver retries.
            .with_retry_policy(NeverRetry)
            .build();
        client.await.map_err(|error| {
            let why = crate::error::chain(&error);
            let message = format!("the client of Secret Manager cannot be made: {why}");
            Error::new(ErrorKind::Unavailable, message)
        })
    }
}

/// Where Secret Manager is. Regional secrets have an address of their own for each location.
pub(crate) fn endpoint(config: &Config) -> String {
    match (&config.endpoint, &config.location) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(location)) => format!("https://secretmanager.{location}.rep.googleapis.com"),
        (None, None) => "https://secretmanager.googleapis.com".into(),
    }
}

/// A token that comes again would have us turn pages for ever.
fn turn_page(token: &mut String, next: String, what: &str) -> Result<()> {
    if *token == next {
        let message = format!("the list of `{what}` does not end");
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    *token = next;
    Ok(())
}
