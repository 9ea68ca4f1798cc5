//! One field of a JSON value, taken out without leaving copies of the rest behind.
//!
//! The document is walked, not built: what is passed over is skipped in place, and what is found
//! is decoded straight into the buffer that is wiped on drop.

use std::fmt;

use oneiric_core::{Error, ErrorKind, Field, Result, SecretValue};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// Whether the value can have fields at all: only a JSON object or array has any.
pub(crate) fn may_have(value: &SecretValue) -> bool {
    matches!(value.expose().trim_ascii_start().first(), Some(b'{' | b'['))
}

/// The field's value: the text of a JSON string, or the JSON text of anything else.
///
/// # Errors
/// `Invalid` if the value is not JSON, `NotFound` if it has no such field or the field is null.
pub(crate) fn extract(
    value: &SecretValue,
    field: &Field,
    of: &dyn fmt::Display,
) -> Result<SecretValue> {
    let not_json = || {
        let message =
            format!("`{of}` cannot have the field `{field}`, since its value is not JSON");
        Error::new(ErrorKind::Invalid, message)
    };
    let missing = |what: &str| {
        Error::new(ErrorKind::NotFound, format!("the field `{field}` of `{of}` {what}"))
    };
    let text = value.expose_str().ok_or_else(not_json)?;
    let path: Vec<String> = field.pointer().split('/').skip(1).map(unescape_token).collect();
    let mut json = serde_json::Deserializer::from_str(text);
    let found = Walk { path: &path }.deserialize(&mut json).map_err(|_| not_json())?;
    json.end().map_err(|_| not_json())?;
    match found.map(RawValue::get) {
        None => Err(missing("does not exist")),
        Some("null") => Err(missing("is null")),
        Some(text) => match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(inner) => unescape_string(inner).ok_or_else(not_json),
            None => Ok(SecretValue::from(text)),
        },
    }
}

/// Descends along a path; `None` where it leads nowhere.
struct Walk<'p> {
    path: &'p [String],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() {
            return serde::Deserialize::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (first, rest) = self.path.split_first().ok_or_else(|| A::Error::custom("no path"))?;
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == *first {
                found = map.next_value_seed(Walk { path: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (first, rest) = self.path.split_first().ok_or_else(|| A::Error::custom("no path"))?;
        let wanted = first.parse::<usize>().ok();
        let mut found = None;
        for at in 0.. {
            let more = if wanted == Some(at) {
                let item = seq.next_element_seed(Walk { path: rest })?;
                found = item.flatten();
                item.is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// One part of a JSON pointer (RFC 6901 §4).
fn unescape_token(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The text of a JSON string literal without its quotes. The parser has accepted it before, so
/// `None` is left for lone surrogates, which no text can hold.
fn unescape_string(inner: &str) -> Option<SecretValue> {
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = *rest.as_bytes().get(at + 1)?;
        rest = &rest[at + 2..];
        let decoded = match escape {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut unit = hex4(&mut rest)?;
                if (0xD800..0xDC00).contains(&unit) {
                    rest = rest.strip_prefix("\\u")?;
                    let low = hex4(&mut rest)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                    unit = 0x1_0000 + ((unit - 0xD800) << 10) + low;
                }
                char::from_u32(unit)?
            }
            _ => return None,
        };
        out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out.extend_from_slice(rest.as_bytes());
    Some(SecretValue::from(out.as_slice()))
}

fn hex4(rest: &mut &str) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(json: &str, pointer: &str) -> Result<String, String> {
        let value = SecretValue::from(json);
        extract(&value, &pointer.parse().unwrap(), &"files:db")
            .map(|found| found.expose_str().unwrap().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn fields_are_found_and_decoded() {
        let json = r#"{"user":"u","n":{"a/b":[1,{"x":"y"}],"~":true},"esc":"\"\\\/\n\u00e9\ud83d\ude00é"}"#;
        for (pointer, expected) in [
            ("user", "u"),
            ("/n/a~1b/0", "1"),
            ("/n/a~1b/1/x", "y"),
            ("/n/a~1b/1", r#"{"x":"y"}"#),
            ("/n/~0", "true"),
            ("/esc", "\"\\/\né😀é"),
        ] {
            assert_eq!(field(json, pointer).as_deref(), Ok(expected), "{pointer}");
        }
    }

    #[test]
    fn only_objects_and_arrays_may_have_fields() {
        for (text, may) in
            [("{}", true), (" \n[1]", true), ("plain", false), ("\"{\"", false), ("", false)]
        {
            assert_eq!(may_have(&SecretValue::from(text)), may, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_and_what_is_not_json_is_invalid() {
        let json = r#"{"user":"u","none":null,"list":[1]}"#;
        for pointer in ["/nope", "/user/x", "/list/1", "/list/x"] {
            assert!(field(json, pointer).unwrap_err().ends_with("does not exist"), "{pointer}");
        }
        assert!(field(json, "/none").unwrap_err().ends_with("is null"));
        for broken in ["", "{", "plain", r#"{"user":"u"} x"#, "\"\\ud800\""] {
            assert!(field(broken, "/user").is_err(), "{broken}");
        }
        assert!(field(r#"{"user":"\ud800"}"#, "/user").unwrap_err().contains("not JSON"));
    }
}
