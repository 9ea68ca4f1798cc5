//! The names of secrets, versions and labels, and which of them mean the same.

use oneiric_core::{Error, ErrorKind, Result, SecretKey};
use sha2::{Digest, Sha256};

/// The label of the current version.
pub(crate) const CURRENT: &str = "AWSCURRENT";
/// The label of a version that a rotation has begun with and not ended.
pub(crate) const PENDING: &str = "AWSPENDING";

/// The longest name, and the longest ARN that the API takes.
const MAX_NAME: usize = 512;
const MAX_ARN: usize = 2048;
/// What AWS adds to a name in an ARN: a hyphen and six characters.
const SUFFIX: usize = 7;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// The current version.
    Current,
    /// The version with this id.
    Version(&'a str),
    /// The version with this label.
    Stage(&'a str),
}

/// Checks a key, which is the `SecretId` of the API as it is.
pub(crate) fn secret_id(key: &SecretKey) -> Result<&str> {
    let id = key.as_str();
    let valid = match Arn::parse(id) {
        Some(arn) => id.len() <= MAX_ARN && is_name(arn.name),
        None => !id.starts_with("arn:") && is_name(id),
    };
    if valid {
        return Ok(id);
    }
    let message = format!("`{key}` is neither the name of a secret nor its ARN");
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Tells ids of versions from labels: an id has 32 to 64 characters, a label here has fewer.
pub(crate) fn wanted(version: Option<&str>) -> Result<Wanted<'_>> {
    match version {
        None | Some(CURRENT) => Ok(Wanted::Current),
        Some(PENDING) => {
            let message = format!(
                "the version with the label {PENDING} is not served: the rotation that made it \
                 has not ended, and it may be empty"
            );
            Err(Error::new(ErrorKind::VersionDisabled, message))
        }
        Some(id) if is_version_id(id) => Ok(Wanted::Version(id)),
        Some(stage) if is_stage(stage) => Ok(Wanted::Stage(stage)),
        Some(other) => {
            let message = format!("`{other}` is neither the id of a version nor a label");
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// The parts of a secret's ARN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arn<'a> {
    /// Partition, service, region and account, `arn:aws:secretsmanager:eu-west-1:1`.
    pub(crate) place: &'a str,
    /// The rest: the name, and what AWS adds to it if that is there.
    pub(crate) name: &'a str,
}

impl<'a> Arn<'a> {
    /// Reads `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (place, name) = text.split_once(":secret:")?;
        let parts: Vec<&str> = place.split(':').collect();
        let sound = matches!(parts[..], ["arn", partition, "secretsmanager", region, account]
            if [partition, region, account].iter().all(|part| is_region(part)));
        (sound && !name.is_empty()).then_some(Self { place, name })
    }
}

/// An ARN without what AWS adds to the name.
pub(crate) fn without_suffix(arn: &str) -> Option<&str> {
    let cut = arn.len().checked_sub(SUFFIX)?;
    let (short, suffix) = arn.split_at_checked(cut)?;
    let added = |byte: u8| byte.is_ascii_alphanumeric();
    let whole = suffix.strip_prefix('-').is_some_and(|rest| rest.bytes().all(added));
    whole.then_some(short)
}

/// All the ways in which a key can name the secret of this ARN and name.
pub(crate) fn spellings<'a>(arn: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    [Some(name), Some(arn), without_suffix(arn)].into_iter().flatten()
}

/// The token of a request, and so the id of the version that it makes, from that of an attempt.
pub(crate) fn version_id(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    // In the form of those that AWS makes.
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The region of a queue, where its URL says it.
pub(crate) fn region_of_queue(url: &str) -> Option<&str> {
    let (_, host) = url.split_once("://sqs.")?;
    host.split('.').next().filter(|region| is_region(region))
}

fn is_name(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    // The service takes `..` in a name, but nobody has one, and in a path it is an attack.
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(of_it) && !text.contains("..")
}

pub(crate) fn is_prefix(text: &str) -> bool {
    is_name(text)
}

pub(crate) fn is_version_id(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (32..=64).contains(&text.len()) && text.bytes().all(of_it)
}

pub(crate) fn is_stage(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"+=._-/".contains(&byte);
    (1..32).contains(&text.len()) && text.bytes().all(of_it)
}

pub(crate) fn is_session(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte);
    (2..=64).contains(&text.len()) && text.bytes().all(of_it)
}

pub(crate) fn is_region(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(of_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app/db-AbCdEf";

    #[test]
    fn a_key_is_a_name_or_an_arn() {
        for good in ["db", "app/db", "a+b=c.d@e_f-g", ARN, &ARN[..ARN.len() - 7]] {
            assert_eq!(secret_id(&good.parse().unwrap()).unwrap(), good);
        }
        for bad in [
            "a b",
            "a?b",
            "ä",
            "../db",
            "app/../db",
            "app/..",
            "arn:aws:secretsmanager:eu-west-1:1:secret:../db",
            "arn:aws:s3:::bucket",
            "arn:aws:secretsmanager:eu-west-1:1:secret:",
            "arn:aws:secretsmanager:eu-west-1:1:secret:a:b",
            &"k".repeat(513),
        ] {
            let error = secret_id(&bad.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn name_and_arn_are_one_secret() {
        let all: Vec<&str> = spellings(ARN, "app/db").collect();
        assert_eq!(all, ["app/db", ARN, &ARN[..ARN.len() - 7]]);
        assert_eq!(Arn::parse(ARN).unwrap().place, "arn:aws:secretsmanager:eu-west-1:123456789012");
        assert_eq!(without_suffix("db"), None);
        assert_eq!(without_suffix("arn:ü-AbCdE"), None);
    }

    #[test]
    fn ids_and_labels_are_told_apart() {
        let id = version_id("attempt-1");
        assert_eq!(wanted(None).unwrap(), Wanted::Current);
        assert_eq!(wanted(Some("AWSCURRENT")).unwrap(), Wanted::Current);
        assert_eq!(wanted(Some(&id)).unwrap(), Wanted::Version(&id));
        assert_eq!(wanted(Some("AWSPREVIOUS")).unwrap(), Wanted::Stage("AWSPREVIOUS"));
        let pending = wanted(Some("AWSPENDING")).unwrap_err();
        assert_eq!(pending.kind(), ErrorKind::VersionDisabled);
        assert!(pending.to_string().contains("rotation"), "{pending}");
        assert_eq!(wanted(Some("a b")).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_token_makes_one_id() {
        assert_eq!(version_id("a"), version_id("a"));
        assert_ne!(version_id("a"), version_id("b"));
        assert!(is_version_id(&version_id("a")), "{}", version_id("a"));
    }

    #[test]
    fn a_queue_says_its_region() {
        assert_eq!(region_of_queue("https://sqs.eu-west-1.amazonaws.com/1/q"), Some("eu-west-1"));
        assert_eq!(region_of_queue("http://127.0.0.1:4566/1/q"), None);
    }
}
