//! The server: the port, the life of the broker from its start to the end of its drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::ageing::Ageing;
use crate::backup::Expiry;
use crate::clock::Clock;
use crate::config::Config;
use crate::connection::{ConnectionContext, ConnectionTimes};
use crate::http::{HttpContext, SocketPermit, router};
use crate::hub::Hub;
use crate::origin::Origins;
use crate::scheduler::{Scheduler, last_known_ms, write_clock};
use crate::scrub::Scrub;
use crate::store::{Store, StoreError};
use crate::tls::Tls;
use crate::tls::error::TlsError;

/// How long a peer may take over the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 connection: health checks and metrics need few.
const HTTP2_STREAMS_MAX: u32 = 64;
/// Bytes of the headers of one HTTP/2 request.
const HTTP2_HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes that HTTP/1 reads ahead, headers included.
const HTTP1_BUFFER_BYTES_MAX: usize = 16 << 10;
/// How long accepting rests after it failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
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
    config: Config,
    hub: Arc<Hub>,
    http: Arc<HttpContext>,
    tls: Option<Arc<Tls>>,
    drain: watch::Sender<Option<Duration>>,
    ageing: Ageing,
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
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, ServeError> {
        // Before the port is there: nobody shall be accepted who cannot be served.
        let tls = Tls::open(&config)?.map(Arc::new);
        let refuse = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let clock = Clock::start();
        let ageing = ageing(&*store, clock, config.trust_clock).await?;
        let hub = Hub::new(store, clock, ageing, Config::time(config.session_idle_ms));
        let (drain, draining) = watch::channel(None);
        let times = ConnectionTimes {
            handshake_timeout: Config::time(config.handshake_timeout_ms),
            heartbeat: Config::time(config.heartbeat_ms),
            idle_timeout: Config::time(config.idle_timeout_ms),
        };
        let connections = Arc::new(ConnectionContext {
            hub: Arc::clone(&hub),
            clock,
            times,
            backups: config.backups.clone(),
            drain: draining,
            connections: AtomicU64::new(0),
        });
        let hosts = config.hosts.clone();
        let origins = Origins { listed: config.origins.clone(), tls: tls.is_some() };
        let http =
            Arc::new(HttpContext { connections, metrics, hosts, origins, upgraded: TaskTracker::new() });
        Ok(Self { listener, address, config, hub, http, tls, drain, ageing })
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
        self.drain.send_replace(Some(Config::time(self.config.reconnect_after_ms)));
        self.http.upgraded.close();
        let mut whole = timeout_at(due, self.http.upgraded.wait()).await.is_ok();
        stop.cancel();
        let store = Arc::clone(self.hub.store());
        whole &= timeout_at(due, chores.tasks.wait()).await.is_ok();
        whole &= timeout_at(due, self.hub.drain()).await.is_ok();
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

    /// Starts what the broker does by itself: waking sessions whose deadline has come, the scrub, removing old backups,
    /// and taking new certificates.
    fn start_chores(&self) -> Chores {
        let chores = Chores { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let clock = self.http.connections.clock;
        let scheduler = Scheduler { hub: Arc::clone(&self.hub), clock, ageing: self.ageing };
        chores.tasks.spawn(scheduler.run(chores.stop.clone()));
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
        let sockets = Arc::new(Semaphore::new(self.config.connections_max));
        let router = router(Arc::clone(&self.http));
        loop {
            let Ok(permit) = Arc::clone(&sockets).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let permit = SocketPermit(Arc::new(permit));
                    requests.spawn(serve(stream, self.tls.clone(), router.clone(), permit, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Serves one socket. What a peer does not do, such as its half of the handshake, keeps its own task alone.
async fn serve(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    router: Router,
    permit: SocketPermit,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the socket keeps its delay");
    }
    let Some(tls) = tls else { return serve_http(stream, router, permit, stop).await };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = stop.cancelled() => None,
    };
    if let Some(stream) = accepted {
        serve_http(stream, router, permit, stop).await;
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    permit: SocketPermit,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        router.clone().call(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADER_BYTES_MAX);
    tokio::select! {
        served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP connection ended");
            }
        }
        () = stop.cancelled() => {}
    }
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
