//! TLS on the one port: rustls with aws-lc-rs. What is served can be replaced while connections live.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::tls::config::TlsConfig;
use crate::tls::error::TlsError;
use crate::tls::identity::Identity;
use crate::tls::source::{Loaded, Source, Stamp};

mod bounded_file;
pub mod config;
pub mod development;
pub mod error;
mod handshake;
mod identity;
mod source;
mod validity;

/// How often the files are looked at: who replaces a certificate sees at once whether it is taken.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the last look at the files found.
#[derive(Debug, Default)]
struct Seen {
    stamp: Stamp,
    /// What was wrong with them, so that it is said once and not every second.
    complaint: Option<String>,
}

/// The TLS side of the port.
#[derive(Debug)]
pub struct Tls {
    source: Source,
    handshake_timeout: Duration,
    serving: RwLock<Arc<Loaded>>,
    seen: Mutex<Seen>,
}

impl Tls {
    /// Reads what the configuration names, or makes the development certificate in the data folder. A handshake may take so long. `None` when TLS is
    /// not configured.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(
        config: &TlsConfig,
        data: &Path,
        handshake_timeout: Duration,
    ) -> Result<Option<Self>, TlsError> {
        let Some(source) = Source::of(config, data) else { return Ok(None) };
        // Looked at before it is read: a change in between is then seen as one.
        let stamp = source.stamp();
        let loaded = source.load(now())?;
        if loaded.identity.validity.is_some_and(|validity| !validity.holds(now())) {
            tracing::warn!("the TLS certificate is expired or not valid yet: clients will refuse it");
        }
        report(&loaded.identity);
        let seen = Seen { stamp, complaint: None };
        Ok(Some(Self {
            source,
            handshake_timeout,
            serving: RwLock::new(Arc::new(loaded)),
            seen: Mutex::new(seen),
        }))
    }

    /// The SHA-256 of the certificate that is served, in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.serving().identity.fingerprint()
    }

    /// Makes the handshake, within its time. `None` when there is nobody to serve; why is counted.
    pub async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let config: Arc<ServerConfig> = Arc::clone(&self.serving().config);
        handshake::accept(config, stream, self.handshake_timeout).await
    }

    /// What is served over QUIC now.
    pub(crate) fn quic(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.serving().quic)
    }

    /// Takes replaced files, and renews the development certificate, until it is stopped.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let tls = Arc::clone(&self);
            // The files may be on a network: a runtime thread must not wait for one.
            if let Err(error) = tokio::task::spawn_blocking(move || tls.look(now())).await {
                tracing::error!(%error, "the TLS certificate was not looked at");
            }
        }
    }

    fn serving(&self) -> Arc<Loaded> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self, now: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.source.stamp();
        let due = self.source.is_due(&self.serving().identity, now);
        if stamp == seen.stamp && !due {
            return;
        }
        seen.stamp = stamp;
        match self.source.replacement(now) {
            Ok(loaded) => {
                seen.complaint = None;
                report(&loaded.identity);
                metrics::counter!("longwire_tls_reloads_total", "outcome" => "taken").increment(1);
                tracing::info!(
                    fingerprint = loaded.identity.fingerprint(),
                    "a new TLS certificate is served"
                );
                *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
            }
            Err(error) => {
                let complaint = error.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(%error, "the new TLS certificate is refused; the one before goes on being served");
                    metrics::counter!("longwire_tls_reloads_total", "outcome" => "refused").increment(1);
                }
                seen.complaint = Some(complaint);
            }
        }
    }
}

fn report(identity: &Identity) {
    if let Some(validity) = identity.validity {
        metrics::gauge!("longwire_tls_certificate_expires_seconds").set(validity.until as f64);
    }
}

/// Unix seconds. Certificates are of the wall clock, whatever jumps it makes.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
