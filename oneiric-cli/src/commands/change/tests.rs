//! What may be taken away, and what is said when it may not.

use std::sync::Arc;

use super::super::double::{Trouble, Vault};
use super::*;

fn reference(version: &str) -> SecretRef {
    format!("vault:db@{version}").parse().unwrap()
}

fn said(result: Result<()>) -> Option<(Exit, String)> {
    result.err().map(|failure| (failure.exit(), format!("{failure:?}")))
}

async fn promoted(
    vault: &Arc<Vault>,
    version: &str,
    expect: Option<&str>,
) -> Option<(Exit, String)> {
    let args = Promote { reference: reference(version), expect: expect.map(str::to_owned) };
    said(promote_in(&vault.store(), &args).await)
}

async fn disabled(vault: &Arc<Vault>, version: &str, force: bool) -> Option<(Exit, String)> {
    said(disable_in(&vault.store(), &Disable { reference: reference(version), force }).await)
}

async fn destroyed(vault: &Arc<Vault>, version: &str, force: bool) -> Option<(Exit, String)> {
    let args = Destroy { reference: reference(version), yes: true, force };
    let guarded = guard(&vault.store(), &args.reference, true, force).await;
    match guarded {
        Ok(()) => said(destroy_in(&vault.store(), &args).await),
        refused => said(refused),
    }
}

#[tokio::test]
async fn a_version_is_promoted_over_the_one_that_is_expected() {
    let vault = Vault::holding(&[1, 2, 3]);
    assert_eq!(promoted(&vault, "2", Some("3")).await, None);
    let (exit, why) = promoted(&vault, "1", Some("3")).await.unwrap();
    assert_eq!(exit, Exit::CONFLICT);
    assert!(why.contains("cannot promote `vault:db@1`"), "{why}");
    assert_eq!(promoted(&vault, "1", None).await, None);
    assert_eq!(vault.state().calls.last().unwrap(), "promote 1 over 2");
    assert_eq!(vault.state().current, Some(1));
    vault.state().trouble = Some(("versions", Trouble::Fails(ErrorKind::Denied)));
    let (_, why) = promoted(&vault, "2", None).await.unwrap();
    assert!(why.contains("say by --expect"), "{why}");
}

#[tokio::test]
async fn the_current_version_is_taken_away_by_force_alone() {
    let vault = Vault::holding(&[1, 2]);
    for version in ["2", "label-2"] {
        let (exit, why) = disabled(&vault, version, false).await.unwrap();
        assert_eq!(exit, Exit::FAILED);
        assert!(why.contains("is the current version") && why.contains("--force"), "{why}");
    }
    assert!(vault.state().calls.is_empty());
    assert_eq!(disabled(&vault, "1", false).await, None);
    assert_eq!(disabled(&vault, "2", true).await, None);
    assert_eq!(vault.state().calls, ["disable 1", "disable 2"]);
}

#[tokio::test]
async fn only_what_nobody_can_read_is_destroyed() {
    let vault = Vault::holding(&[1, 2]);
    let (exit, why) = destroyed(&vault, "1", false).await.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(why.contains("`oneiric secrets disable vault:db@1` first"), "{why}");
    assert!(vault.state().calls.is_empty());
    assert_eq!(disabled(&vault, "1", false).await, None);
    assert_eq!(destroyed(&vault, "1", false).await, None);
    // Again: it is done already.
    assert_eq!(destroyed(&vault, "1", false).await, None);
    assert_eq!(vault.state().versions[&1].state, VersionState::Destroyed);
    let (_, why) = destroyed(&vault, "2", false).await.unwrap();
    assert!(why.contains("is the current version"), "{why}");
    let (_, why) = destroyed(&vault, "9", false).await.unwrap();
    assert!(why.contains("there is no version `vault:db@9`"), "{why}");
}

#[tokio::test]
async fn a_disabled_version_comes_back() {
    let vault = Vault::holding(&[1, 2]);
    disabled(&vault, "1", false).await;
    let args = Enable { reference: reference("1") };
    assert_eq!(said(enable_in(&vault.store(), &args).await), None);
    assert_eq!(vault.state().versions[&1].state, VersionState::Enabled);
}

#[tokio::test]
async fn where_versions_are_not_listed_nothing_is_taken_away_without_force() {
    let vault = Vault::new(&[1, 2], true, false);
    let (exit, why) = disabled(&vault, "1", false).await.unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(why.contains("does not say which version is in use"), "{why}");
    assert_eq!(disabled(&vault, "1", true).await, None);
}

#[tokio::test]
async fn a_lost_reply_and_a_missing_ability_are_said_as_such() {
    let vault = Vault::holding(&[1, 2]);
    vault.state().trouble = Some(("promote", Trouble::Lost));
    let (exit, why) = promoted(&vault, "1", None).await.unwrap();
    assert_eq!(exit, Exit::AMBIGUOUS);
    assert!(why.contains("to repeat it is safe"), "{why}");
    vault.state().trouble = Some(("enable", Trouble::Fails(ErrorKind::Unsupported)));
    let args = Enable { reference: reference("1") };
    let (exit, why) = said(enable_in(&vault.store(), &args).await).unwrap();
    assert_eq!(exit, Exit::FAILED);
    assert!(why.contains("cannot enable a version: it is of kind `vault`"), "{why}");
    assert!(why.contains("`providers.vault`"), "{why}");
}
