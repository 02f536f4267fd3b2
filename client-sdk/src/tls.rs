//! TLS of a client: whom it trusts, and what it shows.
//!
//! Without anything said the authorities of the operating system count (rustls-native-certs), not a list that is built in:
//! who runs a broker of their own often has an authority of their own, which is there already; and an authority that loses
//! its trust leaves with an update of the system, not of every program. It is Rust alone; nothing of it needs more than
//! the C compiler that aws-lc-rs takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Address;
use crate::error::{ConnectError, TlsFailure, TlsSetupError};
use crate::tls::failure::of_error;
use crate::tls::fingerprint::{Fingerprint, OnlyFingerprint};
use crate::tls::refusals::{Refusals, Remembering};

pub(crate) mod failure;
pub(crate) mod fingerprint;
#[cfg(feature = "grpc")]
pub(crate) mod overheard;
pub(crate) mod refusals;
pub(crate) mod stream;

/// The environment variable that names the file of the authorities to trust.
pub const CA_VARIABLE: &str = "LONGWIRE_CA";
/// The environment variable with the SHA-256 of the one certificate to trust.
pub const FINGERPRINT_VARIABLE: &str = "LONGWIRE_FINGERPRINT";
/// The environment variable that names the file of the client's certificate.
pub const CLIENT_CERTIFICATE_VARIABLE: &str = "LONGWIRE_CLIENT_CERTIFICATE";
/// The environment variable that names the file of the key of the client's certificate.
pub const CLIENT_KEY_VARIABLE: &str = "LONGWIRE_CLIENT_KEY";

/// What is spoken inside TLS: a WebSocket begins in HTTP/1.1.
const PROTOCOL: &[u8] = b"http/1.1";
/// What gRPC is spoken over.
#[cfg(feature = "grpc")]
const GRPC_PROTOCOL: &[u8] = b"h2";
/// What is spoken over QUIC.
const QUIC_PROTOCOL: &[u8] = b"longwire/1";

/// Sessions of QUIC that can be resumed: those of the one broker, of which the stack keeps eight.
const QUIC_SESSIONS_MAX: usize = 8;

/// What a builder was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) fingerprint: Option<String>,
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
}

impl TlsOptions {
    fn are_given(&self) -> bool {
        let files = [&self.ca, &self.client_certificate, &self.client_key];
        self.fingerprint.is_some() || files.into_iter().any(Option::is_some)
    }
}

/// The TLS of one client.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    quic: Arc<ClientConfig>,
    /// Where handshakes of QUIC say why they refused the broker.
    refusals: Refusals,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// What an address takes: `None` for plain text.
    ///
    /// # Errors
    /// [`ConnectError`]: files that are none, or options for an address without TLS.
    pub(crate) fn of(address: &Address, options: &TlsOptions) -> Result<Option<Self>, ConnectError> {
        if !address.scheme.has_tls() {
            // Somebody who says whom to trust must not be served by whoever answers.
            let refused = options.are_given().then(|| ConnectError::PlainText { url: address.url.clone() });
            return refused.map_or(Ok(None), Err);
        }
        let name = ServerName::try_from(address.host.clone()).map_err(|_| ConnectError::InvalidUrl {
            url: address.url.clone(),
            reason: "its host is no name that a certificate can have".to_owned(),
        })?;
        let verifier = verifier(options)?;
        let mut config = config(options, Arc::clone(&verifier))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Who resumes does not look at the certificate, and it may have been replaced for a reason. A broker forgets its sessions of
        // QUIC with its certificate; what else ends TLS on the way to one may not.
        config.resumption = Resumption::disabled();
        let refusals = Refusals::default();
        let quic = Arc::new(for_quic(&config, refusals.of(verifier)));
        Ok(Some(Self { config: Arc::new(config), quic, refusals, name }))
    }

    pub(crate) async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }

    /// As [`connect`](Self::connect), for gRPC.
    #[cfg(feature = "grpc")]
    pub(crate) async fn connect_grpc(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![GRPC_PROTOCOL.to_vec()];
        TlsConnector::from(Arc::new(config)).connect(self.name.clone(), stream).await
    }

    /// What handshakes of QUIC are made with.
    pub(crate) fn quic(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.quic)
    }

    /// Why the broker was refused in a handshake of QUIC of which this was said.
    pub(crate) fn refusal(&self, text: &str) -> Option<TlsFailure> {
        of_error(&self.refusals.take(text)?)
    }
}

fn for_quic(config: &ClientConfig, verifier: Remembering) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![QUIC_PROTOCOL.to_vec()];
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(QUIC_SESSIONS_MAX)));
    // Only what reads is said so: `link/quic.rs`.
    config.enable_early_data = true;
    config
}

fn verifier(options: &TlsOptions) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Narrower than an authority: where both are given it decides.
    if let Some(text) = &options.fingerprint {
        return Ok(Arc::new(OnlyFingerprint::new(Fingerprint::parse(text)?, provider)));
    }
    let roots = Arc::new(roots(options.ca.as_deref())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
    Ok(verifier.map_err(|error| TlsSetupError::Unsupported(error.to_string()))?)
}

fn config(
    options: &TlsOptions,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsSetupError> {
    let builder = builder(provider())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let (certificate, key) = match (&options.client_certificate, &options.client_key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => (certificate, key),
        _ => return Err(TlsSetupError::HalfIdentity),
    };
    let chain = certificates(certificate)?;
    let unusable = |path: &Path, reason: String| TlsSetupError::File { path: path.to_owned(), reason };
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unusable(key, pem_error(&error, "a private key")))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        unusable(certificate, format!("it cannot be used with the key in {}: {error}", key.display()))
    })
}

/// AES-128 goes before AES-256, as in browsers: processors have instructions for its hash, SHA-256, and a handshake of QUIC hashes a
/// hundred times. Where the broker asks for the other one, it gets it.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| TlsSetupError::Unsupported(error.to_string()))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        // A system may keep some that rustls does not take; the others count.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(TlsSetupError::NoAuthorities { reason: reasons.join("; ") });
        }
        return Ok(roots);
    };
    for authority in certificates(path)? {
        let refuse = |error| TlsSetupError::File { path: path.to_owned(), reason: format!("{error}") };
        roots.add(authority).map_err(refuse)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let refuse = |reason| TlsSetupError::File { path: path.to_owned(), reason };
    let wanted = "a certificate";
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| refuse(pem_error(&error, wanted)))?;
    if certificates.is_empty() {
        return Err(refuse(format!("there is not {wanted} in it, in PEM")));
    }
    Ok(certificates)
}

/// What is wrong, without anything of the file: it may be a key.
fn pem_error(error: &rustls::pki_types::pem::Error, wanted: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => format!("there is not {wanted} in it, in PEM"),
        _ => format!("what is in it is not {wanted}, or is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, options: &TlsOptions) -> Result<Option<Tls>, ConnectError> {
        Tls::of(&Address::parse(url).unwrap(), options)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn plain_text_takes_nothing_and_no_trust_is_given_in_vain() {
        assert!(of("ws://h", &TlsOptions::default()).unwrap().is_none());
        let path = || Some(PathBuf::from("f"));
        for options in [
            TlsOptions { ca: path(), ..Default::default() },
            TlsOptions { fingerprint: Some("00".repeat(32)), ..Default::default() },
            TlsOptions { client_certificate: path(), client_key: path(), ..Default::default() },
        ] {
            assert!(matches!(of("ws://h", &options), Err(ConnectError::PlainText { .. })), "{options:?}");
        }
    }

    #[test]
    fn files_that_are_none_are_named() {
        let error = |options: TlsOptions| of("wss://h", &options).unwrap_err().to_string();
        let absent = PathBuf::from("/nowhere/ca.pem");
        let text = error(TlsOptions { ca: Some(absent.clone()), ..Default::default() });
        assert!(text.contains("/nowhere/ca.pem") && text.contains("No such file"), "{text}");
        let empty = file("no certificate");
        let text = error(TlsOptions { ca: Some(empty.path().to_owned()), ..Default::default() });
        assert!(text.contains("PEM"), "{text}");
        let damaged = file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let text = error(TlsOptions { ca: Some(damaged.path().to_owned()), ..Default::default() });
        assert!(text.contains(&damaged.path().display().to_string()), "{text}");
        let text = error(TlsOptions { fingerprint: Some("abc".into()), ..Default::default() });
        assert!(text.contains("64"), "{text}");
        let half = TlsOptions {
            fingerprint: Some("00".repeat(32)),
            client_certificate: Some(absent),
            ..Default::default()
        };
        assert!(error(half).contains("LONGWIRE_CLIENT_KEY"));
    }

    #[test]
    fn names_and_addresses_have_certificates() {
        let options = TlsOptions { fingerprint: Some("00".repeat(32)), ..Default::default() };
        for url in ["wss://broker.example", "wss://127.0.0.1:1", "wss://[::1]:1"] {
            assert!(of(url, &options).unwrap().is_some(), "{url}");
        }
    }
}
