//! The table `tls` of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What TLS is made of. Without a certificate the port speaks plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, and with those between it and its root. Replaced files are taken within seconds.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities of clients' certificates: who has none of theirs is refused.
    pub client_ca: Option<PathBuf>,
    /// Serve a certificate of the broker's own making, which clients know by its fingerprint alone.
    pub development: bool,
}

/// What flags say of [`TlsConfig`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct TlsOverrides {
    /// [`TlsConfig::certificate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// [`TlsConfig::key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// [`TlsConfig::client_ca`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// [`TlsConfig::development`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub development: Option<bool>,
}

/// Why a table `tls` makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsConfigError {
    /// One file is named without the other.
    #[error(
        "`tls.certificate` and `tls.key` belong together: name both (--tls-certificate, --tls-key), or none"
    )]
    Half,
    /// Both kinds of certificate.
    #[error("`tls.development` makes a certificate, and `tls.certificate` names one: choose one of them")]
    Both,
    /// Clients' certificates without TLS.
    #[error(
        "`tls.client_ca` asks clients for certificates, which takes TLS: name `tls.certificate` and `tls.key` too, or set \
         `tls.development = true`"
    )]
    ClientsOnly,
}

impl TlsConfig {
    /// Whether the port speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.development || self.certificate.is_some()
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn check(&self) -> Result<(), TlsConfigError> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err(TlsConfigError::Half);
        }
        if self.development && self.certificate.is_some() {
            return Err(TlsConfigError::Both);
        }
        if self.client_ca.is_some() && !self.is_on() {
            return Err(TlsConfigError::ClientsOnly);
        }
        Ok(())
    }
}
