//! A server that is measured, as a process of its own.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::Broker;

/// How long a server may take until it takes connections.
const STARTING_MAX: Duration = Duration::from_secs(20);
/// How often that is tried.
const TRY: Duration = Duration::from_millis(5);

/// The folder that `scripts/peers` installs into.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    Some(target.join("peers/bin").join(name)).filter(|path| path.exists())
}

/// Ports that nobody listens on, each another one.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Killed when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    process: Process,
}

enum Process {
    Broker(Broker),
    Other(Child),
}

impl Server {
    pub(crate) fn broker(folder: &Path) -> Self {
        let broker = Broker::start(&folder.join("data"), &[]);
        Self { address: broker.address, process: Process::Broker(broker) }
    }

    /// The broker that `LONGWIRE_BENCH_OTHER` names: an older one, say, to see what a change has brought.
    pub(crate) fn other_broker(folder: &Path) -> Option<Self> {
        let mut command = Command::new(std::env::var_os("LONGWIRE_BENCH_OTHER")?);
        let [port] = free_ports();
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(folder.join("data"));
        Some(Self::spawn(command, &folder.join("log"), port))
    }

    /// Starts what `scripts/peers` installed; `None` where it is not.
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &str,
        arguments: &[S],
        environment: &[(&str, &str)],
        folder: &Path,
        port: u16,
    ) -> Option<Self> {
        let mut command = Command::new(installed(name)?);
        command.args(arguments).envs(environment.iter().copied()).current_dir(folder);
        Some(Self::spawn(command, &folder.join("log"), port))
    }

    pub(crate) fn spawn(mut command: Command, log: &Path, port: u16) -> Self {
        let output = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Self { address, process: Process::Other(child) };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(began.elapsed() < STARTING_MAX, "{command:?} takes no connections: {}", said());
            std::thread::sleep(TRY);
        }
        server
    }

    /// What it and the processes that it waited for have used of the processors, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        match &self.process {
            Process::Broker(broker) => broker.cpu_seconds(),
            Process::Other(child) => cpu_seconds(child.id()),
        }
    }
}

fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |field: usize| fields.split_whitespace().nth(field).unwrap().parse::<f64>().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let running = children.unwrap_or_default();
    let running = running.split_whitespace().filter_map(|child| child.parse().ok());
    let own = (11..=14).map(ticks).sum::<f64>() / rustix::param::clock_ticks_per_second() as f64;
    own + running.map(cpu_seconds).sum::<f64>()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Other(child) = &mut self.process {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
