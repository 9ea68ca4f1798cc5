//! The filters of templates, and how values are printed.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, Value};

use crate::format::{Format, mysql};
use crate::values::{Binary, Fields, Placeholder};

/// Marks an error whose words are ours, so that they show no value.
#[derive(Debug)]
pub(crate) struct Ours;

impl fmt::Display for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value does not fit")
    }
}

impl std::error::Error for Ours {}

fn ours(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message).with_source(Ours)
}

/// Adds them, and takes away what escapes in a way that is not ours or shows what it should not.
pub(crate) fn add_to(environment: &mut Environment<'_>) {
    for format in Format::ALL {
        if format != Format::Sql {
            let filter = move |value: &Value| escaped(format, value);
            environment.add_filter(format.name(), filter);
        }
    }
    environment.add_filter("sql", sql);
    environment.add_filter("b64", b64);
    environment.remove_filter("escape");
    environment.remove_filter("e");
    environment.remove_filter("pprint");
    environment.remove_global("debug");
}

/// Prints a value where `{{ … }}` stands.
pub(crate) fn print(
    out: &mut Output<'_>,
    value: &Value,
    format: Option<Format>,
) -> Result<(), Error> {
    let text = match format {
        Some(format) if !value.is_safe() => Cow::Owned(literal(format, value)?),
        _ => text_of(value)?,
    };
    out.write_str(&text).map_err(|_| Error::new(ErrorKind::WriteFailure, "out of room"))
}

fn escaped(format: Format, value: &Value) -> Result<Value, Error> {
    literal(format, value).map(Value::from_safe_string)
}

fn sql(value: &Value, dialect: Option<&str>) -> Result<Value, Error> {
    match dialect {
        None => escaped(Format::Sql, value),
        Some("mysql") => Ok(Value::from_safe_string(mysql(&text_of(value)?))),
        Some(_) => Err(ours(
            "the one dialect that `sql` takes is \"mysql\"; without it, it is standard SQL",
        )),
    }
}

fn b64(value: &Value) -> Result<Value, Error> {
    if let Some(binary) = value.downcast_object_ref::<Binary>() {
        return Ok(Value::from_safe_string(STANDARD.encode(&binary.bytes)));
    }
    Ok(Value::from_safe_string(STANDARD.encode(&*text_of(value)?)))
}

/// A value in a format: a text, or what else the format has a notation for.
fn literal(format: Format, value: &Value) -> Result<String, Error> {
    let structured = matches!(format, Format::Json | Format::Yaml | Format::Toml);
    let as_it_is = matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if is_text(value) || !structured {
        return format.escape(&text_of(value)?).map_err(|what| {
            ours(format!("it holds {what}, which `{}` cannot express", format.name()))
        });
    }
    match value.kind() {
        _ if as_it_is => text_of(value).map(Cow::into_owned),
        ValueKind::None if format != Format::Toml => Ok("null".to_owned()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| literal(format, &item));
            Ok(format!("[{}]", items.collect::<Result<Vec<_>, _>>()?.join(", ")))
        }
        ValueKind::Map if format != Format::Toml => {
            let pairs = value.try_iter()?.map(|key| {
                let name = literal(format, &key)?;
                Ok(format!("{name}: {}", literal(format, &value.get_item(&key)?)?))
            });
            Ok(format!("{{{}}}", pairs.collect::<Result<Vec<_>, Error>>()?.join(", ")))
        }
        _ => text_of(value).map(Cow::into_owned),
    }
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some()
        || value.downcast_object_ref::<Fields>().is_some()
        || value.downcast_object_ref::<Placeholder>().is_some()
}

/// The text that a value is, without a guess: a list or a `none` in the middle of a file is a
/// mistake.
fn text_of(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.into());
    }
    if let Some(fields) = value.downcast_object_ref::<Fields>() {
        return Ok(fields.text.as_str().into());
    }
    if value.downcast_object_ref::<Binary>().is_some() {
        return Err(ours("it is not UTF-8; encode it with `b64`"));
    }
    if value.downcast_object_ref::<Placeholder>().is_some() {
        return Ok(value.to_string().into());
    }
    match value.kind() {
        // It has what the engine knows of where it comes from.
        ValueKind::Undefined => {
            Err(value.get_attr("").err().unwrap_or_else(|| Error::from(ErrorKind::UndefinedError)))
        }
        ValueKind::Number => Ok(value.to_string().into()),
        // Not as Python writes it, and the engine after it.
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.into()),
        ValueKind::None => Err(ours("it is null")),
        ValueKind::Seq | ValueKind::Iterable => Err(ours("it is a list; use `json` or `join`")),
        ValueKind::Map => Err(ours("it is a map; use `json` or name a field")),
        _ => Err(ours("it is nothing that can be printed")),
    }
}
