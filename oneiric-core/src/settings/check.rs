//! What settings must be beyond their types.

use std::path::PathBuf;
use std::time::Duration;

use super::error::Problem;
use super::explain::has_password;
use super::keys;
use super::tree::Node;
use super::{Profile, Settings};

/// The oldest that anything cached may be in profile `serverless`.
const SERVERLESS_MAX: Duration = Duration::from_secs(60);

/// Every rule that the settings break. `tree` knows where they came from.
pub(super) fn problems(settings: &Settings, tree: &Node) -> Vec<Problem> {
    let mut rules = Rules { tree, problems: Vec::new() };
    if settings.profile == Profile::Serverless {
        rules.serverless(settings);
    }
    rules.courtesy(settings);
    rules.admin(settings);
    rules.agent(settings);
    rules.telemetry(settings);
    rules.problems
}

struct Rules<'a> {
    tree: &'a Node,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    fn serverless(&mut self, settings: &Settings) {
        let limited = [
            (keys::CACHE_TTL, settings.secrets_cache_ttl),
            (keys::STALE_IF_ERROR, settings.secrets_stale_if_error),
        ];
        for (key, duration) in limited {
            if duration > SERVERLESS_MAX {
                let duration = humantime::format_duration(duration);
                self.refuse(
                    key,
                    format!(
                        "is {duration}, and profile `serverless` allows 60s at most: a serverless \
                         instance gets new values by a new revision, and nothing that lives long \
                         would notice that a cached one is outdated"
                    ),
                );
            }
        }
        if !settings.secrets_watch_interval.is_zero() {
            self.refuse(
                keys::WATCH_INTERVAL,
                "asks for watching, and profile `serverless` has none: a serverless instance gets \
                 new values by a new revision, and is stopped or has no CPU between requests, so \
                 that nothing lives long enough to watch; leave it unset or set it to \"0s\"",
            );
        }
    }

    fn courtesy(&mut self, settings: &Settings) {
        if settings.secrets_calls_at_once == 0 {
            self.refuse(keys::CALLS_AT_ONCE, NO_CALLS);
        }
        if settings.secrets_calls_a_second == 0 {
            self.refuse(keys::CALLS_A_SECOND, NO_CALLS);
        }
    }

    fn admin(&mut self, settings: &Settings) {
        let admin = &settings.admin;
        if let Some(listen) = admin.listen {
            if !listen.ip().is_loopback() {
                self.refuse(
                    keys::ADMIN_LISTEN,
                    "is not a loopback address: the endpoint has no TLS yet, and a token sent \
                     over a network in clear text is a token given away",
                );
            }
            if admin.token_file.is_none() {
                self.refuse(
                    keys::ADMIN_LISTEN,
                    format!(
                        "needs `{}`: whoever is on this machine can reach a TCP port",
                        keys::ADMIN_TOKEN_FILE
                    ),
                );
            }
        }
        self.path(keys::ADMIN_SOCKET, &admin.socket);
        self.path(keys::ADMIN_TOKEN_FILE, &admin.token_file);
        self.path(keys::ADMIN_READ_TOKEN_FILE, &admin.read_token_file);
        if admin.allowed_hosts.iter().any(String::is_empty) {
            self.refuse(keys::ADMIN_ALLOWED_HOSTS, "has an empty host name in it");
        }
    }

    fn agent(&mut self, settings: &Settings) {
        let agent = &settings.agent;
        self.path(keys::RUNTIME_DIR, &agent.runtime_dir);
        let needed = [
            (keys::FETCH_TIMEOUT, agent.fetch_timeout),
            (keys::PREPARE_TIMEOUT, agent.prepare_timeout),
        ];
        for (key, timeout) in needed {
            if timeout.is_zero() {
                self.refuse(key, "is zero, and nothing is done in no time");
            }
        }
        if agent.prepares_at_once == 0 {
            self.refuse(keys::PREPARES_AT_ONCE, "is zero, and then no adapter is ever prepared");
        }
    }

    fn telemetry(&mut self, settings: &Settings) {
        let telemetry = &settings.telemetry;
        let is_url = |text: &String| text.starts_with("http://") || text.starts_with("https://");
        if !telemetry.otlp_endpoint.as_ref().is_none_or(is_url) {
            self.refuse(keys::OTLP_ENDPOINT, "wants a URL that starts with http:// or https://");
        }
        if telemetry.otlp_endpoint.as_deref().is_some_and(has_password) {
            self.refuse(
                keys::OTLP_ENDPOINT,
                "has a password in it, which every log of the settings would show; \
                 OTEL_EXPORTER_OTLP_HEADERS is the place for a credential",
            );
        }
        self.text(keys::SERVICE_NAME, &telemetry.service_name);
        self.text(keys::LOG_FILTER, &telemetry.log_filter);
    }

    fn path(&mut self, key: &str, path: &Option<PathBuf>) {
        if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            self.refuse(key, EMPTY);
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.refuse(key, EMPTY);
        }
    }

    fn refuse(&mut self, key: &str, message: impl Into<String>) {
        let origin = self.tree.find(key).and_then(|node| node.origin.clone());
        self.problems.push(Problem::new(key, origin, message));
    }
}

const NO_CALLS: &str = "is zero, and then no secret is ever read";
const EMPTY: &str = "is empty; unset it to have the default";
