//! How settings are refused: every message names the key, the place it came from, and what would
//! be right.

#![expect(clippy::unwrap_used, reason = "a helper that fails has failed its test")]

use std::fs;

use oneiric_core::settings::{Settings, SettingsError, Sources};
use serde::Deserialize;

/// The message with which a file and an environment are refused; `FILE` stands for the file.
fn refused(toml: &str, env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("oneiric.toml");
    fs::write(&file, toml).unwrap();
    let sources = Sources::new().with_file(&file).with_env(env.iter().copied());
    let error = Settings::load(&sources).expect_err(toml).to_string();
    error.replace(file.to_str().unwrap(), "FILE")
}

fn refused_flag(key: &str, value: &str) -> String {
    Settings::load(&Sources::new().with_flags([(key, value)])).unwrap_err().to_string()
}

#[test]
fn an_unknown_key_of_the_file_names_the_nearest() {
    for (toml, wanted) in [
        (
            "secrets_cach_ttl = \"1m\"",
            "`secrets_cach_ttl` is not a setting; did you mean `secrets_cache_ttl`?",
        ),
        (
            "[admin]\nsokcet = \"/x\"",
            "`admin.sokcet` is not a setting; did you mean `admin.socket`?",
        ),
        (
            "[provider.files]\nkind = \"file\"",
            "`provider` is not a setting; did you mean `providers`?",
        ),
        (
            "[telemtry]\nlog_format = \"json\"",
            "`telemtry` is not a setting; did you mean `telemetry`?",
        ),
        (
            "[admin.enabled_]\nx = 1",
            "`admin.enabled_` is not a setting; did you mean `admin.enabled`?",
        ),
        ("zzz = 1", "`zzz` is not a setting; `oneiric config show` lists them all"),
    ] {
        assert_eq!(refused(toml, &[]), format!("FILE: {wanted}"));
    }
}

#[test]
fn an_unknown_variable_names_the_nearest_variable() {
    for (name, wanted) in [
        (
            "ONEIRIC_SECRETS_CACHE_TLL",
            "`secrets_cache_tll` is not a setting; did you mean ONEIRIC_SECRETS_CACHE_TTL?",
        ),
        (
            "ONEIRIC_ADMIN_SOCKET",
            "`admin_socket` is not a setting; did you mean ONEIRIC_ADMIN__SOCKET?",
        ),
        ("ONEIRIC_", "`` is not a setting; `oneiric config show` lists them all"),
        ("ONEIRIC_ADMIN__", "`admin.` is not a setting; did you mean ONEIRIC_ADMIN__…?"),
        ("ONEIRIC_CONFIGG", "`configg` is not a setting; `oneiric config show` lists them all"),
        ("ONEIRIC_ADMIN", "`admin` is a table, and wants its keys set one by one"),
        (
            "ONEIRIC_PROVIDERS__FILES",
            "`providers.files` is a table, and wants its keys set one by one",
        ),
    ] {
        assert_eq!(refused("", &[(name, "1")]), format!("{name}: {wanted}"));
    }
    assert_eq!(
        refused("", &[("ONEIRIC_PROVDERS__FILES__PATH", "1")]),
        "ONEIRIC_PROVDERS__…: `provders` is not a setting; did you mean ONEIRIC_PROVIDERS__…?"
    );
    let flag = refused_flag("admin.sokcet", "x");
    assert_eq!(flag, "command line: `admin.sokcet` is not a setting; did you mean `admin.socket`?");
}

#[test]
fn types_of_the_file_are_strict() {
    for (toml, wanted) in [
        (
            "[telemetry]\nservice_name = 7",
            "`telemetry.service_name` wants a string, and has a number; put it in quotes",
        ),
        (
            "[telemetry]\nservice_name = 2024-01-01",
            "`telemetry.service_name` wants a string, and has a date; put it in quotes",
        ),
        ("[admin]\nenabled = \"true\"", "`admin.enabled` wants a boolean, and has text"),
        ("[admin]\nallowed_hosts = \"a,b\"", "`admin.allowed_hosts` wants a list, and has text"),
        (
            "[admin]\nallowed_hosts = [\"a\", 7]",
            "`admin.allowed_hosts[1]` wants a string, and has a number; put it in quotes",
        ),
        (
            "secrets_cache_ttl = 600",
            "`secrets_cache_ttl` wants a duration such as \"10m\" or \"30s\", or \"0s\" for off, \
             and has a number",
        ),
        ("admin = 1", "`admin` is a table, and wants its keys set one by one"),
        ("providers = []", "`providers` is a table, and wants its keys set one by one"),
    ] {
        assert_eq!(refused(toml, &[]), format!("FILE: {wanted}"));
    }
}

#[test]
fn text_that_is_not_of_the_type_says_what_is_wanted() {
    for (name, value, wanted) in [
        ("ONEIRIC_ADMIN__ENABLED", "yes", "wants `true` or `false`, and has text that is not"),
        ("ONEIRIC_ADMIN__ENABLED", "", "wants `true` or `false`, and has text that is not"),
        ("ONEIRIC_SECRETS_CACHE_TTL", "600", "wants a duration such as \"10m\" or \"30s\", or"),
        ("ONEIRIC_SECRETS_CACHE_TTL", "", "wants a duration such as"),
        ("ONEIRIC_ADMIN__ALLOWED_HOSTS", "[\"a\"", "starts like a JSON array and is none"),
        ("ONEIRIC_ADMIN__ALLOWED_HOSTS", "a,", "has an empty host name in it"),
        ("ONEIRIC_ADMIN__SOCKET", "", "is empty; unset it to have the default"),
        ("ONEIRIC_AGENT__INSTANCE", "", "instance id `` is not valid: it is empty"),
        ("ONEIRIC_AGENT__RUNTIME_DIR", "", "is empty; unset it"),
        ("ONEIRIC_AGENT__FETCH_TIMEOUT", "0s", "is zero, and nothing is done in no time"),
        ("ONEIRIC_SECRETS_CALLS_AT_ONCE", "0", "is zero, and then no secret is ever read"),
        ("ONEIRIC_SECRETS_CALLS_A_SECOND", "0", "is zero, and then no secret is ever read"),
        ("ONEIRIC_SECRETS_CALLS_A_SECOND", "-1", "a whole number from 0"),
        ("ONEIRIC_TELEMETRY__SERVICE_NAME", "", "is empty; unset it"),
        ("ONEIRIC_TELEMETRY__OTLP_ENDPOINT", "host:4317", "starts with http:// or https://"),
        ("ONEIRIC_TELEMETRY__OTLP_ENDPOINT", "http://u:p@h", "has a password in it"),
        (
            "ONEIRIC_TELEMETRY__LOG_FORMAT",
            "jsno",
            "wants one of `human`, `json`, and has `jsno`; did you mean `json`?",
        ),
        (
            "ONEIRIC_TELEMETRY__OTLP_PROTOCOL",
            "http",
            "wants one of `grpc`, `http/protobuf`, and has `http`",
        ),
        ("ONEIRIC_PROFILE", "", "wants one of `default`, `serverless`"),
        ("ONEIRIC_FLEET__BUS", "nats", "this build has no bus `nats`, only `in-process`"),
        ("ONEIRIC_CONFIG", "", "is empty"),
    ] {
        let error = Settings::load(&Sources::new().with_env([(name, value)])).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with(&format!("{name}: `")), "{error}");
        assert!(error.contains(wanted), "{name}={value}: {error}");
    }
}

#[test]
fn the_tcp_endpoint_is_on_loopback_and_has_a_token() {
    let token = "token_file = \"/run/token\"";
    for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:127.0.0.1]:1"] {
        let error = refused(&format!("[admin]\nlisten = \"{address}\"\n{token}"), &[]);
        assert!(error.starts_with("FILE: `admin.listen` is not a loopback address"), "{error}");
        assert!(error.contains("no TLS"), "{error}");
    }
    let error = refused("[admin]\nlisten = \"127.0.0.1:1\"", &[]);
    assert!(error.contains("`admin.listen` needs `admin.token_file`"), "{error}");
    let error = refused(&format!("[admin]\nlisten = \"localhost:1\"\n{token}"), &[]);
    assert!(error.contains("`admin.listen`"), "{error}");
}

#[test]
fn serverless_refuses_what_it_cannot_keep_and_says_why_and_where() {
    let serverless = [("ONEIRIC_PROFILE", "serverless")];
    let ttl = refused("secrets_cache_ttl = \"10m\"", &serverless);
    assert!(
        ttl.starts_with("FILE: `secrets_cache_ttl` is 10m, and profile `serverless` allows 60s")
    );
    assert!(ttl.contains("gets new values by a new revision"), "{ttl}");

    let stale = refused("secrets_stale_if_error = \"61s\"", &serverless);
    assert!(stale.starts_with("FILE: `secrets_stale_if_error` is 1m 1s, and"), "{stale}");

    let watch = [serverless[0], ("ONEIRIC_SECRETS_WATCH_INTERVAL", "30s")];
    let watch = refused("", &watch);
    assert!(watch.starts_with("ONEIRIC_SECRETS_WATCH_INTERVAL: `secrets_watch_interval`"));
    assert!(watch.contains("nothing lives long enough to watch"), "{watch}");

    // The same value as in profile `default` is refused too when somebody wrote it.
    let all = refused(
        "profile = \"serverless\"\nsecrets_cache_ttl = \"61s\"\nsecrets_watch_interval = \"1s\"",
        &[("ONEIRIC_SECRETS_STALE_IF_ERROR", "1h")],
    );
    assert!(all.starts_with("the settings have 3 problems:\n  FILE: "), "{all}");
}

#[test]
fn several_problems_are_reported_together() {
    let error = refused(
        "sokcet = 1\n[admin]\nsocket = 1\nlisten_ = 2",
        &[("ONEIRIC_PROFIL", "x"), ("ONEIRIC_ADMIN__SOCKT", "x")],
    );
    assert!(error.starts_with("the settings have 4 problems:"), "{error}");
    let error = refused(
        "secrets_cache_ttl = 1\n[admin]\nsocket = 1\n[agent]\nfetch_timeout = 1\n\
         [providers.a]\npath = \"x\"\n[adapters.b]\nkind = 7",
        &[],
    );
    assert!(error.starts_with("the settings have 5 problems:"), "{error}");
    assert!(error.contains("`providers.a.kind` is missing"), "{error}");
    assert!(error.contains("`adapters.b.kind` wants a string"), "{error}");
}

#[test]
fn ids_are_checked_and_must_not_collapse() {
    let error = refused("[providers.Files]\nkind = \"file\"", &[]);
    assert!(error.starts_with("FILE: `providers.Files` is not valid: provider id `Files`"));
    let error = refused("[adapters.\"a.b\"]\nkind = \"x\"", &[]);
    assert!(error.contains("adapter id `a.b` is not valid"), "{error}");
    let error = refused(
        "",
        &[("ONEIRIC_PROVIDERS__Files__KIND", "a"), ("ONEIRIC_PROVIDERS__FILES__KIND", "b")],
    );
    assert_eq!(
        error,
        "ONEIRIC_PROVIDERS__Files__KIND: `providers.files.kind` is set twice, also by \
         ONEIRIC_PROVIDERS__FILES__KIND"
    );
    let error =
        refused("", &[("ONEIRIC_PROVIDERS__A__X", "1"), ("ONEIRIC_PROVIDERS__A__X__Y", "1")]);
    assert!(error.contains("`providers.a.x.y` is set both as a value and as a table"), "{error}");
}

#[test]
fn an_alias_says_what_is_wrong_with_it_and_where() {
    const PROVIDERS: &str = "[providers.aws]\nkind = \"a\"\n[providers.vault]\nkind = \"v\"\n";
    for (table, wanted) in [
        (
            "[secrets.Db]\nref = \"aws:db\"",
            "`secrets.Db` is not valid: alias `Db` is not valid: `D`",
        ),
        ("[secrets]\ndb = \"aws:db\"", "`secrets.db` is a table, and wants its keys"),
        ("[secrets.db]\nfallback = [\"aws\"]", "`secrets.db.ref` is missing"),
        ("[secrets.db]\nref = \"aws:\"", "`secrets.db.ref` is not valid: secret key"),
        (
            "[secrets.db]\nref = \"asw:db\"",
            "`secrets.db.ref` names the provider `asw`, which is not \
          there; did you mean `aws`?",
        ),
        ("[secrets.db]\nref = \"elsewhere:db\"", "the settings have aws, vault"),
        ("[secrets.db]\nref = \"db\"", "`secrets.db.ref` names the alias `db`, and what an alias"),
        ("[secrets.db]\nref = \"hunter2\"", "`secrets.db.ref` names no provider"),
        (
            "[secrets.a]\nref = \"aws:a\"\nfallback = [\"b\"]\n[secrets.b]\nref = \"aws:b\"\n\
          fallback = [\"a\"]",
            "`secrets.a.fallback[0]` names the alias `b`",
        ),
        (
            "[secrets.db]\nref = \"aws:db\"\nfallback = [\"vault\", \"aws\"]",
            "`secrets.db.fallback[1]` is `aws:db`, which stands there before",
        ),
        (
            "[secrets.db]\nref = \"aws:db\"\nfallback = [\"valt\"]",
            "`secrets.db.fallback[0]` names the provider `valt`, which is not there; did you mean `vault`?",
        ),
        ("[secrets.db]\nref = \"aws:db\"\nfallback = \"vault\"", "`secrets.db.fallback` wants"),
        ("[secrets.db]\nref = \"aws:db\"\nfalback = []", "did you mean `fallback`?"),
        ("[secrets.db]\nref = \"aws:db\"\nrequird = true", "did you mean `required`?"),
        ("[secrets.db]\nref = \"aws:db\"\nkind = \"passwd\"", "did you mean `password`?"),
        ("[secrets.db]\nref = \"aws:db\"\ndefault = 7", "`secrets.db.default` wants a string"),
        (
            "[secrets.db]\nref = \"aws:db\"\nrequired = true\ndefault = \"hunter2\"",
            "`secrets.db.default` goes with no `required = true`",
        ),
        (
            "[secrets.db]\nref = \"aws:db\"\nkind = \"url\"\ndefault = \"hunter2\"",
            "`secrets.db.default` is not of kind `url`: it is not an absolute URL",
        ),
        ("[secrets.db]\nref = \"aws:db\"\nenv = \"A-B\"", "`secrets.db.env` is no name of a"),
        ("[secrets.db]\nref = \"aws:db\"\nenv = \"7A\"", "`secrets.db.env` is no name of a"),
        (
            "[secrets.d-b]\nref = \"aws:db\"\n[secrets.d_b]\nref = \"aws:db\"",
            "`secrets.d_b` would be in the variable `D_B`, and so would `d-b`",
        ),
    ] {
        let error = refused(&format!("{PROVIDERS}{table}"), &[]);
        assert!(error.starts_with("FILE: ") || error.contains("\n  FILE: "), "{error}");
        assert!(error.contains(wanted), "{table}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = refused(
        "[providers.aws]\nkind = \"a\"",
        &[("ONEIRIC_SECRETS__DB__REF", "aws:db"), ("ONEIRIC_SECRETS__DB__FALLBACK", "vault")],
    );
    assert!(
        error.starts_with("ONEIRIC_SECRETS__DB__FALLBACK: `secrets.db.fallback[0]`"),
        "{error}"
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_place_and_without_its_text() {
    let error = refused("profile = \"default\"\n[providers.a]\nkind = \"ä\" canary\n", &[]);
    assert!(error.starts_with("FILE:3:12: "), "{error}");
    assert!(!error.contains("canary"), "{error}");
    let error = refused("profile = \"default\"\nprofile = \"default\"", &[]);
    assert!(error.starts_with("FILE:2:1: "), "{error}");
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only whether it parses is of interest")]
struct Config {
    path: String,
    max_bytes: Option<u16>,
    inner: Option<Inner>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only whether it parses is of interest")]
struct Inner {
    token: String,
}

/// The message with which the section `[providers.p]` is refused by its own code.
fn refused_section(toml: &str, env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("oneiric.toml");
    fs::write(&file, format!("[providers.p]\nkind = \"k\"\n{toml}")).unwrap();
    let sources = Sources::new().with_file(&file).with_env(env.iter().copied());
    let settings = Settings::load(&sources).unwrap();
    let error = settings.providers["p"].parse::<Config>().unwrap_err();
    assert!(matches!(error, SettingsError::Invalid(ref problems) if problems.len() == 1));
    error.to_string().replace(file.to_str().unwrap(), "FILE")
}

#[test]
fn a_section_is_refused_with_full_key_and_origin() {
    for (toml, wanted) in [
        ("pth = \"x\"", "FILE: `providers.p.pth` is not a setting; did you mean `path`?"),
        (
            "zzzzzz = 1",
            "FILE: `providers.p.zzzzzz` is not a setting; those here are `path`, `max_bytes`, `inner`",
        ),
        ("", "FILE: `providers.p.path` is missing"),
        ("path = 7", "FILE: `providers.p.path` wants a string, and has a number; put it in quotes"),
        (
            "path = \"\"\nmax_bytes = 70000",
            "FILE: `providers.p.max_bytes` wants a number that fits u16, and has another",
        ),
        (
            "path = \"\"\ninner = { tokn = \"canary\" }",
            "FILE: `providers.p.inner.tokn` is not a setting; did you mean `token`?",
        ),
        (
            "path = \"\"\ninner = { token = 4711 }",
            "FILE: `providers.p.inner.token` wants a string, and has a number; put it in quotes",
        ),
        ("path = \"\"\ninner = {}", "FILE: `providers.p.inner.token` is missing"),
        (
            "path = \"\"\ninner = \"canary\"",
            "FILE: `providers.p.inner` wants a table, and has text",
        ),
    ] {
        assert_eq!(refused_section(toml, &[]), wanted);
    }
    let variable = ("ONEIRIC_PROVIDERS__P__MAX_BYTES", "canary");
    assert_eq!(
        refused_section("path = \"\"", &[variable]),
        "ONEIRIC_PROVIDERS__P__MAX_BYTES: `providers.p.max_bytes` wants a whole number from 0, \
         and has text that is not"
    );
    // Each problem is put down to the layer it is in, not to the one that touched the table last.
    let path = ("ONEIRIC_PROVIDERS__P__PATH", "/x");
    assert!(refused_section("pth = \"x\"", &[path]).starts_with("FILE: `providers.p.pth`"));
}
