//! Names: of providers, adapters, instances, rotations. Validated once, so that everybody
//! downstream may rely on them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

/// A text that is not a valid name, with the reason and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` is not valid: {reason}")]
pub struct ParseError {
    what: &'static str,
    text: String,
    reason: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str, reason: impl Into<String>) -> Self {
        // A misplaced paste can be a secret: what is echoed is cut short.
        let shown: String = text.chars().take(80).collect();
        let text = if shown.len() < text.len() { format!("{shown}…") } else { shown };
        Self { what, text, reason: reason.into() }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $extra:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                check_name($what, text, $extra)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The name of a configured provider, as in `[providers.<id>]`: 1 to 63 of `a-z 0-9 - _`,
    /// starting with a letter or a digit.
    ProviderId, "provider id", ""
}

name_type! {
    /// The name by which code asks for a secret while the settings say where it is, as in
    /// `[secrets.<alias>]`; the same alphabet as [`ProviderId`].
    AliasId, "alias", ""
}

name_type! {
    /// The name of an adapter within one instance; the same alphabet as [`ProviderId`].
    AdapterId, "adapter id", ""
}

name_type! {
    /// The name of one running process with a runtime inside; the alphabet of [`ProviderId`]
    /// and `.`, so that a host name can be part of it.
    InstanceId, "instance id", "."
}

name_type! {
    /// The name of one rotation, the same in every report, log line and trace that speaks of it.
    RotationId, "rotation id", ""
}

impl ProviderId {
    /// What stands in the place of a provider where an alias is meant. No provider has this name,
    /// since none can be given it.
    pub(crate) fn of_aliases() -> &'static Self {
        static ALIASES: LazyLock<ProviderId> = LazyLock::new(|| ProviderId("(alias)".into()));
        &ALIASES
    }
}

fn check_name(what: &'static str, text: &str, extra: &str) -> Result<(), ParseError> {
    let refuse = |reason: String| Err(ParseError::new(what, text, reason));
    if text.is_empty() {
        return refuse("it is empty".into());
    }
    if text.len() > 63 {
        return refuse(format!("it has {} bytes, and 63 is the most", text.len()));
    }
    let allowed = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c) || extra.contains(c)
    };
    if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
        let more = if extra.is_empty() { String::new() } else { format!(" and `{extra}`") };
        return refuse(format!("`{}` is not one of a-z, 0-9, `-`, `_`{more}", bad.escape_debug()));
    }
    if text.starts_with(['-', '_', '.']) {
        return refuse("it must start with a letter or a digit".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_wrong_with_it() {
        for (text, part) in [
            ("", "it is empty"),
            ("Files", "`F` is not one of"),
            ("a b", "` ` is not one of"),
            ("-a", "must start with"),
            ("a\n", "`\\n` is not one of"),
        ] {
            let error = text.parse::<ProviderId>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        assert!("a".repeat(64).parse::<AdapterId>().is_err());
        assert!("a".repeat(63).parse::<AdapterId>().is_ok());
        assert!("host.example-1".parse::<InstanceId>().is_ok());
        assert!("host.example".parse::<ProviderId>().is_err());
    }
}
