//! What a message of the queue says: an event of EventBridge, as it is or wrapped by SNS.
//!
//! Secrets Manager's own events name the version that became current. Those that CloudTrail makes
//! of calls name the secret alone. Nothing that a message says can make the parser fail: what it
//! does not understand is [`Said::Unknown`].

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_secretsmanager::primitives::{DateTime, DateTimeFormat};
use serde_json::Value;

use crate::names::{self, Arn, CURRENT};

/// What a message comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Nothing that concerns a current version.
    Nothing,
    /// The current version of this secret may be another now.
    Changed {
        /// The account and region, as an ARN begins with them, where it is said.
        place: Option<String>,
        /// The name, or the ARN if that is all there is.
        name: String,
        /// The version that became current, where it is said.
        version: Option<Arc<str>>,
        /// When.
        time: Option<SystemTime>,
    },
    /// It is not understood.
    Unknown,
}

/// Calls that can make another version current, or none.
const CALLS: [&str; 8] = [
    "CreateSecret",
    "DeleteSecret",
    "PutSecretValue",
    "RestoreSecret",
    "RotateSecret",
    "RotationSucceeded",
    "UpdateSecret",
    "UpdateSecretVersionStage",
];

/// Reads one message.
pub(crate) fn read(body: &str) -> Said {
    let Ok(message) = serde_json::from_str::<Value>(body) else { return Said::Unknown };
    // What SNS passes on is a text in an envelope.
    if text(&message, "Type") == Some("Notification")
        && let Some(inner) = text(&message, "Message")
    {
        return serde_json::from_str(inner).map_or(Said::Unknown, |event| of_event(&event));
    }
    of_event(&message)
}

fn of_event(event: &Value) -> Said {
    let (Some(kind), Some(detail)) = (text(event, "detail-type"), event.get("detail")) else {
        return Said::Unknown;
    };
    let time = text(event, "time").and_then(time);
    match kind {
        _ if text(event, "source").is_some_and(|of| of != "aws.secretsmanager") => Said::Nothing,
        "Secret Label Updated" => of_label(event, detail, time),
        "AWS API Call via CloudTrail" | "AWS Service Event via CloudTrail" => of_call(detail, time),
        // Other events of Secrets Manager, of which there may be more.
        _ => Said::Nothing,
    }
}

fn of_label(event: &Value, detail: &Value, time: Option<SystemTime>) -> Said {
    let label = text(detail, "labelUpdated");
    let (Some(label), Some(name)) = (label, text(detail, "name")) else { return Said::Unknown };
    if label != CURRENT {
        return Said::Nothing;
    }
    let version = text(detail, "versionId").filter(|id| names::is_version_id(id)).map(Into::into);
    let resource = event.get("resources").and_then(|all| all.get(0)).and_then(Value::as_str);
    let place = resource.and_then(Arn::parse).map(|arn| arn.place.to_owned());
    let place = place.or_else(|| of_envelope(event));
    changed(place, name, version, time)
}

fn of_call(detail: &Value, time: Option<SystemTime>) -> Said {
    let Some(call) = text(detail, "eventName") else { return Said::Unknown };
    // What failed has changed nothing.
    let failed = text(detail, "errorCode").is_some();
    if failed || !CALLS.contains(&call) {
        return Said::Nothing;
    }
    // The ARN is spelled in two ways, and in some events stands elsewhere.
    let answer = detail.get("responseElements");
    let more = detail.get("additionalEventData");
    let asked = detail.get("requestParameters");
    let named = [
        answer.and_then(|of| text(of, "arn").or_else(|| text(of, "aRN"))),
        more.and_then(|of| text(of, "SecretId").or_else(|| text(of, "secretId"))),
        asked.and_then(|of| text(of, "secretId")),
        asked.and_then(|of| text(of, "name")),
    ];
    match named.into_iter().flatten().next() {
        Some(name) => changed(None, name, None, time),
        None => Said::Unknown,
    }
}

/// A name is taken as it is; an ARN is taken apart, and what AWS adds to the name is cut off.
fn changed(
    place: Option<String>,
    named: &str,
    version: Option<Arc<str>>,
    time: Option<SystemTime>,
) -> Said {
    let whole = Arn::parse(named);
    let name = match whole {
        Some(arn) => names::without_suffix(arn.name).unwrap_or(arn.name),
        None => named,
    };
    let place = whole.map(|arn| arn.place.to_owned()).or(place);
    Said::Changed { place, name: name.to_owned(), version, time }
}

/// Account and region from the envelope of an event. The partition is that of the region.
fn of_envelope(event: &Value) -> Option<String> {
    let (region, account) = (text(event, "region")?, text(event, "account")?);
    let partition = match region {
        _ if region.starts_with("cn-") => "aws-cn",
        _ if region.starts_with("us-gov-") => "aws-us-gov",
        _ if region.starts_with("us-iso") => return None,
        _ => "aws",
    };
    Some(format!("arn:{partition}:secretsmanager:{region}:{account}"))
}

fn time(text: &str) -> Option<SystemTime> {
    SystemTime::try_from(DateTime::from_str(text, DateTimeFormat::DateTime).ok()?).ok()
}

fn text<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const PLACE: &str = "arn:aws:secretsmanager:eu-west-1:123456789012";
    const VERSION: &str = "0123abcd-0123-0123-0123-0123456789ab";

    fn label(name: &str, label: &str) -> Value {
        json!({
            "version": "0", "id": "x", "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager", "account": "123456789012", "region": "eu-west-1",
            "time": "2026-01-02T03:04:05Z", "resources": [],
            "detail": { "name": name, "labelUpdated": label, "versionId": VERSION },
        })
    }

    fn call(name: &str, detail: &Value) -> Value {
        let mut detail = detail.clone();
        detail["eventName"] = json!(name);
        json!({
            "detail-type": "AWS API Call via CloudTrail", "source": "aws.secretsmanager",
            "detail": detail,
        })
    }

    fn said(name: &str, place: Option<&str>, version: Option<&str>) -> Said {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let (place, named) = (place.map(Into::into), version.map(Into::into));
        let time = version.map(|_| time);
        Said::Changed { place, name: name.into(), version: named, time }
    }

    #[test]
    fn a_moved_label_names_the_version() {
        let expected = said("app/db", Some(PLACE), Some(VERSION));
        assert_eq!(read(&label("app/db", "AWSCURRENT").to_string()), expected);
        let arn = format!("{PLACE}:secret:app/db-AbCdEf");
        assert_eq!(read(&label(&arn, "AWSCURRENT").to_string()), expected);
        let mut event = label("app/db", "AWSCURRENT");
        event["resources"] = json!([arn]);
        event["region"] = json!("us-iso-east-1");
        assert_eq!(read(&event.to_string()), expected);
        let wrapped = json!({ "Type": "Notification", "Message": event.to_string() });
        assert_eq!(read(&wrapped.to_string()), expected);
        assert_eq!(read(&label("app/db", "ONEIRIC").to_string()), Said::Nothing);
    }

    #[test]
    fn a_call_names_the_secret_in_several_ways() {
        let arn = format!("{PLACE}:secret:app/db-AbCdEf");
        let expected = said("app/db", Some(PLACE), None);
        for detail in [
            json!({ "responseElements": { "arn": arn } }),
            json!({ "responseElements": { "aRN": arn }, "requestParameters": { "secretId": "x" } }),
            json!({ "responseElements": null, "additionalEventData": { "SecretId": arn } }),
            json!({ "requestParameters": { "secretId": arn } }),
        ] {
            assert_eq!(read(&call("PutSecretValue", &detail).to_string()), expected, "{detail}");
        }
        let by_name = json!({ "requestParameters": { "secretId": "app/db" } });
        let expected = said("app/db", None, None);
        assert_eq!(read(&call("UpdateSecretVersionStage", &by_name).to_string()), expected);
    }

    #[test]
    fn what_changes_no_current_version_is_dropped() {
        let tagged = json!({ "requestParameters": { "secretId": "db" } });
        let refused =
            json!({ "errorCode": "AccessDenied", "requestParameters": { "secretId": "db" } });
        for event in [
            call("TagResource", &tagged),
            call("GetSecretValue", &tagged),
            call("PutSecretValue", &refused),
            json!({ "detail-type": "Secret Tagged", "source": "aws.secretsmanager", "detail": {} }),
            json!({ "detail-type": "Object Created", "source": "aws.s3", "detail": {} }),
        ] {
            assert_eq!(read(&event.to_string()), Said::Nothing, "{event}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said_so() {
        let bare = json!({ "detail-type": "Secret Label Updated", "detail": { "name": "db" } });
        let unnamed = call("PutSecretValue", &json!({}));
        let wrapped = json!({ "Type": "Notification", "Message": "hello" });
        for body in ["", "null", "[]", "{", "hello", &bare.to_string(), &unnamed.to_string()] {
            assert_eq!(read(body), Said::Unknown, "{body}");
        }
        assert_eq!(read(&wrapped.to_string()), Said::Unknown);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_fail(body in ".{0,200}", key in "[a-z-]{0,12}", value in ".{0,40}") {
            read(&body);
            let mut event = label(&value, "AWSCURRENT");
            event[key.as_str()] = json!(value);
            event["detail"][key.as_str()] = json!([value]);
            read(&event.to_string());
            read(&call(&value, &event).to_string());
        }
    }
}
