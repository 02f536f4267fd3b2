//! A certificate with its key, and what is known of it.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::error::TlsError;
use crate::tls::validity::Validity;

/// What proves who the broker is.
#[derive(Debug)]
pub(super) struct Pair {
    /// The certificate first, then those between it and its root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// What is known of the certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    sha256: Vec<u8>,
    pub(super) validity: Option<Validity>,
}

impl Identity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let sha256 = digest(&SHA256, certificate).as_ref().to_vec();
        Self { sha256, validity: Validity::of(certificate) }
    }

    pub(super) fn fingerprint(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The certificates in a text.
///
/// # Errors
/// [`TlsError::NotPem`].
pub(super) fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason: String| TlsError::NotPem { path: path.to_owned(), wanted: "certificate", reason };
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| not_pem(error.to_string()))?;
    if chain.is_empty() {
        return Err(not_pem("there is none in it".to_owned()));
    }
    Ok(chain)
}

/// The private key in a text.
///
/// # Errors
/// [`TlsError::NotPem`], without anything of the text.
pub(super) fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => "there is none in it, or it has a password",
            _ => "what is in it is damaged",
        };
        TlsError::NotPem { path: path.to_owned(), wanted: "private key", reason: reason.to_owned() }
    })
}
