//! Names in paths: `projects/P[/locations/L]/secrets/S[/versions/V]`.

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource<'a> {
    pub(crate) project: &'a str,
    pub(crate) location: Option<&'a str>,
    /// What comes after: collections and ids in turn.
    pub(crate) rest: Vec<&'a str>,
}

impl<'a> Resource<'a> {
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        let mut parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 || parts[0] != "projects" || parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let project = parts[1];
        parts.drain(..2);
        let location = if parts.len() >= 2 && parts[0] == "locations" {
            let location = parts[1];
            parts.drain(..2);
            Some(location)
        } else {
            None
        };
        Some(Self { project, location, rest: parts })
    }
}

pub(crate) fn is_secret_id(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=255).contains(&text.len()) && text.bytes().all(of_it)
}

pub(crate) fn is_alias(text: &str) -> bool {
    text.len() <= 63
        && is_secret_id(text)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !matches!(text, "latest" | "NEW")
}

pub(crate) fn is_annotation(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && text.bytes().all(of_it)
        && text.starts_with(edge)
        && text.ends_with(edge)
}
