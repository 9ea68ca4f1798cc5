//! How text is written so that a reader of some format gets it back, whatever it holds.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// A format that values can be escaped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// One word of a POSIX shell, quoted.
    Shell,
    /// A value of a dotenv file, quoted.
    Dotenv,
    /// JSON: a string with its quotes, or a number, `true`, `false`, `null`, a list, an object.
    Json,
    /// YAML, in the same way.
    Yaml,
    /// TOML: a basic string with its quotes, or a number, `true`, `false`, a list.
    Toml,
    /// Text and attributes of XML and HTML.
    Xml,
    /// One part of a URL, percent-encoded.
    Url,
    /// A string literal of standard SQL, with its quotes.
    Sql,
}

/// What RFC 3986 leaves as it is everywhere in a URL.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Format {
    pub(crate) const ALL: [Self; 8] = [
        Self::Shell,
        Self::Dotenv,
        Self::Json,
        Self::Yaml,
        Self::Toml,
        Self::Xml,
        Self::Url,
        Self::Sql,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Dotenv => "dotenv",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Xml => "xml",
            Self::Url => "url",
            Self::Sql => "sql",
        }
    }

    /// A text in this format, or what it holds that the format cannot.
    pub(crate) fn escape(self, text: &str) -> Result<String, &'static str> {
        match self {
            Self::Shell => shell(text),
            Self::Dotenv => dotenv(text),
            Self::Json => Ok(json(text)),
            Self::Yaml => Ok(yaml(text)),
            Self::Toml => Ok(toml(text)),
            Self::Xml => xml(text),
            Self::Url => Ok(utf8_percent_encode(text, RESERVED).to_string()),
            Self::Sql => sql(text),
        }
    }
}

const NUL: &str = "a NUL character";

fn without_nul(text: &str) -> Result<&str, &'static str> {
    if text.contains('\0') { Err(NUL) } else { Ok(text) }
}

/// Between single quotes nothing has a meaning but the quote itself.
fn shell(text: &str) -> Result<String, &'static str> {
    Ok(format!("'{}'", without_nul(text)?.replace('\'', r"'\''")))
}

/// The dialects agree on less than they seem to, so the form depends on the text: single quotes as
/// long as all read the same in them, and else double quotes. Between those, shells would run what
/// stands between backquotes, and others know no way to escape them: they get quotes of their own.
fn dotenv(text: &str) -> Result<String, &'static str> {
    without_nul(text)?;
    let literal = !text.contains('\'') && !text.contains(r"\\") && !text.ends_with('\\');
    if literal {
        return Ok(format!("'{text}'"));
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '`' => quoted.push_str("\"'`'\""),
            '\\' | '"' | '$' => quoted.extend(['\\', c]),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a text is written as JSON")
}

/// A double-quoted scalar, with everything escaped that is no printable character of YAML or that
/// an older parser takes for the end of a line.
fn yaml(text: &str) -> String {
    quoted(text, |c, out| match c {
        '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' => write!(out, "\\x{:02X}", u32::from(c)),
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
            write!(out, "\\u{:04X}", u32::from(c))
        }
        _ => out.write_char(c),
    })
}

fn toml(text: &str) -> String {
    quoted(text, |c, out| match c {
        '\0'..='\u{1f}' | '\u{7f}' => write!(out, "\\u{:04X}", u32::from(c)),
        _ => out.write_char(c),
    })
}

/// Between double quotes, with a backslash before what ends them.
fn quoted(text: &str, write: impl Fn(char, &mut String) -> std::fmt::Result) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
            out.push(c);
        } else {
            write(c, &mut out).expect("a text is written to memory");
        }
    }
    out.push('"');
    out
}

/// White space is written as references, so that it survives in an attribute as well, where it
/// would be normalized.
fn xml(text: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\0' => return Err(NUL),
            '\u{1}'..='\u{1f}' => return Err("a control character"),
            '\u{fffe}' | '\u{ffff}' => return Err("U+FFFE or U+FFFF"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn sql(text: &str) -> Result<String, &'static str> {
    Ok(format!("'{}'", without_nul(text)?.replace('\'', "''")))
}

/// A string literal of MySQL and MariaDB, where a backslash has a meaning.
pub(crate) fn mysql(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\'', "''").replace('\0', r"\0");
    format!("'{escaped}'")
}

#[cfg(test)]
mod tests;
