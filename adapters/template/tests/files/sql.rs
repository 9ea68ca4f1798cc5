//! The literals of `sql`, at a real PostgreSQL.

use oneiric_testkit::live::{self, Postgres};

use super::*;

const TEXTS: [&str; 12] = [
    "plain",
    "",
    "o'hara",
    "''",
    "\\",
    "\\'; drop table x; --",
    "a\nb\r\nc\t",
    "E'\\n'",
    "$$ $1 $tag$",
    "ü 🔑 \u{85}\u{2028}\u{feff}\u{fffe}",
    "\u{1}\u{7f}",
    "/* -- */ ; \"x\"",
];

#[tokio::test]
async fn a_literal_is_what_the_server_reads() {
    let server = match Postgres::start() {
        Ok(server) => server,
        Err(why) => return live::require("the template suite on PostgreSQL", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files[0].content =
            Some("SELECT encode(convert_to({{ token | sql }}, 'UTF8'), 'hex')".to_owned());
    });
    for text in TEXTS {
        rotate(&hook, text).await;
        let read = server.psql(&read(&dir, "conf")).unwrap();
        let expected: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(read.trim(), expected, "{text:?}");
    }
}
