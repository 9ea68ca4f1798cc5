//! Each format against a parser of it that is not ours: what is read is what was written.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use sqlparser::ast::{Expr, SelectItem, SetExpr, Statement, Value};
use sqlparser::dialect::{Dialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;

use super::*;

/// Any text, with what formats take for something else in every other place.
fn texts() -> impl Strategy<Value = String> {
    let hazards = prop::sample::select(vec![
        "'",
        "\"",
        "\\",
        "\\\\",
        "`",
        "$",
        "${HOME}",
        "$(id)",
        "\n",
        "\r\n",
        "\r",
        "\t",
        " ",
        "#",
        "=",
        ":",
        "%",
        "&",
        "<",
        "]]>",
        "--",
        ";",
        "{{",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{7f}",
        "\u{9f}",
        "\u{fffe}",
        "\u{10ffff}",
        "ü",
        "🔑",
        "\u{1}",
        "\0",
        "\\n",
        "'\\''",
        "export ",
    ]);
    let piece = prop_oneof![3 => hazards.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from), 1 => "[a-z0-9]{1,4}"];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn texts_without_nul() -> impl Strategy<Value = String> {
    texts().prop_map(|text| text.replace('\0', ""))
}

/// What `/bin/sh` makes of a script that prints one value.
fn sh(script: &str) -> String {
    let mut shell = Command::new("/bin/sh")
        .arg("-s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env_clear()
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success(), "{script:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn literal_of(dialect: &dyn Dialect, literal: &str) -> String {
    let parsed = Parser::parse_sql(dialect, &format!("SELECT {literal}")).unwrap();
    let [Statement::Query(query)] = &parsed[..] else { panic!("more than one statement") };
    let SetExpr::Select(select) = &*query.body else { panic!("no select") };
    let [SelectItem::UnnamedExpr(Expr::Value(value))] = &select.projection[..] else {
        panic!("more than one literal: {:?}", select.projection)
    };
    match &value.value {
        Value::SingleQuotedString(text) => text.clone(),
        other => panic!("no string: {other:?}"),
    }
}

/// What no document of XML 1.0 may hold, not even as a reference.
fn no_xml(c: char) -> bool {
    matches!(c, '\u{fffe}' | '\u{ffff}') || c < ' ' && !"\t\n\r".contains(c)
}

proptest! {
    #[test]
    fn json_is_read_back(text in texts()) {
        let read: String = serde_json::from_str(&Format::Json.escape(&text).unwrap()).unwrap();
        prop_assert_eq!(read, text);
    }

    #[test]
    fn yaml_is_read_back(text in texts()) {
        let document = format!("a: {}\nb: [{0}, 'z']\n", Format::Yaml.escape(&text).unwrap());
        let read: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
        prop_assert_eq!(read["a"].as_str(), Some(text.as_str()));
        prop_assert_eq!(read["b"][0].as_str(), Some(text.as_str()));
    }

    #[test]
    fn toml_is_read_back(text in texts()) {
        let document = format!("a = {}\nb = 1\n", Format::Toml.escape(&text).unwrap());
        let read: ::toml::Table = ::toml::from_str(&document).unwrap();
        prop_assert_eq!(read["a"].as_str(), Some(text.as_str()));
    }

    #[test]
    fn xml_is_read_back_as_text_and_as_an_attribute(text in texts()) {
        let Ok(escaped) = Format::Xml.escape(&text) else {
            let unfit = text.chars().any(no_xml);
            prop_assert!(unfit);
            return Ok(());
        };
        let document = format!("<a b=\"{escaped}\" c='{escaped}'>{escaped}</a>");
        let read = roxmltree::Document::parse(&document).unwrap();
        let root = read.root_element();
        prop_assert_eq!(root.text().unwrap_or_default(), &text);
        prop_assert_eq!(root.attribute("b"), Some(text.as_str()));
        prop_assert_eq!(root.attribute("c"), Some(text.as_str()));
    }

    #[test]
    fn a_url_is_read_back_as_a_path_and_as_a_query(text in texts()) {
        let escaped = Format::Url.escape(&text).unwrap();
        prop_assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        let decoded = percent_encoding::percent_decode_str(&escaped).decode_utf8().unwrap();
        prop_assert_eq!(&decoded, &text);
        let query = format!("a={escaped}&b=1");
        let read: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
        prop_assert_eq!(&read["a"], &text);
    }

    #[test]
    fn standard_sql_is_read_back(text in texts_without_nul()) {
        let escaped = Format::Sql.escape(&text).unwrap();
        prop_assert_eq!(literal_of(&PostgreSqlDialect {}, &escaped), text.clone());
        prop_assert_eq!(literal_of(&SQLiteDialect {}, &escaped), text);
    }

    #[test]
    fn mysql_is_read_back(text in texts()) {
        prop_assert_eq!(literal_of(&MySqlDialect {}, &mysql(&text)), text);
    }
}

proptest! {
    // Each case starts a process.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_shell_word_is_read_back(text in texts_without_nul()) {
        let word = Format::Shell.escape(&text).unwrap();
        prop_assert_eq!(sh(&format!("printf '%s' {word}")), text.clone());
        prop_assert_eq!(sh(&format!("a={word}; printf '%s' \"$a\"")), text);
    }

    #[test]
    fn dotenv_is_read_back_by_dotenv_and_by_a_shell(text in texts_without_nul()) {
        let escaped = Format::Dotenv.escape(&text).unwrap();
        let document = format!("A={escaped}\nB=1\n");
        let read: BTreeMap<String, String> =
            dotenvy::from_read_iter(document.as_bytes()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.get("A"), Some(&text));
        prop_assert_eq!(read.get("B").map(String::as_str), Some("1"));
        prop_assert_eq!(sh(&format!("{document}printf '%s' \"$A\"")), text);
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_and_not_left_out() {
    for format in Format::ALL {
        let holds = matches!(format, Format::Json | Format::Yaml | Format::Toml | Format::Url);
        assert_eq!(format.escape("a\0b").is_ok(), holds, "{}", format.name());
    }
    assert_eq!(Format::Xml.escape("\u{1b}"), Err("a control character"));
}

#[test]
fn an_empty_text_is_still_a_value() {
    for (format, escaped) in [
        (Format::Shell, "''"),
        (Format::Dotenv, "''"),
        (Format::Json, "\"\""),
        (Format::Yaml, "\"\""),
        (Format::Toml, "\"\""),
        (Format::Sql, "''"),
    ] {
        assert_eq!(format.escape("").as_deref(), Ok(escaped));
    }
}
