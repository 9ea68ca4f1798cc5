//! The suite for adapters: which cases there are.

mod rig;
mod bench;
mod cases;

use std::future::Future;

use bench::Bench;
use cases::{faults, l1, l2, l3, l4, l5, l6, leaks};

pub use rig::{AdapterInUse, AdapterRig, Credential, Habit, LongWork, Manner, Minted, ServerFault};

use crate::report::{Check, Outcome, Report, judged};

/// Tries an adapter on the promises L1 to L6 of a rotation, as far as one adapter can hold them,
/// by driving its hook as the runtime does: a prepare within a time limit, safe from its panics
/// and dropped where the limit ends; a commit; a drain with a deadline.
///
/// Each outcome is printed to stderr as it comes; what is skipped is said with its reason.
///
/// ```no_run
/// # async fn example(rig: impl oneiric_testkit::AdapterRig) {
/// let report = oneiric_testkit::adapter_conformance(&rig).await;
/// report.assert_passed();
/// // What is not tried is named, so that a case that is skipped one day is noticed.
/// assert_eq!(report.skipped(), ["l1_a_malformed_secret_fails_and_is_not_refused"]);
/// # }
/// ```
pub async fn adapter_conformance(rig: &dyn AdapterRig) -> Report {
    let bench = Bench::new(rig);
    let mut report = Report::of(bench.name().await);
    macro_rules! run {
        ($($module:ident::$case:ident),* $(,)?) => {
            $(report.add(stringify!($case), outcome(&bench, $module::$case(&bench)).await);)*
        };
    }
    run!(
        l1::the_id_and_the_secrets_are_constant,
        l1::l1_the_old_one_serves_while_the_next_is_prepared,
        l1::l1_a_next_one_is_proven_before_it_is_committed,
        l1::l1_a_proof_takes_a_fresh_connection,
        l1::l1_a_refused_secret_is_said_so_and_changes_nothing,
        l1::l1_a_malformed_secret_fails_and_is_not_refused,
        l1::l1_no_unit_of_work_fails_over_rotations,
        faults::l1_an_unreachable_server_is_no_refusal,
        faults::l1_a_busy_server_is_no_refusal,
        faults::l1_a_prepare_that_hangs_is_given_up,
        faults::l1_a_prepare_that_is_too_slow_never_serves,
        faults::l1_a_prepare_may_be_dropped_at_each_await,
        faults::l1_a_prepare_may_be_cut_off_after_any_exchange,
        faults::l1_a_prepare_may_hang_after_any_exchange,
        l2::l2_a_commit_serves_at_once,
        l2::l2_reconnects_take_the_new_secret,
        l2::l2_a_next_one_that_is_dropped_leaves_nothing,
        l2::l2_many_that_are_dropped_leave_nothing,
        l2::l2_a_commit_needs_no_runtime,
        l2::l2_a_drop_needs_no_runtime,
        l2::l2_a_refusal_by_one_adapter_leaves_both_as_they_were,
        l3::l3_a_dropped_prepare_makes_room_for_a_newer_one,
        l3::l3_the_first_one_may_be_prepared_again,
        l3::l3_the_same_secret_again_is_harmless,
        l4::l4_a_drain_waits_for_the_last_user,
        l4::l4_a_drain_ends_with_the_last_user,
        l4::l4_users_that_remain_are_cut_off_at_the_deadline,
        l4::l4_a_user_that_holds_on_is_leaked_until_it_ends,
        l4::l4_a_deadline_that_passed_is_a_deadline,
        l4::l4_old_ones_drain_side_by_side,
        l4::l4_a_drain_may_be_dropped_at_each_await,
        l4::l4_a_dropped_drain_leaves_users_alone,
        l4::l4_a_close_that_fails_leaves_the_new_one,
        l4::l4_a_close_that_hangs_ends_after_the_deadline,
        l5::l5_it_goes_on_when_the_server_is_back,
        l5::l5_it_goes_on_after_the_server_hung,
        l5::l5_what_failed_in_an_outage_is_tried_again,
        l5::l5_a_refusal_in_use_is_reported,
        l5::l5_an_outage_is_not_reported_as_a_refusal,
        l6::l6_drained_is_said_when_the_server_sees_no_use,
        l6::l6_what_is_drained_may_be_revoked,
        l6::l6_drained_is_never_said_over_a_user,
        l6::l6_users_that_were_cut_off_are_counted,
        l6::l6_what_was_given_up_is_in_no_report,
        // These two look at what the others left behind.
        leaks::nothing_printed_shows_a_value,
        leaks::nothing_logged_shows_a_value,
    );
    report
}

/// Runs one case and puts the server in order after it.
async fn outcome(bench: &Bench<'_>, case: impl Future<Output = Check>) -> Outcome {
    let outcome = judged(case).await;
    match judged(bench.mended()).await {
        Outcome::Passed => outcome,
        unmended => unmended,
    }
}
