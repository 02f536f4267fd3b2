//! Frames over QUIC (RFC 9000): one stream for control, and one for each subscription.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use longwire_proto::codec::Encoding;
use longwire_proto::error::{Error, ErrorCode};
use quinn::{
    Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, ServerConfig, TokioRuntime,
    VarInt,
};
use socket2::SockRef;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{self, ConnectionContext};
use crate::sockets::{SocketPlace, Sockets};
use crate::tls::Tls;
use crate::transport::quic::config::Configs;
use crate::transport::quic::handshake::Handshake;
use crate::transport::quic::reset_key::ResetKey;
use crate::transport::quic::sink::QuicSink;
use crate::transport::quic::source::QuicSource;

pub(crate) mod config;
mod handshake;
pub(crate) mod reset_key;
mod sink;
mod source;

/// How long a client that was told goodbye may take to leave by itself, so that it hears it.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Bytes of the reason of a close: more may not fit into a packet.
const REASON_BYTES_MAX: usize = 256;
/// The code of a connection of which nothing more is to be said.
const NOTHING: VarInt = VarInt::from_u32(0);

/// What a connection is closed with.
#[derive(Debug)]
struct Farewell {
    code: VarInt,
    reason: String,
}

impl Farewell {
    fn of(error: &Error) -> Self {
        let mut reason = format!("{}: {}", error.code, error.message);
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Self { code: VarInt::from(error.code.close_code()), reason }
    }
}

/// What every connection on the port shares.
#[derive(Clone)]
pub(crate) struct QuicContext {
    /// The connections.
    pub(crate) connections: Arc<ConnectionContext>,
    /// Places for those that come.
    pub(crate) sockets: Arc<Sockets>,
    /// Those that have not said hello yet.
    pub(crate) handshakes: TaskTracker,
    /// Those that are served.
    pub(crate) served: TaskTracker,
    /// Ends those that are still in their handshake.
    pub(crate) stop: CancellationToken,
}

/// The UDP port.
pub(crate) struct QuicPort {
    endpoint: Endpoint,
    tls: Arc<Tls>,
    idle_timeout: Duration,
    handshake_timeout: Duration,
    /// What is served, and the certificate that it was made of.
    serving: Mutex<(Arc<rustls::ServerConfig>, Configs)>,
}

impl QuicPort {
    /// Takes the port.
    ///
    /// # Errors
    /// What the system says of it.
    pub(crate) fn bind(
        address: SocketAddr,
        tls: Arc<Tls>,
        config: &crate::config::Config,
        key: &ResetKey,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        make_room(&socket);
        let idle_timeout = crate::config::Config::time(config.idle_timeout_ms);
        let certificate = tls.quic();
        let serving = Configs::new(&certificate, idle_timeout)?;
        let runtime = Arc::new(TokioRuntime);
        let mut shared = key.endpoint();
        config::endpoint(&mut shared)?;
        let endpoint =
            Endpoint::new(shared, Some(ServerConfig::clone(serving.of(address.ip()))), socket, runtime)?;
        Ok(Self {
            endpoint,
            tls,
            idle_timeout,
            handshake_timeout: crate::config::Config::time(config.handshake_timeout_ms),
            serving: Mutex::new((certificate, serving)),
        })
    }

    /// Serves who comes, for as long as it is polled.
    pub(crate) async fn accept(&self, context: &QuicContext) {
        while let Some(incoming) = self.endpoint.accept().await {
            if context.sockets.is_crowded() && incoming.may_retry() {
                metrics::counter!("longwire_quic_retries_total").increment(1);
                // It can, as it was just asked.
                drop(incoming.retry());
                continue;
            }
            let place = Arc::new(context.sockets.enter(incoming.remote_address().ip()));
            let serving = match self.serving(incoming.remote_address().ip()) {
                Ok(serving) => serving,
                Err(error) => {
                    tracing::error!(%error, "QUIC cannot use the certificate");
                    incoming.refuse();
                    continue;
                }
            };
            let greeting = greet(incoming, serving, place, context.clone(), self.handshake_timeout);
            context.handshakes.spawn(greeting);
        }
    }

    /// What is served now: certificates are replaced while the port is open.
    fn serving(&self, client: IpAddr) -> io::Result<Arc<ServerConfig>> {
        let certificate = self.tls.quic();
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&serving.0, &certificate) {
            let renewed = Configs::new(&certificate, self.idle_timeout)?;
            *serving = (certificate, renewed);
        }
        Ok(Arc::clone(serving.1.of(client)))
    }

    /// Lets nobody in any more, for as long as it is polled. Who comes is told: to be silent would have it wait.
    pub(crate) async fn refuse(&self) {
        while let Some(incoming) = self.endpoint.accept().await {
            incoming.refuse();
        }
    }

    /// Closes the port, once everybody was told.
    pub(crate) async fn close(&self) {
        self.endpoint.close(NOTHING, &[]);
        self.endpoint.wait_idle().await;
    }
}

/// Asks the system for larger buffers. It gives what its administrator allows; with less there is more that is sent twice.
fn make_room(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let asked = [
        socket.set_recv_buffer_size(config::SOCKET_BUFFER_BYTES),
        socket.set_send_buffer_size(config::SOCKET_BUFFER_BYTES),
    ];
    for error in asked.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "the buffers of the UDP socket stay as they are");
    }
}

/// Makes the handshake, and waits for the control stream. One that comes before the end of the handshake is served meanwhile.
async fn greet(
    incoming: Incoming,
    serving: Arc<ServerConfig>,
    place: Arc<SocketPlace>,
    context: QuicContext,
    within: Duration,
) {
    let due = Instant::now() + within;
    let Ok((connection, handshake)) = begin(incoming, serving) else { return count(false) };
    let early = tokio::select! {
        biased;
        () = place.evicted() => return count(false),
        () = context.stop.cancelled() => return count(false),
        is_finished = timeout_at(due, handshake.over()) => {
            let is_finished = is_finished.unwrap_or(false);
            count(is_finished);
            if !is_finished {
                connection.close_reason().iter().for_each(tell_of_the_end);
                return;
            }
            None
        }
        Ok(control) = connection.accept_bi() => Some(control),
    };
    if let Some(control) = early {
        let served = serve(connection, control, place, context.connections, Some(handshake.clone()));
        context.served.spawn(served);
        return see_through(handshake, due, context.stop).await;
    }
    let mut drain = context.connections.drain.clone();
    let control = tokio::select! {
        control = within_time(within, connection.accept_bi()) => match control {
            Some(control) => Ok(control),
            None => {
                let message = format!("no hello came within {} ms", within.as_millis());
                Err(Error::new(ErrorCode::HandshakeTimeout, message))
            }
        },
        () = place.evicted() => Err(SocketPlace::eviction()),
        _ = drain.wait_for(Option::is_some) => {
            Err(Error::new(ErrorCode::Draining, "the broker is shutting down; connect again"))
        }
    };
    let control = match control {
        Ok(control) => control,
        Err(error) => return bid_farewell(&connection, &error),
    };
    context.served.spawn(serve(connection, control, place, context.connections, None));
}

/// Ends a connection that is served already when its handshake does not end in time.
async fn see_through(handshake: Handshake, due: Instant, stop: CancellationToken) {
    metrics::counter!("longwire_quic_early_total").increment(1);
    let is_finished = tokio::select! {
        is_finished = timeout_at(due, handshake.over()) => is_finished.unwrap_or(false),
        // It is told of the drain, as everybody who is served.
        () = stop.cancelled() => return,
    };
    count(is_finished);
    if !is_finished {
        handshake.connection().close(NOTHING, &[]);
    }
}

fn begin(incoming: Incoming, serving: Arc<ServerConfig>) -> Result<(Connection, Handshake), ConnectionError> {
    let begun = incoming.accept_with(serving).inspect_err(tell_of_the_end)?;
    // Nothing can be said before the handshake is over by whom the broker gave no ticket for that.
    let (connection, over) = begun.into_0rtt().map_err(|_| ConnectionError::LocallyClosed)?;
    Ok((connection.clone(), Handshake::new(connection, over)))
}

/// A handshake that is over.
fn count(is_finished: bool) {
    match is_finished {
        true => metrics::counter!("longwire_quic_handshakes_total").increment(1),
        false => metrics::counter!("longwire_quic_handshakes_failed_total").increment(1),
    }
}

async fn within_time<T>(
    within: Duration,
    future: impl Future<Output = Result<T, ConnectionError>>,
) -> Option<T> {
    timeout(within, future).await.ok()?.inspect_err(tell_of_the_end).ok()
}

fn tell_of_the_end(error: &ConnectionError) {
    tracing::debug!(%error, "a QUIC connection ended before its hello");
}

fn bid_farewell(connection: &Connection, error: &Error) {
    let Farewell { code, reason } = Farewell::of(error);
    connection.close(code, reason.as_bytes());
}

async fn serve(
    connection: Connection,
    (send, receive): (SendStream, RecvStream),
    place: Arc<SocketPlace>,
    context: Arc<ConnectionContext>,
    early: Option<Handshake>,
) {
    let farewell = Arc::new(OnceLock::new());
    let source = QuicSource::new(connection.clone(), receive, Arc::clone(&place), early);
    let sink = QuicSink::new(connection.clone(), send, Arc::clone(&farewell));
    let remote = Some(connection.remote_address());
    tokio::select! {
        _ = connection::serve(context, Encoding::Proto, source, sink, remote) => {}
        () = place.outlived() => {}
    }
    let Some(Farewell { code, reason }) = farewell.get() else { return connection.close(NOTHING, &[]) };
    // A close throws away what the client has not read yet.
    drop(timeout(LINGER_TIME, connection.closed()).await);
    connection.close(*code, reason.as_bytes());
}
