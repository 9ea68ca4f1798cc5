//! The name that a connection has at the server: whose it is, and the version of the password that
//! it was authenticated with. A version says nothing of the value.

use std::fmt::Write as _;

use oneiric_core::{AdapterId, Version};

const OURS: &str = "oneiric";

/// The name of a connection of this adapter.
pub(crate) fn mark(adapter: &AdapterId, version: &Version) -> String {
    format!("{OURS}:{}:{}", encoded(adapter.as_str()), encoded(&version.id()))
}

/// Whether a name is one of ours, and if so, whether it is of this version.
pub(crate) fn is_of(name: &str, version: &str) -> Option<bool> {
    let mut parts = name.split(':');
    if parts.next() != Some(OURS) {
        return None;
    }
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(of), None) => Some(of == encoded(version)),
        _ => None,
    }
}

/// Redis takes no blanks and no line breaks in a name, and we take colons for ourselves. No two
/// texts have the same code.
fn encoded(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/' => {
                code.push(byte.into());
            }
            _ => write!(code, "%{byte:02X}").expect("a string takes any text"),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_version_and_whose_it_is() {
        let adapter: AdapterId = "cache".parse().unwrap();
        for version in ["7", "2026-11-30 04:00", "a:b", "a%3Ab", "ä\n"] {
            let name = mark(&adapter, &Version::opaque(version));
            assert!(name.bytes().all(|byte| (b'!'..=b'~').contains(&byte)), "{name}");
            assert_eq!(is_of(&name, version), Some(true), "{name}");
            assert_eq!(is_of(&name, "8"), Some(false), "{name}");
        }
        assert_eq!(mark(&adapter, &Version::numbered(7)), "oneiric:cache:7");
        for other in ["", "backup", "oneiric", "oneiric:cache", "oneiric:a:b:c", "xoneiric:a:7"] {
            assert_eq!(is_of(other, "7"), None, "{other}");
        }
    }
}
