//! A value on its way in and out, with the checksum that goes with it.

use bytes::Bytes;
use google_cloud_secretmanager_v1::model::SecretPayload;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use zeroize::Zeroize;

/// The largest payload that Secret Manager takes.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// Takes the value out of an answer, if it is whole.
pub(crate) fn take(payload: SecretPayload, of: &str) -> Result<SecretValue> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("`{of}` {why}")));
    let SecretPayload { data, data_crc32c, .. } = payload;
    let checksum = i64::from(crc32c::crc32c(&data));
    let (empty, fits) = (data.is_empty(), data.len() <= MAX_BYTES);
    let value = copy(data);
    if data_crc32c.is_some_and(|said| said != checksum) {
        return refuse("was damaged on its way: its checksum does not match");
    }
    if empty {
        return refuse("is empty");
    }
    if !fits {
        return refuse("is larger than a secret can be");
    }
    Ok(value)
}

/// Makes the payload of a new version.
pub(crate) fn make(value: &SecretValue, of: &str) -> Result<SecretPayload> {
    let refuse =
        |why: &str| Err(Error::new(ErrorKind::Invalid, format!("a version of `{of}` {why}")));
    let bytes = value.expose();
    if bytes.is_empty() {
        return refuse("may not be empty");
    }
    if bytes.len() > MAX_BYTES {
        return refuse("may not be larger than 64 KiB");
    }
    let checksum = i64::from(crc32c::crc32c(bytes));
    Ok(SecretPayload::new().set_data(Bytes::copy_from_slice(bytes)).set_data_crc32c(checksum))
}

/// Copies the bytes and wipes the original, unless somebody else still holds it. What Google's
/// client read them from is not ours to wipe.
fn copy(data: Bytes) -> SecretValue {
    let value = SecretValue::from(&data[..]);
    if let Ok(mut data) = data.try_into_mut() {
        data.as_mut().zeroize();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_empty_or_too_large_is_refused() {
        let value = SecretValue::from("value");
        let payload = make(&value, "s").unwrap();
        assert!(take(payload.clone(), "s").unwrap().same_as(&value));
        // The check value of CRC-32C that everybody publishes.
        let nine = make(&SecretValue::from("123456789"), "s").unwrap();
        assert_eq!(nine.data_crc32c, Some(0xe306_9283));
        for (payload, why) in [
            (payload.clone().set_data_crc32c(1), "checksum"),
            (SecretPayload::new().set_data_crc32c(0), "empty"),
            (SecretPayload::new().set_data(vec![0; MAX_BYTES + 1]), "larger"),
        ] {
            let error = take(payload, "s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{error}");
        }
        let unchecked = payload.set_or_clear_data_crc32c(None::<i64>);
        assert!(take(unchecked, "s").is_ok(), "a checksum is checked where there is one");
        assert!(make(&SecretValue::from(vec![0; MAX_BYTES + 1]), "s").is_err());
    }
}
