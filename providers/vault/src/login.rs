//! The ways to a token: it is given, stands in a file, or is got by a login.

use std::fmt;
use std::path::Path;

use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::AppRole;
use crate::error::Call;
use crate::http::{Ask, Body, Reply};
use crate::kv;
use crate::session::{FileMark, Grant, Life, Session};

/// The answer to a login or a renewal.
#[derive(Deserialize)]
pub(crate) struct Answer {
    pub(crate) auth: Option<Granted>,
}

#[derive(Deserialize)]
pub(crate) struct Granted {
    #[serde(deserialize_with = "secret")]
    client_token: SecretValue,
    #[serde(default)]
    pub(crate) lease_duration: u64,
    #[serde(default)]
    pub(crate) renewable: bool,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretValue, D::Error> {
    String::deserialize(deserializer).map(SecretValue::from)
}

/// Gets a token in the way that the settings ask for.
pub(crate) async fn login(session: &Session) -> Result<Grant> {
    let auth = &session.auth;
    if let Some(token) = &auth.token {
        return Ok(Grant { text: token.clone(), life: Life::Unknown, file: None });
    }
    if let Some(path) = &auth.token_file {
        // The mark comes first: a file that changes in between is read again.
        let file = FileMark::of(path).await;
        return Ok(Grant { text: read(path).await?, life: Life::Unknown, file });
    }
    if let Some(login) = &auth.approle {
        let mut body = json!({ "role_id": login.role_id });
        let secret_id = secret_id(session, login).await?;
        if let Some(secret_id) = &secret_id {
            body["secret_id"] = text(secret_id).into();
        }
        return granted(session, &login.mount, body).await;
    }
    if let Some(login) = &auth.kubernetes {
        let jwt = read(&login.jwt_file).await?;
        let body = json!({ "role": login.role, "jwt": text(&jwt) });
        return granted(session, &login.mount, body).await;
    }
    if let Some(login) = &auth.jwt {
        let jwt = read(&login.jwt_file).await?;
        let mut body = json!({ "jwt": text(&jwt) });
        if let Some(role) = &login.role {
            body["role"] = role.as_str().into();
        }
        return granted(session, &login.mount, body).await;
    }
    Err(Error::new(ErrorKind::Invalid, "the settings name no way to log in"))
}

/// Logs in at the method that is mounted there.
async fn granted(session: &Session, mount: &str, body: serde_json::Value) -> Result<Grant> {
    let what = format!("auth/{mount}/login");
    let mut path = vec!["auth"];
    path.extend(kv::segments(mount).expect("the settings were checked"));
    path.push("login");
    let ask = Ask::post(path, Body::json(&body), Call::Read, &what);
    wipe(body);
    let since = Instant::now();
    let reply = session.http.send(&ask, None).await?;
    match reply.read::<Answer>().and_then(|answer| answer.auth) {
        Some(auth) if reply.is_success() => {
            let life = Life::new(since, auth.lease_duration, auth.renewable);
            Ok(Grant { text: auth.client_token, life, file: None })
        }
        _ => Err(refused(&reply, &ask, &format!("the login at `{what}` is refused"))),
    }
}

/// The secret id from its file, out of its wrapping where it has one.
async fn secret_id(session: &Session, login: &AppRole) -> Result<Option<SecretValue>> {
    let Some(path) = &login.secret_id_file else { return Ok(None) };
    let held = read(path).await?;
    if !login.secret_id_wrapped {
        return Ok(Some(held));
    }
    if let Some(secret_id) = session.unwrapped(&held) {
        return Ok(Some(secret_id));
    }
    #[derive(Deserialize)]
    struct Wrapped {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(deserialize_with = "secret")]
        secret_id: SecretValue,
    }
    let body = Body::json(&json!({}));
    let ask =
        Ask::post(vec!["sys", "wrapping", "unwrap"], body, Call::Once, "the wrapped secret id");
    let reply = session.http.send(&ask, Some(&held)).await?;
    match reply.read::<Wrapped>() {
        Some(Wrapped { data }) if reply.is_success() => {
            session.keep_unwrapped(held, data.secret_id.clone());
            Ok(Some(data.secret_id))
        }
        _ => {
            let path = path.display();
            let message = format!(
                "the secret id in `{path}` cannot be unwrapped: it has expired, somebody else has \
                 done it, or we have and its answer was lost"
            );
            Err(refused(&reply, &ask, &message))
        }
    }
}

/// That the server does not take a credential, where that is what it says.
fn refused(reply: &Reply, ask: &Ask<'_>, message: &str) -> Error {
    let failure = reply.failure(ask);
    match reply.status {
        400 | 401 | 403 => Error::with_source(ErrorKind::Unauthenticated, message, failure),
        // It was understood as a success, but for what is in it.
        200..300 => Error::with_source(ErrorKind::Invalid, message, Unreadable),
        _ => failure,
    }
}

/// The text of a file without the white space around it.
async fn read(path: &Path) -> Result<SecretValue> {
    let of = path.display();
    let content = tokio::fs::read(path).await.map(Zeroizing::new).map_err(|error| {
        Error::with_source(ErrorKind::Unauthenticated, format!("`{of}` cannot be read"), error)
    })?;
    let text = std::str::from_utf8(&content).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        let message = format!("`{of}` has no credential in it");
        return Err(Error::new(ErrorKind::Unauthenticated, message));
    }
    Ok(text.into())
}

fn text(value: &SecretValue) -> &str {
    value.expose_str().unwrap_or_default()
}

/// Wipes the copies of credentials that went into a body.
fn wipe(body: serde_json::Value) {
    let serde_json::Value::Object(entries) = body else { return };
    for (_, entry) in entries {
        if let serde_json::Value::String(text) = entry {
            drop(Zeroizing::new(text));
        }
    }
}

#[derive(Debug)]
struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer has no credential in it")
    }
}

impl std::error::Error for Unreadable {}
