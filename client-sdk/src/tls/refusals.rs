//! Why a certificate was refused. QUIC carries the alert to its peer, and a text to us; who is told what to do needs more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// More are not asked for: each attempt of a dial has one at most, and takes it at once.
const REFUSALS_MAX: usize = 16;

/// What certificates were refused for. Attempts that are made beside each other have one verifier, because a session is resumed only
/// with that which looked at its certificate; each finds its own refusal by the text that QUIC has of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<VecDeque<Error>>>);

impl Refusals {
    /// Remembers what `verifier` refuses.
    pub(crate) fn of(&self, verifier: Arc<dyn ServerCertVerifier>) -> Remembering {
        Remembering { verifier, refusals: self.clone() }
    }

    /// The refusal of which this was said.
    pub(crate) fn take(&self, text: &str) -> Option<Error> {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = refusals.iter().position(|refusal| refusal.to_string() == text)?;
        refusals.remove(place)
    }

    fn note<T>(&self, verified: Result<T, Error>) -> Result<T, Error> {
        if let Err(refusal) = &verified {
            let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.len() == REFUSALS_MAX {
                refusals.pop_front();
            }
            refusals.push_back(refusal.clone());
        }
        verified
    }
}

/// A verifier whose refusals are remembered.
#[derive(Debug)]
pub(crate) struct Remembering {
    verifier: Arc<dyn ServerCertVerifier>,
    refusals: Refusals,
}

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.refusals.note(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.refusals.note(self.verifier.verify_tls12_signature(message, certificate, signature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.refusals.note(self.verifier.verify_tls13_signature(message, certificate, signature))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }
}
