//! `longwire serve`: the broker.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use longwire_broker::config::{Config, Overrides};
use longwire_broker::http::CONNECT_PATH;
use longwire_broker::late_recorder::LateRecorder;
use longwire_broker::server::Server;
use longwire_broker::store::Store;
use longwire_broker::store::local::backup::made_ms;
use longwire_broker::store::local::folder::DATABASE_FILE;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::tls::Tls;
use longwire_broker::tls::config::TlsOverrides;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::duration_text::millis;
use crate::cli::log;
use crate::cli::open_files;

/// Runs the broker until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  longwire serve\n  longwire serve --listen 127.0.0.1:9000 --data /var/lib/longwire\n  \
    longwire serve --dev-tls\n\n\
    Every key of the configuration file is also an environment variable, such as LONGWIRE_SERVE_HEARTBEAT_MS,\n\
    or LONGWIRE_SERVE_TLS_KEY for `key` in the table `tls`."
)]
pub(crate) struct ServeArgs {
    /// Address of the one port for WebSocket, gRPC and HTTP [default: 127.0.0.1:8700]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Folder of the durable sessions, created when it does not exist [default: longwire-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of backups; without one no backup can be made while the broker runs
    #[arg(long, value_name = "DIR")]
    backups: Option<PathBuf>,
    /// Remove backups that are older than this, such as 30d; they keep what was erased since [default: never]
    #[arg(long, value_name = "TIME", value_parser = millis)]
    keep_backups_for: Option<u64>,
    /// Clients must show a token; without this the broker listens on this machine alone
    #[arg(long)]
    auth: bool,
    /// Speak TLS with the certificate in this PEM file; a replaced file is taken without a restart
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Refuse clients without a certificate of an authority in this PEM file
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Speak TLS with a certificate of the broker's own making, which clients know by its fingerprint
    #[arg(long, conflicts_with = "tls_certificate")]
    dev_tls: bool,
    /// A proxy in front of the broker terminates TLS: listen in plain text although others reach it
    #[arg(long)]
    plain_text: bool,
    /// The clock is right, however far it is from what it was: let things expire by age at once
    #[arg(long)]
    trust_clock: bool,
    /// Configuration in TOML; flags and environment win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What keeps the broker from serving.
pub(crate) async fn run(args: ServeArgs, json: bool) -> anyhow::Result<ExitCode> {
    log::start();
    let overrides = Overrides {
        listen: args.listen,
        data: args.data,
        backups: args.backups,
        backups_keep_ms: args.keep_backups_for,
        trust_clock: args.trust_clock.then_some(true),
        auth: args.auth.then_some(true),
        tls: TlsOverrides {
            certificate: args.tls_certificate,
            key: args.tls_key,
            client_ca: args.tls_client_ca,
            development: args.dev_tls.then_some(true),
        },
        plain_text: args.plain_text.then_some(true),
    };
    let config = Config::load(args.config.as_deref(), overrides)?;
    let config = open_files::fit(config);
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let metrics = LateRecorder::install().context("cannot start the metrics")?;
    anyhow::ensure!(
        made_ms(&config.data).is_none(),
        "{} is a backup, which stays what it is; `longwire store restore {0} --data DIR` makes a data folder of it",
        config.data.display()
    );
    tell_of_damage(config.data.join(DATABASE_FILE));
    let local = LocalConfig::new(config.data.clone());
    let store = tokio::task::spawn_blocking(move || LocalStore::open(local)).await??;
    let store = behind_faults(store, &config);
    let access = Access::of(&config);
    let server = match Server::bind(config, Arc::clone(&store), metrics).await {
        Ok(server) => server,
        Err(error) => {
            store.shutdown().await?;
            return Err(error.into());
        }
    };
    announce(&server, access, json);
    server
        .run(async move {
            signals.next().await;
            // Whoever asks twice does not want to wait: what is acknowledged is durable at any moment.
            tokio::spawn(async move {
                signals.next().await;
                std::process::exit(1);
            });
        })
        .await;
    Ok(ExitCode::SUCCESS)
}

/// redb panics where its pages are damaged, and may then panic again while it cleans up, which ends the process: what is
/// said before that must name the file.
fn tell_of_damage(database: PathBuf) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        if panic.location().is_some_and(|location| location.file().contains("/redb-")) {
            eprintln!(
                "longwire: {} is damaged: redb could not follow its pages; restore the folder from a backup",
                database.display()
            );
        }
    }));
}

#[cfg(feature = "hostile")]
fn behind_faults(store: LocalStore, config: &Config) -> Arc<dyn Store> {
    use longwire_broker::store::hostile::Hostile;
    use longwire_broker::store::hostile::faults::Faults;
    match config.hostile {
        Some(seed) => {
            tracing::warn!(seed, "the store behaves like a distributed log in trouble: this is for tests");
            Arc::new(Hostile::new(store, Faults::all(), seed))
        }
        None => Arc::new(store),
    }
}

#[cfg(not(feature = "hostile"))]
fn behind_faults(store: LocalStore, _config: &Config) -> Arc<dyn Store> {
    Arc::new(store)
}

/// Who is let in.
#[derive(Clone, Copy)]
enum Access {
    /// Whoever is on this machine.
    Machine,
    /// Whoever has a token.
    Token,
}

impl Access {
    fn of(config: &Config) -> Self {
        if config.auth { Self::Token } else { Self::Machine }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Machine => {
                "this machine only (loopback), without authentication: everybody here may do everything"
            }
            Self::Token => "with authentication: clients must show a token",
        }
    }
}

fn announce(server: &Server, access: Access, json: bool) {
    let address = server.address();
    let fingerprint = server.tls().map(Tls::fingerprint);
    let (websocket, http, grpc) = match &fingerprint {
        Some(_) => ("wss", "https", "grpcs"),
        None => ("ws", "http", "grpc"),
    };
    let url = format!("{websocket}://{address}");
    if json {
        let mut ready = serde_json::json!({
            "event": "ready",
            "url": url,
            "http": format!("{http}://{address}"),
            "grpc": format!("{grpc}://{address}"),
            "auth": matches!(access, Access::Token),
        });
        if server.has_quic() {
            ready["quic"] = format!("quic://{address}").into();
        }
        if let Some(fingerprint) = fingerprint {
            ready["fingerprint"] = fingerprint.into();
        }
        println!("{ready}");
        return;
    }
    println!("longwire {} is ready", env!("CARGO_PKG_VERSION"));
    println!("  Access     {}", access.text());
    println!("  Page       {http}://{address}/");
    println!("  WebSocket  {url}{CONNECT_PATH}");
    println!("  gRPC       {grpc}://{address}");
    if server.has_quic() {
        println!("  QUIC       quic://{address}");
    }
    println!("  Health     {http}://{address}/healthz, /readyz and /metrics");
    match fingerprint {
        None => println!("  Try        longwire --url {url} run demo -- date"),
        Some(fingerprint) => {
            println!("  SHA-256    {fingerprint} (fingerprint of the certificate)");
            println!("  Try        longwire --url {url} --fingerprint {fingerprint} run demo -- date");
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
