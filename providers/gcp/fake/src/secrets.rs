//! The calls of Secret Manager.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde_json::{Value, json};

use crate::reply::Reply;
use crate::resource::{is_alias, is_annotation, is_secret_id};
use crate::store::{Meta, Place, Secret, State, Store, Version, etag, secret_json, version_json};

/// The largest payload.
const MAX_PAYLOAD: usize = 65_536;

/// What a change is told as, to topics and to the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    /// `SECRET_VERSION_ADD` and so on.
    pub(crate) event: &'static str,
    /// The method of the API.
    pub(crate) method: &'static str,
    /// The full name of the secret, and of the version where it is one.
    pub(crate) secret: String,
    pub(crate) version: Option<String>,
    /// The JSON of what was changed, with enums as names.
    pub(crate) resource: Value,
    pub(crate) topics: Vec<String>,
}

pub(crate) type Done = Result<(Value, Option<Happened>), Reply>;

/// A call with what was sent along.
pub(crate) struct Asked<'a> {
    pub(crate) query: &'a HashMap<String, String>,
    pub(crate) body: &'a Value,
    pub(crate) ints: bool,
}

impl Asked<'_> {
    fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

impl Store {
    pub(crate) fn list_secrets(&self, location: Option<&str>, asked: &Asked<'_>) -> Done {
        let horizon = self.horizon();
        let filter = asked.query("filter");
        let mut all = Vec::new();
        for place in self.order.iter().rev().filter(|place| place.0.as_deref() == location) {
            let secret = &self.secrets[place];
            let Some(view) = secret.view(horizon) else { continue };
            if !matches(filter, place, &view.meta)? {
                continue;
            }
            all.push(secret_json(&self.name(place), secret, view));
        }
        self.page("secrets", all, asked)
    }

    pub(crate) fn list_versions(&self, place: &Place, asked: &Asked<'_>) -> Done {
        let secret = self.secret(place)?;
        let view = secret.view_or_first(self.horizon());
        let wanted = match asked.query("filter") {
            "" => None,
            "state:ENABLED" | "state=ENABLED" => Some(State::Enabled),
            "state:DISABLED" | "state=DISABLED" => Some(State::Disabled),
            "state:DESTROYED" | "state=DESTROYED" => Some(State::Destroyed),
            filter => return Err(Reply::invalid(format!("the fake has no filter `{filter}`"))),
        };
        let name = self.name(place);
        let shown = view.states.iter().enumerate().rev();
        let all = shown.filter(|(_, state)| wanted.is_none_or(|wanted| wanted == **state));
        let all = all.map(|(index, state)| {
            version_json(&name, index + 1, &secret.versions[index], *state, asked.ints)
        });
        self.page("versions", all.collect(), asked)
    }

    fn page(&self, of: &str, all: Vec<Value>, asked: &Asked<'_>) -> Done {
        let size: usize = match asked.query("pageSize") {
            "" => 0,
            text => text.parse().map_err(|_| Reply::invalid("page_size must not be negative"))?,
        };
        let size = if size == 0 { self.page_limit } else { size.min(self.page_limit) };
        let start: usize = match asked.query("pageToken") {
            "" => 0,
            token => token
                .strip_prefix("page-")
                .and_then(|offset| offset.parse().ok())
                .ok_or_else(|| Reply::invalid("the page token is not valid"))?,
        };
        let total = all.len();
        let page: Vec<Value> = all.into_iter().skip(start).take(size).collect();
        let end = start + page.len();
        let mut answer = json!({of: page, "totalSize": total});
        if end < total {
            answer["nextPageToken"] = json!(format!("page-{end}"));
        }
        Ok((answer, None))
    }

    pub(crate) fn get_secret(&self, place: &Place) -> Done {
        let secret = self.secret(place)?;
        let view = secret.view_or_first(self.horizon());
        Ok((secret_json(&self.name(place), secret, view), None))
    }

    pub(crate) fn get_version(&self, place: &Place, version: &str, asked: &Asked<'_>) -> Done {
        let number = self.resolve(place, version)?;
        let held = &self.secrets[place].versions[number - 1];
        Ok((version_json(&self.name(place), number, held, held.state, asked.ints), None))
    }

    pub(crate) fn access(&self, place: &Place, version: &str, damaged: bool) -> Done {
        let number = self.resolve(place, version)?;
        let held = &self.secrets[place].versions[number - 1];
        let name = format!("{}/versions/{number}", self.name(place));
        if held.state != State::Enabled {
            return Err(Reply::failed_precondition(format!(
                "Secret Version [{name}] is in {} state.",
                if held.state == State::Disabled { "DISABLED" } else { "DESTROYED" }
            )));
        }
        let checksum = crc32c::crc32c(&held.payload) ^ u32::from(damaged);
        let payload = json!({
            "data": BASE64_STANDARD.encode(&held.payload),
            "dataCrc32c": checksum.to_string(),
        });
        Ok((json!({"name": name, "payload": payload}), None))
    }

    pub(crate) fn create(&mut self, location: Option<&str>, asked: &Asked<'_>) -> Done {
        let id = asked.query("secretId");
        if !is_secret_id(id) {
            return Err(Reply::invalid("the secret id is not valid"));
        }
        let place = (location.map(Into::into), id.to_owned());
        if self.secrets.contains_key(&place) {
            let message = format!("Secret [{}] already exists.", self.name(&place));
            return Err(Reply::error(409, "ALREADY_EXISTS", message));
        }
        let replication = asked.body.get("replication").filter(|value| !value.is_null()).cloned();
        if replication.is_some() == location.is_some() {
            return Err(Reply::invalid("replication is for global secrets, and for all of them"));
        }
        let mut meta = Meta { replication, ..Meta::default() };
        apply(&mut meta, asked.body, &["labels", "annotations", "topics", "versionDestroyTtl"], 0)?;
        self.insert(place.clone(), meta);
        Ok(self.told(&place, "SECRET_CREATE", "CreateSecret"))
    }

    /// Makes room for a secret, without questions.
    pub(crate) fn insert(&mut self, place: Place, mut meta: Meta) {
        meta.etag = self.etag();
        let mut secret = Secret::new(meta);
        secret.note();
        self.order.push(place.clone());
        self.secrets.insert(place, secret);
    }

    pub(crate) fn update(&mut self, place: &Place, asked: &Asked<'_>) -> Done {
        let sent = asked.body.get("etag").and_then(Value::as_str).unwrap_or_default();
        let count = self.secret(place)?.versions.len();
        self.check_etag(sent, self.secret(place)?.meta.etag)?;
        let fields: Vec<&str> = asked.query("updateMask").split(',').collect();
        if fields == [""] {
            return Err(Reply::invalid("there is no update mask"));
        }
        let mut meta = self.secret(place)?.meta.clone();
        apply(&mut meta, asked.body, &fields, count)?;
        meta.etag = self.etag();
        let secret = self.secrets.get_mut(place).expect("it was found above");
        secret.meta = meta;
        secret.note();
        Ok(self.told(place, "SECRET_UPDATE", "UpdateSecret"))
    }

    pub(crate) fn delete(&mut self, place: &Place, asked: &Asked<'_>) -> Done {
        self.check_etag(asked.query("etag"), self.secret(place)?.meta.etag)?;
        let (_, happened) = self.told(place, "SECRET_DELETE", "DeleteSecret");
        self.secrets.remove(place);
        self.order.retain(|other| other != place);
        Ok((json!({}), happened))
    }

    pub(crate) fn add(&mut self, place: &Place, asked: &Asked<'_>) -> Done {
        self.secret(place)?;
        let payload = asked.body.get("payload").unwrap_or(&Value::Null);
        let text = payload.get("data").and_then(Value::as_str).unwrap_or_default();
        let data = BASE64_STANDARD.decode(text).or_else(|_| BASE64_URL_SAFE.decode(text));
        let data = data.map_err(|_| Reply::invalid("the payload is not base64"))?;
        if data.is_empty() {
            return Err(Reply::invalid("Secret Payload cannot be empty."));
        }
        if data.len() > MAX_PAYLOAD {
            return Err(Reply::invalid("The secret payload must not exceed 65536 bytes."));
        }
        let checksum = payload.get("dataCrc32c").and_then(|value| match value {
            Value::String(text) => text.parse::<i64>().ok(),
            value => value.as_i64(),
        });
        if checksum.is_some_and(|sent| sent != i64::from(crc32c::crc32c(&data))) {
            return Err(Reply::invalid("The checksum does not match the payload."));
        }
        let number = self.push(place, data, checksum.is_some());
        self.told_version(place, number, "SECRET_VERSION_ADD", "AddSecretVersion", asked.ints)
    }

    /// Adds a version, without questions, and answers with its number.
    pub(crate) fn push(&mut self, place: &Place, payload: Vec<u8>, checked: bool) -> usize {
        let etag = self.etag();
        let secret = self.secrets.get_mut(place).expect("the caller made sure that it is there");
        secret.versions.push(Version {
            state: State::Enabled,
            etag,
            created: SystemTime::now(),
            destroyed: None,
            scheduled: None,
            payload,
            checked,
        });
        secret.note();
        secret.versions.len()
    }

    pub(crate) fn turn(
        &mut self,
        place: &Place,
        version: &str,
        to: State,
        asked: &Asked<'_>,
    ) -> Done {
        let number = self.resolve(place, version)?;
        let sent = asked.body.get("etag").and_then(Value::as_str).unwrap_or_default();
        let fresh = self.etag();
        let held = &self.secrets[place].versions[number - 1];
        self.check_etag(sent, held.etag)?;
        if held.state == State::Destroyed && to != State::Destroyed {
            return Err(Reply::failed_precondition("The version is destroyed."));
        }
        let secret = self.secrets.get_mut(place).expect("it was found above");
        let delay = secret.meta.destroy_ttl;
        let held = &mut secret.versions[number - 1];
        held.etag = fresh;
        let (event, method) = match (to, delay) {
            (State::Enabled, _) => {
                (held.state, held.scheduled) = (State::Enabled, None);
                ("SECRET_VERSION_ENABLE", "EnableSecretVersion")
            }
            (State::Disabled, _) => {
                held.state = State::Disabled;
                ("SECRET_VERSION_DISABLE", "DisableSecretVersion")
            }
            (State::Destroyed, Some(delay)) => {
                held.state = State::Disabled;
                held.scheduled = Some(SystemTime::now() + delay);
                ("SECRET_VERSION_DESTROY_SCHEDULED", "DestroySecretVersion")
            }
            (State::Destroyed, None) => {
                held.state = State::Destroyed;
                held.destroyed = Some(SystemTime::now());
                held.payload.clear();
                ("SECRET_VERSION_DESTROY", "DestroySecretVersion")
            }
        };
        secret.note();
        self.told_version(place, number, event, method, asked.ints)
    }

    /// The answer to a change of a secret, and how it is told.
    pub(crate) fn told(
        &self,
        place: &Place,
        event: &'static str,
        method: &'static str,
    ) -> (Value, Option<Happened>) {
        let secret = &self.secrets[place];
        let name = self.name(place);
        let now = secret.view_or_first(tokio::time::Instant::now());
        let resource = secret_json(&name, secret, now);
        let topics = secret.meta.topics.clone();
        let happened = Happened {
            event,
            method,
            secret: name,
            version: None,
            resource: resource.clone(),
            topics,
        };
        (resource, Some(happened))
    }

    pub(crate) fn told_version(
        &self,
        place: &Place,
        number: usize,
        event: &'static str,
        method: &'static str,
        ints: bool,
    ) -> Done {
        let secret = &self.secrets[place];
        let held = &secret.versions[number - 1];
        let name = self.name(place);
        let happened = Happened {
            event,
            method,
            version: Some(format!("{name}/versions/{number}")),
            resource: version_json(&name, number, held, held.state, false),
            topics: secret.meta.topics.clone(),
            secret: name.clone(),
        };
        Ok((version_json(&name, number, held, held.state, ints), Some(happened)))
    }

    fn secret(&self, place: &Place) -> Result<&Secret, Reply> {
        self.secrets.get(place).ok_or_else(|| Reply::not_found(&self.name(place)))
    }

    /// The number that a version goes by. Numbers are found at once; `latest` and aliases mean
    /// what they meant at the horizon.
    fn resolve(&self, place: &Place, version: &str) -> Result<usize, Reply> {
        let secret = self.secret(place)?;
        let missing = || {
            let message =
                format!("Secret Version [{}/versions/{version}] not found.", self.name(place));
            Reply::error(404, "NOT_FOUND", message)
        };
        let view = secret.view_or_first(self.horizon());
        let number = if version == "latest" {
            view.states.len()
        } else if let Ok(number) = version.parse::<usize>() {
            number
        } else {
            let number = view.meta.aliases.get(version).ok_or_else(missing)?;
            usize::try_from(*number).map_err(|_| missing())?
        };
        if number == 0 || number > secret.versions.len() { Err(missing()) } else { Ok(number) }
    }

    #[expect(clippy::unused_self, reason = "it reads like the other checks of the store")]
    fn check_etag(&self, sent: &str, held: u64) -> Result<(), Reply> {
        if sent.is_empty() || sent == etag(held) {
            return Ok(());
        }
        Err(Reply::failed_precondition("The etag does not match the current one."))
    }
}

/// Whether a secret matches a filter, of those that the fake has.
fn matches(filter: &str, place: &Place, meta: &Meta) -> Result<bool, Reply> {
    if filter.is_empty() {
        return Ok(true);
    }
    let any = |part: &str| {
        if let Some(name) = part.strip_prefix("name:") {
            return Ok(place.1.contains(name));
        }
        if let Some((key, value)) =
            part.strip_prefix("labels.").and_then(|label| label.split_once('='))
        {
            return Ok(meta.labels.get(key).is_some_and(|held| held == value));
        }
        Err(Reply::invalid(format!("the fake has no filter `{part}`")))
    };
    for part in filter.split(" OR ") {
        if any(part)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes the named fields over from a body.
fn apply(meta: &mut Meta, body: &Value, fields: &[&str], versions: usize) -> Result<(), Reply> {
    for field in fields {
        match *field {
            "labels" => meta.labels = texts(body, "labels")?,
            "annotations" => {
                let annotations = texts(body, "annotations")?;
                let size: usize =
                    annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
                if !annotations.keys().all(|key| is_annotation(key)) || size >= 16 * 1024 {
                    return Err(Reply::invalid("the annotations are not valid"));
                }
                meta.annotations = annotations;
            }
            "versionAliases" | "version_aliases" => {
                let aliases = aliases(body)?;
                let known = |number: &i64| {
                    usize::try_from(*number).is_ok_and(|number| (1..=versions).contains(&number))
                };
                if aliases.len() > 50 || !aliases.keys().all(|name| is_alias(name)) {
                    return Err(Reply::invalid("the aliases are not valid"));
                }
                if !aliases.values().all(known) {
                    return Err(Reply::failed_precondition("an alias names no version"));
                }
                meta.aliases = aliases;
            }
            "topics" => {
                let topics = body.get("topics").and_then(Value::as_array);
                let name = |topic: &Value| topic.get("name")?.as_str().map(String::from);
                meta.topics = topics.into_iter().flatten().filter_map(name).collect();
            }
            "versionDestroyTtl" | "version_destroy_ttl" => {
                let text = body.get("versionDestroyTtl").and_then(Value::as_str);
                let seconds = text.and_then(|text| text.trim_end_matches('s').parse().ok());
                meta.destroy_ttl = seconds.map(Duration::from_secs);
            }
            other => return Err(Reply::invalid(format!("the fake cannot change `{other}`"))),
        }
    }
    Ok(())
}

fn texts(body: &Value, field: &str) -> Result<BTreeMap<String, String>, Reply> {
    let Some(map) = body.get(field).filter(|map| !map.is_null()) else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_value(map.clone()).map_err(|_| Reply::invalid(format!("`{field}` is no map")))
}

fn aliases(body: &Value) -> Result<BTreeMap<String, i64>, Reply> {
    let invalid = || Reply::invalid("`versionAliases` is no map of numbers");
    let Some(map) = body.get("versionAliases").filter(|map| !map.is_null()) else {
        return Ok(BTreeMap::new());
    };
    let mut aliases = BTreeMap::new();
    for (name, number) in map.as_object().ok_or_else(invalid)? {
        let number = match number {
            Value::String(text) => text.parse().ok(),
            number => number.as_i64(),
        };
        aliases.insert(name.clone(), number.ok_or_else(invalid)?);
    }
    Ok(aliases)
}
