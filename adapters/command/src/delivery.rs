//! What a command is given on its standard input.

use std::collections::BTreeMap;

use oneiric_core::{HookError, SecretRef, SecretSet};
use oneiric_subprocess::Redactor;
use zeroize::Zeroizing;

/// The new secrets as one JSON object, and what must not be seen of them in a report.
pub(crate) struct Delivery {
    pub(crate) json: Zeroizing<Vec<u8>>,
    pub(crate) redactor: Redactor,
}

impl Delivery {
    pub(crate) fn new(
        names: &BTreeMap<String, SecretRef>,
        secrets: &SecretSet,
    ) -> Result<Self, HookError> {
        let values = names
            .iter()
            .map(|(name, reference)| Ok((name.as_str(), text(secrets, reference)?)))
            .collect::<Result<BTreeMap<_, _>, HookError>>()?;

        // Room for the worst case, six bytes for one: a buffer that grows leaves copies behind.
        let room = values.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 6).sum();
        let mut json = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *json, &values).expect("a map of texts is written to memory");
        Ok(Self { json, redactor: Redactor::new(values.values().map(|value| value.as_bytes())) })
    }
}

fn text<'a>(secrets: &'a SecretSet, reference: &SecretRef) -> Result<&'a str, HookError> {
    let value = secrets
        .get(reference)
        .ok_or_else(|| HookError::failed(format!("`{reference}` was not given")))?;
    value.expose_str().ok_or_else(|| {
        let reason = "is not UTF-8, and a command is given its secrets as JSON";
        HookError::failed(format!("`{reference}` {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use oneiric_core::{SecretValue, Version};

    use super::*;

    fn delivery(bytes: &[u8]) -> Result<Delivery, HookError> {
        let reference: SecretRef = "files:token".parse().unwrap();
        let part = (reference.clone(), SecretValue::from(bytes), Version::numbered(1));
        let names = BTreeMap::from([("tok\"en".to_owned(), reference)]);
        Delivery::new(&names, &SecretSet::new([part]))
    }

    #[test]
    fn any_text_fits_without_a_second_buffer() {
        let text = "\u{1}\"ü".repeat(1000);
        let made = delivery(text.as_bytes()).unwrap();
        let read: BTreeMap<String, String> = serde_json::from_slice(&made.json).unwrap();
        assert_eq!(read["tok\"en"], text);
        assert_eq!(made.json.capacity(), 6 * (6 + text.len()) + 6);
    }

    #[test]
    fn bytes_that_are_no_text_fail_with_their_name() {
        let error = delivery(b"canary\xff").err().unwrap().to_string();
        assert!(error.contains("`files:token` is not UTF-8") && !error.contains("canary"));
    }
}
