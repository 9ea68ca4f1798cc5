//! What a secret of the engine, a JSON object, is as a value, and the other way round.

use std::borrow::Cow;
use std::collections::BTreeMap;

use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use serde_json::value::RawValue;

/// The largest value. A raft store takes no larger entries unless it is told to.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

type Entries<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// The value of an object: the text of its only entry if that has this name, or the object as the
/// server wrote it.
pub(crate) fn value(object: &RawValue, value_key: &str, what: &str) -> Result<SecretValue> {
    let refused = |how: &str| Error::new(ErrorKind::Invalid, format!("`{what}` {how}"));
    let entries: Entries<'_> =
        serde_json::from_str(object.get()).map_err(|_| refused("is no JSON object"))?;
    let value = match single(&entries, value_key) {
        Some(text) => text,
        None if entries.is_empty() => return Err(refused("has no entries")),
        None => SecretValue::from(object.get()),
    };
    if value.is_empty() {
        return Err(refused("is empty"));
    }
    if value.expose().len() > MAX_BYTES {
        return Err(refused("is larger than 1 MiB"));
    }
    Ok(value)
}

/// The object for a value: a JSON object as it is, any other text as the one entry. Reading it
/// back gives the same text, but for the order and spacing of an object.
pub(crate) fn object(value: &SecretValue, value_key: &str, what: &str) -> Result<Box<RawValue>> {
    let refused = |how: &str| Error::new(ErrorKind::Invalid, format!("`{what}` {how}"));
    if value.is_empty() {
        return Err(refused("cannot be set to nothing"));
    }
    if value.expose().len() > MAX_BYTES {
        return Err(refused("cannot be set to more than 1 MiB"));
    }
    let text = value
        .expose_str()
        .ok_or_else(|| refused("can only be text, and the value is not UTF-8"))?;
    if let Ok(entries) = serde_json::from_str::<Entries<'_>>(text)
        && !entries.is_empty()
        && single(&entries, value_key).is_none()
    {
        return Ok(serde_json::from_str(text).expect("it was read before"));
    }
    if value_key.is_empty() {
        return Err(refused("can only be a JSON object, since `value_key` is empty"));
    }
    let object = serde_json::value::to_raw_value(&BTreeMap::from([(value_key, text)]));
    Ok(object.expect("a text is JSON"))
}

/// Whether two objects say the same. A server may order and space them anew.
pub(crate) fn same(one: &RawValue, other: &RawValue) -> bool {
    let read = |object: &RawValue| serde_json::from_str::<serde_json::Value>(object.get()).ok();
    read(one).is_some_and(|one| read(other) == Some(one))
}

fn single(entries: &Entries<'_>, value_key: &str) -> Option<SecretValue> {
    if value_key.is_empty() || entries.len() != 1 {
        return None;
    }
    let text = serde_json::from_str::<String>(entries.get(value_key)?.get());
    text.ok().map(SecretValue::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn one_entry_of_the_name_is_the_value_and_all_else_is_json() {
        for (object, expected) in [
            (r#"{"value":"a\"\u00fc\n"}"#, "a\"ü\n"),
            (r#"{"value":"a","b":1}"#, r#"{"value":"a","b":1}"#),
            (r#"{"password": "a"}"#, r#"{"password": "a"}"#),
            (r#"{"value":7}"#, r#"{"value":7}"#),
            (r#"{"n":12345678901234567890123}"#, r#"{"n":12345678901234567890123}"#),
        ] {
            let value = value(&raw(object), "value", "s").unwrap();
            assert_eq!(value.expose_str(), Some(expected));
        }
        let value = value(&raw(r#"{"value":"a"}"#), "", "s").unwrap();
        assert_eq!(value.expose_str(), Some(r#"{"value":"a"}"#));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "plain",
            "\"quoted\"\u{7f}\u{1}ü",
            "7",
            "[1]",
            "{}",
            r#"{"user":"u","n":1}"#,
            r#"{"value":"inner"}"#,
            r#"{"value":1}"#,
        ] {
            let object = object(&text.into(), "value", "s").unwrap();
            let back = value(&object, "value", "s").unwrap();
            assert_eq!(back.expose_str(), Some(text));
            assert!(same(&object, &raw(object.get())));
        }
        assert!(same(&raw(r#"{"a":1,"b":2}"#), &raw(r#"{ "b": 2, "a": 1 }"#)));
        assert!(!same(&raw(r#"{"a":1}"#), &raw(r#"{"a":2}"#)));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_quoted() {
        for object in [r#"{"value":""}"#, "{}", "null", r#"["canary"]"#] {
            let error = value(&raw(object), "value", "s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.chain().contains("canary"));
        }
        for (bytes, key) in [(vec![], "value"), (vec![0xff], "value"), (b"canary".to_vec(), "")] {
            let error = object(&bytes.into(), key, "s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.chain().contains("canary"));
        }
    }
}
