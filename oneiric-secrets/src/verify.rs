//! What is looked at before a value is installed: a redacted, blanked or placeholder value that a
//! tool wrote back over the real one must not reach a service (Cloudflare's service tokens,
//! 24 January 2023).

use std::fmt;

use oneiric_core::{Error, ErrorKind, Result, SecretValue};

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
