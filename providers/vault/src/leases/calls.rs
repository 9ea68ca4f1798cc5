//! The calls about leases.

use std::collections::BTreeMap;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::term::Term;
use crate::api::Api;
use crate::error::{Call, Seen, about, failed};
use crate::http::{Ask, Body};
use crate::session::Token;
use crate::{kv, payload};

/// What a read of the engine has brought.
pub(super) enum Issued {
    /// A credential of our own, for a time.
    Lease { id: String, value: SecretValue, token: Token, term: Term },
    /// The one credential of a static role, until the server changes it.
    Fixed { value: SecretValue, rotated: String, left: Duration },
    /// A lease, and why it is of no use.
    Useless { id: String, why: Error },
}

/// What the server says of a lease that we hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Lives,
    /// It knows none of that id: it has ended, or was revoked.
    Gone,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// What the server says of a lease that it does not know. There is no code for it: the status is
/// that of anything that goes wrong with one. Were these words others, a lease that was revoked
/// would be found out when its time is up, and none would be given up that lives.
const UNKNOWN: &str = "invalid lease";
/// What tells of a static role and changes with every read, or is no part of the credential.
const OF_THE_ROLE: [&str; 5] =
    ["ttl", "last_vault_rotation", "rotation_period", "rotation_schedule", "rotation_window"];

impl Api {
    /// Reads a path of the engine, which makes a lease of most. A reply that is lost leaves one
    /// behind that nobody knows; it ends by itself.
    pub(super) async fn issue(&self, key: &SecretKey) -> Result<Issued> {
        let what = self.name(key);
        let mut ask = Ask::get(self.path(None, key)?, &what, None);
        ask.call = Call::Once;
        let since = Instant::now();
        let (reply, token) = self.call_by(&ask).await?;
        if !reply.is_success() {
            return Err(reply.failure(&ask));
        }
        let garbled = || failed(Seen::Garbled, Call::Once, &what, &[]);
        let answer: Answer<'_> = reply.read().ok_or_else(garbled)?;
        let data = answer.data.ok_or_else(garbled)?;
        if answer.lease_id.is_empty() {
            return fixed(data, &self.config.value_key, &what);
        }
        let id = answer.lease_id;
        let value = payload::value(data, &self.config.value_key, &what);
        match (value, Term::new(since, answer.lease_duration, answer.renewable)) {
            (Ok(value), Some(term)) => Ok(Issued::Lease { id, value, token, term }),
            (Err(why), _) => Ok(Issued::Useless { id, why }),
            (Ok(_), None) => {
                let message = format!("the lease of `{what}` ends before it begins");
                let why = Error::new(ErrorKind::Unavailable, message);
                Ok(Issued::Useless { id, why })
            }
        }
    }

    /// When a static role was changed last, by what the server says of the role and not of its
    /// credential. `None` where it does not say so, or not to us.
    pub(super) async fn rotated(&self, key: &SecretKey) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Role {
            last_vault_rotation: Option<String>,
        }
        let Some(role) = role_of(key) else { return Ok(None) };
        let what = self.name(&role);
        let ask = Ask::get(self.path(None, &role)?, &what, None);
        match self.call(&ask).await? {
            reply if reply.is_success() => {
                let role = reply.read::<kv::Answer<Role>>();
                Ok(role.and_then(|role| role.data.last_vault_rotation))
            }
            reply if matches!(reply.status, 403 | 404) => Ok(None),
            reply => Err(reply.failure(&ask)),
        }
    }

    /// Has a lease live so long again; answers with how long that is, or with `None` if the server
    /// knows none of that id any more.
    pub(super) async fn renew(&self, id: &str, term: Duration, what: &str) -> Result<Option<u64>> {
        let body = serde_json::json!({ "lease_id": id, "increment": term.as_secs() });
        let path = vec!["sys", "leases", "renew"];
        let ask = Ask::post(path, Body::json(&body), Call::OfLease, what);
        let reply = self.call(&ask).await?;
        if reply.is_success() {
            let answer = reply.read::<Answer<'_>>();
            let garbled = || failed(Seen::Garbled, Call::OfLease, what, &[]);
            return answer.map(|answer| Some(answer.lease_duration)).ok_or_else(garbled);
        }
        // Whether that is so, or what the lease is of cannot be asked, is not told apart here.
        if reply.status == 400 && matches!(self.look_up(id, what, None).await, Ok(Word::Gone)) {
            return Ok(None);
        }
        Err(reply.failure(&ask))
    }

    /// Asks whether a lease is still there.
    pub(super) async fn look_up(
        &self,
        id: &str,
        what: &str,
        deadline: Option<Instant>,
    ) -> Result<Word> {
        let body = Body::json(&serde_json::json!({ "lease_id": id }));
        let mut ask = Ask::post(vec!["sys", "leases", "lookup"], body, Call::OfLease, what);
        ask.deadline = deadline;
        match self.call(&ask).await? {
            reply if reply.is_success() => Ok(Word::Lives),
            reply if reply.status == 400 && reply.said() == [UNKNOWN] => Ok(Word::Gone),
            reply => Err(reply.failure(&ask)),
        }
    }

    /// Ends a lease, and what it is of. That there is none any more is a success.
    pub(super) async fn revoke(&self, id: &str, deadline: Option<Instant>) -> Result<()> {
        let body = Body::json(&serde_json::json!({ "lease_id": id, "sync": true }));
        let path = vec!["sys", "leases", "revoke"];
        let mut ask = Ask::post(path, body, Call::OfLease, "a lease of ours");
        ask.deadline = deadline;
        self.success(&ask).await.map(drop)
    }

    /// Ends a token of ours, which takes its leases along.
    pub(super) async fn give_up(&self, token: &Token, deadline: Instant) -> Result<()> {
        let path = vec!["auth", "token", "revoke-self"];
        let body = Body::json(&serde_json::json!({}));
        let mut ask = Ask::post(path, body, Call::Once, "a token of ours");
        ask.deadline = Some(deadline);
        // This one and no other: a new login in its place would be ended for nothing.
        let reply = self.session.http.send(&ask, Some(&token.text)).await?;
        if reply.is_success() { Ok(()) } else { Err(reply.failure(&ask)) }
    }
}

pub(super) fn say_left(error: &Error) {
    let error = error.chain();
    tracing::warn!(error, "a lease cannot be revoked; it is left to end by itself");
}

/// Where a static role itself is found, of which this is the credential.
fn role_of(key: &SecretKey) -> Option<SecretKey> {
    let name = |of: &str| key.as_str().strip_prefix(of);
    let role = match (name("static-creds/"), name("static-cred/")) {
        (Some(name), _) => format!("static-roles/{name}"),
        (None, Some(name)) => format!("static-role/{name}"),
        (None, None) => return None,
    };
    role.parse().ok()
}

/// The credential of a static role, without what changes although it does not.
fn fixed(data: &RawValue, value_key: &str, what: &str) -> Result<Issued> {
    #[derive(Deserialize)]
    struct Role {
        ttl: u64,
        last_vault_rotation: String,
    }
    let role: Role = serde_json::from_str(data.get()).map_err(|_| {
        let message = format!("`{what}` was answered without a lease, so it is none to be had");
        Error::new(ErrorKind::Invalid, message)
    })?;
    let mut entries: BTreeMap<&str, &RawValue> =
        serde_json::from_str(data.get()).map_err(|_| about(ErrorKind::Invalid, what))?;
    entries.retain(|name, _| !OF_THE_ROLE.contains(name));
    let object = serde_json::value::to_raw_value(&entries).expect("it was JSON before");
    let value = payload::value(&object, value_key, what)?;
    let left = Duration::from_secs(role.ttl.min(10 * 365 * 86_400));
    Ok(Issued::Fixed { value, rotated: role.last_vault_rotation, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_role_is_its_credential_and_not_the_time() {
        let read = |ttl: u64| {
            let text = format!(
                r#"{{"last_vault_rotation":"2026-01-01T00:00:00Z","password":"p","rotation_period":60,"ttl":{ttl},"username":"u"}}"#
            );
            let data: Box<RawValue> = serde_json::from_str(&text).unwrap();
            match fixed(&data, "value", "db/static-creds/a").unwrap() {
                Issued::Fixed { value, rotated, left } => {
                    (value.expose_str().unwrap().to_owned(), rotated, left)
                }
                _ => panic!("there is no lease"),
            }
        };
        let (value, rotated, left) = read(7);
        assert_eq!(value, r#"{"password":"p","username":"u"}"#);
        assert_eq!(rotated, "2026-01-01T00:00:00Z");
        assert_eq!(left, Duration::from_secs(7));
        assert_eq!(read(0).0, value);
    }

    #[test]
    fn a_static_role_is_found_beside_its_credential() {
        let of = |key: &str| role_of(&key.parse().unwrap()).map(|role| role.to_string());
        assert_eq!(of("static-creds/a/b").as_deref(), Some("static-roles/a/b"));
        assert_eq!(of("static-cred/a").as_deref(), Some("static-role/a"));
        assert_eq!(of("creds/static-creds/a"), None);
    }

    #[test]
    fn what_is_neither_is_refused_and_not_quoted() {
        let data: Box<RawValue> = serde_json::from_str(r#"{"password":"canary"}"#).unwrap();
        let error = fixed(&data, "value", "s").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.chain().contains("canary"));
    }
}
