//! Which attempts to add a version were begun, so that a repeated one makes no second version.
//!
//! Secret Manager knows no tokens of requests, and a version has no room for one. So an attempt is
//! noted in an annotation of the secret before the version is added: a hash of its token, and the
//! number of the newest version at that time. Who comes again with the same token looks for the
//! value among the versions with higher numbers, which are readable by number at once.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The annotation.
pub(crate) const ANNOTATION: &str = "oneiric.attempts";
/// How many attempts are remembered. Of a secret that is written by one rotator, one would do.
const MOST: usize = 8;

/// The attempts of one secret, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attempts(Vec<(String, u64)>);

impl Attempts {
    /// Reads the annotation. What is not understood is forgotten.
    pub(crate) fn parse(text: &str) -> Self {
        let attempt = |part: &str| {
            let (token, base) = part.split_once('=')?;
            Some((token.to_owned(), base.parse().ok()?))
        };
        Self(text.split(' ').filter_map(attempt).collect())
    }

    /// The newest version at the time when this attempt was begun.
    pub(crate) fn base(&self, token: &str) -> Option<u64> {
        let hash = hash(token);
        self.0.iter().find(|(known, _)| *known == hash).map(|(_, base)| *base)
    }

    /// The annotation with one more attempt, and without the oldest ones.
    pub(crate) fn with(mut self, token: &str, base: u64) -> String {
        self.0.push((hash(token), base));
        let oldest = self.0.len().saturating_sub(MOST);
        let parts: Vec<String> =
            self.0[oldest..].iter().map(|(token, base)| format!("{token}={base}")).collect();
        parts.join(" ")
    }
}

/// A token is anybody's text, of any length.
fn hash(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().take(8).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_remembered_and_the_oldest_forgotten() {
        let mut text = String::from("garbage =1 x=y");
        for number in 0..10 {
            text = Attempts::parse(&text).with(&format!("token-{number}"), number);
        }
        let attempts = Attempts::parse(&text);
        assert_eq!(attempts.base("token-9"), Some(9));
        assert_eq!(attempts.base("token-2"), Some(2));
        assert_eq!(attempts.base("token-1"), None);
        assert_eq!(attempts.0.len(), MOST);
        assert!(text.len() < 300, "{text}");
    }
}
