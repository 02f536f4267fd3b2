//! The development certificate: of the broker's own making, for the names of this machine alone. Nothing vouches for it;
//! a client knows it by its fingerprint.
//!
//! Browsers take such a certificate for WebTransport (`serverCertificateHashes`) if it is ECDSA and valid for at most 14 days.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256,
};

use crate::tls::bounded_file::read;
use crate::tls::error::TlsError;
use crate::tls::identity::{Identity, Pair, certificates, private_key};
use crate::tls::validity::Validity;

/// The file in the data folder that has certificate and key.
pub const FILE: &str = "development-certificate.pem";
/// Who may read and write it: its owner.
const FILE_MODE: u32 = 0o600;
/// What a mode must not have: anything for anybody else.
const OTHERS: u32 = 0o077;
/// What the certificate is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How far before its making it is valid from, for clients whose clocks are behind.
const VALID_BEFORE: u64 = 60 * 60;
/// How long it is valid in all: a day less than browsers allow.
const VALID_FOR: u64 = 13 * 24 * 60 * 60;
/// How long before its end another one takes its place.
const RENEWED_BEFORE: u64 = 24 * 60 * 60;

/// Whether another one is to take its place.
pub(super) fn is_due(validity: Option<Validity>, now: u64) -> bool {
    validity.is_none_or(|validity| !validity.holds(now) || !validity.holds(now + RENEWED_BEFORE))
}

/// The certificate of the file. It is made anew when there is none, when it is of no more use, and when others could
/// have read the key.
pub(super) fn load_or_make(path: &Path, now: u64) -> Result<Pair, TlsError> {
    match load(path) {
        Ok(Some(pair)) if !is_due(validity(&pair), now) => return Ok(pair),
        Ok(Some(_)) => tracing::info!("the development certificate is made anew: its time is over"),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the development certificate is made anew"),
    }
    make(path, now)
}

fn validity(pair: &Pair) -> Option<Validity> {
    pair.chain.first().and_then(|leaf| Identity::of(leaf).validity)
}

fn load(path: &Path) -> Result<Option<Pair>, TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let mode = match fs::metadata(path) {
        Ok(file) => file.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if mode & OTHERS != 0 {
        return Err(failed(io::Error::other("others can read or write it, so they may have the key")));
    }
    let text = read(path)?;
    Ok(Some(Pair { chain: certificates(path, &text)?, key: private_key(path, &text)? }))
}

fn make(path: &Path, now: u64) -> Result<Pair, TlsError> {
    let text = certificate(now).map_err(|error| TlsError::Make(error.to_string()))?;
    write(path, &text).map_err(|error| TlsError::File { path: path.to_owned(), error })?;
    Ok(Pair { chain: certificates(path, text.as_bytes())?, key: private_key(path, text.as_bytes())? })
}

fn certificate(now: u64) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "Longwire development certificate");
    params.distinguished_name = name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let from = UNIX_EPOCH + Duration::from_secs(now.saturating_sub(VALID_BEFORE));
    params.not_before = from.into();
    params.not_after = (from + Duration::from_secs(VALID_FOR)).into();
    Ok(params.self_signed(&key)?.pem() + &key.serialize_pem())
}

/// Writes it so that a crash leaves the one before, or this one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let draft: PathBuf = path.with_extension("pem.new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The mode is there from the start: nobody can open it before it is.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_000_000;
    const DAY: u64 = 24 * 60 * 60;

    fn leaf(pair: &Pair) -> Identity {
        Identity::of(&pair.chain[0])
    }

    #[test]
    fn is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let made = leaf(&load_or_make(&path, NOW).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(leaf(&load_or_make(&path, NOW + DAY).unwrap()), made);
        let Validity { from, until } = made.validity.unwrap();
        assert!(from <= NOW && until - from <= 14 * DAY);
    }

    #[test]
    fn is_made_anew_before_it_ends_and_when_the_clock_was_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let first = leaf(&load_or_make(&path, NOW).unwrap());
        let until = first.validity.unwrap().until;
        assert_eq!(leaf(&load_or_make(&path, until - DAY).unwrap()), first);
        let second = leaf(&load_or_make(&path, until - DAY + 1).unwrap());
        assert_ne!(second, first);
        assert!(second.validity.unwrap().holds(until));
        assert_ne!(leaf(&load_or_make(&path, NOW - 30 * DAY).unwrap()), second);
    }

    #[test]
    fn is_made_anew_when_it_is_damaged_or_others_could_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let first = leaf(&load_or_make(&path, NOW).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let second = leaf(&load_or_make(&path, NOW).unwrap());
        assert_ne!(second, first);
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nx").unwrap();
        let third = leaf(&load_or_make(&path, NOW).unwrap());
        assert_ne!(third, second);
        // A draft that a crash left is in nobody's way.
        fs::write(path.with_extension("pem.new"), "half").unwrap();
        fs::remove_file(&path).unwrap();
        assert_ne!(leaf(&load_or_make(&path, NOW).unwrap()), third);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
