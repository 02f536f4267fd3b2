//! A broker within the process of a test.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use longwire_broker::config::{Config, Overrides};
use longwire_broker::server::Server;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::transport::memory::MemoryPort;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::task::{JoinHandle, block_in_place};

/// What a process has one of, for all brokers in it.
static METRICS: LazyLock<PrometheusHandle> =
    LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());
/// So there is one at a time: their metrics are the same ones.
static ALONE: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

pub(super) struct WithinBroker {
    address: SocketAddr,
    port: MemoryPort,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    _alone: OwnedMutexGuard<()>,
}

/// Tests with a broker of their own wait for it as for a process.
fn wait<T>(future: impl Future<Output = T>) -> T {
    block_in_place(|| Handle::current().block_on(future))
}

/// The key of the configuration that a variable means, and its value.
fn line((variable, value): &(&str, &str)) -> String {
    let key = match variable.strip_prefix("LIMITS_PRINCIPAL_") {
        Some(key) => format!("limits.principal.{key}"),
        None => (*variable).to_owned(),
    };
    format!("{} = {value}\n", key.to_lowercase())
}

impl WithinBroker {
    /// Starts a broker with settings whose values are numbers or truths.
    pub(super) fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(data).unwrap();
        let file = data.with_extension("toml");
        std::fs::write(&file, settings.iter().map(line).collect::<String>()).unwrap();
        let overrides = Overrides {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            data: Some(data.to_owned()),
            ..Overrides::default()
        };
        let config = Config::load(Some(&file), overrides).unwrap();
        wait(async {
            let alone = Arc::clone(&ALONE).lock_owned().await;
            let store = LocalStore::open(LocalConfig::new(data.to_owned())).unwrap();
            let server = Server::bind(config, Arc::new(store), METRICS.clone().into()).await.unwrap();
            let (address, port) = (server.address(), server.memory_port());
            let (stop, stopped) = oneshot::channel::<()>();
            let running = tokio::spawn(server.run(async { drop(stopped.await) }));
            Self { address, port, stop: Some(stop), running, _alone: alone }
        })
    }

    /// Where HTTP is answered.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn port(&self) -> &MemoryPort {
        &self.port
    }

    pub(super) fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    pub(super) fn wait(self) {
        wait(self.running).unwrap();
    }
}
