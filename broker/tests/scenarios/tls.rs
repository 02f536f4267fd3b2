//! TLS: who is trusted, what is refused and how that is said, and what goes on while a certificate is replaced.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use longwire::{Client, ClientBuilder, Closed, ConnectionState, From, TlsFailure};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::broker::{Broker, folder, longwire};
use crate::support::certificates::{Authority, Time};
use crate::support::proxy::Proxy;
use crate::support::tls_client;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The hosts that certificates of these tests are for.
const HERE: [&str; 2] = ["127.0.0.1", "localhost"];

fn client(builder: ClientBuilder) -> Client {
    let (client, driver) = builder.build().unwrap();
    drop(tokio::spawn(driver));
    client
}

fn to(broker: &Broker) -> ClientBuilder {
    Client::builder().url(broker.url())
}

async fn connects(builder: ClientBuilder) {
    let client = client(builder);
    timeout(PATIENCE, client.connected()).await.expect("it comes to that").unwrap();
    client.close().await.unwrap();
}

/// Why a client is closed before it was ever connected.
async fn closed(builder: ClientBuilder) -> Closed {
    timeout(PATIENCE, client(builder).connected()).await.expect("it does not go on trying").unwrap_err()
}

/// What is wrong with the other side, by a client that gives up.
async fn failure(builder: ClientBuilder) -> TlsFailure {
    match closed(builder).await {
        Closed::Tls { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

/// The value of a metric, 0 before it was counted.
async fn metric(address: SocketAddr, name: &str) -> u64 {
    let (_, text) = tls_client::get(address, "/metrics", "").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

async fn reaches(address: SocketAddr, name: &str, least: u64) {
    let counted = async {
        while metric(address, name).await < least {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{name} stays below {least}"));
}

/// Publishes, reads, and goes on over two kills of the broker.
async fn goes_on_over_kills(
    data: &Path,
    settings: &[(&str, &str)],
    trust: impl Fn(ClientBuilder, &Broker) -> ClientBuilder,
) {
    const ROUNDS: u64 = 3;
    let mut broker = Broker::start_with(data, settings);
    let proxy = Proxy::start(broker.address()).await;
    let builder = Client::builder().url(proxy.url().replace("ws://", "wss://"));
    let client = client(trust(builder, &broker));
    let session = client.session("acme/tls").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    for round in 0..ROUNDS {
        if round > 0 {
            broker.kill();
            proxy.set_upstream(None);
            let sent = session.enqueue(round.to_string()).await.unwrap();
            broker = Broker::start_with(data, settings);
            proxy.set_upstream(Some(broker.address()));
            timeout(PATIENCE, sent).await.expect("it is acknowledged").unwrap();
        }
        let record = timeout(PATIENCE, records.next()).await.expect("it is delivered").unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (round, Some(round.to_string().as_str())));
    }
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_over_kills_with_a_development_certificate() {
    let (_folder, data) = folder();
    let settings = [("TLS_DEVELOPMENT", "true")];
    goes_on_over_kills(&data, &settings, |builder, broker| builder.fingerprint(broker.fingerprint())).await;
    let file = fs::metadata(data.join("development-certificate.pem")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_over_kills_with_a_certificate_of_an_authority() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let files = authority.issue("broker", &HERE, Time::Valid);
    goes_on_over_kills(&data, &files.settings(), |builder, _| builder.ca_file(authority.file())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_whom_to_trust() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true")]);
    let (url, fingerprint) = (broker.url(), broker.fingerprint());
    let trusting = ["--url", &url, "--fingerprint", fingerprint];
    // The command that is run reaches the same broker, and knows it by the same certificate.
    let inner = "\"$0\" pub acme/inner hello && test \"$LONGWIRE_FINGERPRINT\"";
    let exe = crate::support::broker::LONGWIRE;
    let run = longwire(&[&trusting[..], &["run", "acme/run", "--", "sh", "-c", inner, exe]].concat());
    assert!(run.status.success(), "{run:?}");
    let tail = longwire(&[&["tail", "acme/inner", "--no-follow", "--raw"], &trusting[..]].concat());
    assert_eq!(String::from_utf8(tail.stdout).unwrap().trim(), "hello");
    // The authorities of the system are those of this file, as OpenSSL has it too.
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let vouched = Broker::start_with(&data, &authority.issue("broker", &HERE, Time::Valid).settings());
    let publish = |name: &str, file: &Path| {
        let mut command = std::process::Command::new(exe);
        command
            .args(["pub", "acme/system", "hello", "--url", &vouched.url()])
            .env(name, file)
            .output()
            .unwrap()
    };
    for name in ["SSL_CERT_FILE", longwire::CA_VARIABLE] {
        let output = publish(name, &authority.file());
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let output = publish("SSL_CERT_FILE", &Authority::new(folder.path(), "stranger").file());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("--fingerprint"), "{said}");
    let wrong = "0".repeat(64);
    let output = longwire(&["pub", "a", "x", "--url", &url, "--fingerprint", &wrong]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(fingerprint) && said.contains(&wrong), "{said}");
    for (arguments, part) in [
        (vec!["--url", &url, "--fingerprint", "abc"], "64 hexadecimal digits"),
        (vec!["--url", "ws://127.0.0.1:1", "--fingerprint", &wrong], "wss://"),
        (vec!["--url", &url, "--client-key", "k"], "--client-certificate"),
    ] {
        let output = longwire(&[&arguments[..], &["pub", "a", "x"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_served_while_connections_go_on() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let files = authority.issue("broker", &HERE, Time::Valid);
    let broker = Broker::start_with(&data, &files.settings());
    let first = tls_client::shown(broker.address()).await;
    assert_eq!(first, broker.fingerprint());
    let old = client(to(&broker).fingerprint(&first));
    let session = old.session("acme/tls").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    let taken = "longwire_tls_reloads_total{outcome=\"taken\"}";
    let refused = "longwire_tls_reloads_total{outcome=\"refused\"}";
    let before = metric(broker.address(), taken).await;
    authority.issue("broker", &HERE, Time::Valid);
    reaches(broker.address(), taken, before + 1).await;
    let second = tls_client::shown(broker.address()).await;
    assert_ne!(second, first);
    connects(to(&broker).ca_file(authority.file())).await;
    // Who knows the one that was replaced by its fingerprint is told so; who is connected goes on.
    assert_eq!(
        failure(to(&broker).fingerprint(&first)).await,
        TlsFailure::Fingerprint { expected: first, found: second.clone() }
    );
    // Broken, in each of the ways: what is not one, what does not fit the key, what nobody would accept.
    let key = fs::read(&files.key).unwrap();
    let certificate = fs::read(&files.certificate).unwrap();
    let mut count = metric(broker.address(), refused).await;
    fs::write(&files.certificate, "not a certificate").unwrap();
    reaches(broker.address(), refused, count + 1).await;
    fs::write(&files.certificate, &certificate).unwrap();
    count = metric(broker.address(), refused).await;
    let other = authority.issue("other", &HERE, Time::Valid);
    fs::copy(&other.key, &files.key).unwrap();
    reaches(broker.address(), refused, count + 1).await;
    fs::write(&files.key, key).unwrap();
    count = metric(broker.address(), refused).await;
    authority.issue("broker", &HERE, Time::Expired);
    reaches(broker.address(), refused, count + 1).await;
    assert_eq!(tls_client::shown(broker.address()).await, second);
    connects(to(&broker).ca_file(authority.file())).await;
    session.publish("1").await.unwrap();
    for text in ["0", "1"] {
        let record = timeout(PATIENCE, records.next()).await.expect("it is delivered").unwrap().unwrap();
        assert_eq!(record.text(), Some(text));
    }
    assert!(matches!(&*old.state().borrow(), ConnectionState::Connected { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_can_ask_the_other_for_a_certificate() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let clients = Authority::new(folder.path(), "clients");
    let files = authority.issue("broker", &HERE, Time::Valid);
    let own = clients.issue("laptop", &["laptop"], Time::Valid);
    let foreign = authority.issue("foreign", &["foreign"], Time::Valid);
    let expired = clients.issue("expired", &["laptop"], Time::Expired);
    let ca = clients.file();
    let [certificate, key] = files.settings();
    let broker = Broker::start_with(&data, &[certificate, key, ("TLS_CLIENT_CA", ca.to_str().unwrap())]);
    let trusting = || to(&broker).ca_file(authority.file());
    connects(trusting().client_certificate(&own.certificate, &own.key)).await;
    connects(to(&broker).fingerprint(broker.fingerprint()).client_certificate(&own.certificate, &own.key))
        .await;
    let refused = |failure: &TlsFailure| matches!(failure, TlsFailure::ClientCertificate(_));
    for builder in [
        trusting(),
        trusting().client_certificate(&foreign.certificate, &foreign.key),
        trusting().client_certificate(&expired.certificate, &expired.key),
    ] {
        let failure = failure(builder).await;
        assert!(refused(&failure), "{failure}");
    }
    // The other way round: who has a certificate for the broker still looks at the broker's.
    let wrong = to(&broker).ca_file(clients.file()).client_certificate(&own.certificate, &own.key);
    assert_eq!(failure(wrong).await, TlsFailure::UnknownAuthority);
    // To nobody in particular, nothing is served at all.
    let mut nobody = tls_client::connect_with(broker.address(), &[&TLS13], &["http/1.1"]).await;
    drop(nobody.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await);
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, nobody.read_to_end(&mut answer)).await.expect("it ends");
    assert!(ended.is_err() && answer.is_empty(), "{ended:?} {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_ends_a_client_and_says_why() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let stranger = Authority::new(folder.path(), "stranger");
    let cases = [
        (HERE.as_slice(), Time::Valid, None),
        (&["broker.example"], Time::Valid, Some("broker.example")),
        (&HERE, Time::Expired, Some("expired")),
        (&HERE, Time::Future, Some("not valid yet")),
    ];
    for (hosts, time, part) in cases {
        let files = authority.issue("broker", hosts, time);
        let broker = Broker::start_with(&data, &files.settings());
        match part {
            None => connects(to(&broker).ca_file(authority.file())).await,
            Some(part) => {
                let failure = failure(to(&broker).ca_file(authority.file())).await;
                assert!(failure.to_string().contains(part), "{failure}");
                let typed = match part {
                    "expired" => failure == TlsFailure::Expired,
                    "not valid yet" => failure == TlsFailure::NotValidYet,
                    _ => matches!(&failure, TlsFailure::WrongName { wanted, .. } if wanted == "127.0.0.1"),
                };
                assert!(typed, "{failure:?}");
            }
        }
        // Who means this one certificate means it whatever its name and its time; nobody else vouches for it.
        connects(to(&broker).fingerprint(broker.fingerprint())).await;
        let unvouched = failure(to(&broker).ca_file(stranger.file())).await;
        // Of two things that are wrong, one is said.
        assert!(matches!(time, Time::Expired | Time::Future) || unvouched == TlsFailure::UnknownAuthority);
        let both = to(&broker).ca_file(authority.file()).fingerprint("0".repeat(64));
        assert!(matches!(failure(both).await, TlsFailure::Fingerprint { .. }));
        assert!(broker.terminate());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_tried_again() {
    let (_folder, data) = folder();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let builder = || Client::builder().fingerprint("0".repeat(64));
    let client = client(builder().url(format!("wss://{address}")));
    let tried = |state: &ConnectionState| matches!(state, ConnectionState::Reconnecting { attempt: 2.., .. });
    timeout(PATIENCE, client.state().wait_for(tried)).await.expect("it tries again").unwrap();
    client.close().await.unwrap();
    // Who ends the handshake without a word may be a broker that is being killed.
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true")]);
    let proxy = Proxy::start(broker.address()).await;
    proxy.set_upstream(None);
    let url = proxy.url().replace("ws://", "wss://");
    let client = self::client(Client::builder().url(url).fingerprint(broker.fingerprint()));
    timeout(PATIENCE, client.state().wait_for(tried)).await.expect("it tries again").unwrap();
    proxy.set_upstream(Some(broker.address()));
    timeout(PATIENCE, client.connected()).await.expect("it comes to that").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_and_tls_on_each_others_ports_end_clearly() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true")]);
    // HTTP is answered in HTTP, and counted.
    let (status, body) = broker.get("/healthz");
    assert_eq!(status, 400);
    assert!(body.contains("unsupported_protocol") && body.contains("https://"), "{body}");
    reaches(broker.address(), "longwire_tls_handshakes_failed_total{reason=\"plain_text\"}", 1).await;
    match closed(Client::builder().url(broker.url().replace("wss://", "ws://"))).await {
        Closed::Refused(said) => assert!(said.contains("speaks TLS"), "{said}"),
        other => panic!("{other}"),
    }
    // Whatever else comes is ended too.
    for bytes in
        [&b"\0"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x00\x05xxxxx", &[0x80; 4096]]
    {
        let mut stream = TcpStream::connect(broker.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
        // What looks like TLS and is none is not told anything in HTTP.
        assert!(bytes[0] == 0x16 || answer.starts_with(b"HTTP/1.1 400 "), "{bytes:?} {answer:?}");
    }
    let (_folder, data) = folder();
    let plain = Broker::start(&data);
    let builder = Client::builder().url(plain.url().replace("ws://", "wss://")).fingerprint("0".repeat(64));
    assert_eq!(failure(builder).await, TlsFailure::PlainText);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_stops_half_way_ends_and_keeps_nobody_waiting() {
    const HALVES: usize = 50;
    let (_folder, data) = folder();
    let settings = [("TLS_DEVELOPMENT", "true"), ("HANDSHAKE_TIMEOUT_MS", "1000")];
    let broker = Broker::start_with(&data, &settings);
    let mut halves = Vec::new();
    for half in 0..HALVES {
        let mut stream = TcpStream::connect(broker.address()).await.unwrap();
        // The beginning of a ClientHello that announces more; every second one says nothing at all.
        if half % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
        }
        halves.push(stream);
    }
    let client = client(to(&broker).fingerprint(broker.fingerprint()));
    let session = client.session("acme/tls").unwrap();
    timeout(PATIENCE, session.publish("meanwhile")).await.expect("nobody waits for them").unwrap();
    for mut stream in halves {
        let ended = timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("it ends");
        // An alert or a reset is an end too.
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let timeouts = metric(broker.address(), "longwire_tls_handshakes_failed_total{reason=\"timeout\"}").await;
    assert!(timeouts >= HALVES as u64, "{timeouts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_comes_over_https_in_every_version() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true")]);
    let address = broker.address();
    let (status, body) = tls_client::get(address, "/", "").await;
    assert!(status == 200 && body.contains("<script type=\"module\" src=\"/page.js\">"), "{status} {body}");
    for (version, protocols, wanted) in [
        (&TLS13, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&TLS12, &["http/1.1", "h2"], Some(b"h2")),
        (&TLS12, &["http/1.1"], Some(b"http/1.1")),
        (&TLS13, &[], None),
    ] {
        let stream = tls_client::connect_with(address, &[version], protocols).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), wanted);
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_known_by_every_name_that_a_request_gives_it() {
    let (_folder, data) = folder();
    let settings = [("TLS_DEVELOPMENT", "true"), ("HOSTS", "[\"broker.example\"]")];
    let broker = Broker::start_with(&data, &settings);
    let stream = tls_client::connect_with(broker.address(), &[&TLS13], &["h2"]).await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    drop(tokio::spawn(connection));
    for (authority, host, wanted) in [
        ("localhost:8700", None, 200),
        ("broker.example", None, 200),
        ("broker.example", Some("BROKER.example"), 200),
        ("evil.example", None, 403),
        ("broker.example.evil.example", None, 403),
        ("evil.example", Some("localhost:8700"), 403),
        ("localhost:8700", Some("evil.example"), 403),
        ("localhost:8700", Some("broker.example"), 403),
    ] {
        let mut request = Request::get(format!("https://{authority}/healthz"));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request)).await.expect("it is answered").unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, wanted, "{authority} {host:?}: {body:?}");
        assert!(status == 200 || String::from_utf8_lossy(&body).contains("origin_forbidden"));
    }
    // In HTTP/1 too: a host twice, and one in the URI.
    let (status, _) = tls_client::get(broker.address(), "/healthz", "host: localhost\r\n").await;
    assert_eq!(status, 403);
    let (status, _) = tls_client::get(broker.address(), "https://evil.example/healthz", "").await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_connect_from_their_own_origin_or_a_listed_one() {
    let (_folder, data) = folder();
    let listed = ("ORIGINS", "[\"https://app.example\"]");
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true"), listed]);
    let address = broker.address();
    let host = address.to_string();
    for (origin, wanted) in [
        (format!("https://{host}"), 101),
        ("https://app.example".into(), 101),
        (format!("http://{host}"), 403),
        ("null".into(), 403),
        (format!("https://{}", address.ip()), 403),
        (format!("https://{host}.evil.example"), 403),
        ("https://app.example.evil.example".into(), 403),
        ("https://app.example.".into(), 403),
        ("https://App.example".into(), 403),
        ("https://user@app.example".into(), 403),
        ("http://localhost:3000".into(), 403),
    ] {
        let (status, body) = tls_client::upgrade(address, &host, &origin).await;
        assert_eq!(status, wanted, "{origin}: {body}");
        assert!(status == 101 || body.contains("origin_forbidden"), "{body}");
    }
}

#[test]
fn what_would_be_open_to_others_is_refused_with_what_to_do() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let one = authority.issue("one", &HERE, Time::Valid);
    let other = authority.issue("other", &HERE, Time::Valid);
    let [one, key] = [&one.certificate, &other.key].map(|path| path.to_str().unwrap());
    let data = data.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--listen", "0.0.0.0:0"], &["0.0.0.0:0", "--auth", "127.0.0.1"]),
        (&["--listen", "[::]:0", "--dev-tls"], &["--auth"]),
        (&["--listen", "0.0.0.0:0", "--plain-text"], &["--auth"]),
        (&["--listen", "0.0.0.0:0", "--auth"], &["plain text", "--tls-certificate", "--plain-text"]),
        (&["--listen", "127.0.0.1:0", "--tls-client-ca", one], &["tls.client_ca", "tls.development"]),
        (&["--listen", "127.0.0.1:0", "--plain-text", "--dev-tls"], &["plain_text", "remove one"]),
        (
            &["--listen", "127.0.0.1:0", "--tls-certificate", one, "--tls-key", key],
            &["one.pem", "other-key.pem"],
        ),
    ];
    for (arguments, parts) in cases {
        let output = longwire(&[&["serve", "--data", data], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    }
}

#[tokio::test]
async fn the_broker_says_who_is_let_in() {
    for (settings, part) in [
        (vec![], "this machine only (loopback), without authentication"),
        (vec!["--auth"], "clients must show a token"),
    ] {
        let (_folder, data) = folder();
        let mut command = tokio::process::Command::new(crate::support::broker::LONGWIRE);
        command.args(["serve", "--listen", "127.0.0.1:0", "--dev-tls", "--data"]).arg(&data).args(settings);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut broker = command.spawn().unwrap();
        let mut said = String::new();
        let mut stdout = broker.stdout.take().unwrap();
        let mut buffer = [0; 1024];
        while !said.contains("  Try ") {
            let read = timeout(PATIENCE, stdout.read(&mut buffer)).await.expect("it says so").unwrap();
            assert!(read > 0, "{said}");
            said += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        assert!(said.contains(part) && said.contains("wss://") && said.contains("SHA-256"), "{said}");
        broker.kill().await.unwrap();
    }
}
