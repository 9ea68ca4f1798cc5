//! Secrets that a `secretspec.toml` declares: what becomes of them, and what is said of that which
//! has no meaning here.

#![expect(clippy::unwrap_used, reason = "a helper that fails has failed its test")]

use std::fs;
use std::path::Path;

use oneiric_core::AliasId;
use oneiric_core::settings::{SecretSettings, Settings, SettingsError, Sources};

const SETTINGS: &str = "secrets_from = \"secretspec.toml\"\nsecrets_from_provider = \"files\"\n\
                        [providers.files]\nkind = \"file\"\n[providers.vault]\nkind = \"vault\"\n";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load(folder: &Path, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(&Sources::new().with_directory(folder).with_env(env.iter().copied()))
}

/// What is declared, with the usual settings and those of a profile.
fn declared(text: &str, profile: &str) -> Settings {
    let folder = folder(&[("oneiric.toml", SETTINGS), ("secretspec.toml", text)]);
    load(folder.path(), &[("ONEIRIC_SECRETS_FROM_PROFILE", profile)]).unwrap()
}

/// With what words it is refused; `DIR` stands for the folder.
fn refused(settings: &str, files: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    let folder = folder(&[files, &[("oneiric.toml", settings)]].concat());
    let error = load(folder.path(), env).unwrap_err().to_string();
    error.replace(folder.path().to_str().unwrap(), "DIR")
}

fn default_of(secret: &SecretSettings) -> Option<&str> {
    secret.default.as_ref().and_then(|value| value.expose_str())
}

#[test]
fn what_is_declared_becomes_an_alias() {
    let settings = declared(
        "[project]\nname = \"shop\"\nrevision = \"1.0\"\n\
         [profiles.default]\n\
         DATABASE_URL = { description = \"where orders are\", required = true }\n\
         LOG_LEVEL = { description = \"how much is logged\", default = \"info\" }\n\
         SENTRY_DSN = { description = \"where errors go\", required = false }\n",
        "default",
    );
    assert_eq!(settings.secrets.len(), 3);
    let database = &settings.secrets["database-url"];
    assert_eq!(database.candidates[0].to_string(), "files:DATABASE_URL");
    assert_eq!(database.description.as_deref(), Some("where orders are"));
    assert_eq!(database.variable(&"database-url".parse().unwrap()), "DATABASE_URL");
    assert!(database.required && database.default.is_none());
    let level = &settings.secrets["log-level"];
    assert_eq!((level.required, default_of(level)), (false, Some("info")));
    let sentry = &settings.secrets["sentry-dsn"];
    assert_eq!((sentry.required, default_of(sentry)), (false, None));
    assert!(settings.notes().is_empty(), "{:?}", settings.notes());
    let shown = settings.explain().iter().find(|of| of.key == "secrets.log-level.default").unwrap();
    assert!(shown.origin.to_string().ends_with("secretspec.toml:6"), "{}", shown.origin);
}

#[test]
fn a_profile_inherits_field_by_field_unless_it_stands_alone() {
    const TEXT: &str = "[profiles.default]\n\
        A = { description = \"a\", required = true }\n\
        B = { description = \"b\", default = \"here\" }\n\
        C = { description = \"c\" }\n\
        [profiles.development]\n\
        A = { default = \"dev\" }\n\
        [profiles.production]\n\
        B = { required = true }\n\
        [profiles.production.defaults]\nrequired = false\n\
        [profiles.alone]\nD = { description = \"d\" }\n\
        [profiles.alone.defaults]\ninherit = false\n";
    let development = declared(TEXT, "development");
    let a = &development.secrets["a"];
    assert_eq!((a.required, default_of(a)), (false, Some("dev")));
    assert_eq!(a.description.as_deref(), Some("a"), "what is not said is inherited");
    assert_eq!(default_of(&development.secrets["b"]), Some("here"));
    let production = declared(TEXT, "production");
    let b = &production.secrets["b"];
    assert_eq!(
        (b.required, default_of(b)),
        (true, None),
        "the stronger word takes the default away"
    );
    assert!(production.secrets["a"].required, "defaults are of what the profile itself declares");
    let alone = declared(TEXT, "alone");
    assert_eq!(alone.secrets.keys().map(AliasId::as_str).collect::<Vec<_>>(), ["d"]);
}

#[test]
fn extended_files_are_weaker_and_are_read_once() {
    let common = "[profiles.default]\nA = { description = \"common a\", default = \"x\" }\n\
                  B = { description = \"common b\" }\n";
    let left = "[project]\nname = \"left\"\nextends = [\"../common\"]\n\
                [profiles.default]\nA = { description = \"left a\" }\n";
    let right = "[project]\nname = \"right\"\nextends = [\"../common\"]\n\
                 [profiles.default]\nC = { description = \"right c\" }\n";
    let own = "[project]\nname = \"own\"\nextends = [\"left\", \"right\"]\n\
               [profiles.default]\nB = { description = \"own b\" }\n";
    let folder = folder(&[
        ("oneiric.toml", SETTINGS),
        ("secretspec.toml", own),
        ("left/secretspec.toml", left),
        ("right/secretspec.toml", right),
        ("common/secretspec.toml", common),
    ]);
    let settings = load(folder.path(), &[]).unwrap();
    let description = |alias: &str| settings.secrets[alias].description.as_deref().unwrap();
    assert_eq!(
        (description("a"), description("b"), description("c")),
        ("left a", "own b", "right c")
    );
    assert!(
        settings.secrets["a"].default.is_none(),
        "a definition replaces that of a parent whole"
    );
}

#[test]
fn files_that_extend_each_other_are_refused_with_the_way() {
    let error = refused(
        SETTINGS,
        &[
            ("secretspec.toml", "[project]\nname = \"a\"\nextends = [\"b\"]\n"),
            (
                "b/secretspec.toml",
                "[project]\nname = \"b\"\nextends = [\"..\"]\n[profiles.default]",
            ),
        ],
        &[],
    );
    assert!(error.contains("b/secretspec.toml:3: `project.extends` goes in a circle: "), "{error}");
    assert_eq!(error.matches(" → ").count(), 2, "{error}");
}

#[test]
fn what_the_settings_say_of_the_same_alias_is_stronger() {
    let own = "[secrets.a]\nref = \"vault:prod/a#/x\"\nkind = \"url\"\n\
               [secrets.b]\nrequired = true\n[secrets.c]\ndefault = \"ours\"\n";
    let text = "[profiles.default]\n\
        A = { description = \"a\", composed = \"x://${B}\" }\n\
        B = { description = \"b\", default = \"theirs\" }\n\
        C = { description = \"c\", required = true }\n";
    let settings = format!("{SETTINGS}{own}");
    let folder = folder(&[("oneiric.toml", &settings), ("secretspec.toml", text)]);
    let settings = load(folder.path(), &[]).unwrap();
    let a = &settings.secrets["a"];
    assert_eq!(a.candidates[0].to_string(), "vault:prod/a#/x");
    assert_eq!(a.description.as_deref(), Some("a"));
    let (b, c) = (&settings.secrets["b"], &settings.secrets["c"]);
    assert_eq!((b.required, default_of(b)), (true, None));
    assert_eq!((c.required, default_of(c)), (false, Some("ours")));
}

#[test]
fn what_has_no_meaning_here_is_noted_by_name() {
    let settings = declared(
        "[providers]\nprod = \"onepassword://Production\"\n\
         [defaults]\nproviders = [\"prod\"]\n\
         [scopes.api]\nsecrets = [\"A\"]\n\
         [profiles.default]\n\
         A = { description = \"a\", as_path = true, providers = [\"prod\"] }\n\
         B = { description = \"b\", type = \"hex\", generate = true }\n\
         C = { description = \"c\", as_path = false, generate = false }\n\
         D = { description = \"d\", required = { at_least_one = \"g\" } }\n",
        "default",
    );
    let notes: Vec<_> = settings.notes().iter().map(ToString::to_string).collect();
    let has = |part: &str| notes.iter().any(|note| note.contains(part));
    for part in [
        "secretspec.toml:1: `providers` is not followed",
        "`defaults` is not followed",
        "`scopes` are not known here",
        "secretspec.toml:8: `A` has `as_path`, and is given as a value",
        "`A` has `providers`, which is not followed",
        "`B` has `generate`, and is not made here",
        "`B` has `type`",
        "`D` has `required`, with a group",
    ] {
        assert!(has(part), "{part}: {notes:#?}");
    }
    assert!(!has("`C`"), "{notes:#?}");
    assert!(!settings.secrets["d"].required);
}

#[test]
fn what_would_be_read_as_another_value_is_refused() {
    for (field, name) in [
        ("composed = \"x://${B}\"", "composed"),
        ("ref = { item = \"db\" }", "ref"),
        ("refs = { a = { item = \"db\" } }", "refs"),
        ("encoding = \"base64\"", "encoding"),
        ("extract = { json = \"/a\" }", "extract"),
    ] {
        let text = format!("[profiles.default]\nA = {{ description = \"a\", {field} }}\n");
        let error = refused(SETTINGS, &[("secretspec.toml", &text)], &[]);
        let wanted = format!("DIR/secretspec.toml:2: `A` has `{name}`, by which");
        assert!(error.contains(&wanted) && error.contains("`secrets.a.ref`"), "{error}");
    }
}

#[test]
fn mistakes_are_named_with_file_line_and_key() {
    let file = |text: &'static str| [("secretspec.toml", text)];
    for (text, wanted) in [
        (
            "[project]\nrevision = \"2.0\"\n[profiles.default]",
            ":2: `project.revision` is not `1.0`",
        ),
        ("[project]\nnam = \"x\"", ":2: `project.nam` is not known here; did you mean `name`?"),
        ("[profile.default]\nA = {}", ":1: `profile` is not known here; did you mean `profiles`?"),
        ("[profiles.default]\nA = \"hunter2\"", ":2: `profiles.default.A` wants a table"),
        (
            "[profiles.default]\n\nA = { requird = true }",
            ":3: `profiles.default.A.requird` is not known here; did you mean `required`?",
        ),
        (
            "[profiles.default]\nA = { default = 7 }",
            ":2: `profiles.default.A.default` wants a string",
        ),
        (
            "[profiles.default]\nA = { required = \"no\" }",
            ":2: `profiles.default.A.required` wants `true` or `false`",
        ),
        (
            "[profiles.default]\nA = { required = true, default = \"hunter2\" }",
            ":2: `A` has both `default` and `required = true`",
        ),
        ("[profiles.default]\nA_B = {}\na-b = {}", "would both be the alias `a-b`"),
        ("[profiles.default]\n_A = {}", ":2: `_A` cannot be an alias"),
        ("[profiles.default]\nA = { x", "DIR/secretspec.toml:2:"),
        ("[profiles.production]\nA = {}", "has no such profile; it has production"),
    ] {
        let error = refused(SETTINGS, &file(text), &[]);
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let good = file("[profiles.production]\nA = {}\nB = {}");
    let env = [("ONEIRIC_SECRETS_FROM_PROFILE", "prodction")];
    let error = refused(SETTINGS, &good, &env);
    let wanted = "ONEIRIC_SECRETS_FROM_PROFILE: `secrets_from_profile` is `prodction`, and \
                  `DIR/secretspec.toml` has no such profile; did you mean `production`?";
    assert!(error.contains(wanted), "{error}");
    let nowhere = "secrets_from = \"secretspec.toml\"\nsecrets_from_profile = \"production\"";
    let error = refused(nowhere, &good, &[]);
    assert!(error.contains("`secrets_from` declares `A`, `B`, and nothing says where"), "{error}");
    let error = refused("secrets_from_provider = \"files\"", &[], &[]);
    assert!(
        error.contains("`secrets_from_provider` says nothing without `secrets_from`"),
        "{error}"
    );
    let error = refused("secrets_from = \"secretspec.toml\"", &[], &[]);
    assert!(error.contains("DIR/secretspec.toml"), "{error}");
    let unknown = "secrets_from = \"secretspec.toml\"\nsecrets_from_profile = \"production\"\n\
                   secrets_from_provider = \"fils\"\n[providers.files]\nkind = \"file\"";
    let error = refused(unknown, &good, &[]);
    assert!(
        error.contains("the provider `fils`, which is not there; did you mean `files`?"),
        "{error}"
    );
}

#[test]
fn a_path_of_the_environment_is_from_the_working_directory() {
    let elsewhere = folder(&[("secretspec.toml", "[profiles.default]\nA = {}")]);
    let here = folder(&[("oneiric.toml", "[providers.files]\nkind = \"file\"")]);
    let env = [
        ("ONEIRIC_SECRETS_FROM", elsewhere.path().to_str().unwrap()),
        ("ONEIRIC_SECRETS_FROM_PROVIDER", "files"),
    ];
    let settings = load(here.path(), &env).unwrap();
    assert_eq!(settings.secrets["a"].candidates[0].to_string(), "files:A");
}
