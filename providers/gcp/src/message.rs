//! What a Pub/Sub message says, in both of the shapes in which Secret Manager's changes come.
//!
//! A topic that is set on a secret gets messages whose attributes name the event. A sink of audit
//! logs gets log entries of the whole project, or of an organisation. Both carry the number of
//! the project instead of its id. Nothing that a message says can make the parser fail: what it
//! does not understand is [`Said::Unknown`].

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use oneiric_core::{Change, Version};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Current;
use crate::names::{self, Place, SecretName};

/// A message as Pub/Sub hands it out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Message {
    pub(crate) data: String,
    pub(crate) attributes: HashMap<String, String>,
}

/// What a message comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing that concerns a value.
    Nothing,
    /// The current version of this secret may be another now, this one if it is said.
    Changed(SecretName, Option<u64>),
    /// It is not understood.
    Unknown,
}

/// What happened, in the words of both shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The secret was made or its metadata changed.
    Updated,
    /// It is gone.
    Deleted,
    Added,
    /// A version was enabled, disabled or destroyed, or is going to be.
    Turned,
    Other,
}

/// Reads one message.
pub(crate) fn read(message: &Message, current: &Current) -> Said {
    let data = BASE64_STANDARD.decode(&message.data).ok();
    let json: Option<Value> = data.and_then(|data| serde_json::from_slice(&data).ok());
    match message.attributes.get("eventType") {
        Some(event) => of_topic(event, &message.attributes, json.as_ref(), current),
        None => json.map_or(Said::Unknown, |entry| of_log(&entry, current)),
    }
}

/// The changes that a message stands for, one for each key that names the secret.
pub(crate) fn changes(said: Said, place: &Place) -> Vec<Change> {
    match said {
        Said::Nothing => Vec::new(),
        Said::Unknown => vec![Change::Anything],
        Said::Changed(name, number) => {
            let mut keys = place.keys(&name);
            let mut version = number.map(Version::numbered);
            // Whose number it is shows with the first answer; until then it is worth a look.
            if place.may_be_ours(&name) {
                version = None;
                keys.extend(name.id.parse().ok());
            }
            let change = |key| Change::Secret { key, version: version.clone() };
            keys.into_iter().map(change).collect()
        }
    }
}

/// The shape of a topic that is set on the secret.
fn of_topic(
    event: &str,
    attributes: &HashMap<String, String>,
    data: Option<&Value>,
    current: &Current,
) -> Said {
    let event = match event {
        "TOPIC_CONFIGURED" | "SECRET_ROTATE" => return Said::Nothing,
        "SECRET_CREATE" | "SECRET_UPDATE" => Event::Updated,
        "SECRET_DELETE" => Event::Deleted,
        "SECRET_VERSION_ADD" => Event::Added,
        "SECRET_VERSION_ENABLE"
        | "SECRET_VERSION_DISABLE"
        | "SECRET_VERSION_DESTROY"
        | "SECRET_VERSION_DESTROY_SCHEDULED" => Event::Turned,
        _ => Event::Other,
    };
    let named = data.and_then(|data| text(data, "name"));
    let version = attributes.get("versionId").map(String::as_str).or(named);
    let secret = attributes.get("secretId").map(String::as_str).or(version);
    let Some((name, _)) = secret.and_then(SecretName::parse) else { return Said::Unknown };
    said(event, name, version.and_then(names::number), data, current)
}

/// The shape of an entry of the audit log.
fn of_log(entry: &Value, current: &Current) -> Said {
    let Some(audit) = entry.get("protoPayload") else { return Said::Unknown };
    let Some(method) = text(audit, "methodName") else { return Said::Unknown };
    if text(audit, "serviceName").is_some_and(|of| of != "secretmanager.googleapis.com") {
        return Said::Nothing;
    }
    // What failed has changed nothing.
    let code = audit.get("status").and_then(|status| status.get("code"));
    if code.is_some_and(|code| code.as_i64() != Some(0)) {
        return Said::Nothing;
    }
    let event = match method.rsplit('.').next().unwrap_or_default() {
        "CreateSecret" | "UpdateSecret" => Event::Updated,
        "DeleteSecret" => Event::Deleted,
        "AddSecretVersion" => Event::Added,
        "EnableSecretVersion" | "DisableSecretVersion" | "DestroySecretVersion" => Event::Turned,
        "AccessSecretVersion"
        | "GetSecret"
        | "GetSecretVersion"
        | "ListSecrets"
        | "ListSecretVersions"
        | "SetIamPolicy"
        | "GetIamPolicy"
        | "TestIamPermissions" => {
            return Said::Nothing;
        }
        _ => Event::Other,
    };
    let response = audit.get("response");
    let answered = response.and_then(|response| text(response, "name"));
    let named = [answered, text(audit, "resourceName")];
    let Some((name, _)) = named.into_iter().flatten().find_map(SecretName::parse) else {
        return Said::Unknown;
    };
    let number = named.into_iter().flatten().find_map(names::number);
    said(event, name, number, response, current)
}

/// What an event means for the current version.
fn said(
    event: Event,
    name: SecretName,
    number: Option<u64>,
    resource: Option<&Value>,
    current: &Current,
) -> Said {
    match (event, current.is_pointer()) {
        // The pointer names the version, and nothing but the secret itself has the pointer.
        (Event::Updated, true) => {
            let pointed = resource.and_then(|secret| current.pointed_in(secret));
            Said::Changed(name, pointed)
        }
        (Event::Added, true) | (Event::Updated, false) => Said::Nothing,
        (Event::Added, false) => Said::Changed(name, number),
        (Event::Deleted | Event::Turned | Event::Other, _) => Said::Changed(name, None),
    }
}

fn text<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> SecretName {
        SecretName::parse(text).unwrap().0
    }

    fn message(attributes: &[(&str, &str)], data: &Value) -> Message {
        Message {
            data: BASE64_STANDARD.encode(data.to_string()),
            attributes: attributes.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
        }
    }

    const SECRET: &str = "projects/4711/secrets/db";

    fn topic(event: &str, data: &Value) -> Message {
        let version = format!("{SECRET}/versions/7");
        let mut attributes =
            vec![("eventType", event), ("dataFormat", "JSON_API_V1"), ("secretId", SECRET)];
        if event.starts_with("SECRET_VERSION") {
            attributes.push(("versionId", &version));
        }
        message(&attributes, data)
    }

    fn log(method: &str, resource: &str, response: &Value) -> Message {
        let entry = json!({
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                "serviceName": "secretmanager.googleapis.com",
                "methodName": format!("google.cloud.secretmanager.v1.SecretManagerService.{method}"),
                "resourceName": resource,
                "response": response,
            },
            "logName": "projects/p/logs/cloudaudit.googleapis.com%2Factivity",
        });
        message(&[("logging.googleapis.com/timestamp", "2026-01-01T00:00:00Z")], &entry)
    }

    #[test]
    fn both_shapes_say_the_same() {
        let version = format!("{SECRET}/versions/7");
        let moved = json!({"name": SECRET, "versionAliases": {"current": "7"}});
        let nothing = json!({});
        let added = json!({"name": version});
        let seven = Said::Changed(name(SECRET), Some(7));
        let some = Said::Changed(name(SECRET), None);
        let (latest, pointer) = (Current::Latest, Current::Alias("current".into()));
        for (message, at_latest, at_pointer) in [
            (topic("SECRET_VERSION_ADD", &added), &seven, &Said::Nothing),
            (log("AddSecretVersion", SECRET, &added), &seven, &Said::Nothing),
            (log("AddSecretVersion", SECRET, &nothing), &some, &Said::Nothing),
            (topic("SECRET_UPDATE", &moved), &Said::Nothing, &seven),
            (log("UpdateSecret", SECRET, &moved), &Said::Nothing, &seven),
            (log("UpdateSecret", SECRET, &nothing), &Said::Nothing, &some),
            (topic("SECRET_VERSION_DISABLE", &added), &some, &some),
            (topic("SECRET_VERSION_DESTROY_SCHEDULED", &added), &some, &some),
            (log("DisableSecretVersion", &version, &added), &some, &some),
            (log("EnableSecretVersion", &version, &nothing), &some, &some),
            (topic("SECRET_DELETE", &moved), &some, &some),
            (log("DeleteSecret", SECRET, &nothing), &some, &some),
            (topic("SECRET_FROM_THE_FUTURE", &nothing), &some, &some),
            (topic("SECRET_ROTATE", &moved), &Said::Nothing, &Said::Nothing),
            (
                message(&[("eventType", "TOPIC_CONFIGURED")], &nothing),
                &Said::Nothing,
                &Said::Nothing,
            ),
            (log("SetIamPolicy", SECRET, &nothing), &Said::Nothing, &Said::Nothing),
        ] {
            assert_eq!(&read(&message, &latest), at_latest, "{message:?}");
            assert_eq!(&read(&message, &pointer), at_pointer, "{message:?}");
        }
    }

    #[test]
    fn what_failed_or_is_not_ours_says_nothing_and_the_rest_is_unknown() {
        let current = Current::Latest;
        let failed = json!({"protoPayload": {"status": {"code": 7}, "resourceName": SECRET,
            "methodName": "google.cloud.secretmanager.v1.SecretManagerService.AddSecretVersion"}});
        assert_eq!(read(&message(&[], &failed), &current), Said::Nothing);
        let other = json!({"protoPayload": {"serviceName": "x", "methodName": "y"}});
        assert_eq!(read(&message(&[], &other), &current), Said::Nothing);
        let broken = Message { data: "%".into(), attributes: HashMap::new() };
        for unknown in [
            broken,
            message(&[], &json!([1])),
            message(&[], &json!({"protoPayload": {}})),
            message(&[("eventType", "SECRET_VERSION_ADD")], &json!({})),
            message(&[("eventType", "SECRET_VERSION_ADD"), ("secretId", "db")], &json!({})),
        ] {
            assert_eq!(read(&unknown, &current), Said::Unknown, "{unknown:?}");
        }
    }

    #[test]
    fn a_change_is_told_for_every_key_of_the_secret() {
        let place = Place::new("p", Some("4711"), None);
        let said = || Said::Changed(name(SECRET), Some(7));
        let told: Vec<String> =
            changes(said(), &place).iter().map(|change| format!("{change:?}")).collect();
        assert_eq!(told.len(), 3);
        assert!(told[0].contains("key: db") && told[0].contains("Some(7)"), "{told:?}");
        // Whose number it is, is not known: the version is not believed.
        let unknown = Place::new("p", None, None);
        let told = changes(said(), &unknown);
        let short = Change::Secret { key: "db".parse().unwrap(), version: None };
        assert!(told.contains(&short), "{told:?}");
        assert_eq!(changes(Said::Unknown, &place), [Change::Anything]);
        let regional = Place::new("p", Some("4711"), Some("l"));
        assert!(changes(said(), &regional).is_empty());
    }

    fn json() -> impl Strategy<Value = Value> {
        let words = prop::sample::select(vec![
            "protoPayload",
            "methodName",
            "resourceName",
            "response",
            "name",
            "status",
            "code",
            "versionAliases",
            "annotations",
            "current",
            "serviceName",
            "7",
            SECRET,
            "projects/4711/secrets/db/versions/7",
            "a.AddSecretVersion",
            "a.UpdateSecret",
            "",
        ]);
        let text = prop_oneof![words.prop_map(String::from), any::<String>()];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(text.clone(), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_that_a_message_says_makes_the_parser_fail(
            entry in json(),
            event in prop::option::of(prop::sample::select(vec![
                "SECRET_VERSION_ADD", "SECRET_UPDATE", "TOPIC_CONFIGURED", "", "x",
            ])),
            secret in prop_oneof![Just(SECRET.to_owned()), any::<String>(), "[a-z/0-9]{0,40}"],
            data in prop_oneof![any::<String>(), Just(String::new())],
        ) {
            let place = Place::new("p", None, None);
            let mut attributes = vec![("secretId", secret.as_str()), ("versionId", &secret)];
            attributes.extend(event.map(|event| ("eventType", event)));
            let of_json = message(&attributes, &entry);
            let of_text = Message { data, ..message(&attributes, &entry) };
            for current in ["latest", "alias:current", "annotation:current"] {
                let current = current.parse().unwrap();
                for message in [&of_json, &of_text] {
                    let _ = changes(read(message, &current), &place);
                }
            }
        }

        #[test]
        fn no_resource_name_makes_the_parser_fail(name in "(projects|locations|secrets|versions|[a-z0-9]{1,3}|/){0,16}") {
            if let Some((secret, version)) = SecretName::parse(&name) {
                let again = version.map_or(secret.to_string(), |version| secret.version(version));
                prop_assert_eq!(again, name);
            }
        }
    }
}
