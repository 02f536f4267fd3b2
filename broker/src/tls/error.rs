//! Why TLS cannot be served.

use std::io;
use std::path::PathBuf;

/// Why there is no TLS, or none with new files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("the TLS file {} cannot be read: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file is too long to be one.
    #[error("the TLS file {} has more than {max} bytes: it is none", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// What is allowed.
        max: u64,
    },
    /// A file does not have what is wanted of it.
    #[error("{} has no {wanted} in PEM (`-----BEGIN …`): {reason}", path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What was to be in it.
        wanted: &'static str,
        /// What was found.
        reason: String,
    },
    /// The certificate and the key do not make an identity.
    #[error("the certificate in {} cannot be served with the key in {}: {reason}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is of no use any more.
    #[error("the certificate in {} has expired, or is not valid yet", path.display())]
    Expired {
        /// Its file.
        path: PathBuf,
    },
    /// The authorities of clients' certificates are not usable.
    #[error("{} has no authority for clients' certificates: {reason}", path.display())]
    ClientCa {
        /// Their file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No development certificate could be made.
    #[error("no development certificate could be made: {0}")]
    Make(String),
}
