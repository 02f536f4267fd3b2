//! The broker's configuration: defaults, then a TOML file, then the environment, then flags.

pub mod audit;
pub mod issuer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::config::audit::AuditConfig;
use crate::config::issuer::{InvalidIssuerConfig, IssuerConfig, check_issuers};
use crate::origin::is_origin;
use crate::quota::limits::Limits;
use crate::tls::config::{TlsConfig, TlsConfigError, TlsOverrides};

/// Environment variables that configure the broker begin with this, such as `LONGWIRE_SERVE_LISTEN`.
pub const ENV_PREFIX: &str = "LONGWIRE_SERVE_";

/// Tables of the configuration. The environment has no dots: `LONGWIRE_SERVE_TLS_KEY` is `tls.key`.
const TABLES: [&str; 5] = ["tls", "limits.connection", "limits.principal", "limits.tenant", "limits.broker"];

/// The key that a variable's name means.
fn in_table(variable: &str) -> String {
    let variable = variable.to_ascii_lowercase();
    let of_table = TABLES.iter().find_map(|table| {
        let key = variable.strip_prefix(&table.replace('.', "_"))?.strip_prefix('_')?;
        Some(format!("{table}.{key}"))
    });
    of_table.unwrap_or(variable)
}

/// The configuration. Every key of the file is a field here; the environment has it in capitals after [`ENV_PREFIX`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address of the one TCP port. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Names that the broker answers to besides addresses and `localhost`, such as that of a proxy in front of it.
    pub hosts: Vec<String>,
    /// Everybody shows a token; without this, whoever reaches the broker may do everything.
    pub auth: bool,
    /// Whose tokens are accepted besides the broker's own.
    pub issuers: Vec<IssuerConfig>,
    /// Where the audit log is.
    pub audit: AuditConfig,
    /// Origins of pages that may connect besides those of the broker itself, exactly as browsers write them, such as
    /// `https://app.example`.
    pub origins: Vec<String>,
    /// TLS on the port.
    pub tls: TlsConfig,
    /// QUIC too, on the UDP port of the same number, when there is TLS.
    pub quic: bool,
    /// A proxy in front of the broker terminates TLS, so the port speaks plain text although others reach it.
    pub plain_text: bool,
    /// The data folder; created when it does not exist.
    pub data: PathBuf,
    /// The broker sends a heartbeat after this time of silence.
    pub heartbeat_ms: u64,
    /// A client that sends or takes nothing for this long is disconnected.
    pub idle_timeout_ms: u64,
    /// A client says hello within this time.
    pub handshake_timeout_ms: u64,
    /// A session that nobody uses leaves memory after this time.
    pub session_idle_ms: u64,
    /// The whole shutdown takes at most this time.
    pub drain_timeout_ms: u64,
    /// When clients are told to come back after a drain.
    pub reconnect_after_ms: u64,
    /// Connections that are open at once: those whose hello was accepted.
    pub connections_max: usize,
    /// Connections that begin to be served a second: who comes back in a crowd waits for a moment.
    pub admissions_per_second: u32,
    /// Sockets that are open at once beside those, because no hello of theirs was accepted yet. Plain HTTP is among them.
    pub unauthenticated_max: usize,
    /// What connections, principals and tenants may use.
    pub limits: Limits,
    /// The folder of backups. Without one no backup can be made while the broker runs.
    pub backups: Option<PathBuf>,
    /// How long backups are kept; nothing: until somebody removes them. What was erased or deleted since is in them.
    pub backups_keep_ms: Option<u64>,
    /// Hosts that webhooks of worker groups may go to although their addresses are of a private network, or of this host, which alone may be
    /// `http://`. Others have public addresses and https.
    pub webhook_hosts: Vec<String>,
    /// The clock is right, however much it differs from what it was before: sessions and records expire at once.
    pub trust_clock: bool,
    /// How much of the store is read a second, in bytes, to find damage before it matters; 0 for nothing.
    pub scrub_bytes_per_second: u64,
    /// The store gets the manners of a distributed log, from this seed.
    #[cfg(feature = "hostile")]
    pub hostile: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8700)),
            hosts: Vec::new(),
            auth: false,
            issuers: Vec::new(),
            audit: AuditConfig::default(),
            origins: Vec::new(),
            tls: TlsConfig::default(),
            quic: true,
            plain_text: false,
            data: PathBuf::from("longwire-data"),
            heartbeat_ms: 15_000,
            idle_timeout_ms: 60_000,
            handshake_timeout_ms: 5_000,
            session_idle_ms: 30_000,
            drain_timeout_ms: 10_000,
            reconnect_after_ms: 500,
            connections_max: 10_000,
            admissions_per_second: 2_000,
            unauthenticated_max: 2_000,
            limits: Limits::default(),
            backups: None,
            backups_keep_ms: None,
            webhook_hosts: Vec::new(),
            trust_clock: false,
            scrub_bytes_per_second: 4 << 20,
            #[cfg(feature = "hostile")]
            hostile: None,
        }
    }
}

/// What flags say; what they leave open comes from the environment, the file and the defaults.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Overrides {
    /// [`Config::listen`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// [`Config::data`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// [`Config::backups`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<PathBuf>,
    /// [`Config::backups_keep_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups_keep_ms: Option<u64>,
    /// [`Config::trust_clock`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_clock: Option<bool>,
    /// [`Config::auth`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<bool>,
    /// [`Config::tls`].
    pub tls: TlsOverrides,
    /// [`Config::plain_text`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_text: Option<bool>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("the configuration file {0} does not exist; name one that does, or leave --config out")]
    NoFile(PathBuf),
    /// A key or a value is not allowed.
    #[error("the configuration is not valid: {0}")]
    Invalid(Box<figment::Error>),
    /// The address can be reached from elsewhere, and nothing would ask who is there.
    #[error(
        "refusing to listen on {0}, which other machines can reach, while everybody there may do everything: set \
         `auth = true` (--auth), so that clients must show a token, or listen on 127.0.0.1 or [::1]"
    )]
    NotAuthenticated(SocketAddr),
    /// The address can be reached from elsewhere, and tokens could be read on the way.
    #[error(
        "refusing to listen on {0} in plain text, where whoever is on the way can read tokens and records: name \
         `tls.certificate` and `tls.key` (--tls-certificate, --tls-key), or set `plain_text = true` (--plain-text) if a \
         proxy in front of the broker terminates TLS"
    )]
    NotEncrypted(SocketAddr),
    /// Both TLS and none.
    #[error(
        "`plain_text = true` says that a proxy terminates TLS, and `tls` says that the broker does: remove one of them"
    )]
    PlainTextAndTls,
    /// The table `tls`.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// An origin that no browser writes, so that no page would ever have it.
    #[error(
        "`origins` has {0:?}, which is no origin as browsers write them: scheme and host in lower case, the port only when \
         it is not the scheme's own, and nothing after it, such as https://app.example or http://localhost:3000"
    )]
    Origin(String),
    /// A time or count is zero.
    #[error("`{0}` must be above 0")]
    Zero(&'static str),
    /// An issuer is not one.
    #[error("{0}")]
    Issuer(#[from] InvalidIssuerConfig),
    /// The audit log is not somewhere.
    #[error("`audit` is `true` (`audit.jsonl` in the data folder), `false`, or the path of a file")]
    Audit,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the key, where it came from, and what is allowed.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError::NoFile(file.to_owned()));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let config: Self = figment
            .merge(Env::prefixed(ENV_PREFIX).map(|key| in_table(key.as_str()).into()))
            .merge(Serialized::defaults(overrides))
            .extract()
            .map_err(|error| ConfigError::Invalid(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.tls.check()?;
        if self.plain_text && self.tls.is_on() {
            return Err(ConfigError::PlainTextAndTls);
        }
        if !self.listen.ip().is_loopback() {
            if !self.auth {
                return Err(ConfigError::NotAuthenticated(self.listen));
            }
            if !self.tls.is_on() && !self.plain_text {
                return Err(ConfigError::NotEncrypted(self.listen));
            }
        }
        if let Some(origin) = self.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(ConfigError::Origin(origin.clone()));
        }
        check_issuers(&self.issuers)?;
        if self.audit == AuditConfig::At(PathBuf::new()) {
            return Err(ConfigError::Audit);
        }
        let counts = [
            ("heartbeat_ms", self.heartbeat_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("session_idle_ms", self.session_idle_ms),
            ("drain_timeout_ms", self.drain_timeout_ms),
            ("connections_max", self.connections_max as u64),
            ("admissions_per_second", self.admissions_per_second.into()),
            ("unauthenticated_max", self.unauthenticated_max as u64),
            ("backups_keep_ms", self.backups_keep_ms.unwrap_or(u64::MAX)),
        ];
        match counts.into_iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }

    /// A time of the configuration.
    #[must_use]
    pub fn time(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("longwire.toml");
        std::fs::write(&file, toml).unwrap();
        Config::load(Some(&file), Overrides::default())
    }

    #[test]
    fn flags_win_over_the_file() {
        let config = load("heartbeat_ms = 20\nlisten = '127.0.0.1:1'").unwrap();
        assert_eq!((config.heartbeat_ms, config.listen.port()), (20, 1));
        let overrides =
            Overrides { listen: Some(SocketAddr::from(([127, 0, 0, 1], 2))), ..Overrides::default() };
        assert_eq!(Config::load(None, overrides).unwrap().listen.port(), 2);
    }

    #[test]
    fn a_limit_is_set_alone_and_the_others_stay() {
        let config =
            load("[limits.principal]\nconnections = 3\n[limits.tenant]\npublish_kib_per_second = 9").unwrap();
        let mut expected = Limits::default();
        expected.principal.connections = std::num::NonZeroU64::new(3);
        expected.tenant.publish_kib_per_second = std::num::NonZeroU32::new(9);
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn the_audit_log_is_in_the_data_folder_elsewhere_or_nowhere() {
        let at = |toml: &str| load(toml).unwrap().audit.file(Path::new("d"));
        assert_eq!(at(""), Some(PathBuf::from("d/audit.jsonl")));
        assert_eq!(at("audit = true"), Some(PathBuf::from("d/audit.jsonl")));
        assert_eq!(at("audit = false"), None);
        assert_eq!(at("audit = '/var/log/longwire.jsonl'"), Some(PathBuf::from("/var/log/longwire.jsonl")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unknown = load("colour = 'red'").unwrap_err().to_string();
        assert!(unknown.contains("colour") && unknown.contains("heartbeat_ms"), "{unknown}");
        let wrong = load("listen = 'here'").unwrap_err().to_string();
        assert!(wrong.contains("listen"), "{wrong}");
        assert!(matches!(load("idle_timeout_ms = 0"), Err(ConfigError::Zero("idle_timeout_ms"))));
        assert!(matches!(load("unauthenticated_max = 0"), Err(ConfigError::Zero("unauthenticated_max"))));
        let unknown = load("[limits.principal]\nconections = 3").unwrap_err().to_string();
        assert!(unknown.contains("conections") && unknown.contains("limits"), "{unknown}");
        assert!(load("[limits.principal]\nconnections = 0").is_err());
        let issuer = "[[issuers]]\nname = 'x'\naudience = 'longwire'\nnamespace = 'x'\nbounds = ['acme/**:fly']\nkeys = 'k'";
        let wrong = load(issuer).unwrap_err().to_string();
        assert!(
            wrong.contains("issuer 1 (`x`)") && wrong.contains("bounds") && wrong.contains("grant 1"),
            "{wrong}"
        );
        let unknown = load(&issuer.replace("keys", "key")).unwrap_err().to_string();
        assert!(unknown.contains("issuers") && unknown.contains("jwks_url"), "{unknown}");
        assert!(matches!(load("audit = ''"), Err(ConfigError::Audit)));
        let origin = load("origins = ['https://App.example']").unwrap_err().to_string();
        assert!(origin.contains("https://App.example") && origin.contains("lower case"), "{origin}");
        let missing = Config::load(Some(Path::new("/nowhere/longwire.toml")), Overrides::default());
        assert!(matches!(missing, Err(ConfigError::NoFile(_))));
    }

    #[test]
    fn others_reach_the_broker_only_by_a_token_and_encrypted() {
        let other = |rest: &str| load(&format!("listen = '0.0.0.0:8700'\n{rest}"));
        let files = "tls.certificate = 'c'\ntls.key = 'k'\n";
        assert!(matches!(other(""), Err(ConfigError::NotAuthenticated(_))));
        assert!(matches!(other(files), Err(ConfigError::NotAuthenticated(_))));
        assert!(matches!(other("plain_text = true"), Err(ConfigError::NotAuthenticated(_))));
        assert!(matches!(other("auth = true"), Err(ConfigError::NotEncrypted(_))));
        for rest in ["tls.development = true", "plain_text = true", files] {
            assert!(other(&format!("auth = true\n{rest}")).is_ok(), "{rest}");
        }
        let both = load("plain_text = true\ntls.development = true");
        assert!(matches!(both, Err(ConfigError::PlainTextAndTls)));
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(load(&format!("listen = '{loopback}'")).is_ok());
        }
        assert!(load("listen = '[::]:1'").is_err());
    }

    #[test]
    fn a_table_of_tls_makes_sense_or_is_refused() {
        for (table, wanted) in [
            ("tls.certificate = 'c'", TlsConfigError::Half),
            ("tls.key = 'k'", TlsConfigError::Half),
            ("tls.development = true\ntls.certificate = 'c'\ntls.key = 'k'", TlsConfigError::Both),
            ("tls.client_ca = 'a'", TlsConfigError::ClientsOnly),
        ] {
            assert!(matches!(load(table), Err(ConfigError::Tls(found)) if found == wanted), "{table}");
        }
        let unknown = load("tls.colour = 'red'").unwrap_err().to_string();
        assert!(unknown.contains("colour") && unknown.contains("client_ca"), "{unknown}");
        assert!(load("tls.development = true\ntls.client_ca = 'a'").unwrap().tls.is_on());
        assert!(!load("[tls]").unwrap().tls.is_on());
    }

    #[test]
    fn variables_reach_into_tables() {
        for (variable, key) in [
            ("TLS_KEY", "tls.key"),
            ("TLS_CLIENT_CA", "tls.client_ca"),
            ("tls", "tls"),
            ("listen", "listen"),
            ("HEARTBEAT_MS", "heartbeat_ms"),
        ] {
            assert_eq!(in_table(variable), key);
        }
    }

    #[test]
    fn flags_win_over_the_file_within_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("longwire.toml");
        std::fs::write(&file, "tls.certificate = 'c'\ntls.key = 'k'").unwrap();
        let tls = TlsOverrides { key: Some("other".into()), ..TlsOverrides::default() };
        let config = Config::load(Some(&file), Overrides { tls, ..Overrides::default() }).unwrap();
        assert_eq!(config.tls.certificate, Some("c".into()));
        assert_eq!(config.tls.key, Some("other".into()));
    }
}
