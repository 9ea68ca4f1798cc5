//! The suite for adapters on one that is as it should be, which passes, and on adapters that are
//! broken on purpose, each of which must be caught by the case that is there for it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod broken;
mod client;
mod rig;
mod server;

use std::collections::BTreeSet;

use oneiric_testkit::adapter_conformance;

use broken::Defect;
use rig::{Marks, ToyRig};

#[tokio::test(start_paused = true)]
async fn the_reference_passes_with_nothing_left_out() {
    let report = adapter_conformance(&ToyRig::new(None)).await;
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}

async fn caught(defect: Defect) -> Vec<&'static str> {
    adapter_conformance(&ToyRig::new(Some(defect))).await.failed()
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
    changes_its_secrets: ChangesItsSecrets =>
        "the_id_and_the_secrets_are_constant";
    leaks_in_debug: LeaksInDebug =>
        "nothing_printed_shows_a_value";
    leaks_in_error: LeaksInError =>
        "nothing_printed_shows_a_value";
    leaks_in_cause: LeaksInCause =>
        "nothing_printed_shows_a_value";
    leaks_in_report: LeaksInReport =>
        "nothing_printed_shows_a_value";
    leaks_in_log: LeaksInLog =>
        "nothing_logged_shows_a_value";
    mutates_in_place: MutatesInPlace =>
        "l1_the_old_one_serves_while_the_next_is_prepared",
        "l1_a_refused_secret_is_said_so_and_changes_nothing";
    no_proof: NoProof =>
        "l1_a_next_one_is_proven_before_it_is_committed";
    proves_over_the_old: ProvesOverTheOld =>
        "l1_a_proof_takes_a_fresh_connection";
    believes_a_greeting: BelievesAGreeting =>
        "l1_a_prepare_may_be_cut_off_after_any_exchange";
    stops_then_starts: StopsThenStarts =>
        "l1_no_unit_of_work_fails_over_rotations";
    panics_in_prepare: PanicsInPrepare =>
        "l1_a_malformed_secret_fails_and_is_not_refused";
    stays_busy: StaysBusy =>
        "l1_a_prepare_that_hangs_is_given_up",
        "l3_a_dropped_prepare_makes_room_for_a_newer_one";
    serves_late: ServesLate =>
        "l1_a_prepare_that_is_too_slow_never_serves";
    leaks_when_dropped: LeaksWhenDropped =>
        "l1_a_prepare_may_be_dropped_at_each_await",
        "l1_a_prepare_may_hang_after_any_exchange";
    leaks_when_cut_off: LeaksWhenCutOff =>
        "l1_a_prepare_may_be_cut_off_after_any_exchange";
    fails_after_a_drop: FailsAfterADrop =>
        "l1_a_prepare_may_be_dropped_at_each_await",
        "l3_a_dropped_prepare_makes_room_for_a_newer_one",
        "l3_the_first_one_may_be_prepared_again";
    awaits_without_end: AwaitsWithoutEnd =>
        "l1_a_prepare_may_be_dropped_at_each_await",
        "l3_a_dropped_prepare_makes_room_for_a_newer_one",
        "l3_the_first_one_may_be_prepared_again";
    asks_without_end: AsksWithoutEnd =>
        "l1_a_prepare_may_be_cut_off_after_any_exchange",
        "l1_a_prepare_may_hang_after_any_exchange";
    first_is_once: FirstIsOnce =>
        "l3_the_first_one_may_be_prepared_again";
    remembers_failures: RemembersFailures =>
        "l5_what_failed_in_an_outage_is_tried_again";
    refusal_is_failure: RefusalIsFailure =>
        "l1_a_refused_secret_is_said_so_and_changes_nothing";
    malformed_is_refusal: MalformedIsRefusal =>
        "l1_a_malformed_secret_fails_and_is_not_refused";
    outage_is_refusal: OutageIsRefusal =>
        "l1_an_unreachable_server_is_no_refusal";
    busy_is_refusal: BusyIsRefusal =>
        "l1_a_busy_server_is_no_refusal";
    cut_off_is_refusal: CutOffIsRefusal =>
        "l1_a_prepare_may_be_cut_off_after_any_exchange";
    commits_lazily: CommitsLazily =>
        "l2_a_commit_serves_at_once";
    reconnects_with_the_first: ReconnectsWithTheFirst =>
        "l2_reconnects_take_the_new_secret",
        "l6_what_is_drained_may_be_revoked";
    leaks_the_dropped: LeaksTheDropped =>
        "l2_a_next_one_that_is_dropped_leaves_nothing";
    leaks_some_dropped: LeaksSomeDropped =>
        "l2_many_that_are_dropped_leave_nothing";
    commit_needs_runtime: CommitNeedsRuntime =>
        "l2_a_commit_needs_no_runtime";
    drop_needs_runtime: DropNeedsRuntime =>
        "l2_a_drop_needs_no_runtime";
    shares_state: SharesState =>
        "l2_a_refusal_by_one_adapter_leaves_both_as_they_were";
    closes_by_secret: ClosesBySecret =>
        "l3_the_same_secret_again_is_harmless";
    never_reconnects: NeverReconnects =>
        "l5_it_goes_on_when_the_server_is_back";
    stays_stuck: StaysStuck =>
        "l5_it_goes_on_after_the_server_hung";
    never_reports: NeverReports => "l5_a_refusal_in_use_is_reported";
    reports_another: ReportsAnother => "l5_a_refusal_in_use_is_reported";
    reports_outages: ReportsOutages => "l5_an_outage_is_not_reported_as_a_refusal";
    drains_at_once: DrainsAtOnce =>
        "l4_a_drain_waits_for_the_last_user";
    drains_late: DrainsLate =>
        "l4_a_drain_ends_with_the_last_user";
    ignores_the_deadline: IgnoresTheDeadline =>
        "l4_users_that_remain_are_cut_off_at_the_deadline";
    leak_never_ends: LeakNeverEnds =>
        "l4_a_user_that_holds_on_is_leaked_until_it_ends";
    leak_ends_early: LeakEndsEarly =>
        "l4_a_user_that_holds_on_is_leaked_until_it_ends";
    forced_over_a_leak: ForcedOverALeak =>
        "l4_a_user_that_holds_on_is_leaked_until_it_ends";
    panics_on_the_past: PanicsOnThePast =>
        "l4_a_deadline_that_passed_is_a_deadline";
    drains_in_order: DrainsInOrder =>
        "l4_old_ones_drain_side_by_side";
    dropped_drain_stops: DroppedDrainStops =>
        "l4_a_drain_may_be_dropped_at_each_await",
        "l4_a_dropped_drain_leaves_users_alone";
    drains_without_end: DrainsWithoutEnd =>
        "l4_a_drain_may_be_dropped_at_each_await";
    panics_in_close: PanicsInClose =>
        "l4_a_drain_ends_with_the_last_user";
    failed_close_stops: FailedCloseStops =>
        "l4_a_close_that_fails_leaves_the_new_one";
    hangs_in_close: HangsInClose =>
        "l4_a_close_that_hangs_ends_after_the_deadline";
    drained_with_sessions: DrainedWithSessions =>
        "l6_drained_is_said_when_the_server_sees_no_use";
    drained_at_the_deadline: DrainedAtTheDeadline =>
        "l6_drained_is_never_said_over_a_user";
    counts_one: CountsOne =>
        "l6_users_that_were_cut_off_are_counted";
    reports_the_dropped: ReportsTheDropped =>
        "l6_what_was_given_up_is_in_no_report";
}

/// A case that no defect is caught by could be one that cannot fail.
#[tokio::test(start_paused = true)]
async fn every_case_catches_a_defect() {
    let report = adapter_conformance(&ToyRig::new(None)).await;
    let cases: BTreeSet<&str> = report.cases().map(|(name, _)| name).collect();
    let named: BTreeSet<&str> =
        CAUGHT.iter().flat_map(|(_, cases)| cases.iter().copied()).collect();
    assert_eq!(cases, named, "each has a defect above, which the test of that name tries");
}

/// Half of a case is no case.
#[tokio::test(start_paused = true)]
async fn what_could_be_tried_in_part_only_is_skipped_and_named() {
    let report = adapter_conformance(&ToyRig::without_long_work()).await;
    report.assert_passed();
    for case in [
        "l4_a_dropped_drain_leaves_users_alone",
        "l4_a_close_that_fails_leaves_the_new_one",
        "l4_a_close_that_hangs_ends_after_the_deadline",
    ] {
        assert!(report.skipped().contains(&case), "{report}");
    }
    let report = adapter_conformance(&ToyRig::with_first_exchanges_only()).await;
    report.assert_passed();
    assert_eq!(
        report.skipped(),
        [
            "l1_a_prepare_may_be_cut_off_after_any_exchange",
            "l1_a_prepare_may_hang_after_any_exchange",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_that_the_rig_names_is_searched_for() {
    let rig = ToyRig::with_marks(None, Marks::PartOfItsOwn);
    adapter_conformance(&rig).await.assert_passed();
    let rig = ToyRig::with_marks(Some(Defect::LeaksInDebug), Marks::PartOfItsOwn);
    assert_eq!(adapter_conformance(&rig).await.failed(), ["nothing_printed_shows_a_value"]);
}

#[tokio::test(start_paused = true)]
async fn a_rig_must_give_the_suite_something_to_search_for() {
    let rig = ToyRig::with_marks(None, Marks::Nothing);
    let failed = adapter_conformance(&rig).await.failed();
    assert_eq!(failed, ["nothing_printed_shows_a_value", "nothing_logged_shows_a_value"]);
}
