//! The forms in which templates write a secret, so that they can be hidden where a command repeats
//! them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::format::{Format, mysql};

/// A field that is shorter is no secret by itself, and is in many a word.
const SHORTEST_FIELD: usize = 4;

/// Adds those of a value, and of the fields that it has.
pub(crate) fn add_forms(value: &[u8], forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    add(value, forms);
    if let Ok(structure) = serde_json::from_slice::<Value>(value) {
        add_fields(structure, forms);
    }
}

fn add(value: &[u8], forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    forms.push(Zeroizing::new(value.to_vec()));
    forms.push(Zeroizing::new(STANDARD.encode(value).into_bytes()));
    let Ok(text) = std::str::from_utf8(value) else { return };
    let escaped = Format::ALL.into_iter().filter_map(|format| format.escape(text).ok());
    forms.extend(escaped.chain([mysql(text)]).map(|form| Zeroizing::new(form.into_bytes())));
}

fn add_fields(structure: Value, forms: &mut Vec<Zeroizing<Vec<u8>>>) {
    match structure {
        Value::String(text) if text.len() >= SHORTEST_FIELD => {
            add(Zeroizing::new(text).as_bytes(), forms);
        }
        Value::Array(items) => items.into_iter().for_each(|item| add_fields(item, forms)),
        Value::Object(fields) => fields.into_values().for_each(|item| add_fields(item, forms)),
        _ => {}
    }
}
