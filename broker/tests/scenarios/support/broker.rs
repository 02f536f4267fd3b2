//! The real broker as a child process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub(crate) const LONGWIRE: &str = env!("CARGO_BIN_EXE_longwire");

/// A broker process and its data folder. Killed when dropped.
pub(crate) struct Broker {
    child: Child,
    address: SocketAddr,
    /// The fingerprint of the certificate, when it speaks TLS.
    fingerprint: Option<String>,
}

impl Broker {
    /// Starts a broker on a free port and waits until it is ready.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// Starts a broker with settings such as `("HEARTBEAT_MS", "50")`.
    pub(crate) fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::ready(serve(Command::new(LONGWIRE), data, settings).spawn().unwrap())
    }

    /// Starts a broker beneath another program, such as strace, which must become the broker.
    pub(crate) fn start_under(mut program: Command, data: &Path, settings: &[(&str, &str)]) -> Self {
        program.arg(LONGWIRE);
        Self::ready(serve(program, data, settings).spawn().unwrap())
    }

    /// Starts a broker whose log goes to a file, where [`recovered`] finds what it settled at the start.
    pub(crate) fn start_logged(data: &Path, log: &Path) -> Self {
        Self::ready(logged(data, log).spawn().unwrap())
    }

    /// Starts a broker that logs everything there is to log to a file.
    pub(crate) fn start_traced(data: &Path, settings: &[(&str, &str)], log: &Path) -> Self {
        let mut command = serve(Command::new(LONGWIRE), data, settings);
        command.env("LONGWIRE_LOG", "trace").stderr(File::create(log).unwrap());
        Self::ready(command.spawn().unwrap())
    }

    /// Starts a broker that may refuse to start: then what it says.
    pub(crate) fn try_start(data: &Path) -> Result<Self, String> {
        let mut child = serve(Command::new(LONGWIRE), data, &[]).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        // Read all along, or a full pipe would stop the broker.
        let said = std::thread::spawn(move || {
            let mut said = String::new();
            drop(stderr.read_to_string(&mut said));
            said
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match ready(&line) {
            Some((address, fingerprint)) => Ok(Self { child, address, fingerprint }),
            None => {
                child.wait().unwrap();
                Err(line + &said.join().unwrap())
            }
        }
    }

    fn ready(mut child: Child) -> Self {
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, fingerprint) =
            ready(&line).unwrap_or_else(|| panic!("the broker printed {line:?} instead of being ready"));
        Self { child, address, fingerprint }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.fingerprint.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}", self.address)
    }

    /// The fingerprint of the certificate that was served first.
    pub(crate) fn fingerprint(&self) -> &str {
        self.fingerprint.as_deref().expect("the broker speaks TLS")
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks to stop, and answers whether it left with success.
    pub(crate) fn terminate(mut self) -> bool {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().success()
    }

    /// Asks to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// A plain HTTP/1.1 GET: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.get_as(&self.address.to_string(), path)
    }

    /// The same, with another `Host`.
    pub(crate) fn get_as(&self, host: &str, path: &str) -> (u16, String) {
        self.request(path, &format!("host: {host}"))
    }

    /// The same, with a token.
    pub(crate) fn get_bearer(&self, token: &str, path: &str) -> (u16, String) {
        self.request(path, &format!("host: {}\r\nauthorization: Bearer {token}", self.address))
    }

    fn request(&self, path: &str, headers: &str) -> (u16, String) {
        get(self.address, path, headers)
    }
}

/// A plain HTTP/1.1 GET with these headers: status and body.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn serve(mut command: Command, data: &Path, settings: &[(&str, &str)]) -> Command {
    command.args(["--json", "serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    if let Some(seed) = hostile() {
        println!("hostile store, seed {seed}; repeat with LONGWIRE_TEST_HOSTILE={seed}");
        command.env("LONGWIRE_SERVE_HOSTILE", seed);
    }
    for (key, value) in settings {
        command.env(format!("LONGWIRE_SERVE_{key}"), value);
    }
    command.env("LONGWIRE_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// The seed of the faults that every broker's store has in this run, which the build must know
/// (`--features longwire-broker/hostile`).
pub(crate) fn hostile() -> Option<String> {
    std::env::var("LONGWIRE_TEST_HOSTILE").ok()
}

/// What a broker that is ready says: its address, and the fingerprint of its certificate.
fn ready(line: &str) -> Option<(SocketAddr, Option<String>)> {
    let ready: serde_json::Value = serde_json::from_str(line).ok()?;
    let (_, address) = ready["url"].as_str()?.split_once("://")?;
    Some((address.parse().ok()?, ready["fingerprint"].as_str().map(str::to_owned)))
}

fn logged(data: &Path, log: &Path) -> Command {
    let mut command = serve(Command::new(LONGWIRE), data, &[]);
    command.env("LONGWIRE_LOG", "info").stderr(File::create(log).unwrap());
    command
}

/// How many commits of an earlier life a start settled, by its log; `None` when it did not come to that.
pub(crate) fn recovered(log: &Path) -> Option<u64> {
    let log = std::fs::read_to_string(log).unwrap();
    let (_, after) = log.split_once("the store is open commits=")?;
    after.split_whitespace().next()?.parse().ok()
}

/// A start that is not waited for.
pub(crate) struct Attempt(Child);

impl Attempt {
    pub(crate) fn start(data: &Path) -> Self {
        Self(serve(Command::new(LONGWIRE), data, &[]).spawn().unwrap())
    }

    /// See [`Broker::start_under`].
    pub(crate) fn start_under(mut launcher: Command, data: &Path) -> Self {
        launcher.arg(LONGWIRE);
        Self(serve(launcher, data, &[]).spawn().unwrap())
    }

    /// Waits until the broker is ready, and kills it with kill -9, or until it ends; answers whether it was ready.
    pub(crate) fn kill_when_ready(mut self) -> bool {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        ready(&line).is_some()
    }

    /// See [`Broker::start_logged`].
    pub(crate) fn start_logged(data: &Path, log: &Path) -> Self {
        Self(logged(data, log).spawn().unwrap())
    }

    /// Kill -9; answers whether the broker was ready before.
    pub(crate) fn kill(mut self) -> bool {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        ready(&line).is_some()
    }
}

/// Runs the binary to its end.
pub(crate) fn longwire(arguments: &[&str]) -> Output {
    Command::new(LONGWIRE).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// An example, which the build of the tests has made.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build -p longwire-examples --examples", path.display());
    path
}

/// A folder under the build's own one: on the real disk, whatever the system's temporary folder is.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

/// Waits for something that is to come about by itself.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < patience, "{what}: it has not come to that");
        std::thread::yield_now();
    }
}
