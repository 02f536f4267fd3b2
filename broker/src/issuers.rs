//! Whose tokens a broker accepts besides its own, made of what its configuration says: the issuers, their keys that are in
//! files, and what fetches those that are elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::auth::issuer::Issuer;
use crate::auth::jwks::Published;
use crate::auth::key_file::{KeyFile, KeyFileError};
use crate::auth::key_set::Keys;
use crate::config::issuer::{IssuerConfig, KeysAt, Wrong};
use crate::outgoing::Place;
use crate::outgoing::trust::{self, trusting};

/// Why an issuer cannot be used; each says which.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// What the configuration says.
    #[error("issuer `{issuer}`: {why}")]
    Config {
        /// Which.
        issuer: String,
        /// Why.
        #[source]
        why: Wrong,
    },
    /// Its file.
    #[error("issuer `{issuer}`: {why}")]
    KeyFile {
        /// Which.
        issuer: String,
        /// Why.
        #[source]
        why: KeyFileError,
    },
    /// Its certificate authorities.
    #[error("issuer `{issuer}`: `ca` {}: {why}", path.display())]
    Ca {
        /// Which.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The host trusts nobody.
    #[error(
        "issuer `{issuer}`: this host has no certificate authorities that it trusts; install them (ca-certificates), or name \
         those of the issuer with `ca`"
    )]
    NoRoots {
        /// Which.
        issuer: String,
    },
    /// TLS cannot be spoken.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// See the top of this file.
#[derive(Default)]
pub struct Issuers {
    /// Whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Their keys, as files have them, by the issuers' names.
    pub files: Vec<(String, KeyFile)>,
    /// Those keys.
    pub keys: Vec<(String, Keys)>,
    /// Whose keys are fetched.
    pub published: Vec<Published>,
}

impl Issuers {
    /// Reads files, those with the certificate authorities of the host among them.
    ///
    /// # Errors
    /// [`IssuersError`].
    pub fn load(configs: &[IssuerConfig]) -> Result<Self, IssuersError> {
        let (mut found, mut of_host) = (Self::default(), None);
        for config in configs {
            let name = &config.name;
            let wrong = |why| IssuersError::Config { issuer: name.clone(), why };
            let (issuer, keys) = config.issuer().map_err(wrong)?;
            found.issuers.push(issuer);
            match keys {
                KeysAt::File(file) => {
                    let wrong = |why| IssuersError::KeyFile { issuer: name.clone(), why };
                    found.keys.push((name.clone(), file.load().map_err(wrong)?));
                    found.files.push((name.clone(), file));
                }
                KeysAt::Url { url, allow_private, ca, refresh, keep } => {
                    let tls = match ca {
                        _ if !url.is_secure() => None,
                        Some(path) => Some(Arc::new(trusting(of_file(name, &path)?)?)),
                        None => match &of_host {
                            Some(known) => Some(Arc::clone(known)),
                            None => {
                                Some(Arc::clone(of_host.insert(Arc::new(trusting(of_this_host(name)?)?))))
                            }
                        },
                    };
                    let place = Place { url, allow_private, tls };
                    found.published.push(Published { issuer: name.clone(), place, refresh, keep });
                }
            }
        }
        Ok(found)
    }
}

fn of_file(issuer: &str, path: &Path) -> Result<RootCertStore, IssuersError> {
    let wrong = |why: String| IssuersError::Ca { issuer: issuer.to_owned(), path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|error: io::Error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(wrong("it has no certificate in PEM".to_owned())),
        false => Ok(roots),
    }
}

fn of_this_host(issuer: &str) -> Result<RootCertStore, IssuersError> {
    let roots = trust::of_this_host();
    match roots.is_empty() {
        true => Err(IssuersError::NoRoots { issuer: issuer.to_owned() }),
        false => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::auth::jwks::fetch::{FetchError, fetch};
    use crate::outgoing::OutgoingError;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// Serves keys by TLS as this name; the port.
    async fn serve(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Who does not trust it goes in the middle.
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await else {
                    continue;
                };
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        port
    }

    fn place(folder: &Path, authority: &CertifiedIssuer<'static, KeyPair>, host: &str, port: u16) -> Place {
        let ca = folder.join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let config = json!({
            "name": "id", "audience": "longwire", "namespace": "id", "bounds": ["acme/**:read"],
            "jwks_url": format!("https://{host}:{port}/jwks"), "ca": ca,
        });
        let mut issuers = Issuers::load(&[serde_json::from_value(config).unwrap()]).unwrap();
        issuers.published.remove(0).place
    }

    #[tokio::test]
    async fn a_host_is_who_its_authority_says() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (authority(), authority());
        let port = serve(&ours, "localhost").await;
        let fetched = fetch(place(folder.path(), &ours, "localhost", port)).await.unwrap();
        assert_eq!(fetched.text, "{}");
        for wrong in
            [place(folder.path(), &theirs, "localhost", port), place(folder.path(), &ours, "127.0.0.1", port)]
        {
            let outcome = fetch(wrong).await;
            assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Tls(_)))), "{outcome:?}");
        }
        // Whoever is there speaks no TLS.
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = plain.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = plain.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        });
        let outcome = fetch(place(folder.path(), &ours, "localhost", port)).await;
        assert!(matches!(outcome, Err(FetchError::Outgoing(OutgoingError::Tls(_)))), "{outcome:?}");
    }

    #[test]
    fn what_is_the_issuers_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let load = |more: serde_json::Value| {
            let mut config =
                json!({"name": "id", "audience": "a", "namespace": "id", "bounds": ["acme/**:read"]});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Issuers::load(&[serde_json::from_value(config).unwrap()]).err().unwrap()
        };
        let absent = folder.path().join("absent");
        assert!(matches!(load(json!({"keys": absent})), IssuersError::KeyFile { .. }));
        let url = json!({"jwks_url": "https://id.example/", "ca": absent});
        assert!(matches!(load(url), IssuersError::Ca { .. }));
        assert!(matches!(load(json!({})), IssuersError::Config { .. }));
    }
}
