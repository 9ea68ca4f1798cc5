//! The provider: each question is one request to the shelf.

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp, Version,
    VersionInfo, VersionState, fetch_each,
};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::error::{damaged, late, refused, unreachable};

/// The largest value that a shelf holds.
const MAX_VALUE: usize = 64 * 1024;

/// The largest list that is read.
const MAX_LIST: usize = 16 * 1024 * 1024;

/// The header that says which version an answer is of.
const VERSION: HeaderName = HeaderName::from_static("shelf-version");

/// A [`SecretProvider`] over a shelf; [`Config::build`](crate::Config::build) makes one.
///
/// # Keys
/// Any key is one to a shelf.
///
/// # Versions
/// The shelf numbers the versions of each secret from 1. The number is the stamp as well, since a
/// version never changes.
#[derive(Debug)]
pub struct ExampleProvider {
    descriptor: Descriptor,
    url: String,
    token: SecretValue,
    timeout: Duration,
    http: Client<HttpConnector, Empty<Bytes>>,
}

/// A good answer.
struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

/// One line of the list of versions.
#[derive(Deserialize)]
struct Listed {
    version: u64,
    enabled: bool,
    current: bool,
}

impl ExampleProvider {
    pub(crate) fn new(url: String, token: SecretValue, timeout: Duration) -> Self {
        let capabilities = Capabilities {
            versions: true,
            stamps: true,
            push: false,
            snapshots: false,
            binary: true,
            max_value: Some(MAX_VALUE as u64),
            batch: Some(NonZeroU32::MIN),
        };
        let descriptor = Descriptor::new("example", url.clone(), capabilities);
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { descriptor, url, token, timeout, http }
    }

    /// One request. Whatever it waits for ends at the deadline, or after the time of the settings
    /// if there is none. `what` was asked for, for errors.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        what: &str,
        deadline: Option<Instant>,
        most: usize,
    ) -> Result<Answer> {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.timeout);
        let answer = timeout_at(deadline, self.ask_patiently(method, path, what, most)).await;
        answer.map_err(|_| late(what))?
    }

    async fn ask_patiently(
        &self,
        method: Method,
        path: &str,
        what: &str,
        most: usize,
    ) -> Result<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, self.credential()?)
            .body(Empty::new())
            .map_err(|_| damaged(what, "cannot be asked for in a URL"))?;
        let answer = self.http.request(request).await.map_err(|error| unreachable(what, error))?;
        let (parts, body) = answer.into_parts();
        if parts.status != StatusCode::OK {
            return Err(refused(parts.status, &parts.headers, what));
        }
        match Limited::new(body, most).collect().await {
            Ok(body) => Ok(Answer { headers: parts.headers, body: body.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(damaged(what, &format!("has more than {most} bytes")))
            }
            Err(error) => Err(unreachable(what, error)),
        }
    }

    fn credential(&self) -> Result<HeaderValue> {
        let bearer = [b"Bearer ", self.token.expose()].concat();
        let mut value = HeaderValue::from_bytes(&bearer).map_err(|_| {
            Error::new(ErrorKind::Invalid, "the token of an example provider is no header")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The number of the current version, without its value.
    async fn look(&self, key: &SecretKey, deadline: Option<Instant>) -> Result<u64> {
        let (path, what) = (path_of(key, None), format!("the secret `{key}`"));
        let answer = self.ask(Method::HEAD, &path, &what, deadline, MAX_VALUE).await?;
        number(&answer, &what)
    }
}

#[async_trait]
impl SecretProvider for ExampleProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let FetchRequest { key, version, if_none_match, deadline, .. } = request;
        let what = format!("the secret `{key}`");
        // A look costs less than a read, and mostly nothing has changed.
        if let (Some(known), None) = (if_none_match, version)
            && *known == stamp(self.look(key, *deadline).await?)
        {
            return Err(Error::new(ErrorKind::NotModified, format!("{what} has not changed")));
        }
        let path = path_of(key, version.as_deref());
        let answer = self.ask(Method::GET, &path, &what, *deadline, MAX_VALUE).await?;
        let number = number(&answer, &what)?;
        if answer.body.is_empty() {
            return Err(damaged(&what, "is empty"));
        }
        let value = SecretValue::from(Vec::from(answer.body));
        let mut fetched = Fetched::new(value, Version::numbered(number));
        fetched.stamp = Some(stamp(number));
        Ok(fetched)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        fetch_each(self, requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let mut stamps = Vec::with_capacity(keys.len());
        for key in keys {
            stamps.push(self.look(key, None).await.map(stamp));
        }
        stamps
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for ExampleProvider {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let what = "the list of secrets";
        let answer = self.ask(Method::GET, "/v1/secrets", what, None, MAX_LIST).await?;
        let names: Vec<String> =
            serde_json::from_slice(&answer.body).map_err(|_| damaged(what, "is no list"))?;
        // A name that no key can have cannot be asked for.
        let mut keys: Vec<SecretKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
        keys.sort();
        Ok(keys)
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let (path, what) =
            (format!("/v1/versions?key={}", escaped(key.as_str())), format!("the secret `{key}`"));
        let answer = self.ask(Method::GET, &path, &what, None, MAX_LIST).await?;
        let mut listed: Vec<Listed> =
            serde_json::from_slice(&answer.body).map_err(|_| damaged(&what, "is no list"))?;
        listed.sort_by_key(|line| std::cmp::Reverse(line.version));
        let info = |line: Listed| {
            let state = if line.enabled { VersionState::Enabled } else { VersionState::Disabled };
            let mut info = VersionInfo::new(Version::numbered(line.version), state);
            info.current = line.current;
            info
        };
        Ok(listed.into_iter().map(info).collect())
    }
}

/// The path of a secret. The key goes into the query, where nothing in it is a path.
fn path_of(key: &SecretKey, version: Option<&str>) -> String {
    let version = version.map(|version| format!("&version={}", escaped(version)));
    format!("/v1/secret?key={}{}", escaped(key.as_str()), version.unwrap_or_default())
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn number(answer: &Answer, what: &str) -> Result<u64> {
    let number = answer.headers.get(VERSION).and_then(|value| value.to_str().ok()?.parse().ok());
    number.ok_or_else(|| damaged(what, "says no version"))
}

fn stamp(number: u64) -> Stamp {
    Stamp::from(number.to_string())
}
