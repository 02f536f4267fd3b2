//! What the broker can use of memory, from its limits. `docs/operations.md` has the same table, and a test keeps them equal;
//! another one measures.

use longwire_proto::limits::{
    DELIVERY_BYTES_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX, PATTERNS_MAX, RECORD_BYTES_MAX,
    SESSION_ID_BYTES_MAX,
};

use crate::config::Config;
use crate::hub::SESSIONS_LIVE_MAX;
use crate::seeker::{GIVEN_MAX, PAGE};
use crate::server::{HTTP2_STREAMS_MAX, HTTP2_WINDOW_BYTES};
use crate::store::local::quota::{CONTROL_UNSETTLED_BYTES_MAX, UNSETTLED_BYTES_MAX};
use crate::store::local::shared::{CACHE_BYTES, READERS_MAX};
use crate::store::local::state::RESIDENT_LOGS_MAX;
use crate::store::local::writer::GROUP_BYTES_MAX;
use crate::tail::TAILS_BYTES_MAX;
use crate::transport::grpc::caller::STRANGE_CALLS_MAX;
use crate::transport::lanes::LANES_BYTES_MAX;
use crate::transport::memory::PIPE_BYTES_MAX;
use crate::transport::quic::config::{RECEIVE_WINDOW_BYTES, SEND_WINDOW_BYTES};
use crate::worker_groups::groups::GROUPS_MAX;
use crate::worker_groups::wakes::{GIVEN_UP_MAX, WAKES_MAX};

/// A broker that does nothing: code, threads, tables.
pub const BASE_BYTES: usize = 32 << 20;
/// A connection that is read, or has nothing to read: its task, its queue of answers, its buffers; on QUIC, which takes the most,
/// what the stack keeps of it.
pub const CONNECTION_BYTES: usize = 64 << 10;
/// What waits for a client that does not read: what was gathered (64 KiB), the deliveries until the flush (256 KiB), one more
/// that does not fit, and as much again because buffers grow by doubling. A call of gRPC has less: what its pipe holds, the piece
/// that is being sent, and the one behind it.
pub const STALLED_BYTES: usize = 2 * ((64 << 10) + (256 << 10) + DELIVERY_BYTES_MAX);
const _: () = assert!(STALLED_BYTES >= PIPE_BYTES_MAX + 3 * DELIVERY_BYTES_MAX);
/// What waits for a client on QUIC that does not read: what its lanes hold, and the record that came last; what the stack has sent,
/// and what it has received.
pub const QUIC_STALLED_BYTES: usize =
    LANES_BYTES_MAX + RECORD_BYTES_MAX + SEND_WINDOW_BYTES as usize + RECEIVE_WINDOW_BYTES as usize;
/// A stream of HTTP/2 on which nothing is answered yet.
pub const STREAM_BYTES: usize = 2 << 10;
/// A call of a stranger: its task and its hello, or what reflection has to tell, as it is encoded and as it is sent.
pub const STRANGE_CALL_BYTES: usize = 48 << 10;
/// A socket without a hello: its task, its HTTP buffers, its streams, what may come on them before somebody reads it, and the calls
/// that strangers may have. A WebSocket has less: twice what may come until the hello.
pub const WAITING_BYTES: usize = CONNECTION_BYTES
    + HTTP2_WINDOW_BYTES as usize
    + HTTP2_STREAMS_MAX as usize * STREAM_BYTES
    + STRANGE_CALLS_MAX * STRANGE_CALL_BYTES;
const _: () = assert!(WAITING_BYTES >= CONNECTION_BYTES + 2 * HELLO_BYTES_MAX);
/// A subscription: its place, its cursor, its stream.
pub const SUBSCRIPTION_BYTES: usize = 2 << 10;
/// A session's name, and its place in some table or other.
const NAMED_BYTES: usize = SESSION_ID_BYTES_MAX + 64;
/// The claims of patterns of a connection, and those that it was answered: what each is to look at, and what it has given.
pub const CLAIMS_BYTES: usize = 2 * PATTERNS_MAX * (PAGE + 2 * GIVEN_MAX) * NAMED_BYTES;
/// A worker group: its wakes, in three tables, and those that were given up.
pub const GROUP_BYTES: usize = WAKES_MAX * (NAMED_BYTES + 192) + GIVEN_UP_MAX * 64;
/// A live session that is idle.
pub const SESSION_BYTES: usize = 16 << 10;
/// What the store keeps of a log that was in use a while ago.
pub const LOG_BYTES: usize = 1 << 10;
/// A request is there as its frame, as the sealed records, and as the group that is written.
pub const REQUEST_COPIES: usize = 3;
/// A tail is there once for each encoding; in JSON bytes that are no text are a third longer.
pub const TAIL_COPIES: usize = 3;

/// What the store uses, whatever is asked of it: redb's cache, what is not settled, once as it came and once as it is settled,
/// the groups under way, and the readers.
#[must_use]
pub fn store_bytes() -> usize {
    let unsettled = UNSETTLED_BYTES_MAX + CONTROL_UNSETTLED_BYTES_MAX;
    CACHE_BYTES + 2 * unsettled + 2 * GROUP_BYTES_MAX + READERS_MAX * 4 * DELIVERY_BYTES_MAX
}

/// A part of the formula.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How many there can be.
    pub count: usize,
    /// What each takes, in bytes.
    pub bytes: usize,
}

/// The formula: the sum of these is what the broker can use.
#[must_use]
pub fn parts(config: &Config) -> Vec<Part> {
    let part = |name, count, bytes| Part { name, count, bytes };
    let held = |limit: Option<std::num::NonZeroU64>| {
        limit.map_or(usize::MAX, |limit| usize::try_from(limit.get()).unwrap_or(usize::MAX))
    };
    let broker = &config.limits.broker;
    vec![
        part("base", 1, BASE_BYTES),
        part("store", 1, store_bytes()),
        part("logs", RESIDENT_LOGS_MAX, LOG_BYTES),
        part("tails", TAIL_COPIES, TAILS_BYTES_MAX),
        part("live sessions", SESSIONS_LIVE_MAX, SESSION_BYTES),
        part("sockets without a hello", config.unauthenticated_max, WAITING_BYTES),
        part("connections", config.connections_max, CONNECTION_BYTES),
        part("clients that do not read", config.connections_max, STALLED_BYTES),
        part("clients on QUIC that do not read", config.connections_max, QUIC_STALLED_BYTES),
        part("frames that are being received", config.connections_max, FRAME_BYTES_MAX),
        part("subscriptions", held(broker.subscriptions), SUBSCRIPTION_BYTES),
        part("claims of patterns", config.connections_max, CLAIMS_BYTES),
        part("worker groups", GROUPS_MAX, GROUP_BYTES),
        part("requests", REQUEST_COPIES, held(broker.request_bytes)),
    ]
}
