//! What form the value of a secret has: checked before it is believed, without a copy of it.

mod pem;
mod url;

use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::SecretValue;

/// The form that the value of a secret must have, as in `kind = "url"` of `[secrets.<alias>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SecretKind {
    /// One line of text, without control characters and without white space around it.
    Password,
    /// An absolute URL: `scheme://` and what belongs to it, without white space.
    Url,
    /// At least one PEM block, and none that is cut off or spoiled.
    Pem,
    /// JSON.
    Json,
}

impl SecretKind {
    /// The word of the settings for it.
    pub fn token(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Url => "url",
            Self::Pem => "pem",
            Self::Json => "json",
        }
    }

    /// Whether a value is of this kind.
    ///
    /// # Errors
    /// Why it is not, as the rest of a sentence that starts with "it", without a part of the value.
    pub fn check(self, value: &SecretValue) -> Result<(), &'static str> {
        let Some(text) = value.expose_str() else { return Err("is not UTF-8 text") };
        match self {
            Self::Password => password(text),
            Self::Url => url::check(text),
            Self::Pem => pem::check(text),
            Self::Json => {
                let parsed = serde_json::from_str::<IgnoredAny>(text);
                parsed.map(drop).map_err(|_| "is not JSON")
            }
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// What is not to be altered is not trimmed either: who stores it is told how to.
fn password(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.trim_end_matches(['\n', '\r']).len() < text.len() {
        return Err("ends with a line end; store it without one, as `oneiric secrets set --trim` \
                    does");
    }
    if text.trim() != text {
        return Err("has white space around it");
    }
    if text.contains('\n') {
        return Err("has more than one line");
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character in it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(kind: SecretKind, text: &str) -> Option<&'static str> {
        kind.check(&SecretValue::from(text)).err()
    }

    #[test]
    fn a_password_is_one_line_of_text() {
        for good in ["s3cr3t", "two words", "pä§§wörd", "{\"a\": 1}"] {
            assert_eq!(why(SecretKind::Password, good), None, "{good:?}");
        }
        for (bad, part) in [
            ("", "empty"),
            ("s3cr3t\n", "--trim"),
            ("s3cr3t\r\n", "--trim"),
            (" s3cr3t", "white space"),
            ("s3cr3t\t", "white space"),
            ("a\nb", "more than one line"),
            ("a\tb", "control character"),
            ("a\u{7f}b", "control character"),
        ] {
            let why = why(SecretKind::Password, bad).unwrap_or_default();
            assert!(why.contains(part), "{bad:?}: {why}");
        }
        let binary = SecretValue::from(&[0xff, 0xfe][..]);
        assert_eq!(SecretKind::Password.check(&binary), Err("is not UTF-8 text"));
    }

    #[test]
    fn json_is_whatever_parses_as_such() {
        for good in ["{\"a\": [1, null]}\n", "\"text\"", "7"] {
            assert_eq!(why(SecretKind::Json, good), None, "{good:?}");
        }
        for bad in ["", "{", "{\"a\": 1} x", "{'a': 1}"] {
            assert_eq!(why(SecretKind::Json, bad), Some("is not JSON"), "{bad:?}");
        }
    }
}
