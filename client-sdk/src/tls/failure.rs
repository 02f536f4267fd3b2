//! What a failed handshake means.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::error::TlsFailure;
use crate::tls::fingerprint::Mismatch;

/// Why trying again is of no use; `None` when the connection merely broke.
pub(crate) fn failure(error: &io::Error) -> Option<TlsFailure> {
    of_error(error.get_ref()?.downcast_ref::<Error>()?)
}

/// The same of what rustls says itself.
pub(crate) fn of_error(error: &Error) -> Option<TlsFailure> {
    Some(match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => return of_alert(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsFailure::PlainText,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            TlsFailure::Incompatible(error.to_string())
        }
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::UnknownIssuer => TlsFailure::UnknownAuthority,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::NotValidYet
        }
        CertificateError::NotValidForName => {
            TlsFailure::WrongName { wanted: "the host".to_owned(), names: Vec::new() }
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            TlsFailure::WrongName { wanted: expected.to_str().into_owned(), names: presented.clone() }
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<Mismatch>() {
            Some(Mismatch { expected, found }) => {
                TlsFailure::Fingerprint { expected: expected.to_string(), found: found.to_string() }
            }
            None => TlsFailure::Certificate(error.to_string()),
        },
        _ => TlsFailure::Certificate(error.to_string()),
    }
}

/// What the broker says of us. It says nothing else about a client than what it thinks of its certificate.
pub(crate) fn of_alert(alert: AlertDescription) -> Option<TlsFailure> {
    Some(match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => TlsFailure::ClientCertificate(format!("{alert:?}")),
        AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
        | AlertDescription::UnrecognisedName
        | AlertDescription::NoApplicationProtocol => TlsFailure::Incompatible(format!("{alert:?}")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: Error) -> Option<TlsFailure> {
        failure(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn what_will_not_change_by_itself_is_told_from_what_may() {
        let certificate = |error| of(Error::InvalidCertificate(error)).unwrap();
        assert_eq!(certificate(CertificateError::UnknownIssuer), TlsFailure::UnknownAuthority);
        assert_eq!(certificate(CertificateError::Expired), TlsFailure::Expired);
        assert!(matches!(certificate(CertificateError::BadSignature), TlsFailure::Certificate(_)));
        let required = of(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(matches!(required, Some(TlsFailure::ClientCertificate(_))));
        assert_eq!(of(Error::AlertReceived(AlertDescription::InternalError)), None);
        assert_eq!(failure(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
        assert_eq!(failure(&io::Error::other("tls handshake eof")), None);
    }
}
