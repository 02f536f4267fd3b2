//! What QUIC is allowed: everything that a peer can make the broker keep is named here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::framing::PREFIX_BYTES;
use longwire_proto::limits::HELLO_BYTES_MAX;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{IdleTimeout, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt};

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

/// What every connection gets. Who is idle longer than that has lost it: a broker that is asked nothing sends heartbeats.
pub(super) fn config(tls: Arc<rustls::ServerConfig>, idle_timeout: Duration) -> io::Result<ServerConfig> {
    let mut transport = TransportConfig::default();
    // More than 2^62 ms is for ever.
    let idle_timeout = IdleTimeout::try_from(idle_timeout).map_err(io::Error::other)?;
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
        .datagram_send_buffer_size(0);
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
