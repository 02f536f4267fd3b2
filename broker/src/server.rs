//! The server: the port, the life of the broker from its start to the end of its drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::ageing::Ageing;
use crate::audit::{Audit, AuditError};
use crate::auth::guard::{Guard, GuardError};
use crate::auth::jwks::{JwksRefresh, Published};
use crate::auth::key_file::KeyFile;
use crate::auth::signing_keys::{SigningKeys, SigningKeysError};
use crate::backup::Expiry;
use crate::clock::Clock;
use crate::config::Config;
use crate::connection::{ConnectionContext, ConnectionTimes};
use crate::http::router;
use crate::http_context::{HttpContext, Remote};
use crate::hub::Hub;
use crate::issuers::{Issuers, IssuersError};
use crate::kept_secret::NoRandom;
use crate::key_watch::KeyWatch;
use crate::late_recorder::MetricsText;
use crate::origin::Origins;
use crate::page_token::PageTokens;
use crate::patience::Requests;
use crate::quota::Quotas;
use crate::scheduler::{Scheduler, last_known_ms, write_clock};
use crate::scrub::Scrub;
use crate::sockets::{SocketPlace, Sockets};
use crate::store::{Store, StoreError};
use crate::tls::Tls;
use crate::tls::error::TlsError;
use crate::transport::grpc::caller::Caller;
use crate::transport::grpc::system::Serving;
use crate::transport::memory::MemoryPort;
use crate::transport::quic::reset_key::ResetKey;
use crate::transport::quic::{QuicContext, QuicPort};
use crate::worker_groups::dispatcher::Dispatcher;
use crate::worker_groups::groups::Groups;
use crate::worker_groups::webhook::Webhooks;

/// The file of the broker's own keys, in the data folder.
pub const SIGNING_KEYS_FILE: &str = "signing-keys.json";
/// How long a peer may take over the headers of a request, and until its first one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an HTTP connection is kept for the next request: longer than most scrapers of metrics wait.
const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection that is over may take to hear so, and what is left to be said: as long as a goodbye.
const GRACE: Duration = Duration::from_secs(1);
/// Header lines of one HTTP/1 request.
const HTTP1_HEADERS_MAX: usize = 64;
/// Streams of one HTTP/2 connection: calls that one agent has under way. More wait on its side.
pub(crate) const HTTP2_STREAMS_MAX: u32 = 64;
/// Bytes of the headers of one HTTP/2 request.
const HTTP2_HEADER_BYTES_MAX: u32 = 16 << 10;
/// Streams that a peer opened and reset before anybody looked at them; more end the connection (rapid reset,
/// CVE-2023-44487).
const HTTP2_PENDING_RESETS_MAX: usize = 20;
/// Streams that had to be reset because of what the peer did; more end the connection (CVE-2025-8671).
const HTTP2_LOCAL_RESETS_MAX: usize = 64;
/// Bytes that a peer may send on one stream, and on all together, before somebody reads them: what a stranger can make the broker
/// keep, as it is the same before a hello and after it. An agent that publishes at a distance of 50 ms sends 2.6 MB/s through it.
pub(crate) const HTTP2_WINDOW_BYTES: u32 = 128 << 10;
/// Bytes of one frame of HTTP/2 that is received: the least that every peer may send.
const HTTP2_FRAME_BYTES_MAX: u32 = 16 << 10;
/// Bytes of answers that wait on one stream for a peer that does not read, beside the piece that is being sent.
const HTTP2_SEND_BYTES_MAX: usize = 64 << 10;
/// How often a silent HTTP/2 peer is asked whether it is there.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long its answer may take.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that HTTP/1 reads ahead, headers included.
const HTTP1_BUFFER_BYTES_MAX: usize = 16 << 10;
/// Ports that are tried when any will do, until one is free for TCP and for UDP.
const FREE_PORT_TRIES: usize = 16;
/// How long accepting rests after it failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({protocol}): {source}{}", hint(source))]
    Listen {
        /// TCP, or UDP for QUIC.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The signing keys.
    #[error(transparent)]
    SigningKeys(#[from] SigningKeysError),
    /// Who is let in.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Whose tokens are accepted besides the broker's own.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// No key can be made.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// The store cannot be read.
    #[error("the store cannot be read: {0}; `longwire store check` tells more")]
    Store(StoreError),
    /// The port cannot speak TLS as it is told to.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program uses this port: stop it, or choose another port with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose another port with --listen"
        }
        _ => "",
    }
}

struct Chores {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A broker that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    quic: Option<QuicPort>,
    config: Config,
    hub: Arc<Hub>,
    http: Arc<HttpContext>,
    tls: Option<Arc<Tls>>,
    drain: watch::Sender<Option<Duration>>,
    ageing: Ageing,
    key_files: Vec<(String, KeyFile)>,
    published: Vec<Published>,
}

/// Takes the TCP port, and the UDP port of the same number for QUIC.
async fn listen(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    store: &dyn Store,
) -> Result<(TcpListener, SocketAddr, Option<QuicPort>), ServeError> {
    let refuse = |protocol, source| ServeError::Listen { protocol, address: config.listen, source };
    let tries = if config.listen.port() == 0 { FREE_PORT_TRIES } else { 1 };
    let mut tried = 0;
    loop {
        let listener = TcpListener::bind(config.listen).await.map_err(|error| refuse("TCP", error))?;
        let address = listener.local_addr().map_err(|error| refuse("TCP", error))?;
        let Some(tls) = tls.filter(|_| config.quic) else { return Ok((listener, address, None)) };
        tried += 1;
        let key = ResetKey::open(store).await?;
        match QuicPort::bind(address, Arc::clone(tls), config, &key) {
            Ok(quic) => return Ok((listener, address, Some(quic))),
            // Somebody else has the UDP port of this number.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tried < tries => {}
            Err(error) => return Err(refuse("UDP, for QUIC; `quic = false` turns it off", error)),
        }
    }
}

async fn signing_keys(path: PathBuf) -> Result<SigningKeys, ServeError> {
    let found = path.clone();
    let keys = tokio::task::spawn_blocking(move || SigningKeys::load_or_make(&found)).await;
    Ok(keys.map_err(|error| SigningKeysError::File { path, error: io::Error::other(error) })??)
}

async fn ageing(store: &dyn Store, clock: Clock, trust: bool) -> Result<Ageing, ServeError> {
    if trust {
        write_clock(store, clock).await;
        return Ok(Ageing::default());
    }
    let known_ms = match last_known_ms(store).await {
        Ok(known_ms) => known_ms,
        // One value must not keep every session from being served.
        Err(StoreError::Corrupt { what, .. }) => {
            tracing::error!(
                what,
                "what the store knew of the time is damaged: nothing expires by age for the next 24 hours; if the clock \
                 is right, start with `--trust-clock`"
            );
            return Ok(Ageing::suspended());
        }
        Err(error) => return Err(ServeError::Store(error)),
    };
    let ageing = Ageing::after(known_ms, clock.now_ms());
    if ageing.is_suspended() {
        tracing::warn!(
            known_ms,
            now_ms = clock.now_ms(),
            "the clock is more than a day from where it was: nothing expires by age for the next 24 hours; if it is \
            right, start with `--trust-clock`"
        );
    } else {
        // Before anything is served: a broker that is killed at once must not leave records without a clock to compare.
        write_clock(store, clock).await;
    }
    Ok(ageing)
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        config: Config,
        store: Arc<dyn Store>,
        metrics: MetricsText,
    ) -> Result<Self, ServeError> {
        // Before the port is there: nobody shall be accepted who cannot be served.
        let tls =
            Tls::open(&config.tls, &config.data, Config::time(config.handshake_timeout_ms))?.map(Arc::new);
        let (listener, address, quic) = listen(&config, tls.as_ref(), &*store).await?;
        let clock = Clock::start();
        // Together, because each of them waits for the disk when the folder is new.
        let page_tokens = async { Ok(PageTokens::open(&*store).await?) };
        let (signing, ageing, page_tokens) = tokio::try_join!(
            signing_keys(config.data.join(SIGNING_KEYS_FILE)),
            ageing(&*store, clock, config.trust_clock),
            page_tokens,
        )?;
        let issuers = Issuers::load(&config.issuers)?;
        let guard = Guard::open(Arc::clone(&store), clock, signing, issuers.issuers, !config.auth).await?;
        issuers.keys.into_iter().for_each(|(name, keys)| guard.put_keys(&name, keys));
        let audit =
            config.audit.file(&config.data).map_or_else(|| Ok(Audit::off()), |path| Audit::open(&path))?;
        let hub = Hub::new(store, clock, ageing, Config::time(config.session_idle_ms));
        let (drain, draining) = watch::channel(None);
        let times = ConnectionTimes {
            handshake_timeout: Config::time(config.handshake_timeout_ms),
            heartbeat: Config::time(config.heartbeat_ms),
            idle_timeout: Config::time(config.idle_timeout_ms),
        };
        let connections = Arc::new(ConnectionContext {
            hub: Arc::clone(&hub),
            guard: Arc::new(guard),
            audit,
            page_tokens: Arc::new(page_tokens),
            quotas: Quotas::new(config.limits.clone()),
            clock,
            times,
            backups: config.backups.clone(),
            groups: Groups::new(Arc::clone(&hub), Webhooks::new(config.webhook_hosts.clone())),
            drain: draining,
            connections: AtomicU64::new(0),
        });
        let hosts = config.hosts.clone();
        let (key_files, published) = (issuers.files, issuers.published);
        let origins = Origins { listed: config.origins.clone(), tls: tls.is_some() };
        let serving = Serving::default();
        serving.begin().await;
        let upgraded = TaskTracker::new();
        let http = Arc::new(HttpContext { connections, metrics, hosts, origins, upgraded, serving });
        Ok(Self { listener, address, quic, config, hub, http, tls, drain, ageing, key_files, published })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port's TLS; `None` when it speaks plain text.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Whether QUIC is spoken too.
    #[must_use]
    pub fn has_quic(&self) -> bool {
        self.quic.is_some()
    }

    /// Where clients within this process come in, from the start of [`Server::run`] to the end of its drain.
    #[must_use]
    pub fn memory_port(&self) -> MemoryPort {
        MemoryPort { connections: Arc::clone(&self.http.connections), served: self.http.upgraded.clone() }
    }

    /// Serves until `shutdown` resolves, then drains: stops accepting, answers what was asked, tells every client when to
    /// come back, settles the store, all within the configured time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let requests = TaskTracker::new();
        let chores = self.start_chores();
        tokio::select! {
            () = self.accept(&stop, &requests) => {}
            () = shutdown => {}
        }
        tracing::info!("draining");
        let due = Instant::now() + Config::time(self.config.drain_timeout_ms);
        drop(self.listener);
        chores.stop.cancel();
        self.http.serving.end().await;
        self.drain.send_replace(Some(Config::time(self.config.reconnect_after_ms)));
        self.http.upgraded.close();
        let told = async {
            let whole = timeout_at(due, self.http.upgraded.wait()).await.is_ok();
            stop.cancel();
            requests.close();
            // Whoever was told something hears it; who does not listen was waited for.
            drop(timeout_at(due, requests.wait()).await);
            whole
        };
        let refusing = async {
            if let Some(quic) = &self.quic {
                quic.refuse().await;
            }
            std::future::pending().await
        };
        let mut whole = tokio::select! {
            whole = told => whole,
            whole = refusing => whole,
        };
        if let Some(quic) = &self.quic {
            whole &= timeout_at(due, quic.close()).await.is_ok();
        }
        let store = Arc::clone(self.hub.store());
        whole &= timeout_at(due, chores.tasks.wait()).await.is_ok();
        whole &= timeout_at(due, self.hub.drain()).await.is_ok();
        whole &= timeout_at(due, self.http.connections.audit.close()).await.is_ok();
        match timeout_at(due, store.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store settles the rest at the next start"),
            Err(_) => whole = false,
        }
        if !whole {
            tracing::warn!(
                "the drain took too long; clients go on after the next start, and nothing acknowledged is lost"
            );
        }
    }

    /// Starts what the broker does by itself: waking sessions whose deadline has come, and agents, looking after keys and certificates,
    /// forgetting who is idle, the scrub, and removing old backups.
    fn start_chores(&self) -> Chores {
        let chores = Chores { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let clock = self.http.connections.clock;
        let scheduler = Scheduler { hub: Arc::clone(&self.hub), clock, ageing: self.ageing };
        chores.tasks.spawn(scheduler.run(chores.stop.clone()));
        let dispatcher = Dispatcher::new(Arc::clone(&self.http.connections.groups), clock);
        chores.tasks.spawn(dispatcher.run(chores.stop.clone()));
        let (guard, signing) = (&self.http.connections.guard, self.config.data.join(SIGNING_KEYS_FILE));
        let watch = KeyWatch::new(Arc::clone(guard), signing, self.key_files.clone());
        chores.tasks.spawn(watch.run(chores.stop.clone()));
        chores.tasks.spawn(Arc::clone(&self.http.connections.quotas).keep(chores.stop.clone()));
        if !self.published.is_empty() {
            let refresh = JwksRefresh::new(Arc::clone(guard), self.published.clone());
            chores.tasks.spawn(refresh.run(chores.stop.clone()));
        }
        if self.config.scrub_bytes_per_second > 0 {
            let store = Arc::clone(self.hub.store());
            let scrub = Scrub { store, bytes_per_second: self.config.scrub_bytes_per_second };
            chores.tasks.spawn(scrub.run(chores.stop.clone()));
        }
        if let (Some(backups), Some(keep_ms)) = (self.config.backups.clone(), self.config.backups_keep_ms) {
            let expiry = Expiry { backups, keep: Config::time(keep_ms), clock, ageing: self.ageing };
            chores.tasks.spawn(expiry.run(chores.stop.clone()));
        }
        if let Some(tls) = &self.tls {
            chores.tasks.spawn(Arc::clone(tls).keep(chores.stop.clone()));
        }
        chores.tasks.close();
        chores
    }

    async fn accept(&self, stop: &CancellationToken, requests: &TaskTracker) {
        let Config { connections_max, admissions_per_second, unauthenticated_max, .. } = self.config;
        let sockets = Sockets::new(connections_max, admissions_per_second, unauthenticated_max);
        let context = QuicContext {
            connections: Arc::clone(&self.http.connections),
            sockets: Arc::clone(&sockets),
            handshakes: requests.clone(),
            served: self.http.upgraded.clone(),
            stop: stop.clone(),
        };
        let quic = async {
            if let Some(quic) = &self.quic {
                quic.accept(&context).await;
            }
        };
        tokio::join!(quic, self.accept_tcp(&sockets, stop, requests));
    }

    async fn accept_tcp(&self, sockets: &Arc<Sockets>, stop: &CancellationToken, requests: &TaskTracker) {
        let router = router(Arc::clone(&self.http));
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let place = Arc::new(sockets.enter(from.ip()));
                    let peer = Peer { stream, remote: Remote(from), place };
                    requests.spawn(serve(peer, self.tls.clone(), router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    // Where files ran out, those who come must not wait for those who do nothing.
                    sockets.evict();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A socket that was accepted.
struct Peer<S> {
    stream: S,
    remote: Remote,
    place: Arc<SocketPlace>,
}

/// Serves one socket. What a peer does not do, such as its half of the handshake, keeps its own task alone.
async fn serve(peer: Peer<TcpStream>, tls: Option<Arc<Tls>>, router: Router, stop: CancellationToken) {
    if let Err(error) = peer.stream.set_nodelay(true) {
        tracing::debug!(%error, "the socket keeps its delay");
    }
    let Some(tls) = tls else { return serve_http(peer, router, stop).await };
    let Peer { stream, remote, place } = peer;
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = place.evicted() => None,
        () = stop.cancelled() => None,
    };
    if let Some(stream) = accepted {
        serve_http(Peer { stream, remote, place }, router, stop).await;
    }
}

async fn serve_http<S>(peer: Peer<S>, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Peer { stream, remote, place } = peer;
    let requests = Requests::new();
    let caller = Caller::new(Arc::clone(&place), requests.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&place));
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(remote);
        let under_way = requests.begin();
        let answer = router.clone().call(request);
        async move {
            let answer = answer.await;
            drop(under_way);
            answer
        }
    });
    let builder = http_builder();
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    tokio::select! {
        served = served.as_mut() => return ended(served),
        () = requests.cease(HEADER_TIMEOUT, HTTP_IDLE_TIMEOUT) => {}
        () = stop.cancelled() => {}
        () = evicted(&place, &requests) => return,
        () = caller.is_cut() => return,
    }
    // Who has nothing under way is told that it is over, and who has hears the rest of it.
    served.as_mut().graceful_shutdown();
    if let Ok(served) = timeout(GRACE, served).await {
        ended(served);
    }
}

/// Resolves when others need the place. Who has asked for something hears so before.
async fn evicted(place: &SocketPlace, requests: &Requests) {
    place.evicted().await;
    if !requests.are_none() {
        place.outlived().await;
    }
}

fn ended<E: std::fmt::Display>(served: Result<(), E>) {
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HTTP1_HEADERS_MAX)
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_LOCAL_RESETS_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .adaptive_window(false)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::{LocalConfig, LocalStore};

    #[tokio::test]
    async fn a_damaged_time_keeps_nobody_from_starting_and_lets_nothing_expire() {
        let folder = tempfile::tempdir().unwrap();
        let open = || LocalStore::open(LocalConfig::new(folder.path())).unwrap();
        let store = open();
        assert!(!ageing(&store, Clock::start(), false).await.unwrap().is_suspended());
        let known = last_known_ms(&store).await.unwrap().unwrap().to_le_bytes();
        store.shutdown().await.unwrap();
        drop(store);
        let path = folder.path().join("sessions.redb");
        let mut bytes = std::fs::read(&path).unwrap();
        let places: Vec<usize> =
            (0..bytes.len() - known.len()).filter(|at| bytes[*at..].starts_with(&known)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|place| bytes[place] ^= 1);
        std::fs::write(path, bytes).unwrap();
        let store = open();
        assert!(ageing(&store, Clock::start(), false).await.unwrap().is_suspended());
        assert!(!ageing(&store, Clock::start(), true).await.unwrap().is_suspended());
    }
}
