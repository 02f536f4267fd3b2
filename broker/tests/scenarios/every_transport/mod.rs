//! One behaviour: every scenario of this folder runs over every transport, unchanged, over the real binary, with tokens. What
//! is about one transport's own manners is in files of its own, such as `quic.rs` and `bad_input.rs`.
//!
//! A transport is added by a file in `links`, a name in `transport.rs` and one in the macro below; a scenario by a function of
//! a transport and its name at the end of this file.

mod client;
mod links;
mod table;
mod transport;

/// Makes a test of every scenario and transport.
macro_rules! every_transport {
    ($($module:ident: [$($scenario:ident,)*];)*) => {
        $(mod $module;)*
        every_transport!(@ ws_proto WsProto $($module [$($scenario)*])*);
        every_transport!(@ ws_json WsJson $($module [$($scenario)*])*);
        every_transport!(@ wss_proto WssProto $($module [$($scenario)*])*);
        every_transport!(@ wss_json WssJson $($module [$($scenario)*])*);
        every_transport!(@ quic Quic $($module [$($scenario)*])*);
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
    ];
}
