//! `longwire://`: QUIC where UDP comes through, a WebSocket where it does not, and the same answer over either to who is not let in.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use longwire::{Client, ClientBuilder, Closed, ConnectionState, From, TlsFailure, Transport};
use quinn::{Endpoint, ServerConfig};

use crate::support::broker::{Broker, LONGWIRE, folder, wait_until};
use crate::support::certificates::{Authority, Time};
use crate::support::quic_client::soon;
use crate::support::router::Router;
use crate::support::tokens::{Tokens, token};

const TLS: (&str, &str) = ("TLS_DEVELOPMENT", "true");
const NO_QUIC: (&str, &str) = ("QUIC", "false");
/// A client sees soon that a path is dead.
const LIVELY: (&str, &str) = ("HEARTBEAT_MS", "300");
const ENCRYPTED: [&str; 3] = ["wss", "quic", "longwire"];

fn client(builder: ClientBuilder) -> Client {
    let (client, driver) = builder.build().unwrap();
    drop(tokio::spawn(driver));
    client
}

fn by(url: &str, broker: &Broker) -> Client {
    client(Client::builder().url(url).fingerprint(broker.fingerprint()))
}

/// Waits for a connection, and says what carries it.
async fn carried(client: &Client) -> Transport {
    let mut states = client.state();
    let is_connected = |state: &ConnectionState| matches!(state, ConnectionState::Connected { .. });
    let state = soon("it connects", states.wait_for(is_connected)).await.unwrap();
    match &*state {
        ConnectionState::Connected { transport, .. } => *transport,
        other => panic!("{other:?}"),
    }
}

async fn closed(builder: ClientBuilder) -> Closed {
    soon("it does not go on trying", client(builder).connected()).await.unwrap_err()
}

async fn failure(builder: ClientBuilder) -> TlsFailure {
    match closed(builder).await {
        Closed::Tls { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_is_taken_where_udp_comes_through() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let router = Router::start(&broker).await;
    // Nothing depends on who of two is faster here today.
    router.stall_tcp();
    let client = by(&router.url(), &broker);
    assert_eq!(carried(&client).await, Transport::Quic);
    client.session("acme/dial").unwrap().publish("hello").await.unwrap();
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_taken_where_udp_is_dropped_and_that_is_remembered() {
    const CUTS: u64 = 3;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let router = Router::start(&broker).await;
    router.udp.block();
    let client = by(&router.url(), &broker);
    assert_eq!(carried(&client).await, Transport::WebSocket);
    assert_eq!(router.udp.begun_in_vain(), 1);
    let session = client.session("acme/dial").unwrap();
    for cut in 0..CUTS {
        session.publish(cut.to_string()).await.unwrap();
        router.tcp.cut();
        wait_until("it is cut", || router.tcp.cuts() == cut + 1);
        session.publish("over another connection").await.unwrap();
        assert_eq!(carried(&client).await, Transport::WebSocket);
    }
    assert_eq!(router.udp.begun_in_vain(), 1, "it is known that UDP does not come through");
    // Another client knows nothing of it.
    assert_eq!(carried(&by(&router.url(), &broker)).await, Transport::WebSocket);
    assert_eq!(router.udp.begun_in_vain(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_is_forgotten_where_nothing_else_connects() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let router = Router::start(&broker).await;
    router.udp.block();
    let client = by(&router.url(), &broker);
    assert_eq!(carried(&client).await, Transport::WebSocket);
    // As where a machine is carried to another network.
    router.tcp.set_upstream(None);
    router.udp.unblock();
    router.tcp.cut();
    let is_quic = |state: &ConnectionState| {
        matches!(state, ConnectionState::Connected { transport: Transport::Quic, .. })
    };
    let mut state = client.state();
    let connected = soon("it connects by QUIC", state.wait_for(is_quic)).await;
    drop(connected.unwrap());
    client.session("acme/dial").unwrap().publish("elsewhere").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_taken_of_a_broker_without_quic() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, NO_QUIC]);
    // By its name: of the addresses that it may have, the broker listens at one.
    for host in ["127.0.0.1", "localhost"] {
        let client = by(&format!("longwire://{host}:{}", broker.address().port()), &broker);
        assert_eq!(carried(&client).await, Transport::WebSocket);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_reached_by_the_one_that_answers() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    for (scheme, wanted) in [("wss", Transport::WebSocket), ("quic", Transport::Quic)] {
        let client = by(&format!("{scheme}://localhost:{}", broker.address().port()), &broker);
        assert_eq!(carried(&client).await, wanted);
    }
    let client = by(&format!("longwire://localhost:{}", broker.address().port()), &broker);
    soon("it connects", client.connected()).await.unwrap();
}

/// Somebody else who speaks QUIC, as a web server does beside the broker that it is a proxy for.
fn web_server() -> Endpoint {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = ServerConfig::with_crypto(std::sync::Arc::new(config));
    Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_on_the_port_of_udp_is_no_answer() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let router = Router::start(&broker).await;
    let other = web_server();
    router.udp.set_upstream(other.local_addr().unwrap());
    drop(tokio::spawn(async move {
        while let Some(incoming) = other.accept().await {
            drop(incoming.await);
        }
    }));
    let client = by(&router.url(), &broker);
    assert_eq!(carried(&client).await, Transport::WebSocket);
    // Who asks for QUIC alone is told.
    let alone = Client::builder().url(format!("quic://{}", router.address()));
    assert!(matches!(failure(alone.fingerprint("00".repeat(32))).await, TlsFailure::Incompatible(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_dies_in_the_middle_is_left_for_the_other_and_nothing_is_missed() {
    const RECORDS: u64 = 300;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, LIVELY]);
    let router = Router::start(&broker).await;
    router.stall_tcp();
    let client = by(&router.url(), &broker);
    let session = client.session("acme/dial").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    let writing = tokio::spawn({
        let session = session.clone();
        async move {
            for number in 1..RECORDS {
                let published = session.publish(number.to_string()).await.unwrap();
                assert_eq!((published.from.offset, published.next.offset), (number, number + 1));
            }
        }
    });
    for offset in 0..RECORDS {
        if offset == RECORDS / 3 {
            assert_eq!(carried(&client).await, Transport::Quic);
            router.tcp.set_upstream(Some(broker.address()));
            router.udp.block();
        }
        let record = soon("it is delivered", records.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (offset, Some(offset.to_string().as_str())));
    }
    writing.await.unwrap();
    assert_eq!(carried(&client).await, Transport::WebSocket);
    assert_eq!(session.describe().await.unwrap().end, RECORDS);
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_to_trust_and_what_to_show_is_the_same_over_each() {
    let (folder, data) = folder();
    let [authority, stranger] = ["ca", "stranger"].map(|name| Authority::new(folder.path(), name));
    let files = authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let own = authority.issue("client", &["client"], Time::Valid);
    let [_, foreign] = ["a", "b"].map(|name| stranger.issue(name, &["client"], Time::Valid));
    let (ca, [certificate, key]) = (authority.file(), files.settings());
    let asking = [certificate, key, ("TLS_CLIENT_CA", ca.to_str().unwrap())];
    for settings in [&files.settings()[..], &[certificate, key, NO_QUIC]] {
        let broker = Broker::start_with(&data, settings);
        for scheme in ENCRYPTED.into_iter().filter(|scheme| *scheme != "quic" || settings.len() == 2) {
            let to = || Client::builder().url(format!("{scheme}://{}", broker.address()));
            for trusting in [to().ca_file(authority.file()), to().fingerprint(broker.fingerprint())] {
                let client = client(trusting);
                soon("it connects", client.connected()).await.unwrap();
            }
            assert_eq!(
                failure(to().ca_file(stranger.file())).await,
                TlsFailure::UnknownAuthority,
                "{scheme}"
            );
            let wrong = "00".repeat(32);
            assert_eq!(
                failure(to().fingerprint(&wrong)).await,
                TlsFailure::Fingerprint { expected: wrong, found: broker.fingerprint().to_owned() },
                "{scheme}"
            );
        }
        assert!(broker.terminate());
    }
    let broker = Broker::start_with(&data, &asking);
    for scheme in ENCRYPTED {
        let to = || Client::builder().url(format!("{scheme}://{}", broker.address())).ca_file(&ca);
        let known = client(to().client_certificate(&own.certificate, &own.key));
        soon("it connects", known.connected()).await.unwrap();
        for refused in [to(), to().client_certificate(&foreign.certificate, &foreign.key)] {
            let failure = failure(refused).await;
            assert!(matches!(failure, TlsFailure::ClientCertificate(_)), "{scheme}: {failure}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_name_or_time_is_refused_over_each() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    for (hosts, time) in
        [(["broker.example"], Time::Valid), (["127.0.0.1"], Time::Expired), (["127.0.0.1"], Time::Future)]
    {
        let files = authority.issue("broker", &hosts, time);
        let broker = Broker::start_with(&data, &files.settings());
        for scheme in ENCRYPTED {
            let to = Client::builder().url(format!("{scheme}://{}", broker.address()));
            let failure = failure(to.ca_file(authority.file())).await;
            let is_right = match time {
                Time::Valid => {
                    matches!(&failure, TlsFailure::WrongName { wanted, .. } if wanted == "127.0.0.1")
                }
                Time::Expired => failure == TlsFailure::Expired,
                Time::Future => failure == TlsFailure::NotValidYet,
            };
            assert!(is_right, "{scheme}: {failure}");
        }
        assert!(broker.terminate());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_good_is_no_reason_to_try_the_other() {
    let (_folder, data) = folder();
    let (broker, _) = Tokens::broker(&data, &[TLS]);
    let (_other_folder, other_data) = crate::support::broker::folder();
    let foreign = token(&other_data, "ada", &["**:read"]);
    for scheme in ENCRYPTED {
        let to = || {
            let url = format!("{scheme}://{}", broker.address());
            Client::builder().url(url).fingerprint(broker.fingerprint())
        };
        for builder in [to(), to().token(&foreign)] {
            let closed = closed(builder).await;
            assert!(matches!(closed, Closed::Unauthenticated(_)), "{scheme}: {closed}");
        }
    }
}

fn said(url: &str, trusted: (&str, &Path), arguments: &[&str]) -> Output {
    let mut command = Command::new(LONGWIRE);
    command.args(["--url", url]).args(arguments).env(trusted.0, trusted.1).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_finds_out_too_and_trusts_the_system() {
    let (folder, data) = folder();
    let [authority, stranger] = ["ca", "stranger"].map(|name| Authority::new(folder.path(), name));
    let broker = Broker::start_with(&data, &authority.issue("b", &["127.0.0.1"], Time::Valid).settings());
    let router = Router::start(&broker).await;
    let (system, other) = (authority.file(), stranger.file());
    // The second time without UDP. The authorities of the system are those of this file, as OpenSSL has it too.
    for text in ["by either", "by websocket"] {
        for scheme in ENCRYPTED.into_iter().filter(|scheme| *scheme != "quic" || text == "by either") {
            let url = format!("{scheme}://{}", router.address());
            let session = format!("acme/{scheme}");
            for variable in ["SSL_CERT_FILE", longwire::CA_VARIABLE] {
                let output = said(&url, (variable, &system), &["pub", &session, text]);
                assert!(output.status.success(), "{scheme}: {output:?}");
            }
            let tail = ["tail", &session, "--no-follow", "--raw"];
            let output = said(&url, ("SSL_CERT_FILE", &system), &tail);
            assert!(String::from_utf8_lossy(&output.stdout).trim().ends_with(text), "{scheme}: {output:?}");
            let output = said(&url, ("SSL_CERT_FILE", &other), &["pub", &session, "x"]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(
                error.contains("--ca") && error.contains("--fingerprint") && error.contains(&url),
                "{error}"
            );
        }
        router.udp.block();
    }
    assert!(router.udp.begun_in_vain() > 0);
}
