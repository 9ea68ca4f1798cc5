//! What is written in which order, and what is said when something comes in between.

use super::super::double::{PATIENCE, Trouble, Vault};
use super::*;

/// Everything that the command line may say, as it is without flags.
fn set() -> Set {
    Set {
        reference: "vault:db".parse().unwrap(),
        from_file: None,
        trim: false,
        create: false,
        no_promote: false,
        expect: None,
        token: None,
        allow_empty: false,
        allow_placeholder: false,
    }
}

/// The versions that were printed, and how it ended: the code, the error and the advice.
async fn ran(vault: &std::sync::Arc<Vault>, args: &Set) -> (Vec<String>, Option<(Exit, String)>) {
    let mut printed = Vec::new();
    let store = vault.store();
    let made = |version: &Version| {
        printed.push(version.to_string());
        Ok(output::Reader::There)
    };
    let value = SecretValue::from("new value");
    let ended = carry_out(&store, args.reference.key(), &value, args, made).await;
    (printed, ended.err().map(|failure| (failure.exit(), format!("{failure:?}"))))
}

#[tokio::test]
async fn a_value_is_written_and_replaces_the_version_that_was_current() {
    let vault = Vault::holding(&[1, 2]);
    let (printed, failed) = ran(&vault, &set()).await;
    assert_eq!((printed, failed), (vec!["3".to_owned()], None));
    assert_eq!(vault.state().calls, ["create_version", "promote 3 over 2"]);
    assert_eq!(vault.state().current, Some(3));
}

#[tokio::test]
async fn whoever_came_in_between_is_not_overwritten() {
    let vault = Vault::holding(&[1, 2]);
    vault.state().overtaken_by = Some(1);
    let (printed, failed) = ran(&vault, &set()).await;
    assert_eq!(printed, ["3"], "it was written, and can be promoted");
    let (exit, said) = failed.unwrap();
    assert_eq!(exit, Exit::CONFLICT);
    assert!(said.contains("`vault:db@3` was written and not made current"), "{said}");
    assert_eq!(vault.state().current, Some(1));
}

#[tokio::test]
async fn nothing_is_written_where_another_version_is_current_than_was_expected() {
    let vault = Vault::holding(&[1, 2]);
    let mut args = set();
    args.expect = Some("1".into());
    let (printed, failed) = ran(&vault, &args).await;
    let (exit, said) = failed.unwrap();
    assert_eq!((printed.len(), exit), (0, Exit::CONFLICT));
    assert!(said.contains("is not 1: it is 2; nothing was written"), "{said}");
    assert!(vault.state().calls.is_empty());
    args.expect = Some("2".into());
    assert_eq!(ran(&vault, &args).await.1, None);
    assert_eq!(vault.state().calls, ["create_version", "promote 3 over 2"]);
}

#[tokio::test]
async fn a_version_is_kept_aside_on_request() {
    let vault = Vault::holding(&[1]);
    let args = Set { no_promote: true, ..set() };
    assert_eq!(ran(&vault, &args).await, (vec!["2".to_owned()], None));
    assert_eq!(vault.state().current, Some(1));
    assert_eq!(vault.state().calls, ["create_version"]);

    let vault = Vault::new(&[1], false, false);
    let (exit, said) = ran(&vault, &args).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(said.contains("cannot keep a version aside: it is of kind `vault`"), "{said}");
    assert!(vault.state().calls.is_empty());
}

#[tokio::test]
async fn a_secret_is_made_first_only_on_request() {
    let vault = Vault::holding(&[]);
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(said.contains("give --create"), "{said}");
    let args = Set { create: true, ..set() };
    assert_eq!(ran(&vault, &args).await, (vec!["1".to_owned()], None));
    let calls = vault.state().calls.split_off(1);
    assert_eq!(calls, ["create_secret", "create_version", "promote 1 over nothing"]);
}

#[tokio::test]
async fn after_a_lost_reply_the_same_token_makes_no_second_version() {
    for (call, again) in [("create_version", 2), ("promote", 2), ("create_secret", 2)] {
        let vault = Vault::holding(&[1]);
        vault.state().trouble = Some((call, Trouble::Lost));
        let mut args = Set { create: true, token: Some("attempt-1".into()), ..set() };
        args.expect = Some("1".into());
        let (exit, said) = ran(&vault, &args).await.1.unwrap();
        assert_eq!(exit, Exit::AMBIGUOUS, "{call}");
        assert!(said.contains("`oneiric secrets versions vault:db` shows it"), "{said}");
        vault.state().trouble = None;
        assert_eq!(ran(&vault, &args).await, (vec![again.to_string()], None), "{call}");
        assert_eq!(vault.state().versions.len(), 2, "{call}");
        assert_eq!(vault.state().current, Some(2), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_not_known_and_its_token_is_told() {
    let vault = Vault::holding(&[1]);
    vault.state().trouble = Some(("create_version", Trouble::Hangs));
    let began = tokio::time::Instant::now();
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!((exit, began.elapsed()), (Exit::AMBIGUOUS, PATIENCE));
    let token = said.split("--token ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    vault.state().trouble = None;
    let args = Set { token: Some(token.to_owned()), ..set() };
    assert_eq!(ran(&vault, &args).await, (vec!["2".to_owned()], None));
    assert_eq!(vault.state().versions.len(), 2);
}

#[tokio::test]
async fn a_refusal_changes_nothing_and_asks_for_no_token() {
    let vault = Vault::holding(&[1]);
    vault.state().trouble = Some(("create_version", Trouble::Fails(ErrorKind::Denied)));
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(!said.contains("--token"), "{said}");
    vault.state().trouble = Some(("promote", Trouble::Fails(ErrorKind::Unavailable)));
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(said.contains("`oneiric secrets promote vault:db@2 --expect 1`"), "{said}");
}

#[tokio::test]
async fn the_current_version_is_that_of_the_value_where_versions_are_not_listed() {
    let vault = Vault::new(&[4], true, false);
    assert_eq!(ran(&vault, &set()).await.1, None);
    assert_eq!(vault.state().calls, ["create_version", "promote 5 over 4"]);
}

#[tokio::test]
async fn who_may_write_and_not_read_says_what_is_to_be_replaced() {
    let vault = Vault::holding(&[1]);
    vault.state().trouble = Some(("versions", Trouble::Fails(ErrorKind::Denied)));
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(said.contains("say by --expect"), "{said}");
    assert!(vault.state().calls.is_empty());
    let args = Set { expect: Some("1".into()), ..set() };
    assert_eq!(ran(&vault, &args).await.1, None);
    assert_eq!(vault.state().calls, ["create_version", "promote 2 over 1"]);
    vault.state().trouble = Some(("versions", Trouble::Fails(ErrorKind::Unavailable)));
    let (exit, said) = ran(&vault, &set()).await.1.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(said.contains("cannot see which version of `vault:db` is current"), "{said}");
}

#[test]
fn what_a_resolver_would_not_serve_is_not_written() {
    let store = Vault::holding(&[1]).store();
    let key = "db".parse().unwrap();
    for (text, why) in [("", "it is empty"), (" \n", "white space"), ("***", "a placeholder")] {
        let value = SecretValue::from(text);
        let failure = value::check(&store, &key, &value, &set()).unwrap_err();
        let said = format!("{failure:?}");
        assert!(
            said.contains("the value of `vault:db` is refused") && said.contains(why),
            "{said}"
        );
        let args = Set { allow_empty: true, allow_placeholder: true, ..set() };
        value::check(&store, &key, &value, &args).unwrap();
    }
    value::check(&store, &key, &SecretValue::from(&[0xff, 0][..]), &set()).unwrap();
}
