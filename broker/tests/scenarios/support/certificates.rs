//! Certificates and who made them, as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a certificate is to be.
#[derive(Clone, Copy)]
pub(crate) enum Time {
    Valid,
    Expired,
    Future,
}

/// Who makes certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// Certificate and key, in two files.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    /// The settings of a broker that serves it.
    pub(crate) fn settings(&self) -> [(&'static str, &str); 2] {
        [("TLS_CERTIFICATE", self.certificate.to_str().unwrap()), ("TLS_KEY", self.key.to_str().unwrap())]
    }
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, folder: folder.to_owned(), name: name.to_owned() };
        fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The file that who trusts it is given.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(format!("{}-ca.pem", self.name))
    }

    /// Makes a certificate for these hosts and writes it, key last, over what is there.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str], time: Time) -> Files {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let now = SystemTime::now();
        let (from, until) = match time {
            Time::Valid => (now - DAY, now + DAY),
            Time::Expired => (now - 2 * DAY, now - DAY),
            Time::Future => (now + DAY, now + 2 * DAY),
        };
        (params.not_before, params.not_after) = (from.into(), until.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}-key.pem")),
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
