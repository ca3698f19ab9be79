//! Conformance suite for storage engines. The tests of each engine run it.
//!
//! [`run`] takes a function that creates an empty store. It panics at the first failure and names the case. It uses
//! only the trait, on a tokio runtime with more than one thread. The stores require tags of rows, so each read verifies
//! that the writes before it wrote the right ones.

mod changes;
mod concurrency;
mod facts;
pub mod fixtures;
mod lists;
pub mod portable;
mod sample_tags;
mod wrapped_keys;

use std::future::Future;
use std::sync::Arc;

use crate::Store;
use sample_tags::SampleTags;

/// An empty store that requires tags of rows.
async fn tagged(fresh: impl Future<Output = Arc<dyn Store>>) -> Arc<dyn Store> {
    let store = fresh.await;
    store.attach_tags(Arc::new(SampleTags));
    store
}

/// Runs every case, each on a new store from `fresh`.
///
/// # Panics
/// When the engine breaks a promise.
pub async fn run<F, Made>(fresh: F)
where
    F: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    macro_rules! cases {
        ($($module:ident::$case:ident),* $(,)?) => {
            $($module::$case(tagged(fresh()).await).await;)*
        };
    }
    cases![
        changes::a_new_secret_has_version_one,
        changes::a_new_secret_needs_a_value,
        changes::a_change_of_nothing_keeps_everything,
        changes::what_is_given_is_replaced_and_the_rest_kept,
        changes::a_new_value_destroys_the_one_it_replaces,
        changes::a_rotation_keeps_the_replaced_value_for_a_while,
        changes::readable_versions_come_in_pages_the_newest_first,
        changes::a_rotation_without_grace_destroys_at_once,
        changes::expected_versions_are_compared_exactly,
        changes::a_failed_seal_changes_nothing,
        changes::the_sealer_gets_the_slot,
        changes::deletion_leaves_nothing_and_frees_the_place,
        changes::places_do_not_touch_each_other,
        changes::due_versions_are_retired_and_the_next_is_named,
        changes::a_clock_that_steps_back_breaks_nothing,
        changes::large_and_odd_contents_come_back_as_they_were,
        lists::filters_by_status,
        lists::pages_follow_one_another,
        lists::scopes_are_merged,
        lists::prefixes_and_tags_filter,
        lists::limits_and_cursors_at_the_edge,
        lists::bounded_pages_show_every_row_once,
        facts::keys_are_kept_and_revoked,
        facts::one_key_at_most_is_the_first,
        facts::kek_checks_are_kept,
        facts::the_first_internal_key_stays,
        facts::the_audit_head_is_the_last_one,
        facts::the_store_can_be_written,
        wrapped_keys::wrapped_keys_are_walked_and_swapped,
        wrapped_keys::a_key_that_changed_is_not_swapped,
        wrapped_keys::the_services_own_keys_are_swapped_and_a_kek_in_use_is_not_retired,
        concurrency::rotations_of_one_secret_count_up,
        concurrency::one_of_many_creators_wins,
        concurrency::a_walk_misses_and_repeats_nothing_under_writes,
        concurrency::deletion_and_creation_race_cleanly,
        concurrency::reads_see_acknowledged_writes,
    ];
}

/// Runs the cases of export and import.
///
/// # Panics
/// When the engine breaks a promise.
pub async fn run_portable<F, Made>(fresh: F)
where
    F: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    portable::an_export_has_one_order_and_can_be_imported(tagged(fresh()).await, tagged(fresh()).await).await;
    portable::only_an_empty_store_is_filled_and_only_from_one_source(
        tagged(fresh()).await,
        tagged(fresh()).await,
    )
    .await;
    portable::what_is_taken_out_is_of_one_moment(tagged(fresh()).await).await;
}
