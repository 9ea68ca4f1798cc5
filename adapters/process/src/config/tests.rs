//! What settings are taken, and what is said of those that are not.

use super::*;

const RIGHT: &str = "command = ['shop']\nfiles = { key = 'files:key' }\n";

fn read(rest: &str) -> Config {
    toml::from_str(&format!("{RIGHT}{rest}")).unwrap()
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (rest, part) in [
        ("", "needs `on_change`"),
        ("on_change = 'signal'", "needs `signal`"),
        ("on_change = 'signal'\nsignal = 'HUP'", "needs `ready`"),
        ("on_change = 'restart'\nsignal = 'HUP'", "only for `on_change = \"signal\"`"),
        ("on_change = 'signal'\nsignal = 'HUP'\nenv = { A = 'files:a' }", "no use for `env`"),
        ("on_change = 'signal'\nsignal = 'HUP'\nfds = { A = 'files:a' }", "no use for `fds`"),
        ("on_change = 'keep'\nat_once = 2", "`at_once` must be from 1 to `instances`"),
        ("on_change = 'keep'\nready = {}", "one of `port`, `command` and `file`"),
        ("on_change = 'keep'\nready = { port = 1, file = 'a' }", "one of `port`"),
        ("on_change = 'keep'\nready = { file = 'a', timeout = '0s' }", "above 0"),
        ("on_change = 'keep'\nready = { command = [] }", "`ready.command`"),
        ("on_change = 'keep'\nprove = ['']", "`prove`"),
        (
            "on_change = 'overlap'\nlisten = ['127.0.0.1:80']\nready = { port = 80 }",
            "`ready.port` says nothing for `127.0.0.1:80`",
        ),
        ("on_change = 'keep'\nenv = { 'A=B' = 'files:a' }", "`A=B` cannot be the name"),
        ("on_change = 'keep'\nenv = { A = 'f:a' }\nfds = { A = 'f:a' }", "both in `env`"),
    ] {
        let error = read(rest).check().expect_err(rest);
        assert!(error.to_string().contains(part), "{rest}: {error}");
    }
    for name in ["", "/etc/key", "../key", "a/../key", "a/", "./a"] {
        let mut config = read("on_change = 'keep'");
        config.files.insert(name.to_owned(), "files:key".parse().unwrap());
        let error = config.check().expect_err(name).to_string();
        assert!(error.contains("cannot be the name of a file"), "{error}");
    }
    let mut both = read("on_change = 'keep'");
    both.files.insert("key/inner".to_owned(), "files:key".parse().unwrap());
    assert!(both.check().unwrap_err().to_string().contains("is a file and a folder"));
    let mut none = read("on_change = 'keep'");
    none.command.clear();
    assert!(none.check().unwrap_err().to_string().contains("does not name a program"));
    none = read("on_change = 'keep'");
    none.files.clear();
    assert!(none.check().unwrap_err().to_string().contains("needs a secret"));
}

#[test]
fn what_cannot_be_read_names_itself() {
    for (rest, part) in [
        ("on_change = 'sometimes'", "unknown variant `sometimes`"),
        ("signal = 'SIGNAL'", "`SIGNAL` is none of the signals HUP, INT"),
        ("quiet = 'soon'", "`soon` is not a duration"),
        ("umask = '8'", "`8` is not a mask in octal"),
        ("ready = { port = 0 }", "a port such as 8080"),
        ("ready = { port = -1 }", "a port such as 8080"),
        ("ready = { port = 'db:80' }", "a port such as 8080"),
        ("readi = {}", "unknown field `readi`"),
    ] {
        let error = toml::from_str::<Config>(&format!("{RIGHT}{rest}")).unwrap_err().to_string();
        assert!(error.contains(part), "{rest}: {error}");
    }
}

#[test]
fn a_port_is_of_the_loopback_unless_told_otherwise() {
    let port = |text: &str| read(&format!("ready = {{ port = {text} }}")).ready.unwrap().port;
    assert_eq!(port("8080").as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(port("'8080'").as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(port("'[::1]:8080'").as_deref(), Some("[::1]:8080"));
}

#[test]
fn each_secret_is_asked_for_once() {
    let config = read("env = { A = 'files:key', B = 'files:a' }\non_change = 'keep'");
    let secrets: Vec<_> = config.secrets().iter().map(ToString::to_string).collect();
    assert_eq!(secrets, ["files:a", "files:key"]);
    config.check().unwrap();
}

#[test]
fn signals_have_their_names_with_and_without_sig() {
    let config = read("signal = 'SIGUSR1'\nstop_signal = 'INT'");
    assert_eq!(config.signal.unwrap().to_string(), "USR1");
    assert_eq!(config.stop_signal.number(), 2);
}
