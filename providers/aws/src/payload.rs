//! A value on its way in and out: a text or bytes, never both and never nothing.

use aws_sdk_secretsmanager::primitives::Blob;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use zeroize::Zeroize;

/// The largest value that Secrets Manager takes.
pub(crate) const MAX_BYTES: usize = 65_536;

/// What a version holds: a text or bytes.
#[derive(Default)]
pub(crate) struct Payload {
    pub(crate) text: Option<String>,
    pub(crate) bytes: Option<Blob>,
}

impl Payload {
    /// Takes the value out of an answer.
    pub(crate) fn take(self, of: &str) -> Result<SecretValue> {
        let value = self.into_value();
        if value.is_empty() {
            return Err(refused(of, "is empty, as a rotation leaves it that has failed"));
        }
        if value.expose().len() > MAX_BYTES {
            return Err(refused(of, "is larger than a secret can be"));
        }
        Ok(value)
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.as_ref().is_none_or(String::is_empty)
            && self.bytes.as_ref().is_none_or(|bytes| bytes.as_ref().is_empty())
    }

    /// Makes what a new version holds: text as text, so that everybody else can read it.
    pub(crate) fn make(value: &SecretValue, of: &str) -> Result<Self> {
        if value.is_empty() {
            return Err(refused(of, "may not be set to nothing"));
        }
        if value.expose().len() > MAX_BYTES {
            return Err(refused(of, "may not be larger than 65,536 bytes"));
        }
        Ok(match value.expose_str() {
            Some(text) => Self { text: Some(text.into()), bytes: None },
            None => Self { text: None, bytes: Some(Blob::new(value.expose())) },
        })
    }

    /// What the client read it from is not ours to wipe; what it made of it, is.
    fn into_value(self) -> SecretValue {
        let mut bytes = self.bytes.map(Blob::into_inner).unwrap_or_default();
        match self.text {
            Some(text) => {
                bytes.zeroize();
                text.into()
            }
            None => bytes.into(),
        }
    }
}

fn refused(of: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("`{of}` {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for bytes in [&b"text"[..], "Grüße".as_bytes(), &[0xff, 0, 0x80], &[b'x'; MAX_BYTES]] {
            let value = SecretValue::from(bytes);
            let payload = Payload::make(&value, "s").unwrap();
            assert!(!payload.is_empty());
            assert!(payload.take("s").unwrap().same_as(&value));
        }
    }

    #[test]
    fn what_is_empty_or_too_large_is_refused() {
        let empty = || Payload { text: Some(String::new()), bytes: Some(Blob::new([])) };
        let large = Payload { text: None, bytes: Some(Blob::new([0; MAX_BYTES + 1])) };
        assert!(empty().is_empty() && Payload::default().is_empty());
        for (payload, why) in [(empty(), "empty"), (Payload::default(), "empty"), (large, "larger")]
        {
            let error = payload.take("s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{error}");
        }
        for value in [vec![], vec![b'x'; MAX_BYTES + 1]] {
            let refused = Payload::make(&value.into(), "s").map(drop).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
        }
    }
}
