//! What `contrib/` has, in front of the real broker: the proxies pass WebSocket on whole, and the unit is one.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

use crate::support::broker::{Broker, LONGWIRE, folder, wait_until};
use crate::support::wire_client::{WireClient, published, record, subscribed};

/// Bytes of one record, and records of one publish: frames that no buffer of a proxy has room for.
const RECORD_BYTES: usize = 1_000_000;
const BATCH_RECORDS: usize = 3;

fn contrib(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(name);
    fs::read_to_string(path).unwrap()
}

/// A part of a file that a test replaces, and that must be there for it.
fn replace(text: &str, what: &str, with: &str) -> String {
    assert!(text.contains(what), "{what:?} is not in the file any more");
    text.replace(what, with)
}

/// Whether a program is there; `scripts/test` installs it, or says that it is missing.
fn is_there(program: &str, version: &str) -> bool {
    let there = Command::new(program).arg(version).output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} is not installed");
        eprintln!("SKIPPED: {program} is not installed; run ./scripts/test, which installs it where it may");
    }
    there
}

/// A proxy as a child process. Killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the proxy listens", || TcpStream::connect(address).is_ok());
        Self { child, address }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// nginx with the file of `contrib`, but for the port and the certificate.
fn nginx(folder: &Path, broker: SocketAddr) -> Proxy {
    let address = free_address();
    let site = contrib("nginx.conf");
    let site = replace(&site, "server 127.0.0.1:8700;", &format!("server {broker};"));
    let site = replace(&site, "listen 443 ssl;", &format!("listen {address};"));
    let site: String =
        site.lines().filter(|line| !line.trim().starts_with("ssl_")).map(|l| l.to_owned() + "\n").collect();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let whole = format!(
        "daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, whole).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(file).stderr(Stdio::null());
    Proxy::start(command, address)
}

/// Caddy with the file of `contrib`, but for the name, the port and the certificate.
fn caddy(folder: &Path, broker: SocketAddr) -> Proxy {
    let address = free_address();
    let site = contrib("Caddyfile");
    let site = replace(&site, "reverse_proxy 127.0.0.1:8700", &format!("reverse_proxy {broker}"));
    let site = replace(&site, "\nbroker.example {", &format!("\nhttp://{address} {{"));
    let file = folder.join("Caddyfile");
    fs::write(&file, format!("{{\n\tadmin off\n}}\n{site}")).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).stderr(Stdio::null());
    // Where it keeps what it keeps.
    command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder).env("HOME", folder);
    Proxy::start(command, address)
}

async fn passes_on(start: fn(&Path, SocketAddr) -> Proxy) {
    let (folder, data) = folder();
    let broker = Broker::start_with(&data, &[("HEARTBEAT_MS", "200")]);
    let work: PathBuf = folder.path().join("proxy");
    fs::create_dir(&work).unwrap();
    let proxy = start(&work, broker.address());
    let mut clients = Vec::new();
    for encoding in Encoding::ALL {
        let mut reader = WireClient::connect(proxy.address, encoding).await;
        let session = format!("through/{}", encoding as usize);
        let mut writer = WireClient::connect(proxy.address, encoding).await;
        let records = vec![record(&"x".repeat(RECORD_BYTES)); BATCH_RECORDS];
        let publish = wire::Publish { session: session.clone(), records, ..Default::default() };
        assert_eq!(published(writer.publish_with(publish).await).next, BATCH_RECORDS as u64);
        subscribed(reader.subscribe(&session, From::Start(true)).await);
        assert_eq!(reader.take(0, BATCH_RECORDS as u64).await.len(), BATCH_RECORDS);
        published(writer.publish(&session, &["live"]).await);
        reader.take(BATCH_RECORDS as u64, BATCH_RECORDS as u64 + 1).await;
        clients.push(reader);
    }
    // Small frames come at once, although nothing follows them.
    while !matches!(clients[0].receive_any().await, Some(ServerFrame::Heartbeat(_))) {}
    clients[0].send(ClientFrame::Ping(wire::Ping { token: 7 })).await;
    assert!(matches!(clients[0].receive().await, ServerFrame::Pong(wire::Pong { token: 7, .. })));
    // The broker sees the name that the browser has: a page of its own may connect, another may not.
    for (origin, allowed) in
        [(format!("http://{}", proxy.address), true), ("http://evil.example".into(), false)]
    {
        let mut request = format!("ws://{}/v1/connect", proxy.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "longwire.v1.json".parse().unwrap());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok(_) => assert!(allowed, "{origin}"),
            Err(tungstenite::Error::Http(response)) => {
                assert!(!allowed && response.status() == 403, "{origin}")
            }
            Err(error) => panic!("{error}"),
        }
    }
    // So does a drain, with when to come back.
    broker.ask_to_stop();
    for mut client in clients {
        let ended = client.ended().await;
        assert_eq!((ended.code(), ended.close_code()), ("draining", 1012));
    }
    assert!(broker.wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_passes_websocket_on() {
    if is_there("nginx", "-v") {
        passes_on(nginx).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_passes_websocket_on() {
    if is_there("caddy", "version") {
        passes_on(caddy).await;
    }
}

#[test]
fn the_unit_of_systemd_is_one() {
    if !is_there("systemd-analyze", "--version") {
        return;
    }
    let (folder, _) = folder();
    let unit = replace(&contrib("longwire.service"), "/usr/local/bin/longwire", LONGWIRE);
    let file = folder.path().join("longwire.service");
    fs::write(&file, unit).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
