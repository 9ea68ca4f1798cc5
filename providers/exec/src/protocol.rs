//! The lines of the protocol, as `docs/providers/exec-protocol.md` has them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretValue, Snapshot, Version};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The version of the protocol.
pub(crate) const PROTOCOL: u64 = 1;

/// The longest line in bytes, in both directions, its end not counted.
pub(crate) const MOST_LINE: usize = 1024 * 1024;

/// The largest value: in base64 it fits on a line with room for the rest.
pub(crate) const MOST_VALUE: u64 = 512 * 1024;

/// How many secrets are asked for on one line where that is nobody's business.
pub(crate) const MOST_ITEMS: usize = 100;

/// A request. What does not belong to its operation is left out.
#[derive(Default, Serialize)]
pub(crate) struct Request<'a> {
    pub(crate) id: u64,
    pub(crate) op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oneiric: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) items: Option<Vec<Item<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys: Option<&'a [&'a str]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<&'a str>,
    pub(crate) deadline_ms: u64,
}

/// One secret of a `fetch_many`.
#[derive(Serialize)]
pub(crate) struct Item<'a> {
    pub(crate) key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<&'a str>,
}

impl Request<'_> {
    /// The line, with its end.
    pub(crate) fn line(&self) -> Result<Zeroizing<Vec<u8>>> {
        // Enough that it does not grow, which would leave copies behind.
        let room = self.value.map_or(0, |text| 6 * text.len()) + self.base64.map_or(0, str::len);
        let mut line = Zeroizing::new(Vec::with_capacity(room + 4096));
        serde_json::to_writer(&mut *line, self).expect("a request is JSON, and memory takes it");
        if line.len() > MOST_LINE {
            let message = "the question is too long for one line to an exec provider's program";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        line.push(b'\n');
        Ok(line)
    }
}

/// A value on its way to the program.
pub(crate) enum Sent<'a> {
    Text(&'a str),
    Base64(Zeroizing<String>),
}

impl<'a> Sent<'a> {
    pub(crate) fn new(value: &'a SecretValue) -> Self {
        match value.expose_str() {
            // Even if each of its bytes has to be escaped.
            Some(text) if 6 * text.len() < MOST_LINE / 2 => Self::Text(text),
            _ => Self::Base64(Zeroizing::new(STANDARD.encode(value.expose()))),
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn base64(&self) -> Option<&str> {
        if let Self::Base64(text) = self { Some(text) } else { None }
    }
}

/// That a request is given up.
pub(crate) fn cancel(id: u64) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("{{\"cancel\":{id}}}\n").into_bytes())
}

/// Any line of a program. It has no Debug: there may be a value in it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    pub(crate) id: Option<u64>,
    pub(crate) at: Option<usize>,
    pub(crate) error: Option<Failure>,
    pub(crate) change: Option<Changed>,

    pub(crate) oneiric: Option<u64>,
    pub(crate) kind: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) capabilities: Option<Vec<String>>,
    pub(crate) max_value: Option<u64>,

    pub(crate) value: Option<Secret>,
    pub(crate) base64: Option<Secret>,
    pub(crate) version: Option<Id>,
    pub(crate) stamp: Option<String>,
    pub(crate) snapshot: Option<Moment>,
    pub(crate) expires_at: Option<u64>,

    pub(crate) stamps: Option<Vec<Stamped>>,
    pub(crate) keys: Option<Vec<String>>,
    pub(crate) more: bool,
    pub(crate) versions: Option<Vec<Listed>>,
}

impl Line {
    /// What cannot be read is quoted nowhere, and neither are the parser's words, which quote it.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Every error in it.
    pub(crate) fn failures(&mut self) -> impl Iterator<Item = &mut Failure> {
        let stamps = self.stamps.iter_mut().flatten().filter_map(|stamped| stamped.error.as_mut());
        self.error.iter_mut().chain(stamps)
    }

    /// Every value in it, as it is meant and, where that cannot be read, as it is written: what is
    /// wrong with an answer makes no less of a secret of what is in it.
    pub(crate) fn values(&self) -> impl Iterator<Item = SecretValue> {
        let text = self.value.iter().map(|Secret(text)| text.as_str().into());
        let bytes = self.base64.iter().map(|Secret(text)| match STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => bytes.into(),
            Err(_) => text.as_str().into(),
        });
        text.chain(bytes)
    }

    /// Takes the value out, or says in words what is wrong with it.
    pub(crate) fn take_value(&mut self) -> std::result::Result<SecretValue, &'static str> {
        match (self.value.take(), self.base64.take()) {
            (Some(Secret(mut text)), None) => Ok(std::mem::take(&mut *text).into()),
            (None, Some(Secret(text))) => {
                let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| "is no base64")?;
                Ok(bytes.into())
            }
            (None, None) => Err("has no value"),
            (Some(_), Some(_)) => Err("has two values"),
        }
    }
}

/// A text that is wiped.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(#[serde(deserialize_with = "wiped")] Zeroizing<String>);

fn wiped<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// An error in the place of an answer.
#[derive(Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: Option<String>,
    pub(crate) retry_after_ms: Option<u64>,
}

/// What changed; anything if it has no key.
#[derive(Deserialize)]
pub(crate) struct Changed {
    pub(crate) key: Option<String>,
    pub(crate) version: Option<Id>,
}

/// One of the answers to `stamps`.
#[derive(Deserialize)]
pub(crate) struct Stamped {
    pub(crate) stamp: Option<String>,
    pub(crate) error: Option<Failure>,
}

/// The moment that a value is of: of the whole store, or of a part of it.
#[derive(Deserialize)]
pub(crate) struct Moment {
    #[serde(default)]
    of: String,
    id: String,
}

impl From<Moment> for Snapshot {
    fn from(moment: Moment) -> Self {
        Self::within(moment.of, moment.id)
    }
}

/// One version of a list.
#[derive(Deserialize)]
pub(crate) struct Listed {
    pub(crate) version: Id,
    #[serde(default)]
    pub(crate) state: State,
    #[serde(default)]
    pub(crate) current: bool,
    #[serde(default)]
    pub(crate) labels: Vec<String>,
    pub(crate) created: Option<u64>,
}

/// Whether a version can be read.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Enabled,
    Disabled,
    Destroyed,
}

/// The id of a version: a number stands in an order, a text does not.
pub(crate) struct Id(pub(crate) Version);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct AnyId;
        impl Visitor<'_> for AnyId {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_u64<E>(self, number: u64) -> std::result::Result<Id, E> {
                Ok(Id(Version::numbered(number)))
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Id, E> {
                Ok(Id(Version::opaque(text)))
            }
        }
        deserializer.deserialize_any(AnyId)
    }
}

/// A key as a program names it; what no key can be is nothing that could be asked for.
pub(crate) fn key(text: &str) -> Option<SecretKey> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_only_what_belongs_to_it() {
        let request =
            Request { id: 7, op: "fetch", key: Some("a"), deadline_ms: 9, ..Request::default() };
        let line = request.line().unwrap();
        assert_eq!(&**line, b"{\"id\":7,\"op\":\"fetch\",\"key\":\"a\",\"deadline_ms\":9}\n");
    }

    #[test]
    fn unknown_fields_are_nothing_and_wrong_ones_are_no_line() {
        let mut line = Line::parse(br#"{"id":7,"value":"x\ny","new":[1]}"#).unwrap_or_default();
        assert_eq!(line.id, Some(7));
        assert_eq!(line.take_value().unwrap().expose(), b"x\ny");
        for wrong in ["", "hello", "[]", "7", r#"{"id":"7"}"#, r#"{"value":7}"#, r#"{"id":-1}"#] {
            let parsed = Line::parse(wrong.as_bytes());
            // An array is a struct to the parser; nothing in it has an id.
            assert!(parsed.is_none_or(|line| line.id.is_none()), "{wrong}");
        }
    }

    #[test]
    fn a_value_is_text_or_base64_and_not_both() {
        let value = |line: &str| Line::parse(line.as_bytes()).unwrap_or_default().take_value();
        assert_eq!(value(r#"{"base64":"/wA="}"#).unwrap().expose(), [0xff, 0]);
        assert_eq!(value(r#"{"base64":"/w"}"#).unwrap_err(), "is no base64");
        assert_eq!(value(r#"{"value":"a","base64":"YQ=="}"#).unwrap_err(), "has two values");
        assert_eq!(value("{}").unwrap_err(), "has no value");
    }

    #[test]
    fn the_largest_value_fits_on_a_line() {
        let most = usize::try_from(MOST_VALUE).unwrap();
        for value in [SecretValue::from(vec![1; most]), SecretValue::from(vec![0xff; most])] {
            let sent = Sent::new(&value);
            let request =
                Request { value: sent.text(), base64: sent.base64(), ..Request::default() };
            assert!(request.line().is_ok());
        }
    }
}
