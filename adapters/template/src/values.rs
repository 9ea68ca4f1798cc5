//! What a template sees of a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// The names of secrets that were used as text and are none.
pub(crate) type Misused = Arc<Mutex<Option<String>>>;

/// A secret as a template sees it. Text is a string; text that is a JSON object has its fields
/// besides; what is no text can be encoded and nothing else.
pub(crate) fn value(name: &str, bytes: &[u8], misused: &Misused) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text_value(text),
        Err(_) => Value::from_object(Binary {
            name: name.to_owned(),
            bytes: Zeroizing::new(bytes.to_owned()),
            misused: Arc::clone(misused),
        }),
    }
}

fn text_value(text: &str) -> Value {
    if text.trim_start().starts_with('{')
        && let Ok(fields) = serde_json::from_str(text)
    {
        return Value::from_object(Fields { text: Zeroizing::new(text.to_owned()), fields });
    }
    Value::from(text)
}

/// A JSON object: printed as the text that it is, with fields to look into.
pub(crate) struct Fields {
    pub(crate) text: Zeroizing<String>,
    fields: BTreeMap<String, Box<RawValue>>,
}

/// Without the content: it is a secret.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.fields.get(key.as_str()?).map(|raw| json_value(raw.get()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.fields.keys().map(Value::from).collect())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A part of a JSON text that was parsed as a whole before.
fn json_value(raw: &str) -> Value {
    match raw.as_bytes().first() {
        Some(b'{') => text_value(raw),
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(raw).unwrap_or_default();
            Value::from(items.iter().map(|item| json_value(item.get())).collect::<Vec<_>>())
        }
        Some(b'"') => Value::from(serde_json::from_str::<String>(raw).unwrap_or_default()),
        Some(b't') => Value::from(true),
        Some(b'f') => Value::from(false),
        Some(b'n') => Value::from(()),
        _ => number(raw),
    }
}

/// A number, if it is printed as it was written; else its text.
fn number(raw: &str) -> Value {
    let as_written = |value: &Value| value.to_string() == raw;
    let integer = raw.parse::<i64>().ok().map(Value::from);
    let float = || raw.parse::<f64>().ok().map(Value::from);
    integer.filter(as_written).or_else(|| float().filter(as_written)).unwrap_or_else(|| raw.into())
}

/// What is no text.
pub(crate) struct Binary {
    pub(crate) name: String,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    misused: Misused,
}

/// Without the content: it is a secret.
impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Object for Binary {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    /// An operator or a filter made text of it. It cannot be told here that this is wrong, so it
    /// is told after the rendering.
    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut misused = self.misused.lock().unwrap_or_else(PoisonError::into_inner);
        *misused = Some(self.name.clone());
        Ok(())
    }
}

/// What stands for a secret where none is asked for: a text that is also a number, and whatever
/// fields the template looks into.
pub(crate) fn placeholder(fields: &[&str]) -> Value {
    if fields.is_empty() {
        return Value::from(PLACEHOLDER);
    }
    let mut below = BTreeMap::<&str, Vec<&str>>::new();
    for field in fields {
        let (first, rest) = field.split_once('.').unwrap_or((field, ""));
        let deeper = below.entry(first).or_default();
        if !rest.is_empty() {
            deeper.push(rest);
        }
    }
    let known = below.into_iter().map(|(name, rest)| (name.to_owned(), placeholder(&rest)));
    Value::from_object(Placeholder(known.collect()))
}

const PLACEHOLDER: &str = "0";

#[derive(Debug)]
pub(crate) struct Placeholder(BTreeMap<String, Value>);

impl Object for Placeholder {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(self.0.get(key.as_str()?).cloned().unwrap_or_else(|| PLACEHOLDER.into()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(Value::from).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACEHOLDER)
    }
}
