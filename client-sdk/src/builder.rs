//! How a client is made.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use longwire_proto::codec::Encoding;
use longwire_proto::short_id::is_short_id;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::address::{Address, DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE};
use crate::backoff::Backoff;
use crate::client::{CALLS_MAX, COMMANDS_MAX, Client, Handle};
use crate::connection_state::ConnectionState;
use crate::driver::{Driver, Parts};
use crate::error::ConnectError;
use crate::ids::Ids;
use crate::link::Link;
use crate::machine::Machine;
use crate::machine::io::Config;
use crate::machine::outbox::Recovered;
use crate::machine::tokens::Known;
use crate::outbox_file::OutboxFile;
use crate::outbox_space::{
    OUTBOX_BYTES_MAX, OUTBOX_ENTRIES_MAX, OUTBOX_FILE_BYTES_MAX, OUTBOX_FILE_ENTRIES_MAX, OutboxSpace,
};
use crate::outbox_status::OutboxStatus;
use crate::spool::Spool;
use crate::subscription::WINDOW_BYTES_DEFAULT;
use crate::tls::{
    CA_VARIABLE, CLIENT_CERTIFICATE_VARIABLE, CLIENT_KEY_VARIABLE, FINGERPRINT_VARIABLE, Tls, TlsOptions,
};
use crate::token::{Token, TokenCallback, TokenSource};

/// Options of a [`Client`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, driver) = longwire::Client::builder()
///     .url("ws://127.0.0.1:8700")
///     .device("laptop")
///     .outbox_file("/var/lib/agent/outbox")
///     .build()?;
/// let driver = tokio::spawn(driver);
/// client.session("acme/build/42")?.publish("started").await?;
/// client.shutdown().await?;
/// driver.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `build` is called"]
pub struct ClientBuilder {
    url: String,
    tls: TlsOptions,
    device: String,
    client: String,
    encoding: Encoding,
    window_bytes: u64,
    backoff: Backoff,
    outbox_file: Option<PathBuf>,
    outbox_sync: bool,
    outbox_entries_max: Option<u64>,
    outbox_bytes_max: Option<u64>,
    token: TokenSource,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            tls: TlsOptions::default(),
            device: String::new(),
            client: concat!("longwire-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            encoding: Encoding::Proto,
            window_bytes: WINDOW_BYTES_DEFAULT,
            backoff: Backoff::default(),
            outbox_file: None,
            outbox_sync: false,
            outbox_entries_max: None,
            outbox_bytes_max: None,
            token: TokenSource::None,
        }
    }
}

impl ClientBuilder {
    /// What the environment says: `LONGWIRE_URL`, `LONGWIRE_TOKEN`, `LONGWIRE_CA`, `LONGWIRE_FINGERPRINT`, `LONGWIRE_CLIENT_CERTIFICATE` and
    /// `LONGWIRE_CLIENT_KEY`. A variable that is empty says nothing.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        // What is not Unicode is no URL and no fingerprint, and is refused as such.
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            url: text(URL_VARIABLE).unwrap_or_else(|| DEFAULT_URL.to_owned()),
            tls: TlsOptions {
                ca: variable(CA_VARIABLE).map(PathBuf::from),
                fingerprint: text(FINGERPRINT_VARIABLE),
                client_certificate: variable(CLIENT_CERTIFICATE_VARIABLE).map(PathBuf::from),
                client_key: variable(CLIENT_KEY_VARIABLE).map(PathBuf::from),
            },
            ..Self::default()
        }
        .token(text(TOKEN_VARIABLE).unwrap_or_default())
    }

    /// Trusts the authorities in this PEM file, and no others, to vouch for the broker's certificate. Without this, and
    /// without a fingerprint, it is those that the operating system trusts. Not for `ws://`.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(path.into());
        self
    }

    /// Trusts the broker's certificate with this SHA-256, in hexadecimal, whatever name and time it has, and no other;
    /// authorities are not asked then. For development certificates, whose fingerprint `longwire serve` prints. Not for
    /// `ws://`.
    pub fn fingerprint(mut self, sha256: impl Into<String>) -> Self {
        self.tls.fingerprint = Some(sha256.into());
        self
    }

    /// Shows this certificate to a broker that asks for one: PEM files with the certificate, and those between it and its
    /// root, and with its key. Not for `ws://`.
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.client_certificate = Some(certificate.into());
        self.tls.client_key = Some(key.into());
        self
    }

    /// Where the broker is, and how it is reached:
    ///
    /// | URL | by |
    /// |---|---|
    /// | `ws://HOST[:PORT]` | a WebSocket in plain text: on this machine, or behind something that speaks TLS for the broker |
    /// | `wss://HOST[:PORT]` | a WebSocket over TLS, through anything that lets HTTPS pass |
    /// | `quic://HOST[:PORT]` | QUIC: subscriptions do not hold each other up, and the client's address may change |
    /// | `longwire://HOST[:PORT]` | QUIC, or a WebSocket over TLS where UDP does not come through |
    ///
    /// `longwire://` tries QUIC, and 0.3 s later a WebSocket beside it; at once when UDP is refused. Whichever connects
    /// first is used, QUIC if both do. A certificate that is not trusted ends the client over either: it is no reason to try
    /// the other. A client that had to do without QUIC remembers it: it connects by WebSocket alone from then on, and begins
    /// with QUIC again when it connects for the first time after a minute, then after two and so on, up to 15. A
    /// connection that works is never given up for a better one.
    /// [`ConnectionState::Connected`](crate::ConnectionState::Connected) says what carries it.
    ///
    /// ```
    /// # fn main() -> Result<(), longwire::ConnectError> {
    /// let builder = longwire::Client::builder().url("longwire://broker.example");
    /// let (client, driver) = builder.fingerprint("5f".repeat(32)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Names this endpoint among those of its principal, such as `phone`: at most 64 of `A-Z a-z 0-9 _ -`.
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = device.into();
        self
    }

    /// Name and version of the application, for the broker's log.
    pub fn client_name(mut self, client: impl Into<String>) -> Self {
        self.client = client.into();
        self
    }

    /// Says who the client is, to a broker that asks: a JWT that the broker or an issuer that it knows has signed. When it
    /// expires, the client closes with [`Closed::TokenExpired`](crate::Closed::TokenExpired); a client that outlives its
    /// tokens has a [`Self::token_callback`]. An empty one is none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Token::new(&token.into()).map_or(TokenSource::None, TokenSource::Fixed);
        self
    }

    /// Gives the client its tokens: the callback is asked before each connection, and again in good time before a token
    /// expires; then the connection goes on with the newer one, which is of the same principal and allows no more.
    ///
    /// A callback that fails, or gives nothing within 30 seconds, is asked again later. A broker that refuses a token for
    /// good is tried once more when the callback gives another one; then the client closes.
    ///
    /// ```no_run
    /// # async fn fetch() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let builder = longwire::Client::builder().token_callback(|| async { fetch().await });
    /// ```
    pub fn token_callback<F, T, E>(mut self, callback: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        self.token = TokenSource::Callback(TokenCallback::new(callback));
        self
    }

    /// How frames are written. JSON is for debugging.
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Bytes of unread records that each subscription may hold (default [`WINDOW_BYTES_DEFAULT`]). A client with n
    /// subscriptions that nobody reads holds at most about 1.5 × n × this.
    pub fn window_bytes(mut self, window_bytes: u64) -> Self {
        self.window_bytes = window_bytes.max(1);
        self
    }

    /// Bounds of the waiting time between tries.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Keeps unacknowledged publishes in this file (created with mode 0600, and locked through `<file>.lock`), so that
    /// they survive this process: the next client that opens it sends them, under the same producers and sequences, in
    /// order and without doubles. An accepted publish is written to the operating system, so it survives a kill of the
    /// process; for a crash of the machine see [`Self::outbox_sync`]. A producer belongs to a principal: tokens may change,
    /// but who opens the file as somebody else publishes what may be there already.
    pub fn outbox_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.outbox_file = Some(path.into());
        self
    }

    /// Calls `fdatasync` before a publish counts as accepted, so that it survives a crash of the machine. Publishes that
    /// arrive together share one; it holds the driver for as long as the disk takes.
    pub fn outbox_sync(mut self, sync: bool) -> Self {
        self.outbox_sync = sync;
        self
    }

    /// Publishes that the outbox holds before a publish waits (default [`OUTBOX_ENTRIES_MAX`], with a file
    /// [`OUTBOX_FILE_ENTRIES_MAX`]).
    pub fn outbox_entries_max(mut self, entries: u64) -> Self {
        self.outbox_entries_max = Some(entries.max(1));
        self
    }

    /// Bytes that the outbox holds before a publish waits (default [`OUTBOX_BYTES_MAX`], with a file
    /// [`OUTBOX_FILE_BYTES_MAX`]).
    pub fn outbox_bytes_max(mut self, bytes: u64) -> Self {
        self.outbox_bytes_max = Some(bytes.max(1));
        self
    }

    /// Makes the client and its driver, a future that does all the work. Nothing is spawned and nothing is sent: poll the
    /// driver, such as with `tokio::spawn`. Opening an outbox file reads it whole; `wss://` reads the files of whom to trust.
    ///
    /// # Errors
    /// [`ConnectError`]: a URL or device outside its grammar, or an outbox file or TLS files that cannot be used.
    pub fn build(self) -> Result<(Client, Driver), ConnectError> {
        let address = Address::parse(&self.url)?;
        let tls = Tls::of(&address, &self.tls)?;
        // The other one is for reading along, which QUIC is not.
        let encoding = if address.scheme.is_websocket() { self.encoding } else { Encoding::Proto };
        if !self.device.is_empty() && !is_short_id(self.device.as_bytes()) {
            return Err(ConnectError::InvalidDevice(self.device));
        }
        let (spool, recovered, cut_bytes) = match &self.outbox_file {
            None => (Spool::memory(), Recovered::default(), 0),
            Some(path) => {
                let file = OutboxFile::open(path, self.outbox_sync)?;
                let (recovered, cut_bytes) = (file.recovered(), file.cut_bytes());
                (Spool::File(Box::new(file)), recovered, cut_bytes)
            }
        };
        let in_file = |file, memory| if self.outbox_file.is_some() { file } else { memory };
        let entries_max = in_file(OUTBOX_FILE_ENTRIES_MAX, OUTBOX_ENTRIES_MAX);
        let bytes_max = in_file(OUTBOX_FILE_BYTES_MAX, OUTBOX_BYTES_MAX);
        let there: Vec<(u64, u64)> =
            recovered.entries.iter().map(|entry| (entry.entry, entry.bytes)).collect();
        let (entries, bytes) = (there.len() as u64, there.iter().map(|(_, bytes)| bytes).sum());
        let space = Arc::new(OutboxSpace::new(
            self.outbox_entries_max.unwrap_or(entries_max),
            self.outbox_bytes_max.unwrap_or(bytes_max),
            entries,
            bytes,
        ));
        let status = OutboxStatus { entries, bytes, recovered: entries, cut_bytes, ..Default::default() };
        let (known, callback) = match self.token {
            TokenSource::None => (Known::None, None),
            TokenSource::Fixed(token) => (Known::Fixed(token), None),
            TokenSource::Callback(callback) => (Known::Asked, Some(callback)),
        };
        let machine = Machine::new(Config {
            device: self.device,
            client: self.client,
            backoff: self.backoff,
            producer_base: format!("{:016x}{:016x}", random()?, random()?),
            seed: random()?,
            recovered,
            token: known,
        });
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let (feedback, feedback_in) = mpsc::unbounded_channel();
        let (state_out, state) = watch::channel(ConnectionState::Connecting);
        let (status_out, status) = watch::channel(status);
        let driver = Driver::new(Parts {
            machine,
            callback,
            link: Link::new(address, tls, encoding),
            encoding,
            spool,
            space: Arc::clone(&space),
            commands: commands_in,
            feedback: feedback_in,
            state: state_out,
            status: status_out,
            recovered: there,
        });
        let client = Client::new(Handle {
            commands,
            feedback,
            state,
            status,
            space,
            calls: Semaphore::new(CALLS_MAX),
            next_subscription: AtomicU32::new(1),
            ids: Ids::new(random()?),
            encoding,
            window_bytes: self.window_bytes,
        });
        Ok((client, driver))
    }
}

fn random() -> Result<u64, ConnectError> {
    getrandom::u64().map_err(|error| ConnectError::Random(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_say_where_the_broker_is_and_whom_to_trust() {
        let said = ClientBuilder::from_variables(|name| Some(name.into()));
        assert_eq!(
            (said.url.as_str(), said.tls.fingerprint.as_deref()),
            (URL_VARIABLE, Some(FINGERPRINT_VARIABLE))
        );
        let files = [said.tls.ca, said.tls.client_certificate, said.tls.client_key];
        let wanted = [CA_VARIABLE, CLIENT_CERTIFICATE_VARIABLE, CLIENT_KEY_VARIABLE];
        assert_eq!(files, wanted.map(|name| Some(PathBuf::from(name))));
        for nothing in [None, Some(OsString::new())] {
            let builder = ClientBuilder::from_variables(|_| nothing.clone());
            assert_eq!(builder.url, DEFAULT_URL);
            assert!(builder.build().is_ok());
        }
    }
}
