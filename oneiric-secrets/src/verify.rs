//! What is looked at before a value is installed: a redacted, blanked or placeholder value that a
//! tool wrote back over the real one must not reach a service (Cloudflare's service tokens,
//! 24 January 2023).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use oneiric_core::settings::SecretSettings;
use oneiric_core::{
    AliasId, Error, ErrorKind, Field, ProviderId, Result, SecretKey, SecretKind, SecretValue,
};

use crate::field;

/// Texts that stand where a secret should be, compared without regard to case.
const PLACEHOLDERS: [&str; 12] = [
    "redacted",
    "[redacted]",
    "<redacted>",
    "[secret]",
    "hidden",
    "masked",
    "changeme",
    "change_me",
    "change-me",
    "placeholder",
    "todo",
    "null",
];

/// Which values are refused.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Verify {
    pub(crate) allow_empty: bool,
    pub(crate) allow_placeholders: bool,
}

impl Verify {
    /// # Errors
    /// `Invalid`, with the reason and without the value.
    pub(crate) fn check(self, value: &SecretValue, of: &dyn fmt::Display) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::Invalid, format!("the value of `{of}` is refused: {why}")))
        };
        let bytes = value.expose().trim_ascii();
        if bytes.is_empty() {
            if self.allow_empty {
                return Ok(());
            }
            return refuse(if value.is_empty() { "it is empty" } else { "it is only white space" });
        }
        if !self.allow_placeholders && is_placeholder(bytes) {
            return refuse("it is a placeholder");
        }
        Ok(())
    }
}

/// Of what kind secrets must be, because an alias says so.
#[derive(Debug, Default)]
pub(crate) struct Kinds(HashMap<ProviderId, HashMap<SecretKey, Vec<Wanted>>>);

/// What one alias wants of a secret, or of a field of it.
#[derive(Debug)]
struct Wanted {
    alias: AliasId,
    version: Option<String>,
    field: Option<Field>,
    kind: SecretKind,
}

impl Kinds {
    pub(crate) fn new(aliases: &BTreeMap<AliasId, SecretSettings>) -> Self {
        let mut kinds = Self::default();
        for (alias, settings) in aliases {
            let Some(kind) = settings.kind else { continue };
            for candidate in &settings.candidates {
                let of_provider = kinds.0.entry(candidate.provider().clone()).or_default();
                of_provider.entry(candidate.key().clone()).or_default().push(Wanted {
                    alias: alias.clone(),
                    version: candidate.version().map(ToOwned::to_owned),
                    field: candidate.field().cloned(),
                    kind,
                });
            }
        }
        kinds
    }

    /// Whether a value is what every alias wants that stands for it. A field that is not there is
    /// not of a wrong kind: who reads it is told.
    ///
    /// # Errors
    /// `Invalid`, with the reason and without the value.
    pub(crate) fn check(
        &self,
        value: &SecretValue,
        (provider, key, version): (&ProviderId, &SecretKey, Option<&str>),
    ) -> Result<()> {
        let wanted = self.0.get(provider).and_then(|of| of.get(key)).into_iter().flatten();
        for Wanted { alias, field, kind, .. } in
            wanted.filter(|wanted| wanted.version.as_deref() == version)
        {
            let refuse = |what: &str, why: &str| {
                let message = format!(
                    "the value of `{provider}:{key}` is refused: {what} is not of kind `{kind}`, as \
                     the alias `{alias}` wants it to be: it {why}"
                );
                Err(Error::new(ErrorKind::Invalid, message))
            };
            let part = match field {
                None => kind.check(value).map_err(|why| ("it".to_owned(), why)),
                Some(field) => {
                    let name = format!("`{provider}:{key}`");
                    match field::extract(value, field, &name) {
                        Ok(part) => {
                            kind.check(&part).map_err(|why| (format!("its field `{field}`"), why))
                        }
                        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                        Err(_) => Err((format!("its field `{field}`"), "is not there, in no JSON")),
                    }
                }
            };
            if let Err((what, why)) = part {
                return refuse(&what, why);
            }
        }
        Ok(())
    }
}

fn is_placeholder(bytes: &[u8]) -> bool {
    let masked = |mark: u8| bytes.len() >= 3 && bytes.iter().all(|byte| *byte == mark);
    masked(b'*')
        || masked(b'x')
        || masked(b'X')
        || PLACEHOLDERS.iter().any(|text| bytes.eq_ignore_ascii_case(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_placeholders_and_blanks_are_refused_unless_allowed() {
        let strict = Verify::default();
        let lax = Verify { allow_empty: true, allow_placeholders: true };
        for text in ["", " \n", "REDACTED", "***", "********", "ChangeMe", "xxxx", "<redacted>\n"] {
            let value = SecretValue::from(text);
            let error = strict.check(&value, &"files:a").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("files:a"));
            assert!(lax.check(&value, &"files:a").is_ok(), "{text:?}");
        }
        for text in ["s3cr3t", "**", "xx", "redacted-7", "x*x*"] {
            assert!(strict.check(&SecretValue::from(text), &"files:a").is_ok(), "{text:?}");
        }
    }
}
