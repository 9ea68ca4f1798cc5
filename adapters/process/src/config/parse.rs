//! How values of the settings are read that serde does not read by itself.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

pub(super) fn arguments<'de, D>(deserializer: D) -> Result<Vec<OsString>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Vec::<String>::deserialize(deserializer)?.into_iter().map(OsString::from).collect())
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        de::Error::custom(format!("`{text}` is not a duration such as \"30s\": {error}"))
    })
}

pub(super) fn umask<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mask = u32::from_str_radix(&text, 8).ok().filter(|mask| *mask <= 0o777);
    mask.map(Some).ok_or_else(|| {
        de::Error::custom(format!("`{text}` is not a mask in octal such as \"077\""))
    })
}

/// A port number, or an address with one.
pub(super) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Port;

    impl de::Visitor<'_> for Port {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a port such as 8080, or an address such as \"127.0.0.1:8080\"")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            let number = u64::try_from(number)
                .map_err(|_| de::Error::invalid_value(de::Unexpected::Signed(number), &self))?;
            self.visit_u64(number)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            match u16::try_from(number) {
                Ok(port @ 1..) => Ok(format!("127.0.0.1:{port}")),
                _ => Err(de::Error::invalid_value(de::Unexpected::Unsigned(number), &self)),
            }
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            if let Ok(number) = text.parse::<u64>() {
                return self.visit_u64(number);
            }
            match text.parse::<SocketAddr>() {
                Ok(address) => Ok(address.to_string()),
                Err(_) => Err(de::Error::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
    }

    deserializer.deserialize_any(Port).map(Some)
}
