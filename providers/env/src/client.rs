//! The provider: each answer is read from the environment when it is asked for.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp, Version,
    VersionInfo, fetch_each,
};

use crate::config::Config;

/// The key of the hashes that tell values apart. It is drawn once per process and never leaves
/// it, so that a hash says nothing to anybody who tries out values.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A [`SecretProvider`] over the variables of this process; [`Config::build`] makes one.
///
/// # Keys
/// The variable of a key is the prefix and the key in upper case, with `_` for everything that is
/// not a letter or a digit of ASCII. Two keys that differ only in such characters or in case are
/// the same variable.
///
/// # Versions
/// A variable has only its current one. Its id, and the stamp, are a hash of the value with a
/// random key of this process: equal as long as the value is, and of no meaning in another
/// process. An embedder that sets a variable is noticed by the next sweep.
#[derive(Debug)]
pub struct EnvProvider {
    descriptor: Descriptor,
    prefix: String,
}

impl EnvProvider {
    pub(crate) fn new(config: Config) -> Self {
        let capabilities =
            Capabilities { stamps: true, binary: cfg!(unix), ..Capabilities::default() };
        let Config { prefix } = config;
        let descriptor = Descriptor::new("env", format!("env:{prefix}*"), capabilities);
        Self { descriptor, prefix }
    }

    fn variable(&self, key: &SecretKey) -> String {
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        self.prefix.chars().chain(key.as_str().chars().map(upper)).collect()
    }

    fn read(&self, key: &SecretKey) -> Result<(SecretValue, Arc<str>)> {
        let variable = self.variable(key);
        let fault =
            |kind, what: &str| Error::new(kind, format!("the variable `{variable}` {what}"));
        let value =
            env::var_os(&variable).ok_or_else(|| fault(ErrorKind::NotFound, "is not set"))?;
        if value.is_empty() {
            return Err(fault(ErrorKind::Invalid, "is empty"));
        }
        if cfg!(not(unix)) && value.to_str().is_none() {
            return Err(fault(ErrorKind::Invalid, "is not Unicode"));
        }
        let value = SecretValue::from(value.into_encoded_bytes());
        let hash = HASHER.hash_one(value.expose());
        Ok((value, format!("{hash:016x}").into()))
    }
}

#[async_trait]
impl SecretProvider for EnvProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let FetchRequest { key, version, if_none_match, .. } = request;
        if version.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a variable has no versions but the current one: `{key}` cannot be pinned"),
            ));
        }
        let (value, hash) = self.read(key)?;
        let stamp = Stamp::from(Arc::clone(&hash));
        if *if_none_match == Some(stamp.clone()) {
            return Err(Error::new(ErrorKind::NotModified, format!("`{key}` has not changed")));
        }
        let mut fetched = Fetched::new(value, Version::opaque(hash));
        fetched.stamp = Some(stamp);
        Ok(fetched)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        fetch_each(self, requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        keys.iter().map(|key| Ok(Stamp::from(self.read(key)?.1))).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for EnvProvider {
    /// In lower case. Variables that no key can name, for a small letter or another character in
    /// their names, are passed over.
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let key = |(name, _): (std::ffi::OsString, _)| -> Option<SecretKey> {
            let name = name.to_str()?.strip_prefix(&self.prefix)?;
            let key: SecretKey = name.to_ascii_lowercase().parse().ok()?;
            self.variable(&key).ends_with(name).then_some(key)
        };
        let mut keys: Vec<SecretKey> = env::vars_os().filter_map(key).collect();
        keys.sort();
        Ok(keys)
    }

    async fn versions(&self, _: &SecretKey) -> Result<Vec<VersionInfo>> {
        Err(Error::new(ErrorKind::Unsupported, "a variable has no versions but the one it is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_variable() {
        let provider = Config { prefix: "App_".into() }.build().unwrap();
        for (key, variable) in [
            ("db/password", "App_DB_PASSWORD"),
            ("Db-password", "App_DB_PASSWORD"),
            ("ü1", "App__1"),
        ] {
            assert_eq!(provider.variable(&key.parse().unwrap()), variable);
        }
    }
}
