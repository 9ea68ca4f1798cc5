//! The calls of the key-value engine, each with a token of the session.

use std::sync::Arc;

use oneiric_core::{Error, ErrorKind, Result, SecretKey, VersionState};
use reqwest::Method;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::config::{Config, Engine, Kv};
use crate::error::{Call, Seen, about, failed};
use crate::http::{Ask, Body, Http, Reply};
use crate::kv::{self, About, Answer, Metadata, Stored};
use crate::session::{Session, Token};

/// One mount, and who we are there.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) config: Config,
    pub(crate) session: Arc<Session>,
}

/// What a version is changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Disable,
    Enable,
    Destroy,
}

impl Api {
    pub(crate) fn new(config: Config, urls: Vec<reqwest::Url>) -> Self {
        let session = Session::new(Http::new(&config, urls), config.auth.clone());
        Self { config, session: Arc::new(session) }
    }

    /// The name of a secret in messages.
    pub(crate) fn name(&self, key: &SecretKey) -> String {
        format!("{}/{key}", self.config.mount)
    }

    /// The secret of KV version 1.
    pub(crate) async fn read(&self, key: &SecretKey, deadline: Option<Instant>) -> Result<Reply> {
        let what = self.name(key);
        let ask = Ask::get(self.path(None, key)?, &what, deadline);
        self.success(&ask).await
    }

    /// One version of a secret, the current one if none is named, and its content.
    pub(crate) async fn version<T>(
        &self,
        key: &SecretKey,
        version: Option<&str>,
        deadline: Option<Instant>,
        take: impl FnOnce(&RawValue, &About) -> Result<T>,
    ) -> Result<T> {
        let what =
            version.map_or(self.name(key), |version| format!("{}@{version}", self.name(key)));
        let mut ask = Ask::get(self.path(Some("data"), key)?, &what, deadline);
        ask.query = version.map(|version| ("version", version));
        let reply = self.call(&ask).await?;
        // What is deleted or destroyed comes as not found, with what is known of it.
        let stored = reply.read::<Answer<Stored<'_>>>().map(|answer| answer.data);
        match stored {
            Some(Stored { data: Some(object), metadata }) if reply.is_success() => {
                take(object, &metadata)
            }
            Some(Stored { data: None, .. }) if reply.is_success() || reply.status == 404 => {
                Err(about(ErrorKind::VersionDisabled, &what))
            }
            _ if reply.is_success() => Err(failed(Seen::Garbled, Call::Read, &what, &[])),
            _ => Err(reply.failure(&ask)),
        }
    }

    /// What is known of a secret.
    pub(crate) async fn metadata(
        &self,
        key: &SecretKey,
        deadline: Option<Instant>,
    ) -> Result<Metadata> {
        let what = self.name(key);
        let ask = Ask::get(self.path(Some("metadata"), key)?, &what, deadline);
        let reply = self.success(&ask).await?;
        let answer = reply.read::<Answer<Metadata>>();
        answer
            .map(|answer| answer.data)
            .ok_or_else(|| failed(Seen::Garbled, Call::Read, &what, &[]))
    }

    /// The names in one folder; those of folders end with `/`.
    pub(crate) async fn folder(&self, folder: &[String]) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Keys {
            keys: Vec<String>,
        }
        let what = format!("{}/{}", self.config.mount, folder.join("/"));
        let mut path = self.mounted(self.in_v2("metadata"));
        path.extend(folder.iter().map(String::as_str));
        // A folder is asked for with a slash at the end.
        path.push("");
        let mut ask = Ask::get(path, &what, None);
        ask.query = Some(("list", "true"));
        match self.success(&ask).await {
            Ok(reply) => {
                let answer = reply.read::<Answer<Keys>>();
                answer
                    .map(|answer| answer.data.keys)
                    .ok_or_else(|| failed(Seen::Garbled, Call::Read, &what, &[]))
            }
            // There is nothing in it.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Changes entries of a secret's own metadata, `None` removing one. Makes the secret if it is
    /// not there.
    pub(crate) async fn annotate(
        &self,
        key: &SecretKey,
        entries: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<()> {
        let what = self.name(key);
        let body = serde_json::json!({ "custom_metadata": entries });
        let path = self.path(Some("metadata"), key)?;
        let mut ask = Ask::post(path, Body::merge(&body), Call::Write, &what);
        ask.method = Method::PATCH;
        match self.success(&ask).await {
            // Only what is there can be changed in part. Another one who makes the secret in this
            // moment loses what it has just annotated.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let path = self.path(Some("metadata"), key)?;
                let ask = Ask::post(path, Body::json(&body), Call::Write, &what);
                self.success(&ask).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Adds a version if the newest one has this number, 0 for none. The value is part of the
    /// request, so what is answered is not quoted.
    pub(crate) async fn add(&self, key: &SecretKey, object: &RawValue, newest: u64) -> Result<u64> {
        #[derive(serde::Serialize)]
        struct New<'a> {
            data: &'a RawValue,
            options: Options,
        }
        #[derive(serde::Serialize)]
        struct Options {
            cas: u64,
        }
        let what = self.name(key);
        let body = Body::json(&New { data: object, options: Options { cas: newest } });
        let ask = Ask::post(self.path(Some("data"), key)?, body, Call::WriteOfValue, &what);
        let reply = self.success(&ask).await?;
        let made = reply.read::<Answer<About>>().map(|answer| answer.data.version);
        made.filter(|number| *number > 0)
            .ok_or_else(|| failed(Seen::Garbled, Call::WriteOfValue, &what, &[]))
    }

    /// Changes the state of a version.
    pub(crate) async fn turn(&self, key: &SecretKey, number: u64, turn: Turn) -> Result<()> {
        let verb = match turn {
            Turn::Disable => "delete",
            Turn::Enable => "undelete",
            Turn::Destroy => "destroy",
        };
        let what = format!("{}@{number}", self.name(key));
        let body = Body::json(&serde_json::json!({ "versions": [number] }));
        let ask = Ask::post(self.path(Some(verb), key)?, body, Call::Write, &what);
        self.success(&ask).await.map(drop)
    }

    fn in_v2(&self, room: &'static str) -> Option<&'static str> {
        (self.config.engine == Engine::Kv && self.config.kv == Kv::V2).then_some(room)
    }

    /// The path of a secret in one of the rooms that KV version 2 has.
    pub(crate) fn path<'a>(
        &'a self,
        room: Option<&'a str>,
        key: &'a SecretKey,
    ) -> Result<Vec<&'a str>> {
        let mut path = self.mounted(room);
        path.extend(kv::key_segments(key)?);
        Ok(path)
    }

    fn mounted<'a>(&'a self, room: Option<&'a str>) -> Vec<&'a str> {
        let mut path = kv::segments(&self.config.mount).expect("the settings were checked");
        path.extend(room);
        path
    }

    pub(crate) async fn success(&self, ask: &Ask<'_>) -> Result<Reply> {
        let reply = self.call(ask).await?;
        if reply.is_success() { Ok(reply) } else { Err(reply.failure(ask)) }
    }

    /// One call, and another one if the token was refused and there is a better one. What is
    /// refused has not been done, so a write may be sent again too.
    pub(crate) async fn call(&self, ask: &Ask<'_>) -> Result<Reply> {
        self.call_by(ask).await.map(|(reply, _)| reply)
    }

    /// The same, with the token that it was answered for.
    pub(crate) async fn call_by(&self, ask: &Ask<'_>) -> Result<(Reply, Token)> {
        let Ask { what, deadline, .. } = *ask;
        let token = self.session.token(what, deadline).await?;
        let reply = self.session.http.send(ask, Some(&token.text)).await?;
        if reply.status != 403 {
            return Ok((reply, token));
        }
        let Some(token) = self.session.refused(&token, what, deadline).await? else {
            return Ok((reply, token));
        };
        let reply = self.session.http.send(ask, Some(&token.text)).await?;
        if reply.status == 403 {
            self.session.refused_again(&token, what).await?;
        }
        Ok((reply, token))
    }
}

/// That a version may be read, or what it is instead.
pub(crate) fn readable(found: Option<&About>, what: &str) -> Result<()> {
    match found.map(About::state) {
        Some(VersionState::Enabled) => Ok(()),
        Some(_) => Err(about(ErrorKind::VersionDisabled, what)),
        None => Err(about(ErrorKind::NotFound, what)),
    }
}

/// Nothing where there is nothing.
pub(crate) fn or_default<T: Default>(found: Result<T>) -> Result<T, Error> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        found => found,
    }
}
