//! What settings say, from whichever place: precedence, types, profiles, explanation.

#![expect(clippy::unwrap_used, reason = "a helper that fails has failed its test")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oneiric_core::SecretKind;
use oneiric_core::settings::{
    Bus, Explained, LogFormat, Origin, OtlpProtocol, Profile, SecretSettings, Section, Settings,
    SettingsError, Sources, duration, env, is_this_machine,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const MINUTE: Duration = Duration::from_secs(60);

fn load(sources: &Sources) -> Settings {
    Settings::load(sources).unwrap_or_else(|error| panic!("{error}"))
}

/// A folder with this `oneiric.toml` in it.
fn folder(toml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("oneiric.toml"), toml).unwrap();
    folder
}

fn explained<'a>(settings: &'a Settings, key: &str) -> &'a Explained {
    settings.explain().iter().find(|setting| setting.key == key).unwrap()
}

fn value<'a>(settings: &'a Settings, key: &str) -> &'a str {
    explained(settings, key).value.as_deref().unwrap()
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let settings = load(&Sources::new());
    assert_eq!(settings.profile, Profile::Default);
    assert_eq!(settings.secrets_cache_ttl, 10 * MINUTE);
    assert_eq!(settings.secrets_watch_interval, MINUTE / 2);
    assert_eq!(settings.secrets_push_sweep_interval, 10 * MINUTE);
    assert_eq!(settings.secrets_stale_if_error, 60 * MINUTE);
    assert_eq!(settings.secrets_negative_ttl, MINUTE / 12);
    assert_eq!((settings.secrets_calls_at_once, settings.secrets_calls_a_second), (32, 500));
    assert!(settings.providers.is_empty() && settings.adapters.is_empty());
    assert!(settings.admin.enabled);
    assert_eq!(settings.admin.socket, None);
    assert_eq!(settings.admin.listen, None);
    assert_eq!(settings.admin.allowed_hosts, ["localhost", "127.0.0.1", "[::1]"]);
    assert_eq!(settings.agent.instance, None);
    assert_eq!(settings.agent.fetch_timeout, MINUTE / 6);
    assert_eq!(settings.agent.prepare_timeout, MINUTE / 2);
    assert_eq!(settings.agent.prepares_at_once, 64);
    assert_eq!(settings.agent.fall_back_within, MINUTE * 5);
    assert_eq!(settings.agent.drain_timeout, MINUTE / 2);
    assert_eq!(settings.agent.shutdown_grace, MINUTE / 6);
    assert_eq!(settings.fleet.bus, Bus::InProcess);
    assert_eq!(settings.telemetry.otlp_endpoint, None);
    assert_eq!(settings.telemetry.otlp_protocol, None);
    assert_eq!(settings.telemetry.service_name, "oneiric");
    assert_eq!(settings.telemetry.log_format, LogFormat::Human);
    assert_eq!(settings.telemetry.log_filter, "info");
}

#[test]
fn each_layer_wins_over_every_weaker_one() {
    let folder = folder("secrets_cache_ttl = \"1m\"");
    let file = folder.path().join("oneiric.toml");
    // For each of the eight sets of layers the strongest one in it decides.
    for set in 0..8 {
        let (has_file, has_env, has_flag) = (set & 1 != 0, set & 2 != 0, set & 4 != 0);
        let mut sources = Sources::new();
        if has_file {
            sources = sources.with_file(&file);
        }
        if has_env {
            sources = sources.with_env([("ONEIRIC_SECRETS_CACHE_TTL", "2m")]);
        }
        if has_flag {
            sources = sources.with_flags([("secrets_cache_ttl", "3m")]);
        }
        let (minutes, origin) = match (has_file, has_env, has_flag) {
            (_, _, true) => (3, Origin::CommandLine),
            (_, true, _) => (2, Origin::Environment("ONEIRIC_SECRETS_CACHE_TTL".into())),
            (true, ..) => (1, Origin::File(file.clone())),
            _ => (10, Origin::Default(Profile::Default)),
        };
        let settings = load(&sources);
        assert_eq!(settings.secrets_cache_ttl, minutes * MINUTE, "{sources:?}");
        assert_eq!(explained(&settings, "secrets_cache_ttl").origin, origin);
    }
}

#[test]
fn layers_are_merged_key_by_key_within_tables() {
    let folder = folder(
        "[providers.files]\nkind = \"file\"\npath = \"/a\"\nnested = { x = \"1\", y = \"2\" }\n\
         [admin]\nallowed_hosts = [\"a\", \"b\"]",
    );
    let sources = Sources::new()
        .with_directory(folder.path())
        .with_env([("ONEIRIC_PROVIDERS__FILES__PATH", "/b")])
        .with_env([("ONEIRIC_PROVIDERS__FILES__NESTED__Y", "3")])
        .with_flags([("admin.allowed_hosts", "c")]);
    let settings = load(&sources);
    assert_eq!(value(&settings, "providers.files.kind"), "file");
    assert_eq!(value(&settings, "providers.files.path"), "/b");
    assert_eq!(value(&settings, "providers.files.nested.x"), "1");
    assert_eq!(value(&settings, "providers.files.nested.y"), "3");
    assert_eq!(settings.admin.allowed_hosts, ["c"], "a list is replaced, not added to");
}

#[test]
fn the_file_is_the_one_named_last_or_the_usual_one() {
    let usual = folder("profile = \"default\"\nsecrets_cache_ttl = \"1m\"");
    let other = folder("secrets_cache_ttl = \"2m\"");
    let third = folder("secrets_cache_ttl = \"3m\"");
    let file = |folder: &tempfile::TempDir| folder.path().join("oneiric.toml");
    let named = |path: PathBuf| [(env::CONFIG, path.to_str().unwrap().to_owned())];

    let sources = Sources::new().with_directory(usual.path());
    assert_eq!(load(&sources).secrets_cache_ttl, MINUTE);
    let sources = sources.with_env(named(file(&other)));
    assert_eq!(load(&sources).secrets_cache_ttl, 2 * MINUTE);
    let sources = sources.with_file(file(&third));
    assert_eq!(load(&sources).secrets_cache_ttl, 3 * MINUTE);

    let empty = tempfile::tempdir().unwrap();
    load(&Sources::new().with_directory(empty.path()));
    for missing in [
        Sources::new().with_file(file(&empty)),
        Sources::new().with_directory(usual.path()).with_env(named(file(&empty))),
    ] {
        let error = Settings::load(&missing).unwrap_err();
        assert!(matches!(error, SettingsError::Unreadable { .. }), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn variables_that_are_not_settings_are_left_alone() {
    let sources = Sources::new().with_env([
        (env::REQUIRE_LIVE, "1"),
        (env::RUNTIME_DIR, "/run/x"),
        (env::COMMAND[0], "api"),
        (env::DEVELOPMENT[0], "oneiric"),
        ("ONEIRIC_SECRET_DB", "hunter2"),
        ("ONEIRIC_SECRET_S_CACHE_TTL", "hunter2"),
        ("ONEIRIC_SECRET___X", "hunter2"),
        ("PATH", "/bin"),
        ("oneiric_profile", "serverless"),
        ("ONEIRIC_SECRETS_CACHE_TTL", "1m"),
    ]);
    let settings = load(&sources);
    assert_eq!(settings.profile, Profile::Default);
    assert_eq!(settings.secrets_cache_ttl, MINUTE);
    assert!(!format!("{sources:?}").contains("DB"));
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Everything {
    text: String,
    #[serde(default)]
    maybe: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    offset: Option<i64>,
    #[serde(default)]
    ratio: Option<f64>,
    #[serde(default)]
    on: bool,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    address: Option<SocketAddr>,
    #[serde(default)]
    protocol: Option<OtherProtocol>,
    #[serde(default, deserialize_with = "duration")]
    wait: Duration,
    #[serde(default)]
    inner: Option<Inner>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OtherProtocol {
    Http,
    Custom(String),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    text: String,
}

fn below(key: &str) -> String {
    format!("ONEIRIC_PROVIDERS__P__{key}")
}

/// One section from variables below `ONEIRIC_PROVIDERS__P__`.
fn section(variables: &[(&str, &str)]) -> Section {
    let variables = variables.iter().map(|&(key, value)| (below(key), value));
    let sources = Sources::new().with_flags([("providers.p.kind", "k")]);
    load(&sources.with_env(variables)).providers["p"].clone()
}

fn parse<T: DeserializeOwned>(variables: &[(&str, &str)]) -> T {
    section(variables).parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_string_stays_exactly_as_it_was_typed() {
    for typed in [
        "007",
        "1e5",
        "a,b",
        "true",
        "null",
        "",
        " a ",
        "[1]",
        "{\"a\":1}",
        "\"q\"",
        "0x1F",
        "1_000",
        "10m",
        "-0",
        "NaN",
        "ä€😀",
        "a=b#c",
        "2024-01-01",
        "\\n",
        "a\nb",
    ] {
        let parsed: Everything = parse(&[("TEXT", typed), ("MAYBE", typed)]);
        assert_eq!(parsed.text, typed);
        assert_eq!(parsed.maybe.as_deref(), Some(typed));
    }
}

#[test]
fn text_of_the_environment_has_the_type_that_is_wanted() {
    let parsed: Everything = parse(&[
        ("TEXT", "1"),
        ("PORT", "08080"),
        ("OFFSET", "-3"),
        ("RATIO", "1e5"),
        ("ON", "true"),
        ("NAMES", "a, 007 ,1e5"),
        ("PORTS", "1,2"),
        ("ADDRESS", "127.0.0.1:80"),
        ("PROTOCOL", "http"),
        ("WAIT", "1h 30m"),
        ("INNER__TEXT", "007"),
    ]);
    let expected = Everything {
        text: "1".into(),
        maybe: None,
        port: Some(8080),
        offset: Some(-3),
        ratio: Some(1e5),
        on: true,
        names: vec!["a".into(), "007".into(), "1e5".into()],
        ports: vec![1, 2],
        address: Some(([127, 0, 0, 1], 80).into()),
        protocol: Some(OtherProtocol::Http),
        wait: 90 * MINUTE,
        inner: Some(Inner { text: "007".into() }),
    };
    assert_eq!(parsed, expected);
    let parsed: Everything = parse(&[("TEXT", ""), ("PROTOCOL__CUSTOM", "1")]);
    assert_eq!(parsed.protocol, Some(OtherProtocol::Custom("1".into())));
}

#[test]
fn a_list_is_a_json_array_or_has_commas() {
    for (text, names) in [
        ("", &[][..]),
        ("  ", &[]),
        ("[]", &[]),
        ("a", &["a"]),
        ("a,b", &["a", "b"]),
        ("a,,b", &["a", "", "b"]),
        (r#"["a,b", "c\"d", "007", "\u00e4"]"#, &["a,b", "c\"d", "007", "ä"]),
        (" [\"a\"]\n", &["a"]),
        ("[::1]", &["[::1]"]),
        ("[::1],[fe80::1]", &["[::1]", "[fe80::1]"]),
        ("localhost,[::1]", &["localhost", "[::1]"]),
    ] {
        let parsed: Everything = parse(&[("TEXT", ""), ("NAMES", text)]);
        assert_eq!(parsed.names, names, "{text:?}");
    }
    for text in ["80,81", "[80, 81]", r#"["80", 81]"#] {
        let parsed: Everything = parse(&[("TEXT", ""), ("PORTS", text)]);
        assert_eq!(parsed.ports, [80, 81], "{text:?}");
    }
}

#[test]
fn durations_have_a_unit_and_zero_is_off() {
    for (text, wanted) in [
        ("0", Duration::ZERO),
        ("0s", Duration::ZERO),
        ("250ms", Duration::from_millis(250)),
        ("30s", MINUTE / 2),
        ("1h 30m", 90 * MINUTE),
    ] {
        let sources = Sources::new().with_flags([("secrets_cache_ttl", text)]);
        assert_eq!(load(&sources).secrets_cache_ttl, wanted, "{text}");
        let folder = folder(&format!("secrets_cache_ttl = \"{text}\""));
        let sources = Sources::new().with_directory(folder.path());
        assert_eq!(load(&sources).secrets_cache_ttl, wanted, "{text}");
    }
}

#[test]
fn everything_can_be_set_by_the_environment() {
    let settings = load(&Sources::new().with_env([
        ("ONEIRIC_ADMIN__ENABLED", "false"),
        ("ONEIRIC_ADMIN__SOCKET", "/run/a.sock"),
        ("ONEIRIC_ADMIN__LISTEN", "[::1]:7676"),
        ("ONEIRIC_ADMIN__TOKEN_FILE", "/run/token"),
        ("ONEIRIC_ADMIN__READ_TOKEN_FILE", "/run/read"),
        ("ONEIRIC_AGENT__INSTANCE", "007"),
        ("ONEIRIC_AGENT__RUNTIME_DIR", "/run/o"),
        ("ONEIRIC_AGENT__DRAIN_TIMEOUT", "0s"),
        ("ONEIRIC_FLEET__BUS", "in-process"),
        ("ONEIRIC_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("ONEIRIC_TELEMETRY__OTLP_PROTOCOL", "http/protobuf"),
        ("ONEIRIC_TELEMETRY__LOG_FORMAT", "json"),
        ("ONEIRIC_TELEMETRY__LOG_FILTER", "info,oneiric_runtime=debug"),
        ("ONEIRIC_ADAPTERS__DB__KIND", "postgres"),
    ]));
    assert!(!settings.admin.enabled);
    assert_eq!(settings.admin.socket.as_deref(), Some(Path::new("/run/a.sock")));
    assert_eq!(settings.admin.listen.unwrap().to_string(), "[::1]:7676");
    assert_eq!(settings.agent.instance.unwrap().as_str(), "007");
    assert_eq!(settings.agent.drain_timeout, Duration::ZERO);
    assert_eq!(settings.telemetry.otlp_protocol, Some(OtlpProtocol::HttpProtobuf));
    assert_eq!(settings.telemetry.log_format, LogFormat::Json);
    assert_eq!(settings.telemetry.log_filter, "info,oneiric_runtime=debug");
    assert_eq!(settings.adapters["db"].kind(), "postgres");
    assert_eq!(settings.adapters["db"].path(), "adapters.db");
}

#[test]
fn serverless_has_its_own_defaults_below_every_explicit_value() {
    let env = [("ONEIRIC_PROFILE", "serverless")];
    let settings = load(&Sources::new().with_env(env));
    assert_eq!(settings.profile, Profile::Serverless);
    assert_eq!(settings.secrets_cache_ttl, MINUTE);
    assert_eq!(settings.secrets_watch_interval, Duration::ZERO);
    assert_eq!(settings.secrets_stale_if_error, MINUTE);
    assert_eq!(settings.secrets_negative_ttl, MINUTE / 12);
    let origin = &explained(&settings, "secrets_cache_ttl").origin;
    assert_eq!(*origin, Origin::Default(Profile::Serverless));

    let folder = folder("secrets_cache_ttl = \"0s\"\nsecrets_watch_interval = \"0s\"");
    let settings = load(&Sources::new().with_directory(folder.path()).with_env(env));
    assert_eq!(settings.secrets_cache_ttl, Duration::ZERO);
    assert_eq!(settings.secrets_stale_if_error, MINUTE);

    let back = Sources::new().with_env(env).with_flags([("profile", "default")]);
    assert_eq!(load(&back).secrets_cache_ttl, 10 * MINUTE);
}

#[test]
fn the_explanation_names_every_setting_and_hides_what_may_be_a_secret() {
    let folder = folder(
        r#"
        [providers.files]
        kind = "file"
        path = "/run/secrets"
        retries = 3
        [adapters.db]
        kind = "postgres"
        password = "files:db#/password"
        secrets = ["files:a", "files:b"]
        secret = "elsewhere:canary"
        token_file = "/run/token"
        api_token = "canary"
        url = "postgres://app:canary@db/app"
        pools = [{ name = "a", Password = "canary" }]
        use_token = true
        pin_secret = 4711
        [adapters.db.credentials]
        user = "canary"
        "#,
    );
    let sources = Sources::new()
        .with_directory(folder.path())
        .with_flags([("adapters.db.tokens", "files:a,canary")]);
    let settings = load(&sources);
    for (key, wanted) in [
        ("admin.allowed_hosts", "[\"localhost\", \"127.0.0.1\", \"[::1]\"]"),
        ("providers.files.retries", "3"),
        ("providers.files.path", "/run/secrets"),
        ("adapters.db.kind", "postgres"),
        ("adapters.db.password", "files:db#/password"),
        ("adapters.db.secrets", "[\"files:a\", \"files:b\"]"),
        ("adapters.db.token_file", "/run/token"),
        ("adapters.db.use_token", "true"),
        ("adapters.db.pools[0].name", "a"),
        ("adapters.db.secret", "[redacted]"),
        ("adapters.db.pin_secret", "[redacted]"),
        ("adapters.db.tokens", "[redacted]"),
    ] {
        assert_eq!(value(&settings, key), wanted, "{key}");
    }
    assert_eq!(explained(&settings, "admin.socket").value, None);
    for text in [format!("{:?}", settings.explain()), format!("{settings:?} {sources:?}")] {
        assert!(!text.contains("canary") && !text.contains("4711"), "{text}");
    }
}

#[test]
fn an_alias_has_its_candidates_in_order() {
    let folder = folder(
        "[providers.aws]\nkind = \"a\"\n[providers.vault]\nkind = \"v\"\n\
         [secrets.db-password]\nref = \"aws:prod/db@7#/password\"\n\
         fallback = [\"vault\", \"vault:other#/pw\"]\n\
         [secrets.user]\nref = \"aws:user\"\n\
         [adapters.pool]\nkind = \"p\"\npassword = \"db-password\"\ntoken = \"db-pasword\"",
    );
    let sources = Sources::new()
        .with_directory(folder.path())
        .with_env([("ONEIRIC_SECRETS__USER__FALLBACK", "vault:u, vault")]);
    let settings = load(&sources);
    let candidates = |alias: &str| {
        let candidates = settings.secrets[alias].candidates.iter();
        candidates.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        candidates("db-password"),
        ["aws:prod/db@7#/password", "vault:prod/db@7#/password", "vault:other#/pw"]
    );
    assert_eq!(candidates("user"), ["aws:user", "vault:u", "vault:user"]);
    assert_eq!(value(&settings, "secrets.db-password.ref"), "aws:prod/db@7#/password");
    assert_eq!(value(&settings, "adapters.pool.password"), "db-password", "an alias is no secret");
    assert_eq!(value(&settings, "adapters.pool.token"), "[redacted]", "it is not known to be one");
}

#[test]
fn only_the_machine_itself_is_this_machine() {
    for host in ["localhost", "127.0.0.1", "127.8.0.9", "::1", "[::1]", "::ffff:127.0.0.1"] {
        assert!(is_this_machine(host), "{host}");
    }
    for host in [
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "[localhost]",
        "[127.0.0.1",
        "",
    ] {
        assert!(!is_this_machine(host), "{host}");
    }
}

#[test]
fn an_alias_says_what_is_expected_of_its_secret() {
    let folder = folder(
        "[providers.files]\nkind = \"file\"\n\
         [secrets.plain]\nref = \"files:a\"\n\
         [secrets.search-url]\nref = \"files:b\"\ndefault = \"http://localhost\"\nkind = \"url\"\n\
         description = \"where the shop searches\"\nenv = \"SEARCH\"\n\
         [secrets.extra]\nref = \"files:c\"\nrequired = false",
    );
    let env = [("ONEIRIC_SECRETS__PLAIN__KIND", "json"), ("ONEIRIC_SECRETS__EXTRA__DEFAULT", "")];
    let settings = load(&Sources::new().with_directory(folder.path()).with_env(env));
    let (plain, url) = (&settings.secrets["plain"], &settings.secrets["search-url"]);
    assert!(plain.required && plain.default.is_none());
    assert_eq!((plain.kind, url.kind), (Some(SecretKind::Json), Some(SecretKind::Url)));
    assert!(!url.required, "what has a default need not be there");
    assert_eq!(url.default.as_ref().unwrap().expose(), b"http://localhost");
    assert_eq!(url.description.as_deref(), Some("where the shop searches"));
    let extra = &settings.secrets["extra"];
    assert!(!extra.required && extra.default.as_ref().unwrap().is_empty());
    let variable = |alias: &str| settings.secrets[alias].variable(&alias.parse().unwrap());
    assert_eq!(variable("plain"), "PLAIN");
    assert_eq!(variable("search-url"), "SEARCH");
    assert!(!format!("{:?}", settings.secrets).contains("localhost"));
}

#[test]
fn the_variable_of_an_alias_is_its_name_in_capitals() {
    let plain = SecretSettings::from(vec!["files:a".parse().unwrap()]);
    assert_eq!(plain.variable(&"db-pass_2".parse().unwrap()), "DB_PASS_2");
}
