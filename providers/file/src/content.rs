//! From the bytes of a file to the value that is served.

use std::io;
use std::path::Path;

use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::config::{Config, Format};
use crate::dotenv;
use crate::error::refused;

/// Checks what was read from `path` and makes the value of it.
pub(crate) fn value(
    config: &Config,
    path: &Path,
    mut bytes: Zeroizing<Vec<u8>>,
) -> Result<SecretValue> {
    let empty = || Err(refused(ErrorKind::Invalid, path, "is empty"));
    if bytes.is_empty() {
        return empty();
    }
    if let Some(format) = Format::of(path).filter(|format| config.parse.contains(format)) {
        let text = text(path, &bytes)?;
        return match document(format, text).map_err(|fault| fault.at(path))? {
            Some(document) => Ok(serialized(&document.0)),
            None => Ok(SecretValue::from(std::mem::take(&mut *bytes))),
        };
    }
    if !config.binary {
        text(path, &bytes)?;
    }
    if !config.keep_newline {
        let end = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let length = end.map_or(bytes.len(), <[u8]>::len);
        bytes.truncate(length);
    }
    if bytes.is_empty() {
        return empty();
    }
    Ok(SecretValue::from(std::mem::take(&mut *bytes)))
}

/// Whether the bytes of this file are the value.
pub(crate) fn is_plain(config: &Config, path: &Path) -> bool {
    Format::of(path).is_none_or(|format| !config.parse.contains(&format))
}

impl Format {
    /// The format that the name of a file speaks of.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        // `.env` is all extension.
        match name.rsplit_once('.')?.1 {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "env" => Some(Self::Env),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Toml => "TOML",
            Self::Yaml => "YAML",
            Self::Env => "dotenv",
        }
    }
}

/// Why a file is not what its name says, and where: never with a word of what stands there, as
/// the messages of the parsers have it.
#[derive(Debug)]
pub(crate) struct Fault {
    format: Format,
    place: Option<(u64, u64)>,
    reason: &'static str,
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        let Self { format, place, reason } = self;
        let place = match place {
            Some((line, 0)) => format!(" in line {line}"),
            Some((line, column)) => format!(" at line {line}, column {column}"),
            None => String::new(),
        };
        let name = format.name();
        refused(ErrorKind::Invalid, path, &format!("is not valid {name}{place}: {reason}"))
    }
}

/// A parsed file, wiped when dropped.
struct Document(Value);

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Parses a file; `None` means that it is JSON already.
fn document(format: Format, text: &str) -> Result<Option<Document>, Fault> {
    let fault = |place, reason| Fault { format, place, reason };
    match format {
        Format::Json => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(IgnoredAny) => Ok(None),
            Err(error) => {
                let place = (error.line() as u64, error.column() as u64);
                let reason = if error.is_eof() { "it ends too early" } else { "it does not parse" };
                Err(fault(Some(place), reason))
            }
        },
        Format::Toml => {
            let table = toml::from_str::<toml::Table>(text).map_err(|error| {
                let place = error.span().map(|span| place_of(text, span.start));
                fault(place, "it does not parse")
            })?;
            let not_finite = || fault(None, "a number is not finite, which JSON cannot say");
            let value = json(toml::Value::Table(table)).ok_or_else(not_finite)?;
            Ok(Some(Document(value)))
        }
        Format::Yaml => {
            let options = serde_saphyr::options! {
                with_snippet: false,
                duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
                leading_zero_numbers_as_strings: true,
                non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::Reject,
            };
            match serde_saphyr::from_str_with_options(text, options) {
                Ok(Value::Null) => Err(fault(None, "there is nothing in it")),
                Ok(value) => Ok(Some(Document(value))),
                Err(error) => {
                    let place = error.location().map(|place| (place.line(), place.column()));
                    Err(fault(place, "it does not parse"))
                }
            }
        }
        Format::Env => match dotenv::parse(text) {
            Ok(fields) => Ok(Some(Document(Value::Object(fields)))),
            Err((line, reason)) => Err(fault(Some((line, 0)), reason)),
        },
    }
}

fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| refused(ErrorKind::Invalid, path, "is not UTF-8 text"))
}

/// The line and the column of a byte.
fn place_of(text: &str, at: usize) -> (u64, u64) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    (line, column)
}

/// The same in JSON, or `None` where a number is not finite. Text is moved, not copied.
fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => Value::Number(serde_json::Number::from_f64(number)?),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(json).collect::<Option<_>>()?)
        }
        toml::Value::Table(table) => {
            let fields = table.into_iter().map(|(key, value)| Some((key, json(value)?)));
            Value::Object(fields.collect::<Option<Map<_, _>>>()?)
        }
    })
}

/// Writes a document twice: to learn its length, and into a buffer of just that length, so that
/// no buffer is outgrown and left behind unwiped.
fn serialized(document: &Value) -> SecretValue {
    struct Length(usize);

    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut length = Length(0);
    serde_json::to_writer(&mut length, document).expect("a count takes any document");
    let mut bytes = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut bytes, document).expect("a vector takes any document");
    SecretValue::from(bytes)
}

#[cfg(test)]
mod tests;
