//! The one type in which a secret's bytes travel, from the provider to the one who uses them.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zerocopy::{Immutable, IntoBytes};
use zeroize::Zeroize;

/// What every printed form of a secret shows.
const REDACTED: &str = "[secret]";

/// The bytes of a secret.
///
/// One buffer per version: a clone shares it, and it is wiped when the last one is dropped.
/// Debug and Display print a constant; there is no `Serialize` and no `PartialEq`. The bytes are
/// read only through the `expose…` calls, which a search for `expose` finds.
///
/// ```
/// use oneiric_core::SecretValue;
///
/// let value = SecretValue::from(String::from("s3cr3t"));
/// assert_eq!(format!("{value} {value:?}"), "[secret] [secret]");
/// assert_eq!(value.expose(), b"s3cr3t");
/// ```
#[derive(Clone)]
pub struct SecretValue(Arc<[Wiped]>);

/// A byte that is wiped where it lies. The count of its owners, its length and the bytes stand in
/// one piece of memory, so that a reader follows one pointer.
#[derive(IntoBytes, Immutable)]
#[repr(transparent)]
struct Wiped(u8);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl SecretValue {
    /// The bytes. Whoever copies them owns the copy.
    #[inline]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The bytes as text, or `None` where they are not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(self.expose()).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both hold the same bytes, in a time that depends on the lengths alone.
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || bool::from(self.expose().ct_eq(other.expose()))
    }
}

impl From<Vec<u8>> for SecretValue {
    /// Moves the bytes to a buffer of the exact size and wipes the vector, with the room that it
    /// had to spare.
    fn from(mut bytes: Vec<u8>) -> Self {
        let value = Self::from(bytes.as_slice());
        bytes.zeroize();
        value
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for SecretValue {
    /// Copies the bytes; wiping the original is the caller's.
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|&byte| Wiped(byte)).collect())
    }
}

impl From<&str> for SecretValue {
    /// Copies the text; wiping the original is the caller's.
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_shows_the_bytes_or_their_number() {
        let value = SecretValue::from("canary-7f3a");
        let printed = format!("{value} {value:?} {:#?}", Some(&value));
        assert!(!printed.contains("canary") && !printed.contains("11"), "{printed}");
    }

    #[test]
    fn clones_share_one_buffer() {
        let value = SecretValue::from("canary-7f3a");
        let clone = value.clone();
        assert!(std::ptr::eq(value.expose(), clone.expose()));
    }

    #[test]
    fn sameness_is_of_bytes() {
        let value = SecretValue::from("a");
        assert!(value.same_as(&SecretValue::from("a")));
        assert!(!value.same_as(&SecretValue::from("b")));
        assert!(!value.same_as(&SecretValue::from("ab")));
    }

    #[test]
    fn a_vector_with_room_to_spare_keeps_its_content() {
        let mut bytes = Vec::with_capacity(100);
        bytes.extend_from_slice(b"abc");
        assert_eq!(SecretValue::from(bytes).expose(), b"abc");
    }
}
