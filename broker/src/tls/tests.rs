use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::config::Config;
use crate::tls::config::TlsConfig;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes a pair that is valid for so many days from now, which may be over.
fn write_pair(folder: &Path, days: i32) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let until = if days < 0 { SystemTime::now() - DAY } else { SystemTime::now() + DAY * days as u32 };
    params.not_before = (until - 2 * DAY * days.unsigned_abs()).into();
    params.not_after = until.into();
    fs::write(folder.join("certificate"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(folder.join("key"), key.serialize_pem()).unwrap();
}

fn config(folder: &Path) -> Config {
    let tls = TlsConfig {
        certificate: Some(folder.join("certificate")),
        key: Some(folder.join("key")),
        ..TlsConfig::default()
    };
    Config { tls, data: folder.to_owned(), ..Config::default() }
}

fn tls_of(config: &Config) -> Result<Option<Tls>, TlsError> {
    Tls::open(&config.tls, &config.data, Config::time(config.handshake_timeout_ms))
}

fn open(folder: &Path) -> Result<Tls, TlsError> {
    tls_of(&config(folder)).map(Option::unwrap)
}

#[test]
fn plain_text_has_no_tls() {
    assert!(tls_of(&Config::default()).unwrap().is_none());
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let error = || open(path).unwrap_err();
    assert!(matches!(error(), TlsError::File { .. }));
    write_pair(path, 1);
    assert!(open(path).is_ok());
    fs::write(path.join("key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(matches!(error(), TlsError::Unusable { .. }), "{}", error());
    let secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IGNhbmFyeQ\n-----END PRIVATE KEY-----\n";
    fs::write(path.join("key"), secret).unwrap();
    for error in [format!("{}", error()), format!("{:?}", error())] {
        assert!(!error.contains("c2VjcmV0") && !error.contains("canary"), "{error}");
    }
    fs::write(path.join("key"), "key").unwrap();
    assert!(matches!(error(), TlsError::NotPem { wanted: "private key", .. }), "{}", error());
    fs::write(path.join("certificate"), "certificate").unwrap();
    assert!(matches!(error(), TlsError::NotPem { wanted: "certificate", .. }));
    fs::write(path.join("certificate"), vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(matches!(error(), TlsError::TooLong { .. }));
}

#[test]
fn authorities_of_clients_are_authorities() {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path(), 1);
    let mut config = config(folder.path());
    config.tls.client_ca = Some(folder.path().join("ca"));
    assert!(matches!(tls_of(&config).unwrap_err(), TlsError::File { .. }));
    fs::write(folder.path().join("ca"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    assert!(matches!(tls_of(&config).unwrap_err(), TlsError::ClientCa { .. }));
    fs::copy(folder.path().join("certificate"), folder.path().join("ca")).unwrap();
    assert!(tls_of(&config).is_ok());
}

#[test]
fn a_replaced_pair_is_taken_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path(), 1);
    let tls = open(folder.path()).unwrap();
    let first = tls.fingerprint();
    tls.look(now());
    assert_eq!(tls.fingerprint(), first);
    write_pair(folder.path(), 2);
    tls.look(now());
    let second = tls.fingerprint();
    assert_ne!(second, first);
    // One half of a pair, as while somebody replaces both.
    let key = fs::read(folder.path().join("key")).unwrap();
    fs::write(folder.path().join("key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    tls.look(now());
    assert!(tls.seen.lock().unwrap().complaint.is_some());
    fs::write(folder.path().join("key"), key).unwrap();
    tls.look(now());
    assert!(tls.seen.lock().unwrap().complaint.is_none());
    assert_eq!(tls.fingerprint(), second);
    fs::remove_file(folder.path().join("certificate")).unwrap();
    tls.look(now());
    write_pair(folder.path(), -1);
    tls.look(now());
    let complaint = tls.seen.lock().unwrap().complaint.clone().unwrap();
    assert!(complaint.contains("expired"), "{complaint}");
    assert_eq!(tls.fingerprint(), second);
}

#[test]
fn the_development_certificate_is_renewed_while_the_broker_runs() {
    let folder = tempfile::tempdir().unwrap();
    let tls = TlsConfig { development: true, ..TlsConfig::default() };
    let config = Config { tls, data: folder.path().to_owned(), ..Config::default() };
    let tls = tls_of(&config).unwrap().unwrap();
    let first = tls.fingerprint();
    tls.look(now());
    assert_eq!(tls.fingerprint(), first);
    let until = tls.serving().identity.validity.unwrap().until;
    tls.look(until);
    let second = tls.fingerprint();
    assert_ne!(second, first);
    tls.look(until);
    assert_eq!(tls.fingerprint(), second);
    // The next start serves what this one made.
    let kept = development::load_or_make(&folder.path().join(development::FILE), until).unwrap();
    assert_eq!(Identity::of(&kept.chain[0]).fingerprint(), second);
}
