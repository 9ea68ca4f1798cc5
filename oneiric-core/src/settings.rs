//! Settings: what they are, where they come from, and how they are refused.
//!
//! The embedded defaults < what a `secretspec.toml` declares < the settings file < the environment (`ONEIRIC_ADMIN__SOCKET`) < the
//! command line. Each layer is checked for itself and then merged; nothing is in effect unless
//! everything is valid. `docs/settings.md` is the manual.
//!
//! What a provider or an adapter is told is not known here: see [`Section::parse`].

mod keys;
mod sources;
mod layers;
mod tree;
mod coerce;
mod section;
mod alias;
mod import;
mod check;
mod explain;
mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub use alias::SecretSettings;
pub use error::{Origin, Problem, SettingsError};
pub use explain::Explained;
pub use keys::{env, nearest};
pub use section::Section;
pub use sources::Sources;

use crate::{AdapterId, AliasId, InstanceId, ProviderId};
use layers::Layer;
use tree::Node;

/// All settings, valid.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The set of defaults and limits that holds.
    pub profile: Profile,
    /// How long a secret is served from the cache without asking again. Zero: no cache.
    pub secrets_cache_ttl: Duration,
    /// How often providers are asked for changes. Zero: nothing watches.
    pub secrets_watch_interval: Duration,
    /// The same for a provider that tells of changes by itself, where each question costs something.
    pub secrets_push_sweep_interval: Duration,
    /// How long the last good value is served while its provider cannot answer. Zero: not at all.
    pub secrets_stale_if_error: Duration,
    /// How long an absence is believed. Zero: not at all.
    pub secrets_negative_ttl: Duration,
    /// How many calls of one provider may run at a time. Not zero.
    pub secrets_calls_at_once: usize,
    /// How many calls of one provider are made a second in the long run. Not zero.
    pub secrets_calls_a_second: u32,
    /// Where secrets come from.
    pub providers: BTreeMap<ProviderId, Section>,
    /// Who uses secrets.
    pub adapters: BTreeMap<AdapterId, Section>,
    /// What aliases stand for.
    pub secrets: BTreeMap<AliasId, SecretSettings>,
    /// The endpoint of this instance.
    pub admin: AdminSettings,
    /// This instance.
    pub agent: AgentSettings,
    /// How instances hear of each other.
    pub fleet: FleetSettings,
    /// What is emitted, and where to.
    pub telemetry: TelemetrySettings,
    explanation: Vec<Explained>,
    notes: Vec<Problem>,
}

/// A set of defaults, and of limits that go with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Profile {
    /// Instances live long, and secrets are refreshed under them.
    Default,
    /// Instances are short-lived and are replaced: a new value comes with a new revision, a cached
    /// one is at most a minute old, and nothing watches.
    Serverless,
}

/// The endpoint at which this instance takes commands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// The unix socket; if `None`, one in the runtime directory.
    pub socket: Option<PathBuf>,
    /// A loopback address to listen on as well. There is a `token_file` with it.
    pub listen: Option<SocketAddr>,
    /// The file with the token that gives every right.
    pub token_file: Option<PathBuf>,
    /// The file with a token that gives the right to read only.
    pub read_token_file: Option<PathBuf>,
    /// The `Host` headers that are answered.
    pub allowed_hosts: Vec<String>,
}

/// This instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AgentSettings {
    /// Its name; if `None`, the runtime makes one.
    pub instance: Option<InstanceId>,
    /// Where its socket and its registration live; if `None`, the user's runtime directory.
    pub runtime_dir: Option<PathBuf>,
    /// How long one read from a provider may take. Not zero.
    #[serde(deserialize_with = "duration")]
    pub fetch_timeout: Duration,
    /// How long an adapter may take to build and prove its next generation. Not zero.
    #[serde(deserialize_with = "duration")]
    pub prepare_timeout: Duration,
    /// How many adapters may do so at a time. Not zero.
    pub prepares_at_once: usize,
    /// For how long after a swap an adapter may go back to the secrets from before it, if the new
    /// ones are refused in use. Zero: never.
    #[serde(deserialize_with = "duration")]
    pub fall_back_within: Duration,
    /// How long the users of an old generation have to finish. Zero: none at all.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// How long a shutdown waits for what is under way. Zero: not at all.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
}

/// How instances hear of each other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FleetSettings {
    /// By what they are connected.
    pub bus: Bus,
}

/// What connects instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bus {
    /// Nothing outside this process.
    InProcess,
}

/// What is emitted, and where to. The standard `OTEL_*` variables, which the binary reads, win.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TelemetrySettings {
    /// Where telemetry goes, an `http://` or `https://` URL; if `None`, nowhere.
    pub otlp_endpoint: Option<String>,
    /// In what form; if `None`, that is left to the exporter.
    pub otlp_protocol: Option<OtlpProtocol>,
    /// `service.name` of all telemetry. Not empty.
    pub service_name: String,
    /// The form of log records.
    pub log_format: LogFormat,
    /// Which log records are written: a level, or directives by target. Not empty, and otherwise
    /// not looked into here.
    pub log_filter: String,
}

/// The forms of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum OtlpProtocol {
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protocol buffers over HTTP.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// The forms of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// Reads all sources and checks what they say together.
    ///
    /// # Errors
    /// [`SettingsError`], with every problem that was found: first what is no setting at all, and
    /// only if there is nothing of that kind what has the wrong form or does not go together.
    pub fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let mut problems = Vec::new();
        let mut written = Vec::from_iter(Layer::file(sources)?);
        written.push(Layer::environment(sources, &mut problems));
        written.push(Layer::command_line(sources, &mut problems));
        for layer in &written {
            layer.check(&mut problems);
        }
        if !problems.is_empty() {
            return Err(SettingsError::Invalid(problems));
        }
        let mut all = vec![Layer::defaults()];
        all.extend(written);
        let mut tree = layers::merge(&all);
        // Which defaults hold is itself a setting. Where it is not valid, the build says so.
        if let Ok(Profile::Serverless) = node(&tree, "profile").parse() {
            all.insert(1, Layer::serverless_defaults());
            tree = layers::merge(&all);
        }
        let mut notes = Vec::new();
        if let Some(import) = import::import(&tree, &mut problems)? {
            let after_defaults = all.iter().take_while(|layer| layer.is_embedded()).count();
            all.insert(after_defaults, import.layer);
            tree = layers::merge(&all);
            notes = import.notes;
        }
        match Self::build(&tree) {
            Ok(settings) if problems.is_empty() => Ok(Self { notes, ..settings }),
            Err(SettingsError::Invalid(others)) => {
                problems.extend(others);
                Err(SettingsError::Invalid(problems))
            }
            Err(error) => Err(error),
            Ok(_) => Err(SettingsError::Invalid(problems)),
        }
    }

    /// What a file that declares secrets says and has no meaning here: nothing is wrong, but it is
    /// not heeded. Each displays as an error does.
    pub fn notes(&self) -> &[Problem] {
        &self.notes
    }

    /// Every setting with its value and its origin, as `oneiric config show` prints them.
    pub fn explain(&self) -> &[Explained] {
        &self.explanation
    }

    fn build(tree: &Node) -> Result<Self, SettingsError> {
        /// What stands above the first table.
        #[derive(Deserialize)]
        struct Top {
            profile: Profile,
            #[serde(deserialize_with = "duration")]
            secrets_cache_ttl: Duration,
            #[serde(deserialize_with = "duration")]
            secrets_watch_interval: Duration,
            #[serde(deserialize_with = "duration")]
            secrets_push_sweep_interval: Duration,
            #[serde(deserialize_with = "duration")]
            secrets_stale_if_error: Duration,
            #[serde(deserialize_with = "duration")]
            secrets_negative_ttl: Duration,
            secrets_calls_at_once: usize,
            secrets_calls_a_second: u32,
        }

        let mut problems = Vec::new();
        let top = keep(tree.parse::<Top>(), &mut problems);
        let admin = keep(node(tree, "admin").parse(), &mut problems);
        let agent = keep(node(tree, "agent").parse(), &mut problems);
        let fleet = keep(node(tree, "fleet").parse(), &mut problems);
        let telemetry = keep(node(tree, "telemetry").parse(), &mut problems);
        let providers = sections(tree, keys::PROVIDERS, &mut problems);
        let adapters = sections(tree, keys::ADAPTERS, &mut problems);
        let secrets = alias::aliases(tree, &mut problems);
        let (Some(top), Some(admin), Some(agent), Some(fleet), Some(telemetry)) =
            (top, admin, agent, fleet, telemetry)
        else {
            return Err(SettingsError::Invalid(problems));
        };
        let settings = Self {
            profile: top.profile,
            secrets_cache_ttl: top.secrets_cache_ttl,
            secrets_watch_interval: top.secrets_watch_interval,
            secrets_push_sweep_interval: top.secrets_push_sweep_interval,
            secrets_stale_if_error: top.secrets_stale_if_error,
            secrets_negative_ttl: top.secrets_negative_ttl,
            secrets_calls_at_once: top.secrets_calls_at_once,
            secrets_calls_a_second: top.secrets_calls_a_second,
            providers,
            adapters,
            secrets,
            admin,
            agent,
            fleet,
            telemetry,
            explanation: explain::explain(tree),
            notes: Vec::new(),
        };
        problems.extend(check::problems(&settings, tree));
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError::Invalid(problems)) }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Serverless => "serverless",
        })
    }
}

impl<'de> Deserialize<'de> for Bus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "in-process" => Ok(Self::InProcess),
            other => Err(serde::de::Error::custom(format!(
                "this build has no bus `{}`, only `in-process`",
                error::shortened(other)
            ))),
        }
    }
}

/// Reads a duration, for settings of providers and adapters:
/// `#[serde(deserialize_with = "oneiric_core::settings::duration")]`.
///
/// # Errors
/// Where there is no text, or it is not of the form `10m`, `1h 30m`, `250ms`, `0`.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Visitor;

    impl serde::de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"10m\" or \"30s\", or \"0s\" for off")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text)
                .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_str(Visitor)
}

/// Whether the host of an address is the machine that asks, by its name `localhost` or its loopback
/// address, in brackets or without. For providers and adapters: what goes to it stays on the
/// machine, and to all others it goes over TLS.
pub fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.to_canonical().is_loopback())
}

fn node<'a>(tree: &'a Node, key: &str) -> &'a Node {
    tree.find(key).expect("the embedded defaults have it, and no layer takes it away")
}

fn sections<Id: std::str::FromStr + Ord>(
    tree: &Node,
    table: &str,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Id, Section> {
    tree.children(table)
        .filter_map(|(id, node)| {
            let section = keep(Section::new(node.clone()), problems)?;
            Some((id.parse().ok().expect("the layers checked the ids"), section))
        })
        .collect()
}

fn keep<T>(result: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

#[cfg(test)]
mod tests;
