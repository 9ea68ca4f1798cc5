//! The settings of one `[providers.<id>]` section with `kind = "vault"`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::settings::is_this_machine;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use reqwest::Url;
use serde::{Deserialize, Deserializer};

use crate::client::VaultProvider;
use crate::kv;

/// How a [`VaultProvider`] is set up.
///
/// ```
/// let mut config = oneiric_provider_vault::Config::new("https://vault.example:8200");
/// config.auth.token_file = Some("/run/vault/token".into());
/// let provider = config.build()?;
/// # Ok::<(), oneiric_core::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where the server is, `https://host:8200`. Plain `http` only on this machine. Empty if
    /// [`addresses`](Self::addresses) says it.
    #[serde(default)]
    pub address: String,
    /// Where the nodes of one cluster are, instead of `address`. One is asked until it fails, and
    /// then the next.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The namespace of mount and login; the root namespace if absent.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What kind of engine it is (`"kv"`).
    #[serde(default)]
    pub engine: Engine,
    /// Where the engine is mounted (`"secret"`; of leases, `"database"`).
    #[serde(default)]
    pub mount: String,
    /// Which version the key-value engine has (2).
    #[serde(default)]
    pub kv: Kv,
    /// A secret with no other entry than this one is that entry's text and not JSON (`"value"`).
    /// With `""` every secret is JSON, and only JSON objects can be written.
    #[serde(default = "default_value_key")]
    pub value_key: String,
    /// How long one call may take where the caller sets no deadline (`"10s"`).
    #[serde(default = "default_timeout", deserialize_with = "oneiric_core::settings::duration")]
    pub timeout: Duration,
    /// How long a lease that has a successor is kept for those who still use it (`"10m"`), counted
    /// from when that was taken, whether anybody has taken it over or not. Then it is revoked. It
    /// may end before by itself.
    #[serde(
        default = "default_lease_overlap",
        deserialize_with = "oneiric_core::settings::duration"
    )]
    pub lease_overlap: Duration,
    /// How many calls may run at once for one sweep or one set of secrets (8).
    #[serde(default = "default_concurrency")]
    pub concurrency: NonZeroU32,
    /// The certificates, in PEM, of those who may vouch for the server; the system's if absent.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Who we are.
    pub auth: Auth,
}

/// Who we are: exactly one of these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Auth {
    /// A token. Better kept in a file.
    #[serde(default, deserialize_with = "secret")]
    pub token: Option<SecretValue>,
    /// A file with a token. It is read again when it changes.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A login by AppRole.
    #[serde(default)]
    pub approle: Option<AppRole>,
    /// A login by the service account of a Kubernetes pod.
    #[serde(default)]
    pub kubernetes: Option<Kubernetes>,
    /// A login by a signed token of another party.
    #[serde(default)]
    pub jwt: Option<Jwt>,
}

/// A login by AppRole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AppRole {
    /// Where the method is mounted (`"approle"`).
    #[serde(default = "default_approle")]
    pub mount: String,
    /// The id of the role.
    pub role_id: String,
    /// A file with the secret id. It is read for each login. None where the role wants none.
    #[serde(default)]
    pub secret_id_file: Option<PathBuf>,
    /// Whether the file has a token that wraps the secret id (`false`). It is unwrapped once, and
    /// again when the file has another one.
    #[serde(default)]
    pub secret_id_wrapped: bool,
}

/// A login by the service account of a Kubernetes pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kubernetes {
    /// Where the method is mounted (`"kubernetes"`).
    #[serde(default = "default_kubernetes")]
    pub mount: String,
    /// The role.
    pub role: String,
    /// A file with the token of the service account, read for each login (where Kubernetes puts
    /// it).
    #[serde(default = "default_service_account")]
    pub jwt_file: PathBuf,
}

/// A login by a signed token of another party.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Jwt {
    /// Where the method is mounted (`"jwt"`).
    #[serde(default = "default_jwt")]
    pub mount: String,
    /// The role; the method's default one if absent.
    #[serde(default)]
    pub role: Option<String>,
    /// A file with the signed token, read for each login.
    pub jwt_file: PathBuf,
}

/// What kind of engine is mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Secrets that somebody has written.
    #[default]
    Kv,
    /// Credentials that are made for whoever reads, for a time: `database`, `rabbitmq` and the
    /// like.
    Leases,
}

/// The version of a key-value engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kv {
    /// One value for each secret, without versions.
    V1,
    /// Versions, with metadata.
    #[default]
    V2,
}

impl<'de> Deserialize<'de> for Kv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => {
                Err(serde::de::Error::custom(format!("`kv` is {other}, and there are 1 and 2")))
            }
        }
    }
}

impl Engine {
    /// Where it is mounted if nobody says otherwise.
    fn usual_mount(self) -> &'static str {
        match self {
            Self::Kv => "secret",
            Self::Leases => "database",
        }
    }
}

impl Auth {
    /// What would be asked of it, by the names of the settings.
    fn ways(&self) -> Vec<&'static str> {
        let ways = [
            ("token", self.token.is_some()),
            ("token_file", self.token_file.is_some()),
            ("approle", self.approle.is_some()),
            ("kubernetes", self.kubernetes.is_some()),
            ("jwt", self.jwt.is_some()),
        ];
        ways.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }
}

impl AppRole {
    /// This role, whose secret id is in this file.
    pub fn new(role_id: impl Into<String>, secret_id_file: impl Into<PathBuf>) -> Self {
        Self {
            mount: default_approle(),
            role_id: role_id.into(),
            secret_id_file: Some(secret_id_file.into()),
            secret_id_wrapped: false,
        }
    }
}

impl Kubernetes {
    /// This role, with the pod's own service account.
    pub fn new(role: impl Into<String>) -> Self {
        Self { mount: default_kubernetes(), role: role.into(), jwt_file: default_service_account() }
    }
}

impl Jwt {
    /// The method's default role, with the signed token in this file.
    pub fn new(jwt_file: impl Into<PathBuf>) -> Self {
        Self { mount: default_jwt(), role: None, jwt_file: jwt_file.into() }
    }
}

impl Config {
    /// The defaults, for this server. The login is still to be said.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            addresses: Vec::new(),
            namespace: None,
            engine: Engine::default(),
            mount: String::new(),
            kv: Kv::default(),
            value_key: default_value_key(),
            timeout: default_timeout(),
            lease_overlap: default_lease_overlap(),
            concurrency: default_concurrency(),
            ca_file: None,
            auth: Auth::default(),
        }
    }

    /// Checks the settings and makes the provider. Nothing is read or sent yet: files are read and
    /// a login is made by the first call.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense.
    pub fn build(mut self) -> Result<VaultProvider> {
        if self.mount.is_empty() {
            self.mount = self.engine.usual_mount().into();
        }
        let urls = match (self.address.as_str(), &self.addresses[..]) {
            ("", []) => return Err(invalid("`address`, or `addresses` of a cluster, is missing")),
            (one, []) => vec![address("address", one)?],
            ("", several) => {
                let urls = several.iter().map(|text| address("addresses", text));
                urls.collect::<Result<Vec<_>>>()?
            }
            _ => return Err(invalid("there are both `address` and `addresses`")),
        };
        if self.timeout.is_zero() {
            return Err(invalid("`timeout` is 0, so that no call could end in time"));
        }
        if self.lease_overlap.is_zero() {
            return Err(invalid("`lease_overlap` is 0, so that who uses a lease would lose it"));
        }
        let mut mounts = vec![("mount", &self.mount)];
        let auth = &self.auth;
        mounts.extend(auth.approle.iter().map(|login| ("auth.approle.mount", &login.mount)));
        mounts.extend(auth.kubernetes.iter().map(|login| ("auth.kubernetes.mount", &login.mount)));
        mounts.extend(auth.jwt.iter().map(|login| ("auth.jwt.mount", &login.mount)));
        for (name, mount) in mounts {
            if kv::segments(mount).is_none() {
                return Err(invalid(format!("`{name}` is `{mount}`, which is no path of a mount")));
            }
        }
        if let Some(namespace) = &self.namespace
            && !namespace.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(invalid(format!("`namespace` is `{namespace}`, which names none")));
        }
        match auth.ways()[..] {
            [_] => {}
            [] => {
                return Err(invalid(
                    "`auth` needs one of `token`, `token_file`, `approle`, `kubernetes` and `jwt`",
                ));
            }
            [one, another, ..] => {
                return Err(invalid(format!("`auth` has both `{one}` and `{another}`")));
            }
        }
        if let Some(AppRole { secret_id_file: None, secret_id_wrapped: true, .. }) = auth.approle {
            return Err(invalid(
                "`auth.approle.secret_id_wrapped` needs `auth.approle.secret_id_file`",
            ));
        }
        Ok(VaultProvider::new(self, urls))
    }
}

/// The address as a URL. A credential goes in the clear to nobody but this machine.
fn address(name: &str, text: &str) -> Result<Url> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| url.has_host() && url.query().is_none() && url.fragment().is_none())
        .ok_or_else(|| invalid(format!("`{name}` has `{text}`, which is no URL of a server")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(format!("`{name}` has a credential in it; that belongs into `auth`")));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_this_machine) => Ok(url),
        _ => Err(invalid(format!(
            "`{name}` has `{text}`, which is not https, and a token would be sent in the clear"
        ))),
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretValue>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretValue::from))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn default_lease_overlap() -> Duration {
    Duration::from_secs(600)
}

fn default_value_key() -> String {
    "value".into()
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_concurrency() -> NonZeroU32 {
    NonZeroU32::new(8).expect("8 is not 0")
}

fn default_approle() -> String {
    "approle".into()
}

fn default_kubernetes() -> String {
    "kubernetes".into()
}

fn default_service_account() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

fn default_jwt() -> String {
    "jwt".into()
}

#[cfg(test)]
mod tests {
    use oneiric_core::SecretProvider;

    use super::*;

    #[test]
    fn a_section_is_read() {
        let text = "address = 'https://vault:8200'\nnamespace = 'team/a'\nmount = 'apps/kv'\n\
                    kv = 1\nvalue_key = ''\ntimeout = '3s'\nca_file = '/ca.pem'\n\
                    [auth.approle]\nrole_id = 'r'\nsecret_id_file = '/s'\nsecret_id_wrapped = true";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!((config.kv, config.timeout), (Kv::V1, Duration::from_secs(3)));
        assert_eq!(config.auth.approle.as_ref().unwrap().mount, "approle");
        config.build().unwrap();
        let text = "address = 'http://[::1]:8200/base'\nauth.token = 'canary-7f3a'";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!((config.kv, config.engine), (Kv::V2, Engine::Kv));
        assert!(!format!("{config:?}").contains("canary"));
        config.build().unwrap();
        let text = "address = 'https://v'\n[auth.kubernetes]\nrole = 'r'";
        let provider = toml::from_str::<Config>(text).unwrap().build().unwrap();
        assert_eq!(provider.descriptor().uri, "https://v/v1/secret");
        let text = "addresses = ['https://a', 'https://b']\nengine = 'leases'\n\
                    lease_overlap = '2m'\nauth.token = 't'";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.lease_overlap, Duration::from_secs(120));
        let provider = config.build().unwrap();
        assert_eq!(provider.descriptor().uri, "https://a/v1/database");
        assert!(provider.descriptor().capabilities.push);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (section, part) in [
            ("address = 'https://v'", "missing field `auth`"),
            ("address = 'https://v'\nengine = 'pki'\nauth.token = 't'", "unknown variant"),
            ("address = 'https://v'\nkv = 3\nauth.token = 't'", "there are 1 and 2"),
            ("address = 'https://v'\npath = 'x'\nauth.token = 't'", "unknown field `path`"),
            ("address = 'https://v'\n[auth.jwt]\nrole = 'r'", "missing field `jwt_file`"),
        ] {
            let error = toml::from_str::<Config>(section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (section, part) in [
            ("address = 'nowhere'\nauth.token = 't'", "no URL"),
            ("auth.token = 't'", "is missing"),
            ("addresses = []\nauth.token = 't'", "is missing"),
            (
                "address = 'https://v'\naddresses = ['https://w']\nauth.token = 't'",
                "both `address`",
            ),
            ("addresses = ['https://v', 'http://w']\nauth.token = 't'", "`addresses`"),
            ("address = 'https://v/?a=b'\nauth.token = 't'", "no URL"),
            ("address = 'https://a:b@v'\nauth.token = 't'", "a credential in it"),
            ("address = 'http://vault:8200'\nauth.token = 't'", "in the clear"),
            ("address = 'https://v'\nmount = 'a//b'\nauth.token = 't'", "`mount`"),
            ("address = 'https://v'\nnamespace = 'a b'\nauth.token = 't'", "`namespace`"),
            ("address = 'https://v'\ntimeout = '0s'\nauth.token = 't'", "`timeout`"),
            ("address = 'https://v'\nlease_overlap = '0s'\nauth.token = 't'", "`lease_overlap`"),
            ("address = 'https://v'\n[auth]", "needs one of"),
            ("address = 'https://v'\n[auth]\ntoken = 't'\ntoken_file = 'f'", "has both"),
            (
                "address = 'https://v'\n[auth.approle]\nrole_id = 'r'\nsecret_id_wrapped = true",
                "`auth.approle.secret_id_file`",
            ),
            (
                "address = 'https://v'\n[auth.jwt]\nmount = '../sys'\njwt_file = 'f'",
                "`auth.jwt.mount`",
            ),
        ] {
            let config: Config = toml::from_str(section).unwrap();
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(part), "{section}: {error}");
        }
    }
}
