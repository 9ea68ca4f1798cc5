//! What a caller asks for: `provider:key[@version][#field]`, or `alias[#field]`.

use std::any::Any;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use smol_str::SmolStr;

use crate::id::{AliasId, ParseError, ProviderId};

/// The longest key, in bytes. The longest name that any of the stores we know accepts is an
/// ARN-qualified one of about 600.
const MAX_KEY: usize = 1024;

/// The name of a secret within its provider. What it may look like beyond this is the provider's
/// to say; here it is non-empty, at most 1,024 bytes, and free of control characters. One of up to
/// 23 bytes is kept in place; a longer one is shared by its clones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey(SmolStr);

impl SecretKey {
    /// The key as the provider knows it (nothing escaped).
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |reason: String| Err(ParseError::new("secret key", text, reason));
        if text.is_empty() {
            return refuse("it is empty".into());
        }
        if text.len() > MAX_KEY {
            return refuse(format!("it has {} bytes, and {MAX_KEY} is the most", text.len()));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return refuse(format!("it has a control character, `{}`", bad.escape_debug()));
        }
        if text.trim() != text {
            return refuse("it starts or ends with white space".into());
        }
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for SecretKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place inside a JSON value: a JSON pointer (RFC 6901). `user` is short for `/user`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(Arc<str>);

impl Field {
    /// The JSON pointer, which starts with `/`.
    pub fn pointer(&self) -> &str {
        &self.0
    }

    /// The place of `inner` within what is at this place.
    #[must_use]
    pub fn join(&self, inner: &Self) -> Self {
        Self(format!("{}{}", self.0, inner.0).into())
    }
}

impl FromStr for Field {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |reason: &str| Err(ParseError::new("field", text, reason));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.chars().any(char::is_control) {
            return refuse("it has a control character");
        }
        let pointer = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
        let mut after_tilde = pointer.split('~').skip(1);
        if after_tilde.any(|rest| !rest.starts_with(['0', '1'])) {
            return refuse("`~` must be followed by `0` or `1` (RFC 6901)");
        }
        Ok(Self(pointer.into()))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a caller asks for: `provider:key[@version][#field]`, or `alias[#field]`.
///
/// In the text form `%`, `@` and `#` inside a key or a version are written `%25`, `%40` and
/// `%23`, so that every reference can be printed and read back:
///
/// ```
/// use oneiric_core::SecretRef;
///
/// let reference: SecretRef = "files:app/db.json@7#/user".parse()?;
/// assert_eq!(reference.provider().as_str(), "files");
/// assert_eq!(reference.key().as_str(), "app/db.json");
/// assert_eq!(reference.version(), Some("7"));
/// assert_eq!(reference.field().unwrap().pointer(), "/user");
/// assert_eq!(reference.to_string(), "files:app/db.json@7#/user");
///
/// // A key may have colons, as in an ARN: the provider ends at the first one.
/// let arn: SecretRef = "aws:arn:aws:secretsmanager:eu-west-1:1:secret:db".parse()?;
/// assert_eq!(arn.provider().as_str(), "aws");
///
/// // Without a colon it is an alias: the settings say where the secret is.
/// let alias: SecretRef = "db#/user".parse()?;
/// assert_eq!(alias.alias(), Some("db"));
/// assert_eq!(alias.to_string(), "db#/user");
/// # Ok::<(), oneiric_core::ParseError>(())
/// ```
///
/// A reference that is used again and again is best kept: it remembers where its secret was found.
#[derive(Clone, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SecretRef {
    provider: ProviderId,
    // Every read looks at these two. Here they are on one cache line, also in a slice.
    memo: Memo,
    field: Option<Field>,
    key: SecretKey,
    version: Option<Arc<str>>,
}

impl SecretRef {
    /// A reference to the current version of a whole value.
    pub fn new(provider: ProviderId, key: SecretKey) -> Self {
        Self { provider, key, version: None, field: None, memo: Memo::default() }
    }

    /// The alias that this is, without its field; `None` if it names a provider and a key.
    pub fn alias(&self) -> Option<&str> {
        (self.provider == *ProviderId::of_aliases()).then_some(self.key.as_str())
    }

    /// The same secret, one field of it.
    #[must_use]
    pub fn with_field(mut self, field: Field) -> Self {
        self.field = Some(field);
        self
    }

    /// The same key, version and field at another provider.
    pub(crate) fn at_provider(&self, provider: ProviderId) -> Self {
        let (key, version, field) = (self.key.clone(), self.version.clone(), self.field.clone());
        Self { provider, key, version, field, memo: Memo::default() }
    }

    /// The provider that is asked. For an alias, which may stand for several, it is a name that
    /// no provider has: whoever takes it for one finds nothing.
    pub fn provider(&self) -> &ProviderId {
        &self.provider
    }

    /// The name of the secret within the provider; for an alias, the alias.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// The version that is pinned, if one is: an exact id or, where the provider has such, an
    /// alias or a stage.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The part of a JSON value that is meant, if not all of it.
    #[inline]
    pub fn field(&self) -> Option<&Field> {
        self.field.as_ref()
    }

    /// Where its secret was found last; for those who look secrets up.
    #[doc(hidden)]
    #[inline]
    pub fn memo(&self) -> &Memo {
        &self.memo
    }
}

/// What one who looks secrets up leaves in a reference, to find the way faster the next time. It
/// is no part of what the reference means: it is equal to any other.
#[doc(hidden)]
#[derive(Clone, Default)]
pub struct Memo(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Memo {
    /// What was left, if it is of this type.
    #[inline]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }

    /// Leaves something, if nothing was left before.
    pub fn set(&self, found: Arc<dyn Any + Send + Sync>) {
        // Whoever was first is as good.
        let _ = self.0.set(found);
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl PartialOrd for SecretRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SecretRef {
    /// By provider, key, version and field.
    fn cmp(&self, other: &Self) -> Ordering {
        let Self { provider, key, version, field, .. } = self;
        (provider, key, version, field).cmp(&(
            &other.provider,
            &other.key,
            &other.version,
            &other.field,
        ))
    }
}

impl Hash for Memo {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl FromStr for SecretRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |reason: String| ParseError::new("secret reference", text, reason);
        let (provider, rest) = match text.find([':', '#']) {
            Some(at) if text[at..].starts_with(':') => (&text[..at], &text[at + 1..]),
            _ => return alias(text),
        };
        let (rest, field) = match rest.split_once('#') {
            Some((rest, field)) => (rest, Some(field.parse::<Field>()?)),
            None => (rest, None),
        };
        let (key, version) = match rest.split_once('@') {
            Some((_, "")) => return Err(refuse("the version after `@` is empty".into())),
            Some((_, version)) if version.contains('@') => {
                return Err(refuse("it has two `@`; write `%40` for one in the key".into()));
            }
            Some((key, version)) => (key, Some(unescape(version).map_err(&refuse)?.into())),
            None => (rest, None),
        };
        Ok(Self {
            provider: provider.parse()?,
            key: unescape(key).map_err(&refuse)?.parse()?,
            version,
            field,
            memo: Memo::default(),
        })
    }
}

impl From<AliasId> for SecretRef {
    fn from(alias: AliasId) -> Self {
        Self::new(ProviderId::of_aliases().clone(), SecretKey(alias.as_str().into()))
    }
}

/// Reads `alias[#field]`.
fn alias(text: &str) -> Result<SecretRef, ParseError> {
    let refuse = |reason: &str| ParseError::new("secret reference", text, reason);
    let (name, field) = match text.split_once('#') {
        Some((name, field)) => (name, Some(field.parse::<Field>()?)),
        None => (text, None),
    };
    if name.contains('@') {
        return Err(refuse(
            "an alias has no version: the settings that say what it stands for may pin one",
        ));
    }
    let alias = name.parse::<AliasId>().map_err(|_| {
        refuse(
            "it needs the form provider:key[@version][#field], or alias[#field] with an alias of \
             1 to 63 of a-z, 0-9, `-`, `_`",
        )
    })?;
    let reference = SecretRef::from(alias);
    Ok(match field {
        Some(field) => reference.with_field(field),
        None => reference,
    })
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.alias() {
            Some(alias) => f.write_str(alias)?,
            None => write!(f, "{}:{}", self.provider, Escaped(self.key.as_str()))?,
        }
        if let Some(version) = &self.version {
            write!(f, "@{}", Escaped(version))?;
        }
        if let Some(field) = &self.field {
            write!(f, "#{field}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for SecretRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '%' => f.write_str("%25")?,
                '@' => f.write_str("%40")?,
                '#' => f.write_str("%23")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let code = after.get(..2).unwrap_or(after);
        out.push(match code {
            "25" => '%',
            "40" => '@',
            "23" => '#',
            _ => return Err(format!("`%{code}` is not one of the escapes %25, %40, %23")),
        });
        rest = &after[2..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for text in [
            "files:a",
            "files:a/b.json#/user",
            "gcp:projects/p/secrets/s@7",
            "aws:arn:aws:secretsmanager:eu-west-1:1:secret:db-AbCdEf@AWSPREVIOUS#/password",
            "aws:team%40corp%23x%25",
            "env:DB_PASSWORD",
            "db-password",
            "db#/user",
            "db#/a:b",
        ] {
            let reference: SecretRef = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
            assert_eq!(reference.to_string().parse::<SecretRef>().unwrap(), reference);
        }
        let short: SecretRef = "files:a.toml#user".parse().unwrap();
        assert_eq!(short.to_string(), "files:a.toml#/user");
        let escaped: SecretRef = "aws:team%40corp".parse().unwrap();
        assert_eq!(escaped.key().as_str(), "team@corp");
    }

    #[test]
    fn a_text_without_a_provider_is_an_alias() {
        for (text, alias, field) in
            [("db-password", "db-password", None), ("db#a:b", "db", Some("/a:b"))]
        {
            let reference: SecretRef = text.parse().unwrap();
            assert_eq!(reference.alias(), Some(alias));
            assert_eq!(reference.field().map(Field::pointer), field);
            assert_eq!(reference.version(), None);
            assert!(reference.provider().as_str().parse::<ProviderId>().is_err());
        }
        let plain: SecretRef = "db:password".parse().unwrap();
        assert_eq!(plain.alias(), None);
        assert_eq!(SecretRef::from("db".parse::<AliasId>().unwrap()), "db".parse().unwrap());
    }

    #[test]
    fn a_field_of_a_field_is_a_longer_way() {
        let field = |text: &str| text.parse::<Field>().unwrap();
        assert_eq!(field("a").join(&field("/b/0")), field("/a/b/0"));
    }

    #[test]
    fn a_memo_is_no_part_of_the_meaning() {
        let plain: SecretRef = "files:a".parse().unwrap();
        let found = plain.clone();
        found.memo().set(Arc::new(7_u32));
        found.memo().set(Arc::new(8_u32));
        assert_eq!((found.memo().get::<u32>(), found.memo().get::<u64>()), (Some(&7), None));
        assert_eq!((&found, found.cmp(&plain)), (&plain, Ordering::Equal));
        assert_eq!(std::collections::HashSet::from([found, plain]).len(), 1);
    }

    #[test]
    fn bad_references_say_why() {
        for (text, part) in [
            ("Files", "provider:key"),
            ("", "provider:key"),
            ("db@7", "an alias has no version"),
            ("db#", "field"),
            ("files:", "it is empty"),
            (":a", "it is empty"),
            ("files:a@", "version after `@` is empty"),
            ("files:a@1@2", "two `@`"),
            ("files:a#", "field"),
            ("files:a#x~2", "`~` must be followed"),
            ("files:a%zz", "`%zz` is not one of"),
            ("files:a%2", "`%2` is not one of"),
            ("files: a", "white space"),
            ("files:a\u{0}", "control character"),
        ] {
            let error = text.parse::<SecretRef>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
