//! What may be repeated of the words of a command that was given secrets.

use std::fmt;

use serde_json::Value;
use zeroize::Zeroizing;

/// What stands where a secret stood.
const REDACTED: &str = "[secret]";
/// Parts of a value that are shorter than this are no secret by themselves: a brace, `true`, a
/// port.
const SHORTEST_PART: usize = 4;
/// The longest line that is repeated, in characters.
const MAX_LINE: usize = 500;

/// What a command wrote to its standard error, as far as it was kept.
#[derive(Default)]
pub(crate) struct Captured {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Whether there was more before it.
    pub(crate) cut_before: bool,
    /// Whether there may have been more after it.
    pub(crate) cut_after: bool,
}

/// The forms in which some secrets may be printed: as they are, trimmed, line by line, as JSON, and
/// as parts of a JSON value; not in other encodings.
pub struct Redactor(Vec<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("forms", &self.0.len()).finish()
    }
}

impl Redactor {
    /// What hides these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut forms = Vec::new();
        for value in values {
            let Ok(text) = std::str::from_utf8(value) else {
                add_form(&mut forms, value);
                continue;
            };
            add(&mut forms, text, 1);
            add(&mut forms, text.trim(), 1);
            text.lines().for_each(|line| add(&mut forms, line.trim(), SHORTEST_PART));
            if let Ok(structure) = serde_json::from_str::<Value>(text) {
                add_leaves(&mut forms, structure);
            }
        }
        Self(forms)
    }

    /// How much of the end of an output is enough for its last line.
    pub(crate) fn window(&self) -> usize {
        self.longest() + 4 * MAX_LINE
    }

    /// The last line that says anything, without secrets, control characters and excess.
    pub(crate) fn last_line(&self, captured: &Captured) -> Option<String> {
        let shown = self.redact(captured);
        let line = shown.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        let mut printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut text: String = printable.by_ref().take(MAX_LINE).collect();
        if printable.next().is_some() {
            text.push('…');
        }
        Some(text)
    }

    /// Every byte that belongs to any form of any secret goes; forms may overlap.
    fn redact(&self, captured: &Captured) -> String {
        let text = captured.bytes.as_slice();
        let mut hidden = vec![false; text.len()];
        for form in &self.0 {
            let mut from = 0;
            while let Some(at) = find(&text[from..], form) {
                hidden[from + at..from + at + form.len()].fill(true);
                from += at + 1;
            }
            if captured.cut_after {
                let begun = (1..form.len()).rev().find(|&len| text.ends_with(&form[..len]));
                hidden[text.len() - begun.unwrap_or(0)..].fill(true);
            }
        }
        if captured.cut_before {
            // What is here may be the end of a secret whose beginning is not.
            let doubtful = self.longest().min(text.len());
            hidden[..doubtful].fill(true);
        }

        let mut shown = Vec::new();
        for (at, &byte) in text.iter().enumerate() {
            if !hidden[at] {
                shown.push(byte);
            } else if at == 0 || !hidden[at - 1] {
                shown.extend_from_slice(REDACTED.as_bytes());
            }
        }
        String::from_utf8_lossy(&shown).into_owned()
    }

    fn longest(&self) -> usize {
        self.0.iter().map(|form| form.len()).max().unwrap_or(0)
    }
}

/// A text as it is, and as it stands in JSON.
fn add(forms: &mut Vec<Zeroizing<Vec<u8>>>, text: &str, shortest: usize) {
    if text.len() < shortest {
        return;
    }
    let quoted = Zeroizing::new(serde_json::to_string(text).expect("a text is written as JSON"));
    let escaped = quoted[1..quoted.len() - 1].as_bytes();
    for form in [text.as_bytes(), escaped] {
        add_form(forms, form);
    }
}

fn add_form(forms: &mut Vec<Zeroizing<Vec<u8>>>, form: &[u8]) {
    if !form.is_empty() && !forms.iter().any(|known| ***known == *form) {
        forms.push(Zeroizing::new(form.to_vec()));
    }
}

fn add_leaves(forms: &mut Vec<Zeroizing<Vec<u8>>>, structure: Value) {
    match structure {
        Value::String(text) => add(forms, &Zeroizing::new(text), SHORTEST_PART),
        Value::Number(number) => add(forms, &number.to_string(), SHORTEST_PART),
        Value::Array(items) => items.into_iter().for_each(|item| add_leaves(forms, item)),
        Value::Object(fields) => fields.into_values().for_each(|item| add_leaves(forms, item)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn find(text: &[u8], form: &[u8]) -> Option<usize> {
    text.windows(form.len()).position(|window| window == form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[&str], output: impl AsRef<[u8]>) -> Option<String> {
        let bytes = Zeroizing::new(output.as_ref().to_vec());
        let redactor = Redactor::new(values.iter().map(|value| value.as_bytes()));
        redactor.last_line(&Captured { bytes, ..Captured::default() })
    }

    #[test]
    fn every_form_of_every_value_is_hidden() {
        let pem = "-----BEGIN-----\nAAAA\"canary\nBBBBcanary\n-----END-----\n";
        for (value, output) in [
            ("canary", "bad canary"),
            ("canary\n", "bad canary"),
            ("can\"ary", r#"bad {"token":"can\"ary"}"#),
            (pem, &format!("bad {pem}") as &str),
            (pem, "bad BBBBcanary"),
            (pem, r#"bad AAAA\"canary"#),
            (r#"{"user": "u", "password": "can\nary"}"#, "bad can\nary"),
        ] {
            let line = shown(&[value], output).unwrap();
            assert!(!line.contains("ary") && line.contains("[secret]"), "{output:?}: {line:?}");
        }
        assert_eq!(shown(&["abcd", "cdef"], "no: abcdef!").unwrap(), "no: [secret]!");
    }

    #[test]
    fn bytes_that_are_no_text_are_hidden_too() {
        let redactor = Redactor::new([b"can\xffary".as_slice(), b""]);
        let bytes = Zeroizing::new(b"bad can\xffary!".to_vec());
        let line = redactor.last_line(&Captured { bytes, ..Captured::default() });
        assert_eq!(line.unwrap(), "bad [secret]!");
    }

    #[test]
    fn the_last_line_is_short_and_plain() {
        assert_eq!(shown(&["x1x1"], "a\nlast \x1b[31mline \n\n").unwrap(), "last  [31mline");
        assert_eq!(shown(&["x1x1"], b"bad \xff byte").unwrap(), "bad \u{fffd} byte");
        assert_eq!(shown(&["x1x1"], " \n"), None);
        let long = shown(&["x1x1"], "ü".repeat(600)).unwrap();
        assert_eq!(long, format!("{}…", "ü".repeat(500)));
    }

    #[test]
    fn a_secret_that_was_cut_is_hidden_too() {
        let redactor = Redactor::new([b"canary-7f3a".as_slice()]);
        let captured = |text: &str, cut_before, cut_after| Captured {
            bytes: Zeroizing::new(text.as_bytes().to_vec()),
            cut_before,
            cut_after,
        };
        let line = |captured| redactor.last_line(&captured).unwrap();
        assert_eq!(line(captured("ry-7f3a was refused", true, false)), "[secret] refused");
        assert_eq!(line(captured("refused: canary-7", false, true)), "refused: [secret]");
    }
}
