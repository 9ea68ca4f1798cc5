//! The name of every setting and of every environment variable, in one place.

/// Environment variables that are read, and are not settings.
pub mod env {
    /// What every variable of Oneiric starts with.
    pub const PREFIX: &str = "ONEIRIC_";
    /// The settings file, where no flag names one.
    pub const CONFIG: &str = "ONEIRIC_CONFIG";
    /// The runtime directory for commands that look for running instances.
    pub const RUNTIME_DIR: &str = "ONEIRIC_RUNTIME_DIR";
    /// Tests that need a real service fail without it, where they would be skipped.
    pub const REQUIRE_LIVE: &str = "ONEIRIC_REQUIRE_LIVE";
    /// What a command adapter tells its commands, which may well call `oneiric` themselves.
    pub const COMMAND: [&str; 2] = ["ONEIRIC_ADAPTER", "ONEIRIC_GENERATION"];
    /// What the project's own tests and rehearsals tell each other.
    pub const DEVELOPMENT: [&str; 8] = [
        "ONEIRIC_BIN",
        "ONEIRIC_PYTHON",
        "ONEIRIC_PG_BIN",
        "ONEIRIC_REDIS_BIN",
        "ONEIRIC_NGINX_BIN",
        "ONEIRIC_HAPROXY_BIN",
        "ONEIRIC_SYSTEMD_BIN",
        "ONEIRIC_DEEP",
    ];
    /// What the secrets of the environment provider start with.
    pub const SECRET_PREFIX: &str = "ONEIRIC_SECRET_";

    /// Whether a variable is a setting by its name, known or not.
    pub(in crate::settings) fn is_setting(name: &str) -> bool {
        name.starts_with(PREFIX)
            && !name.starts_with(SECRET_PREFIX)
            && ![CONFIG, RUNTIME_DIR, REQUIRE_LIVE].contains(&name)
            && !COMMAND.contains(&name)
            && !DEVELOPMENT.contains(&name)
    }
}

/// The tables whose tables are named by the user.
pub(super) const SECTIONS: [&str; 3] = [PROVIDERS, ADAPTERS, SECRETS];
pub(super) const PROVIDERS: &str = "providers";
pub(super) const ADAPTERS: &str = "adapters";
pub(super) const SECRETS: &str = "secrets";

/// All settings but those in [`SECTIONS`], in the order of the manual. What they mean is said once,
/// in the comments of `default.toml`.
pub(super) const KEYS: [&str; 31] = [
    "profile",
    SECRETS_FROM,
    SECRETS_FROM_PROFILE,
    SECRETS_FROM_PROVIDER,
    CACHE_TTL,
    WATCH_INTERVAL,
    "secrets_push_sweep_interval",
    STALE_IF_ERROR,
    "secrets_negative_ttl",
    CALLS_AT_ONCE,
    CALLS_A_SECOND,
    "admin.enabled",
    ADMIN_SOCKET,
    ADMIN_LISTEN,
    ADMIN_TOKEN_FILE,
    ADMIN_READ_TOKEN_FILE,
    ADMIN_ALLOWED_HOSTS,
    "agent.instance",
    RUNTIME_DIR,
    FETCH_TIMEOUT,
    PREPARE_TIMEOUT,
    PREPARES_AT_ONCE,
    "agent.fall_back_within",
    "agent.drain_timeout",
    "agent.shutdown_grace",
    "fleet.bus",
    OTLP_ENDPOINT,
    "telemetry.otlp_protocol",
    SERVICE_NAME,
    "telemetry.log_format",
    LOG_FILTER,
];

pub(super) const SECRETS_FROM: &str = "secrets_from";
pub(super) const SECRETS_FROM_PROFILE: &str = "secrets_from_profile";
pub(super) const SECRETS_FROM_PROVIDER: &str = "secrets_from_provider";
pub(super) const CACHE_TTL: &str = "secrets_cache_ttl";
pub(super) const WATCH_INTERVAL: &str = "secrets_watch_interval";
pub(super) const STALE_IF_ERROR: &str = "secrets_stale_if_error";
pub(super) const CALLS_AT_ONCE: &str = "secrets_calls_at_once";
pub(super) const CALLS_A_SECOND: &str = "secrets_calls_a_second";
pub(super) const ADMIN_SOCKET: &str = "admin.socket";
pub(super) const ADMIN_LISTEN: &str = "admin.listen";
pub(super) const ADMIN_TOKEN_FILE: &str = "admin.token_file";
pub(super) const ADMIN_READ_TOKEN_FILE: &str = "admin.read_token_file";
pub(super) const ADMIN_ALLOWED_HOSTS: &str = "admin.allowed_hosts";
pub(super) const RUNTIME_DIR: &str = "agent.runtime_dir";
pub(super) const FETCH_TIMEOUT: &str = "agent.fetch_timeout";
pub(super) const PREPARE_TIMEOUT: &str = "agent.prepare_timeout";
pub(super) const PREPARES_AT_ONCE: &str = "agent.prepares_at_once";
pub(super) const OTLP_ENDPOINT: &str = "telemetry.otlp_endpoint";
pub(super) const SERVICE_NAME: &str = "telemetry.service_name";
pub(super) const LOG_FILTER: &str = "telemetry.log_filter";

/// What a dotted key means.
pub(super) enum Meaning {
    /// A setting.
    Setting,
    /// A table of settings.
    Table,
    /// One of [`SECTIONS`].
    Sections,
    /// Nothing.
    Unknown,
}

pub(super) fn meaning(key: &str) -> Meaning {
    if KEYS.contains(&key) {
        Meaning::Setting
    } else if tables().any(|table| table == key) {
        Meaning::Table
    } else if SECTIONS.contains(&key) {
        Meaning::Sections
    } else {
        Meaning::Unknown
    }
}

/// Every name that a mistyped key may have been meant to be.
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().chain(tables()).chain(SECTIONS)
}

/// The variable for a dotted key.
pub(super) fn env_name(key: &str) -> String {
    format!("{}{}", env::PREFIX, key.to_ascii_uppercase().replace('.', "__"))
}

/// What follows the name of a table in the variables of its entries.
pub(super) const ENV_REST: &str = "__…";

/// The one of `known` that `word` was probably meant to be, for messages.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| Some(key.split_once('.')?.0))
}
