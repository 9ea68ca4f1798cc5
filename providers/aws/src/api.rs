//! The calls of Secrets Manager that are needed, each with its time and its meaning of failures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::{
    Filter, FilterNameStringType, SecretListEntry, SecretVersionsListEntry, SortByType,
    SortOrderType,
};
use oneiric_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::error::{Call, about, failed, late};
use crate::identity;
use crate::known::{Books, Sight};
use crate::names::{CURRENT, Wanted};
use crate::pace::Pace;
use crate::payload::Payload;
use crate::stamps::Walk;

/// How many secrets one batch takes.
pub(crate) const BATCH: usize = 20;
/// How many secrets or versions one page of a list has.
const PAGE: i32 = 100;
/// How many batches are sent in a second, and how many at once. Both together are less than the
/// quota, which is for all who read in the account.
const BATCHES_A_SECOND: u32 = 40;
const BATCHES_AT_ONCE: u32 = 50;

/// The way to Secrets Manager, and what is known of it.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) config: Config,
    pub(crate) books: Books,
    pub(crate) walk: tokio::sync::Mutex<Walk>,
    pub(crate) batches: Pace,
    sdk: OnceCell<SdkConfig>,
    client: OnceCell<Client>,
}

/// What a version holds and is.
pub(crate) struct Got {
    pub(crate) sight: Sight,
    pub(crate) stages: Vec<String>,
    pub(crate) payload: Payload,
}

impl Got {
    /// Whether the version has this label.
    pub(crate) fn bears(&self, label: &str) -> bool {
        self.stages.iter().any(|of| of == label)
    }
}

/// How a secret stands, without a value.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) arn: String,
    pub(crate) name: String,
    pub(crate) changed: Option<SystemTime>,
    pub(crate) is_deleted: bool,
    /// The labels of each version that has one.
    pub(crate) stages: HashMap<String, Vec<String>>,
}

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience(Option<Instant>);

impl Patience {
    /// Until the caller stops waiting, or for the configured time.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self(deadline)
    }
}

impl Api {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            books: Books::default(),
            walk: tokio::sync::Mutex::default(),
            batches: Pace::new(BATCHES_A_SECOND, BATCHES_AT_ONCE),
            sdk: OnceCell::new(),
            client: OnceCell::new(),
        }
    }

    pub(crate) fn concurrency(&self) -> usize {
        usize::try_from(self.config.concurrency.get()).unwrap_or(usize::MAX)
    }

    /// Who we are and how to send; it is found out once.
    pub(crate) async fn sdk(&self) -> Result<&SdkConfig> {
        self.sdk.get_or_try_init(|| identity::sdk_config(&self.config)).await
    }

    async fn client(&self) -> Result<&Client> {
        let make = async || {
            let mut builder = Builder::from(self.sdk().await?);
            if let Some(endpoint) = &self.config.endpoint {
                builder = builder.endpoint_url(endpoint);
            }
            Ok::<_, Error>(Client::from_conf(builder.build()))
        };
        self.client.get_or_try_init(make).await
    }

    /// When somebody gives up who begins now.
    pub(crate) fn gives_up(&self, Patience(deadline): Patience) -> Instant {
        let ours = Instant::now() + self.config.timeout;
        deadline.map_or(ours, |deadline| deadline.min(ours))
    }

    /// One call, with its time and its meaning of failures.
    pub(crate) async fn call<T, E>(
        &self,
        call: Call,
        what: &str,
        patience: Patience,
        send: impl AsyncFnOnce(&Client) -> Result<T, SdkError<E>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let until = self.gives_up(patience);
        let Ok(client) = timeout_at(until, self.client()).await else {
            return Err(late(Call::Read, what));
        };
        let answer = timeout_at(until, send(client?)).await;
        let answer = answer.map_err(|_| late(call, what))?;
        answer.map_err(|failure| failed(&failure, call, what))
    }

    /// Reads one version of a secret.
    pub(crate) async fn get(
        &self,
        id: &str,
        wanted: Wanted<'_>,
        patience: Patience,
    ) -> Result<Got> {
        let what = name_of(id, wanted);
        let answer = self
            .call(Call::Read, &what, patience, async |client| {
                let request = client.get_secret_value().secret_id(id);
                match wanted {
                    Wanted::Current => request.version_stage(CURRENT),
                    Wanted::Version(version) => request.version_id(version),
                    Wanted::Stage(stage) => request.version_stage(stage),
                }
                .send()
                .await
            })
            .await?;
        let sight = Sight {
            arn: answer.arn.unwrap_or_default(),
            name: answer.name.unwrap_or_default(),
            version: version(answer.version_id, &what)?,
            changed: None,
            created: answer.created_date.and_then(time),
        };
        let payload = Payload { text: answer.secret_string, bytes: answer.secret_binary };
        Ok(Got { sight, stages: answer.version_stages.unwrap_or_default(), payload })
    }

    /// How one secret stands.
    pub(crate) async fn describe(&self, id: &str, patience: Patience) -> Result<State> {
        let answer = self
            .call(Call::Read, id, patience, async |client| {
                client.describe_secret().secret_id(id).send().await
            })
            .await?;
        Ok(State {
            arn: answer.arn.unwrap_or_default(),
            name: answer.name.unwrap_or_default(),
            changed: answer.last_changed_date.or(answer.created_date).and_then(time),
            is_deleted: answer.deleted_date.is_some(),
            stages: answer.version_ids_to_stages.unwrap_or_default(),
        })
    }

    /// One page of all secrets, those first that were changed last.
    pub(crate) async fn page(
        &self,
        token: Option<String>,
        patience: Patience,
    ) -> Result<(Vec<State>, Option<String>)> {
        let prefix = self.config.prefix.as_deref();
        let answer = self
            .call(Call::Read, prefix.unwrap_or("the list of secrets"), patience, async |client| {
                let filter = prefix.map(|prefix| {
                    let filter = Filter::builder().key(FilterNameStringType::Name);
                    vec![filter.values(prefix).build()]
                });
                client
                    .list_secrets()
                    .sort_by(SortByType::LastChangedDate)
                    .sort_order(SortOrderType::Desc)
                    .include_planned_deletion(true)
                    .max_results(PAGE)
                    .set_filters(filter)
                    .set_next_token(token)
                    .send()
                    .await
            })
            .await?;
        let states = answer.secret_list.unwrap_or_default().into_iter().map(State::from).collect();
        Ok((states, answer.next_token.filter(|token| !token.is_empty())))
    }

    /// All versions of a secret, those without a label included.
    pub(crate) async fn versions(&self, id: &str) -> Result<Vec<SecretVersionsListEntry>> {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        loop {
            let next = token.take();
            let answer = self
                .call(Call::Read, id, Patience::until(None), async |client| {
                    client
                        .list_secret_version_ids()
                        .secret_id(id)
                        .include_deprecated(true)
                        .max_results(PAGE)
                        .set_next_token(next)
                        .send()
                        .await
                })
                .await?;
            all.extend(answer.versions.unwrap_or_default());
            match answer.next_token.filter(|token| !token.is_empty()) {
                Some(next) => token = Some(next),
                None => return Ok(all),
            }
        }
    }
}

impl State {
    /// The version that has this label.
    pub(crate) fn version(&self, stage: &str) -> Option<&str> {
        let has = |stages: &Vec<String>| stages.iter().any(|of| of == stage);
        self.stages.iter().find(|(_, stages)| has(stages)).map(|(version, _)| version.as_str())
    }

    /// What it shows of the current version, if there is one that may be read.
    pub(crate) fn sight(&self, what: &str) -> Result<Sight> {
        if self.is_deleted {
            return Err(about(ErrorKind::VersionDisabled, what));
        }
        let Some(version) = self.version(CURRENT) else { return Err(no_current(what)) };
        Ok(Sight {
            arn: self.arn.clone(),
            name: self.name.clone(),
            version: version.into(),
            changed: self.changed,
            created: None,
        })
    }
}

impl From<SecretListEntry> for State {
    fn from(entry: SecretListEntry) -> Self {
        Self {
            arn: entry.arn.unwrap_or_default(),
            name: entry.name.unwrap_or_default(),
            changed: entry.last_changed_date.or(entry.created_date).and_then(time),
            is_deleted: entry.deleted_date.is_some(),
            stages: entry.secret_versions_to_stages.unwrap_or_default(),
        }
    }
}

/// A secret, or one version of it, for an error.
pub(crate) fn name_of(id: &str, wanted: Wanted<'_>) -> String {
    match wanted {
        Wanted::Current => id.into(),
        Wanted::Version(of) | Wanted::Stage(of) => format!("{id}@{of}"),
    }
}

pub(crate) fn no_current(what: &str) -> Error {
    let message = format!("`{what}` has no version with the label {CURRENT}");
    Error::new(ErrorKind::NotFound, message)
}

pub(crate) fn version(id: Option<String>, what: &str) -> Result<Arc<str>> {
    id.map(Into::into).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("`{what}` was answered without the id of a version"))
    })
}

pub(crate) fn time(date: DateTime) -> Option<SystemTime> {
    SystemTime::try_from(date).ok()
}
