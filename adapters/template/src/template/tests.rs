//! What templates make of secrets, and what they say when they cannot.

use oneiric_core::{SecretValue, Version};

use super::*;
use crate::format::Format;

/// What no error may show.
const CANARY: &str = "canary-7f3a";

fn names(secrets: &[(&str, &[u8])]) -> BTreeMap<String, SecretRef> {
    let reference = |name: &str| format!("files:{name}").parse().unwrap();
    secrets.iter().map(|(name, _)| ((*name).to_owned(), reference(name))).collect()
}

fn template(
    source: &str,
    escape: Option<Format>,
    secrets: &[(&str, &[u8])],
) -> Result<Template, String> {
    let mut file = FileConfig::new("", "/etc/shop.conf");
    file.escape = escape;
    Template::new("shop.j2".to_owned(), source.to_owned(), &file, &names(secrets))
}

fn rendered(source: &str, secrets: &[(&str, &[u8])]) -> Result<String, String> {
    rendered_as(source, None, secrets)
}

fn rendered_as(
    source: &str,
    escape: Option<Format>,
    secrets: &[(&str, &[u8])],
) -> Result<String, String> {
    let template = template(source, escape, secrets)?;
    let parts = secrets.iter().map(|(name, value)| {
        let reference = format!("files:{name}").parse().unwrap();
        (reference, SecretValue::from(*value), Version::numbered(1))
    });
    let bytes = template.render(&names(secrets), &SecretSet::new(parts))?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn a_file_is_what_the_template_says_to_the_byte() {
    for (source, expected) in [
        ("user={{ user }}\n", "user=o'hara\n"),
        ("user={{ user }}", "user=o'hara"),
        ("<{{ user }}>&\"\n\n", "<o'hara>&\"\n\n"),
        ("{{ user | shell }}", "'o'\\''hara'"),
        (
            "{{ db.password }}:{{ db.port }}:{{ db.rate }}:{{ db.big }}:{{ db.tls }}",
            "p\"w:5432:1.10:12345678901234567890123:true",
        ),
        ("{{ db.nested.key }}", "deep"),
        ("{{ db }}", DB),
        ("{{ db | json }}", &serde_json::to_string(DB).unwrap()),
        (
            "{{ db.password | json }},{{ db.port | json }},{{ db.none | yaml }}",
            "\"p\\\"w\",5432,null",
        ),
        ("{{ db.list | json }} {{ db.list | toml }}", "[\"a\", 1] [\"a\", 1]"),
        ("{{ {'a': user, 'b': [true]} | json }}", "{\"a\": \"o'hara\", \"b\": [true]}"),
        ("{% for item in db.list %}{{ item }};{% endfor %}", "a;1;"),
        (
            "{% for name, value in db.nested | items %}{{ name }}={{ value }}{% endfor %}",
            "key=deep",
        ),
        ("{% if db.tls and user == \"o'hara\" %}yes{% endif %}", "yes"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(user) }}", "<o'hara>"),
        ("{{ key | b64 }} {{ user | b64 }}", "AP8= bydoYXJh"),
        ("{{ user | sql }} {{ 'a\\\\' | sql('mysql') }}", "'o''hara' 'a\\\\'"),
    ] {
        let secrets: [(&str, &[u8]); 3] =
            [("user", b"o'hara"), ("db", DB.as_bytes()), ("key", b"\0\xff")];
        assert_eq!(rendered(source, &secrets).as_deref(), Ok(expected), "{source}");
    }
}

const DB: &str = r#"{"password": "p\"w", "port": 5432, "rate": 1.10, "big": 12345678901234567890123,
  "tls": true, "none": null, "nested": {"key": "deep"}, "list": ["a", 1]}"#;

#[test]
fn with_a_format_everything_is_escaped_once() {
    for (source, expected) in [
        ("{{ user }}", "'o'\\''hara'"),
        ("{{ user | shell }} {{ user | json }}", "'o'\\''hara' \"o'hara\""),
        ("{{ user | safe }}", "o'hara"),
        ("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(user) }}", "'o'\\''hara'"),
    ] {
        let made = rendered_as(source, Some(Format::Shell), &[("user", b"o'hara")]);
        assert_eq!(made.as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn an_error_names_file_line_and_name() {
    for (source, expected) in [
        ("a\n{{ usr }}", "shop.j2:2: `usr` is not in `secrets`; did you mean `user`?"),
        (
            "{% if false %}\n{{ nothing }}{% endif %}",
            "shop.j2:2: `nothing` is not in `secrets`; it has db, key, user",
        ),
        ("a\n\n{{ user", "shop.j2:3: "),
        ("a\n{{ user | shel }}", "shop.j2:2: "),
        ("{{ user | escape }}", "filter escape is unknown"),
        ("{% include 'x' %}", "shop.j2:1: "),
        ("\n{{ db.pasword }}", "shop.j2:2: in `db.pasword`: `db.pasword` is undefined"),
        ("\n{{ db.pasword | shell }}", "`db.pasword` is undefined"),
        ("\n{{ user.name | json }}", "`user.name` is undefined"),
        ("{{ key }}", "shop.j2:1: in `key`: it is not UTF-8; encode it with `b64`"),
        ("\n{{ 'x' ~ key }}", "shop.j2:2: `key` is not UTF-8 and is used as text"),
        ("\n{{ key | upper }}", "shop.j2:2: `key` is not UTF-8 and is used as text"),
        (
            "\n{{ db.nul | shell }}",
            "shop.j2:2: in `db.nul | shell`: it holds a NUL character, which `shell` cannot express",
        ),
        ("{{ db.nul | xml }}", "in `db.nul | xml`: it holds a NUL character"),
        ("{{ db.none }}", "in `db.none`: it is null"),
        ("{{ db.list }}", "in `db.list`: it is a list; use `json` or `join`"),
        ("{{ user | sql('oracle') }}", "the one dialect that `sql` takes"),
        ("\n{{ user | int }}", "shop.j2:2: in `user | int`: invalid operation"),
        ("{{ user + 1 }}", "shop.j2:1: in `user + 1`: invalid operation"),
        ("{{ user.canary() }}", "shop.j2:1: "),
    ] {
        let db = format!(r#"{{"nul": "{CANARY}\u0000", "none": null, "list": ["{CANARY}"]}}"#);
        let key = [CANARY.as_bytes(), b"\xff"].concat();
        let secrets: [(&str, &[u8]); 3] =
            [("user", CANARY.as_bytes()), ("db", db.as_bytes()), ("key", &key)];
        let error = rendered(source, &secrets).unwrap_err();
        assert!(error.contains(expected), "{source}: {error}");
        assert!(!error.contains(CANARY), "{source}: {error}");
    }
}

#[test]
fn a_template_is_tried_without_a_secret() {
    let secrets: [(&str, &[u8]); 2] = [("user", b""), ("db", b"")];
    for source in [
        "{{ user }}{{ db.a.b }}{{ db['c'] }}{{ db.port | int }}{{ db | json }}",
        "{% if user == 'x' %}{{ db.a | shell }}{% else %}{{ user | int + 1 }}{% endif %}",
    ] {
        assert_eq!(template(source, None, &secrets).unwrap().try_out(&names(&secrets)), Ok(()));
    }
    let wrong = template("\n{{ user.a() }}", None, &secrets).unwrap();
    let error = wrong.try_out(&names(&secrets)).unwrap_err();
    assert!(error.starts_with("shop.j2:2: "), "{error}");
}

#[test]
fn what_a_template_uses_is_known() {
    let secrets: [(&str, &[u8]); 3] = [("a", b""), ("b", b""), ("c", b"")];
    let source = "{{ a.x.y }}{% set d = b %}{{ d }}{{ namespace() and range(3) and dict() }}";
    let template = template(source, None, &secrets).unwrap();
    assert_eq!(template.uses().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_buffer_that_grows_keeps_what_it_has() {
    use std::io::Write as _;
    let mut buffer = Wiped::default();
    for part in 0..1000 {
        write!(buffer, "{part},").unwrap();
    }
    let expected: String = (0..1000).map(|part| format!("{part},")).collect();
    assert_eq!(buffer.0.as_slice(), expected.as_bytes());
}
