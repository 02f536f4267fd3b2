//! What QUIC is allowed: everything that a peer can lean on is named here, that which is as the stack has it too. What is left
//! out: `rng_seed` and `time_source` are the system's, `preferred_address` is none, the key of Retry tokens is made anew by
//! every life (they last seconds), and of the validation tokens none is ever sent.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::framing::PREFIX_BYTES;
use longwire_proto::limits::HELLO_BYTES_MAX;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    ValidationTokenConfig, VarInt,
};

/// Streams that a client opens: that for control.
const CLIENT_STREAMS_MAX: VarInt = VarInt::from_u32(1);
/// Bytes that a client sends ahead of what the broker has read, once it was let in: enough for a fast upload over a long way.
pub(crate) const RECEIVE_WINDOW_BYTES: u32 = 1 << 20;
/// The same until it was let in.
const HELLO_WINDOW_BYTES: VarInt = VarInt::from_u32((HELLO_BYTES_MAX + PREFIX_BYTES) as u32);
/// Bytes on all streams of a connection that the client has not acknowledged: about what the kernel keeps for a TCP socket.
pub(crate) const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// Bytes of a handshake that came out of order: the largest chain of certificates that a client shows.
const CRYPTO_BUFFER_BYTES: usize = 16 << 10;
/// Handshakes that have come and that nobody has looked at; more are refused.
const INCOMING_MAX: usize = 1024;
/// Bytes that came with each of them.
const INCOMING_BYTES: u64 = 16 << 10;
/// Bytes that came with all of them.
const INCOMING_BYTES_MAX: u64 = 4 << 20;
/// Bytes that the system keeps of what has come to the port, and of what goes: all clients share it, and the packets of a thousand
/// that answer at once are lost where there is no room for them.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How long a client may take to prove its address.
const RETRY_LIFETIME: Duration = Duration::from_secs(15);

/// Of QUIC: RFC 9000. The stack knows drafts of it too, which nobody here has tried.
const VERSION: u32 = 1;

/// What differs by where a client is.
#[derive(Clone, Copy)]
struct Path {
    /// Bytes of a datagram at first.
    mtu: u16,
    /// Bytes up to which larger ones are tried.
    mtu_max: u16,
    /// Whether the system makes many datagrams of what it is given at once.
    is_segmented: bool,
    /// Bytes that may be under way before anything was heard of how much may be.
    window_bytes: u64,
    /// How seldom the client is asked to acknowledge: so many packets, or so long after the first.
    acknowledgements: Option<(VarInt, Duration)>,
}

/// Between two programs of one machine. What a packet costs hardly depends on its length, so one holds what there is to be said. There
/// is no network to be spared: what is under way lies in the buffer of a socket; and none to be tried: the loopback carries 64 KiB,
/// and of what the client takes its first packet tells. Larger datagrams help only together with fewer acknowledgements.
const LOCAL: Path = Path {
    mtu: LOCAL_MTU,
    mtu_max: LOCAL_MTU,
    is_segmented: false,
    window_bytes: 128 << 10,
    acknowledgements: Some((VarInt::from_u32(10), Duration::from_millis(5))),
};
/// What one packet of the loopback holds, headers of UDP and IP included: 64 KiB.
const LOCAL_MTU: u16 = 60_000;
/// Over a network: what fits into Ethernet behind headers of IPv6 with options, and ten packets at first (RFC 9002, section 7.2).
const REMOTE: Path = Path {
    mtu: MTU,
    mtu_max: 1452,
    is_segmented: true,
    window_bytes: 10 * MTU as u64,
    acknowledgements: None,
};
/// Bytes of a datagram that is taken. The buffers that it is received into are as large, 32 of them for each of 64 that the system joins.
const DATAGRAM_BYTES_MAX: u16 = 6500;
/// Between two stateless resets. Only packets with connection ids of the broker's own get one, and it is shorter than they are, so
/// that they are no weapon; and after a kill ten thousand clients hear of it within ten seconds.
const RESET_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes of a datagram that every network carries (RFC 9000, section 14), with which a connection begins.
const MTU: u16 = 1200;
/// How often (RFC 8899); and when again after larger ones were lost.
const MTU_PROBE_INTERVAL: Duration = Duration::from_secs(600);
const MTU_BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(60);
/// Losses as RFC 9002 recommends (sections 6.1, 6.2.2 and 7.6): a packet is lost when one was acknowledged that was sent so many
/// later, or so many round trips; a round trip is taken to last so long until one was seen; after so many probes without an
/// answer sending begins anew.
const PACKET_THRESHOLD: u32 = 3;
const TIME_THRESHOLD: f32 = 9.0 / 8.0;
const INITIAL_RTT: Duration = Duration::from_millis(333);
const PERSISTENT_CONGESTION_THRESHOLD: u32 = 3;

/// What the port as a whole gets, beside its keys.
pub(super) fn endpoint(config: &mut EndpointConfig) -> io::Result<()> {
    config
        .supported_versions(vec![VERSION])
        .min_reset_interval(RESET_INTERVAL)
        // Who sees the packets need not be able to tell that they are QUIC.
        .grease_quic_bit(true)
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .map_err(io::Error::other)?;
    Ok(())
}

/// What every connection gets.
pub(super) struct Configs {
    /// When its client is on the same machine.
    local: Arc<ServerConfig>,
    remote: Arc<ServerConfig>,
}

impl Configs {
    /// Who is idle for longer than that has lost the connection: a broker that is asked nothing sends heartbeats.
    pub(super) fn new(tls: &Arc<rustls::ServerConfig>, idle_timeout: Duration) -> io::Result<Self> {
        let config = |path| config(Arc::clone(tls), idle_timeout, path).map(Arc::new);
        Ok(Self { local: config(LOCAL)?, remote: config(REMOTE)? })
    }

    /// For a client at this address.
    pub(super) fn of(&self, client: IpAddr) -> &Arc<ServerConfig> {
        if client.to_canonical().is_loopback() { &self.local } else { &self.remote }
    }
}

fn acknowledgements((packets, delay): (VarInt, Duration)) -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    // Nothing overtakes anything on the way.
    config
        .ack_eliciting_threshold(packets)
        .max_ack_delay(Some(delay))
        .reordering_threshold(VarInt::from_u32(0));
    config
}

fn config(tls: Arc<rustls::ServerConfig>, idle_timeout: Duration, path: Path) -> io::Result<ServerConfig> {
    let mut transport = TransportConfig::default();
    // More than 2^62 ms is for ever.
    let idle_timeout = IdleTimeout::try_from(idle_timeout).map_err(io::Error::other)?;
    let mut congestion = CubicConfig::default();
    congestion.initial_window(path.window_bytes);
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_PROBE_INTERVAL).upper_bound(path.mtu_max).black_hole_cooldown(MTU_BLACK_HOLE_COOLDOWN);
    transport
        .max_concurrent_bidi_streams(CLIENT_STREAMS_MAX)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(RECEIVE_WINDOW_BYTES.into())
        .receive_window(HELLO_WINDOW_BYTES)
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(true)
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .max_idle_timeout(Some(idle_timeout))
        // Heartbeats are sent as it is; a stack that answers for a client that hangs must not keep its place.
        .keep_alive_interval(None)
        // Nothing is sent in datagrams.
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .initial_mtu(path.mtu)
        .min_mtu(MTU)
        .mtu_discovery_config(Some(mtu))
        // Lengths of records are not hidden; it would cost everybody.
        .pad_to_mtu(false)
        .packet_threshold(PACKET_THRESHOLD)
        .time_threshold(TIME_THRESHOLD)
        .initial_rtt(INITIAL_RTT)
        .persistent_congestion_threshold(PERSISTENT_CONGESTION_THRESHOLD)
        .congestion_controller_factory(Arc::new(congestion))
        .ack_frequency_config(path.acknowledgements.map(acknowledgements))
        // It tells whoever looks on how long a round trip takes, and nobody here asks.
        .allow_spin(false)
        // The stack turns it off where the network card cannot.
        .enable_segmentation_offload(path.is_segmented);
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut no_tokens = ValidationTokenConfig::default();
    // Who changes its address often proves it each time: it costs a round trip, and only in a crowd.
    no_tokens.sent(0);
    config
        .transport_config(Arc::new(transport))
        .validation_token_config(no_tokens)
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX)
        .retry_token_lifetime(RETRY_LIFETIME);
    Ok(config)
}
