//! One behaviour: every scenario of this folder runs over every transport, unchanged, over the real binary, with tokens. What
//! is about one transport's own manners is in files of its own, such as `quic.rs` and `bad_input.rs`.
//!
//! A transport is added by a file in `links`, a name in `transport.rs` and one in the macro below; a scenario by a function of
//! a transport and its name at the end of this file.

mod client;
mod links;
mod table;
mod transport;
mod within;

/// Makes a test of every scenario and transport.
macro_rules! every_transport {
    ($($module:ident: [$($scenario:ident,)*];)*) => {
        $(mod $module;)*
        every_transport!(@ ws_proto WsProto $($module [$($scenario)*])*);
        every_transport!(@ ws_json WsJson $($module [$($scenario)*])*);
        every_transport!(@ wss_proto WssProto $($module [$($scenario)*])*);
        every_transport!(@ wss_json WssJson $($module [$($scenario)*])*);
        every_transport!(@ quic Quic $($module [$($scenario)*])*);
        every_transport!(@ grpc Grpc $($module [$($scenario)*])*);
        every_transport!(@ grpcs Grpcs $($module [$($scenario)*])*);
        every_transport!(@ memory Memory $($module [$($scenario)*])*);
    };
    (@ $name:ident $transport:ident $($module:ident [$($scenario:ident)*])*) => {
        mod $name {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    use $crate::every_transport::{$module, table, transport::Transport};
                    let (name, scenario) = (stringify!($name), stringify!($scenario));
                    table::run(name, Transport::$transport, scenario, $module::$scenario).await;
                }
            )*)*
        }
    };
}

every_transport! {
    hello: [
        who_is_let_in_is_told_the_limits_and_times,
        who_is_not_let_in_is_told_why,
        a_second_hello_ends_the_connection,
        a_hello_that_is_late_is_too_late,
        frames_may_follow_the_hello_at_once,
    ];
    frames: [
        what_is_no_frame_ends_the_connection,
        a_frame_that_is_too_large_ends_the_connection,
    ];
    publishing: [
        a_producer_is_answered_the_same_however_often_it_repeats,
        a_batch_is_taken_as_a_whole_or_not_at_all,
        what_one_connection_publishes_to_a_session_keeps_its_order,
        what_is_in_a_record_arrives_as_it_was_sent,
    ];
    asking: [
        an_ask_has_one_answer_of_somebody_who_is_asked,
        what_nobody_answers_expires_and_what_is_not_asked_is_cancelled,
        a_form_is_filled_in_as_it_asks,
        a_run_ends_with_all_that_is_a_part_of_it,
        a_message_grows_until_it_is_closed,
    ];
    leasing: [
        an_agent_has_one_holder_and_the_next_one_finds_what_it_left,
        whoever_is_heard_keeps_a_lease_and_whoever_is_silent_loses_it,
        an_input_is_done_by_one_live_holder,
        a_run_that_does_not_end_when_it_is_cancelled_is_ended_with_the_lease,
        what_is_wrong_about_leases_is_refused,
    ];
    keeping: [
        a_state_has_what_was_set_last_and_a_condition_is_one,
        a_state_outlives_what_set_it_unless_that_is_erased,
        what_is_wrong_about_the_state_is_refused,
    ];
    seeking: [
        the_claim_of_a_pattern_finds_each_session_that_calls_once,
        claims_of_patterns_wait_beside_each_other_and_are_bounded,
        what_is_wrong_about_claims_of_patterns_is_refused,
    ];
    grouping: [
        a_worker_group_is_made_told_removed_and_never_shows_its_secret,
        what_is_no_worker_group_is_refused,
    ];
    subscribing: [
        reading_begins_where_it_was_asked_to,
        what_became_of_a_place_is_told,
        a_session_can_be_waited_for,
        many_subscriptions_share_a_connection,
        a_number_is_registered_again_and_given_up,
        a_window_holds_deliveries_back_until_there_is_credit,
        a_filter_covers_every_offset,
        catching_up_becomes_live_without_a_gap,
    ];
    folding: [
        deltas_come_folded_to_who_asks_for_it,
        deltas_are_gathered_until_the_time_has_come_or_something_else_has,
        bytes_of_a_message_are_read_at_any_place,
    ];
    sessions: [
        a_session_is_created_described_listed_closed_and_deleted,
        pages_are_read_both_ways,
        a_log_is_trimmed_erased_forked_and_imported,
        cursors_go_forwards_only,
    ];
    limits: [
        what_is_wrong_is_refused_with_the_same_words,
        a_connection_has_so_many_subscriptions,
        a_principal_has_so_much_and_is_told_when_to_come_back,
        more_than_may_wait_for_an_answer_is_refused,
    ];
    tokens: [
        a_newer_token_takes_over_and_an_old_one_ends_deliveries,
        a_newer_token_makes_nobody_more,
        a_narrower_token_ends_what_it_does_not_allow,
        a_revoked_token_ends_its_connections_and_opens_no_other,
        a_share_is_for_one_session,
    ];
    life: [
        heartbeats_tell_the_ends_that_changed,
        who_sends_nothing_is_sent_away,
        a_drain_answers_what_was_asked_and_tells_everybody,
        who_comes_during_a_drain_is_sent_elsewhere,
    ];
    abrupt: [
        who_is_gone_in_any_state_leaves_nothing_behind,
        who_is_gone_while_the_broker_drains_does_not_keep_it,
        who_does_not_read_slows_nobody,
    ];
    kills: [kills_under_load_lose_and_repeat_nothing,];
    random: [random_commands_come_to_the_same,];
}
