//! The suite on the double, which passes, and on doubles that are broken on purpose, each of
//! which must be caught by the case that is there for it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod broken;
mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oneiric_core::Capabilities;
use oneiric_testkit::{Fault, MemoryProvider, conformance};

use broken::{Broken, Defect};
use rig::{EVERYTHING, LazyRig, MemoryRig};

/// The double as it should be.
fn good(store: Arc<MemoryProvider>) -> MemoryRig {
    store.keep_deadlines();
    MemoryRig { provider: Arc::clone(&store) as _, store }
}

#[tokio::test(start_paused = true)]
async fn the_double_passes_with_every_ability() {
    let report = conformance(&good(MemoryProvider::writable(EVERYTHING))).await;
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0], "nothing is left out");
}

#[tokio::test(start_paused = true)]
async fn the_double_passes_with_none() {
    let rig = good(MemoryProvider::with_capabilities(Capabilities::default()));
    conformance(&rig).await.assert_passed();
}

async fn caught(defect: Defect) -> Vec<&'static str> {
    let store = MemoryProvider::writable(EVERYTHING);
    let provider = Arc::new(Broken::new(defect, Arc::clone(&store)));
    conformance(&MemoryRig { store, provider }).await.failed()
}

macro_rules! catches {
    ($($test:ident: $defect:ident => $($case:literal),+;)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() {
            let failed = caught(Defect::$defect).await;
            $(assert!(failed.contains(&$case), "{failed:?}");)+
        })*

        /// Each defect, with the cases that are there for it.
        const CAUGHT: &[(Defect, &[&str])] = &[$((Defect::$defect, &[$($case),+])),*];
    };
}

catches! {
    a_leak_in_debug: LeaksInDebug => "nothing_printed_shows_a_value";
    a_leak_in_the_log: LeaksInLog => "nothing_logged_shows_a_value";
    a_leak_in_a_span: LeaksInSpan => "nothing_logged_shows_a_value";
    a_leak_in_an_error: LeaksInError => "nothing_printed_shows_a_value";
    a_leak_in_the_uri: LeaksInUri => "nothing_printed_shows_a_value";
    a_leak_in_the_error_of_a_write: LeaksInWriteError => "nothing_printed_shows_a_value";
    a_descriptor_that_changes: ChangesItsDescriptor => "the_descriptor_is_constant";
    a_value_that_is_cut: Truncates => "a_value_is_served_as_it_was_set";
    a_failure_for_what_is_missing: FailsForMissing => "a_missing_secret_is_not_found";
    a_memory_of_what_was_removed: Remembers => "a_removed_secret_is_not_found";
    an_empty_value: ServesEmpty => "an_empty_value_is_refused";
    a_panic: Panics => "an_empty_value_is_refused";
    a_damaged_value: Mangles => "unicode_is_kept";
    bytes_made_text: LossyText => "bytes_that_are_no_text_are_kept_or_refused";
    a_limit_that_does_not_hold: DeclaresTooLarge =>
        "the_largest_value_is_served_and_no_larger_one";
    an_unsorted_list: Unsorted => "keys_are_listed_sorted";
    a_panic_over_a_key: PanicsOnPath => "a_hostile_key_gets_an_error";
    a_version_that_never_changes: OneVersion => "a_version_changes_with_the_value_alone";
    a_stamp_that_never_changes: StampOfNothing =>
        "a_stamp_changes_with_the_value_alone", "a_lost_push_is_found_by_a_look";
    a_stamp_that_always_changes: StampOfTime => "a_stamp_changes_with_the_value_alone";
    a_value_that_is_sent_again: SendsAgain => "what_is_known_is_not_sent_again";
    the_latest_for_an_exact_version: LatestForExact => "an_exact_version_is_served_or_refused";
    the_latest_under_another_name: RelabelsLatest =>
        "an_older_value_never_bears_a_newer_version";
    versions_in_the_wrong_order: OldestFirst =>
        "the_versions_of_a_secret_are_listed_newest_first";
    a_disabled_version_said_to_be_missing: DisabledIsMissing =>
        "a_disabled_current_version_is_said_so",
        "a_disabled_version_is_refused_until_it_is_enabled";
    a_declared_push_that_is_not_there: NoStream => "a_change_is_announced";
    a_push_that_is_trusted: TrustsPush => "a_lost_push_is_found_by_a_look";
    a_stream_that_ends_on_a_repeat: EndsOnRepeat => "a_doubled_push_is_a_hint_alone";
    a_push_that_is_followed: FollowsPush => "a_reordered_push_is_a_hint_alone";
    a_wrong_order: WrongOrder => "answers_stand_in_order_and_for_themselves";
    one_error_for_all: CommonError => "answers_stand_in_order_and_for_themselves";
    one_read_at_a_time: OneAtATime => "many_may_ask_at_once";
    a_lock_that_a_dropped_read_leaves: StaysBusy =>
        "a_read_may_be_dropped_at_any_await", "a_slow_read_may_be_dropped_at_any_await";
    a_mixture_of_old_and_new: Mixture => "a_value_is_never_half_old_and_half_new";
    a_torn_set: TornSet => "a_set_is_of_one_moment";
    a_deadline_taken_for_an_outage: LateIsUnavailable => "a_deadline_that_passed_is_said_so";
    a_deadline_that_is_ignored: IgnoresDeadlines =>
        "a_slow_answer_ends_at_the_deadline", "a_hanging_store_ends_at_the_deadline";
    an_outage_taken_for_absence: AbsentInOutage => "an_outage_is_no_absence_and_passes";
    a_denial_taken_for_absence: DeniedIsMissing => "a_denial_is_said_so_and_passes";
    an_unknown_identity_taken_for_a_denial: UnknownIsDenied =>
        "an_unknown_identity_is_said_so_and_passes";
    a_time_to_wait_that_is_forgotten: ForgetsRetryAfter =>
        "a_throttle_is_said_with_the_time_to_wait";
    a_time_to_wait_that_is_made_up: InventsRetryAfter => "a_throttle_without_a_time_is_said_so";
    a_token_that_is_ignored: IgnoresTokens =>
        "a_token_makes_one_version",
        "a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write";
    a_value_that_is_cut_to_fit: CutsToFit => "a_value_over_the_limit_is_not_written";
    a_version_that_does_not_wait: PromotesAtOnce => "a_new_version_waits_to_be_promoted";
    a_swap_without_a_comparison: SwapsWithoutComparing =>
        "a_promotion_compares_before_it_swaps";
    a_comparison_that_is_too_early: ComparesTooEarly => "of_two_promotions_one_is_a_conflict";
    a_version_that_is_never_disabled: NeverDisables =>
        "a_disabled_version_is_refused_until_it_is_enabled";
    a_version_that_is_not_destroyed: DestroysForNow => "a_destroyed_version_is_gone_for_good";
    a_write_to_nothing_that_succeeds: WritesToNothing => "a_write_to_nothing_is_not_found";
    a_lost_reply_taken_for_an_outage: LostIsUnavailable =>
        "a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write";
    a_lock_that_a_dropped_write_leaves: StaysBusyWriting => "a_write_may_be_dropped_at_any_await";
}

/// It takes a long while to find out, which is why the time of these tests is paused.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_goes_deaf() {
    let started = tokio::time::Instant::now();
    let failed = caught(Defect::Deaf).await;
    assert!(failed.contains(&"a_change_is_announced"), "{failed:?}");
    assert!(failed.iter().all(|case| case.contains("push") || case.contains("change")));
    assert!(started.elapsed() > Duration::from_secs(10));
}

/// A case that no defect is caught by could be one that cannot fail.
#[tokio::test(start_paused = true)]
async fn every_case_catches_a_defect() {
    let report = conformance(&good(MemoryProvider::writable(EVERYTHING))).await;
    let cases: BTreeSet<&str> = report.cases().map(|(name, _)| name).collect();
    let named: BTreeSet<&str> =
        CAUGHT.iter().flat_map(|(_, cases)| cases.iter().copied()).collect();
    assert_eq!(cases, named, "each has a defect above, which the test of that name tries");
}

/// What a rig cannot play is skipped with its reason, but not what the provider declares.
#[tokio::test(start_paused = true)]
async fn what_is_declared_must_be_tried() {
    let rig = good(MemoryProvider::writable(EVERYTHING));
    let lazy = LazyRig { rig, names_versions: true, plays: |_| false };
    let report = conformance(&lazy).await;
    let push = [
        "a_lost_push_is_found_by_a_look",
        "a_doubled_push_is_a_hint_alone",
        "a_reordered_push_is_a_hint_alone",
    ];
    assert_eq!(report.failed(), push);
    assert_eq!(report.skipped().len(), 11, "{report}");
    assert!(report.to_string().contains("it is too lazy"));
}

#[tokio::test(start_paused = true)]
async fn a_rig_must_name_the_versions_that_are_declared() {
    let rig = good(MemoryProvider::writable(EVERYTHING));
    let lazy = LazyRig { rig, names_versions: false, plays: |_| true };
    assert!(conformance(&lazy).await.failed().contains(&"an_exact_version_is_served_or_refused"));
}

#[tokio::test(start_paused = true)]
async fn what_a_fault_leaves_is_mended_after_a_failure_too() {
    let rig = good(MemoryProvider::writable(EVERYTHING));
    let store = Arc::clone(&rig.store);
    store.play(Fault::Denied);
    let failed = conformance(&rig).await.failed();
    assert_eq!(failed, ["the_descriptor_is_constant"], "the first case alone meets it");
}
