//! Where the certificate comes from, and what rustls makes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::file_stamp::FileStamp;
use crate::tls::bounded_file::read;
use crate::tls::config::TlsConfig;
use crate::tls::development;
use crate::tls::error::TlsError;
use crate::tls::identity::{Identity, Pair, certificates, private_key};

/// What is spoken inside TLS, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What is spoken over QUIC.
const QUIC_PROTOCOL: &[u8] = b"longwire/1";
/// Sessions of TLS that can be resumed over QUIC: as many as connections may come back at once after a change of network. The
/// oldest are forgotten first.
const QUIC_SESSIONS_MAX: usize = 4096;

/// QUIC knows no other size than this or none (RFC 9001, section 4.6.1): what comes early is bounded by the windows of a connection.
const EARLY_DATA: u32 = u32::MAX;

/// Where certificate and key are.
#[derive(Debug)]
enum Origin {
    Files { certificate: PathBuf, key: PathBuf },
    Development { path: PathBuf },
}

/// Where everything of TLS comes from.
#[derive(Debug)]
pub(super) struct Source {
    origin: Origin,
    client_ca: Option<PathBuf>,
}

/// What tells one state of the files from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<FileStamp>>);

/// What is served.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// For QUIC.
    pub(super) quic: Arc<ServerConfig>,
    pub(super) identity: Identity,
}

impl Source {
    /// What the configuration names; `None` when it is plain text.
    pub(super) fn of(config: &TlsConfig, data: &Path) -> Option<Self> {
        let origin = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => {
                Origin::Files { certificate: certificate.clone(), key: key.clone() }
            }
            _ if config.development => Origin::Development { path: data.join(development::FILE) },
            _ => return None,
        };
        Some(Self { origin, client_ca: config.client_ca.clone() })
    }

    pub(super) fn stamp(&self) -> Stamp {
        let pair: &[&PathBuf] = match &self.origin {
            Origin::Files { certificate, key } => &[certificate, key],
            // Nobody else writes it.
            Origin::Development { .. } => &[],
        };
        Stamp(pair.iter().copied().chain(&self.client_ca).map(|path| FileStamp::of(path).ok()).collect())
    }

    /// Whether what is served is to be replaced although no file has changed.
    pub(super) fn is_due(&self, serving: &Identity, now: u64) -> bool {
        matches!(self.origin, Origin::Development { .. }) && development::is_due(serving.validity, now)
    }

    /// What is to be served.
    pub(super) fn load(&self, now: u64) -> Result<Loaded, TlsError> {
        let (pair, certificate, key) = match &self.origin {
            Origin::Files { certificate, key } => {
                let chain = certificates(certificate, &read(certificate)?)?;
                (Pair { chain, key: private_key(key, &read(key)?)? }, certificate, key)
            }
            Origin::Development { path } => (development::load_or_make(path, now)?, path, path),
        };
        let unusable = |error: rustls::Error| TlsError::Unusable {
            certificate: certificate.clone(),
            key: key.clone(),
            reason: error.to_string(),
        };
        let Some(leaf) = pair.chain.first() else {
            return Err(unusable(rustls::Error::NoCertificatesPresented));
        };
        let identity = Identity::of(leaf);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let refuse = |reason: String| TlsError::ClientCa { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, &read(path)?)? {
                    roots.add(authority).map_err(|error| refuse(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| refuse(error.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(pair.chain, pair.key).map_err(unusable)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        if self.client_ca.is_some() {
            // A session that is resumed asks for no certificate: one that has expired since would still let in.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let quic = Arc::new(for_quic(&config, self.client_ca.is_none()));
        Ok(Loaded { config: Arc::new(config), quic, identity })
    }

    /// What is to take the place of what is served: nothing that every client would refuse.
    pub(super) fn replacement(&self, now: u64) -> Result<Loaded, TlsError> {
        let loaded = self.load(now)?;
        match &self.origin {
            Origin::Files { certificate, .. }
                if loaded.identity.validity.is_some_and(|validity| !validity.holds(now)) =>
            {
                Err(TlsError::Expired { path: certificate.clone() })
            }
            _ => Ok(loaded),
        }
    }
}

fn for_quic(config: &ServerConfig, may_resume: bool) -> ServerConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![QUIC_PROTOCOL.to_vec()];
    config.max_early_data_size = 0;
    if may_resume {
        // What reads may come with the first packets (0-RTT). Whoever has seen these can send them again, and is not heard: rustls takes a
        // session out of the storage before it looks whether it can be resumed, so the second time there is none, and what was encrypted
        // for it cannot be read. No other life and no other broker has these sessions: they are in memory, and go with the certificate.
        // A ticket that holds its session itself could be shown twice; rustls takes no early data with those.
        config.max_early_data_size = EARLY_DATA;
        // A client comes back once; each ticket more is hashed for and kept.
        config.send_tls13_tickets = 1;
        config.session_storage = ServerSessionMemoryCache::new(QUIC_SESSIONS_MAX);
    }
    config
}
