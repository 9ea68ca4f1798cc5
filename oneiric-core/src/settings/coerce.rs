//! Values in the type that is wanted of them.
//!
//! Text of the environment and of the command line has no type of its own: where a number, a
//! boolean or a list is wanted it is parsed as one, and where a string is wanted it stays as it
//! was typed. What the file says has a type and is never converted.

use std::collections::{BTreeMap, btree_map};
use std::fmt;

use serde::Deserializer;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess};
use serde::de::{Unexpected, Visitor};

use super::error::{Origin, Problem, shortened};
use super::keys;
use super::layers::layered;
use super::tree::{Node, Value, join};

/// Why a value is not what is wanted. It never quotes a value that may be a secret.
#[derive(Debug)]
pub(super) struct Refusal {
    message: String,
    /// The key that is not there, in the table where it should be.
    missing: Option<&'static str>,
    place: Option<(String, Option<Origin>)>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), missing: None, place: None }
    }

    /// The innermost place is the one that is named.
    fn at(mut self, node: &Node) -> Self {
        if self.place.is_none() {
            let key = match self.missing {
                Some(name) => join(&node.key, name),
                None => node.key.clone(),
            };
            self.place = Some((key, node.origin.clone()));
        }
        self
    }

    pub(super) fn into_problem(self, node: &Node) -> Problem {
        let Self { message, place, .. } = self.at(node);
        let (key, origin) = place.expect("`at` gives it a place");
        Problem::new(key, origin, message)
    }
}

impl serde::de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(format!("is not valid: {message}"))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = wanted(expected);
        let has = kind_of(unexpected);
        let bare = !matches!(unexpected, Unexpected::Seq | Unexpected::Map);
        let hint = if bare && expected.contains("string") { "; put it in quotes" } else { "" };
        Self::new(format!("wants {expected}, and has {has}{hint}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = wanted(expected);
        Self::new(match kind_of(unexpected) {
            "a number" => format!("wants a number that fits {expected}, and has another"),
            other => format!("wants {expected}, and has {other} that is not"),
        })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let meant = match keys::nearest(variant, expected.iter().copied()) {
            Some(near) => format!("; did you mean `{near}`?"),
            None => String::new(),
        };
        let shown = shortened(variant);
        Self::new(format!("wants one of {}, and has `{shown}`{meant}", listed(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(match keys::nearest(field, expected.iter().copied()) {
            Some(near) => format!("is not a setting; did you mean `{near}`?"),
            None if expected.is_empty() => "is not a setting; there are none here".into(),
            None => format!("is not a setting; those here are {}", listed(expected)),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::new("is missing") }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Node {
    fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Bool(bool) => visitor.visit_bool(*bool),
            Value::Integer(integer) => visitor.visit_i64(*integer),
            Value::Float(float) => visitor.visit_f64(*float),
            Value::String(text) | Value::Text(text) => visitor.visit_str(text),
            Value::Date => Err(Refusal::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::List(items) => visit_items(items, visitor),
            Value::Table(table) => visitor.visit_map(Entries::new(table)),
        }
    }

    fn visit_list<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Text(text) => self.split(text)?.visit(visitor),
            _ => self.visit(visitor),
        }
    }

    /// The list that was given as text: a JSON array, or items with commas between them.
    fn split(&self, text: &str) -> Result<Self, Refusal> {
        if text.trim_start().starts_with('[') {
            // A JSON array of text, numbers and booleans is also a TOML array. What is neither,
            // and has no quote in it, is a list that starts with an IPv6 address.
            match text.trim().parse::<toml::Value>() {
                Ok(array) => {
                    let origin = |_, _: &str| self.origin.clone();
                    return Ok(Self::new(self.key.clone(), layered(array), &origin));
                }
                Err(_) if text.contains('"') => {
                    return Err(Refusal::new(
                        "wants a list, and has text that starts like a JSON array and is none",
                    ));
                }
                Err(_) => {}
            }
        }
        let parts: Vec<_> = match text.trim() {
            "" => Vec::new(),
            text => text.split(',').map(str::trim).collect(),
        };
        let items = parts.into_iter().enumerate().map(|(index, part)| Self {
            key: format!("{}[{index}]", self.key),
            origin: self.origin.clone(),
            value: Value::Text(part.to_owned()),
        });
        Ok(Self { value: Value::List(items.collect()), ..self.clone() })
    }
}

/// Methods that parse text as the type that is asked for.
macro_rules! parse_text {
    ($($method:ident => $visit:ident($type:ty, $wanted:literal)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            let visited = match &self.value {
                Value::Text(text) => match text.parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(Refusal::invalid_value(Unexpected::Str(text), &$wanted)),
                },
                _ => self.visit(visitor),
            };
            visited.map_err(|refusal| refusal.at(self))
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Refusal;

    parse_text! {
        deserialize_bool => visit_bool(bool, "`true` or `false`"),
        deserialize_i8 => visit_i64(i64, "a whole number"),
        deserialize_i16 => visit_i64(i64, "a whole number"),
        deserialize_i32 => visit_i64(i64, "a whole number"),
        deserialize_i64 => visit_i64(i64, "a whole number"),
        deserialize_u8 => visit_u64(u64, "a whole number from 0"),
        deserialize_u16 => visit_u64(u64, "a whole number from 0"),
        deserialize_u32 => visit_u64(u64, "a whole number from 0"),
        deserialize_u64 => visit_u64(u64, "a whole number from 0"),
        deserialize_f32 => visit_f64(f64, "a number"),
        deserialize_f64 => visit_f64(f64, "a number"),
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.visit(visitor).map_err(|refusal| refusal.at(self))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.visit_list(visitor).map_err(|refusal| refusal.at(self))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self).map_err(|refusal| refusal.at(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let visited = match &self.value {
            Value::String(text) | Value::Text(text) => {
                visitor.visit_enum(text.as_str().into_deserializer())
            }
            Value::Table(table) => {
                visitor.visit_enum(MapAccessDeserializer::new(Entries::new(table)))
            }
            _ => self.visit(visitor),
        };
        visited.map_err(|refusal: Refusal| refusal.at(self))
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct map struct identifier
    }
}

fn visit_items<'de, V: Visitor<'de>>(items: &[Node], visitor: V) -> Result<V::Value, Refusal> {
    let mut rest = Items(items.iter());
    let visited = visitor.visit_seq(&mut rest)?;
    match rest.0.len() {
        0 => Ok(visited),
        more => Err(Refusal::new(format!("has {more} items more than it should"))),
    }
}

/// The items of a list.
struct Items<'n>(std::slice::Iter<'n, Node>);

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(node).map(Some).map_err(|refusal| refusal.at(node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// The entries of a table. An unknown key is reported at its own value, not at the table.
struct Entries<'n> {
    rest: btree_map::Iter<'n, String, Node>,
    current: Option<&'n Node>,
}

impl<'n> Entries<'n> {
    fn new(table: &'n BTreeMap<String, Node>) -> Self {
        Self { rest: table.iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        let Some((name, node)) = self.rest.next() else { return Ok(None) };
        self.current = Some(node);
        let name: StrDeserializer<'_, Refusal> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|refusal| refusal.at(node))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let node = self.current.take().expect("a value is asked for after its key");
        seed.deserialize(node).map_err(|refusal| refusal.at(node))
    }
}

/// What a visitor wants, in the words of the manual.
fn wanted(expected: &dyn Expected) -> String {
    match expected.to_string() {
        text if text == "a sequence" => "a list".into(),
        text if text == "a map" || text.starts_with("struct ") => "a table".into(),
        text => text,
    }
}

fn kind_of(unexpected: Unexpected<'_>) -> &str {
    match unexpected {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) => "text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        Unexpected::Other(other) => other,
        _ => "something else",
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
