//! What is served for which bytes.

use super::*;

fn served(name: &str, bytes: &[u8]) -> Result<String> {
    served_by(&Config::new("/root"), name, bytes)
}

fn served_by(config: &Config, name: &str, bytes: &[u8]) -> Result<String> {
    let value = value(config, Path::new(name), Zeroizing::new(bytes.to_vec()))?;
    Ok(String::from_utf8_lossy(value.expose()).into_owned())
}

#[test]
fn one_line_end_is_taken_off_raw_files() {
    for (bytes, expected) in
        [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), (" a ", " a ")]
    {
        assert_eq!(served("pw", bytes.as_bytes()).unwrap(), expected);
    }
    let mut config = Config::new("/root");
    config.keep_newline = true;
    assert_eq!(served_by(&config, "pw", b"a\n").unwrap(), "a\n");
}

#[test]
fn structured_files_become_json() {
    for (name, text, expected) in [
        ("a.json", "{ \"n\": 1.10 }\n", "{ \"n\": 1.10 }\n"),
        (
            "a.toml",
            "n = 7\nwhen = 2026-11-24\n[t]\ns = 'x'",
            r#"{"n":7,"t":{"s":"x"},"when":"2026-11-24"}"#,
        ),
        (
            "a.yaml",
            "n: 7\npin: 007\nb: true\nl: [1, x]",
            r#"{"b":true,"l":[1,"x"],"n":7,"pin":"007"}"#,
        ),
        ("a.yml", "a: {b: c}", r#"{"a":{"b":"c"}}"#),
        ("prod.env", "N=7", r#"{"N":"7"}"#),
        (".env", "N=7", r#"{"N":"7"}"#),
    ] {
        assert_eq!(served(name, text.as_bytes()).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_kind_that_is_left_out_is_served_raw() {
    let mut config = Config::new("/root");
    config.parse = vec![Format::Json];
    assert_eq!(served_by(&config, "a.toml", b"not toml\n").unwrap(), "not toml");
}

#[test]
fn a_fault_names_the_place_and_not_the_content() {
    for (name, text, place) in [
        ("a.json", "{\"password\": \"canary-7f3a", "at line 1, column"),
        ("a.json", "{\n\"password\": canary-7f3a}", "at line 2, column"),
        ("a.toml", "ok = 1\npassword = canary-7f3a", "at line 2, column 12"),
        ("a.toml", "canary-7f3a = 1\ncanary-7f3a = 2", "at line 2, column 1"),
        ("a.toml", "canary-7f3a = inf", "not finite"),
        ("a.yaml", "ok: 1\npassword: \"canary-7f3a", "at line"),
        ("a.yaml", "canary-7f3a: 1\ncanary-7f3a: 2", "at line 2"),
        ("a.yaml", "canary-7f3a: .nan", "at line 1"),
        ("a.yaml", "# only a comment", "nothing in it"),
        ("a.env", "OK=1\ncanary-7f3a", "in line 2"),
    ] {
        let error = served(name, text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let chain = error.chain();
        assert!(chain.contains(name) && chain.contains(place), "{text:?}: {chain}");
        assert!(!format!("{chain} {error:?}").contains("canary"), "{chain}");
    }
}

#[test]
fn empty_is_never_served() {
    for bytes in [&b""[..], b"\n", b"\r\n"] {
        let error = served("pw", bytes).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Invalid, "`pw` is empty".into()));
    }
    assert!(served("a.toml", b"").unwrap_err().to_string().ends_with("is empty"));
}

#[test]
fn bytes_that_are_not_text_need_consent_and_have_no_structure() {
    let bytes = b"\xff\xfe";
    assert!(served("pw", bytes).unwrap_err().to_string().contains("is not UTF-8 text"));
    let mut config = Config::new("/root");
    config.binary = true;
    assert!(value(&config, Path::new("pw"), Zeroizing::new(bytes.to_vec())).is_ok());
    assert!(served_by(&config, "a.json", b"\"\xff\"").unwrap_err().to_string().contains("UTF-8"));
}
