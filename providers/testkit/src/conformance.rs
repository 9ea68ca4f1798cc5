//! The suite for providers: which cases there are.

use std::future::Future;

use crate::bench::Bench;
use crate::cases::{changes, faults, leaks, push, reads, sets, versions, writes};
use crate::report::{Check, Outcome, Report, judged};
use crate::rig::Rig;

/// Tries a provider on everything that its contract and its declared capabilities promise.
///
/// Each outcome is printed to stderr as it comes; what is skipped is said with its reason.
///
/// ```no_run
/// # async fn example(rig: impl oneiric_testkit::Rig) {
/// oneiric_testkit::conformance(&rig).await.assert_passed();
/// # }
/// ```
pub async fn conformance(rig: &dyn Rig) -> Report {
    let bench = Bench::new(rig);
    let mut report = Report::of(bench.provider.descriptor().kind);
    macro_rules! run {
        ($($module:ident::$case:ident),* $(,)?) => {
            $(report.add(stringify!($case), outcome(&bench, $module::$case(&bench)).await);)*
        };
    }
    run!(
        reads::the_descriptor_is_constant,
        reads::a_value_is_served_as_it_was_set,
        reads::a_missing_secret_is_not_found,
        reads::a_removed_secret_is_not_found,
        reads::an_empty_value_is_refused,
        reads::unicode_is_kept,
        reads::bytes_that_are_no_text_are_kept_or_refused,
        reads::the_largest_value_is_served_and_no_larger_one,
        reads::keys_are_listed_sorted,
        reads::a_hostile_key_gets_an_error,
        changes::a_version_changes_with_the_value_alone,
        changes::a_stamp_changes_with_the_value_alone,
        changes::what_is_known_is_not_sent_again,
        versions::an_exact_version_is_served_or_refused,
        versions::the_versions_of_a_secret_are_listed_newest_first,
        versions::a_disabled_current_version_is_said_so,
        versions::an_older_value_never_bears_a_newer_version,
        push::a_change_is_announced,
        push::a_lost_push_is_found_by_a_look,
        push::a_doubled_push_is_a_hint_alone,
        push::a_reordered_push_is_a_hint_alone,
        sets::answers_stand_in_order_and_for_themselves,
        sets::many_may_ask_at_once,
        sets::a_read_may_be_dropped_at_any_await,
        sets::a_value_is_never_half_old_and_half_new,
        sets::a_set_is_of_one_moment,
        faults::a_deadline_that_passed_is_said_so,
        faults::an_outage_is_no_absence_and_passes,
        faults::a_denial_is_said_so_and_passes,
        faults::an_unknown_identity_is_said_so_and_passes,
        faults::a_throttle_is_said_with_the_time_to_wait,
        faults::a_throttle_without_a_time_is_said_so,
        faults::a_slow_answer_ends_at_the_deadline,
        faults::a_hanging_store_ends_at_the_deadline,
        faults::a_slow_read_may_be_dropped_at_any_await,
        writes::a_token_makes_one_version,
        writes::a_value_over_the_limit_is_not_written,
        writes::a_new_version_waits_to_be_promoted,
        writes::a_promotion_compares_before_it_swaps,
        writes::of_two_promotions_one_is_a_conflict,
        writes::a_disabled_version_is_refused_until_it_is_enabled,
        writes::a_destroyed_version_is_gone_for_good,
        writes::a_write_to_nothing_is_not_found,
        writes::a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write,
        writes::a_write_may_be_dropped_at_any_await,
        // These two look at what the others left behind.
        leaks::nothing_printed_shows_a_value,
        leaks::nothing_logged_shows_a_value,
    );
    bench.clean_up().await;
    report
}

/// Runs one case and puts the store in order after it.
async fn outcome(bench: &Bench<'_>, case: impl Future<Output = Check>) -> Outcome {
    let outcome = judged(case).await;
    match judged(bench.mend()).await {
        Outcome::Passed => outcome,
        unmended => unmended,
    }
}
