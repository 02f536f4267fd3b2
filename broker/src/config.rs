//! The broker's configuration: defaults, then a TOML file, then the environment, then flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::quota::limits::Limits;

/// Environment variables that configure the broker begin with this, such as `LONGWIRE_SERVE_LISTEN`.
pub const ENV_PREFIX: &str = "LONGWIRE_SERVE_";

/// The configuration. Every key of the file is a field here; the environment has it in capitals after [`ENV_PREFIX`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address of the one TCP port. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Names that the broker answers to besides addresses and `localhost`, such as that of a proxy in front of it.
    pub hosts: Vec<String>,
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
        "refusing to listen on {0}: this version does not authenticate clients, so it serves the loopback interface only; \
         listen on 127.0.0.1 or [::1], and let an authenticating proxy or a tunnel reach it"
    )]
    NotLoopback(SocketAddr),
    /// A time or count is zero.
    #[error("`{0}` must be above 0")]
    Zero(&'static str),
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
            .merge(Env::prefixed(ENV_PREFIX))
            .merge(Serialized::defaults(overrides))
            .extract()
            .map_err(|error| ConfigError::Invalid(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback(self.listen));
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
    fn what_is_wrong_is_named() {
        let unknown = load("colour = 'red'").unwrap_err().to_string();
        assert!(unknown.contains("colour") && unknown.contains("heartbeat_ms"), "{unknown}");
        let wrong = load("listen = 'here'").unwrap_err().to_string();
        assert!(wrong.contains("listen"), "{wrong}");
        assert!(matches!(load("idle_timeout_ms = 0"), Err(ConfigError::Zero("idle_timeout_ms"))));
        assert!(matches!(load("listen = '0.0.0.0:8700'"), Err(ConfigError::NotLoopback(_))));
        assert!(matches!(load("unauthenticated_max = 0"), Err(ConfigError::Zero("unauthenticated_max"))));
        let unknown = load("[limits.principal]\nconections = 3").unwrap_err().to_string();
        assert!(unknown.contains("conections") && unknown.contains("limits"), "{unknown}");
        assert!(load("[limits.principal]\nconnections = 0").is_err());
        let missing = Config::load(Some(Path::new("/nowhere/longwire.toml")), Overrides::default());
        assert!(matches!(missing, Err(ConfigError::NoFile(_))));
    }
}
