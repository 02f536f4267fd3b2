//! The transports, and a broker to be reached by one of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use longwire_broker::transport::memory::MemoryPort;
use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tempfile::TempDir;

use crate::every_transport::client::{Client, Ended, soon};
use crate::every_transport::links::Link;
use crate::every_transport::links::grpc::GrpcLink;
use crate::every_transport::links::memory::MemoryLink;
use crate::every_transport::links::quic::QuicLink;
use crate::every_transport::links::websocket::WebSocketLink;
use crate::every_transport::within::WithinBroker;
use crate::support::broker::{Broker, folder, get};
use crate::support::tls_client;
use crate::support::tokens::{AUTH, Tokens};

/// The tenant of these tests.
pub(super) const ALL_OF_ACME: &str = "acme/**:read,publish,create,manage";
/// Everything.
const EVERYTHING: &str = "**:read,publish,create,manage";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    WsProto,
    WsJson,
    WssProto,
    WssJson,
    Quic,
    Grpc,
    Grpcs,
    /// Links within the process of the broker, which is that of the test.
    Memory,
}

impl Transport {
    pub(super) fn is_tls(self) -> bool {
        match self {
            Self::WsProto | Self::WsJson | Self::Grpc | Self::Memory => false,
            Self::WssProto | Self::WssJson | Self::Quic | Self::Grpcs => true,
        }
    }

    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::WsJson | Self::WssJson => Encoding::Json,
            _ => Encoding::Proto,
        }
    }

    async fn link(self, broker: &Living) -> Result<Box<dyn Link>, String> {
        let address = broker.address();
        match self {
            Self::WsProto | Self::WsJson | Self::WssProto | Self::WssJson => {
                WebSocketLink::open(address, self.encoding(), self.is_tls()).await
            }
            Self::Quic => QuicLink::open(address).await,
            Self::Grpc | Self::Grpcs => GrpcLink::open(address, self.is_tls()).await,
            Self::Memory => Ok(MemoryLink::open(broker.memory_port())),
        }
    }
}

/// A broker that serves.
enum Living {
    Process(Broker),
    Within(Box<WithinBroker>),
}

impl Living {
    fn start(transport: Transport, data: &Path, settings: &[(&str, &str)]) -> Self {
        match transport {
            Transport::Memory => Self::Within(Box::new(WithinBroker::start(data, settings))),
            _ => Self::Process(Broker::start_with(data, settings)),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Process(broker) => broker.address(),
            Self::Within(broker) => broker.address(),
        }
    }

    fn memory_port(&self) -> &MemoryPort {
        match self {
            Self::Process(_) => panic!("it is another process"),
            Self::Within(broker) => broker.port(),
        }
    }
}

/// A broker that asks everybody for a token, and the transport that it is reached by.
pub(super) struct Bed {
    pub(super) transport: Transport,
    pub(super) tokens: Tokens,
    /// Absent between two lives.
    broker: Option<Living>,
    settings: Vec<(String, String)>,
    data: PathBuf,
    _folder: TempDir,
}

impl Bed {
    pub(super) fn new(transport: Transport) -> Self {
        Self::with(transport, &[])
    }

    pub(super) fn with(transport: Transport, settings: &[(&str, &str)]) -> Self {
        let (folder, data) = folder();
        let mut all = [&[AUTH], settings].concat();
        if transport.is_tls() {
            all.push(("TLS_DEVELOPMENT", "true"));
        }
        let broker = Living::start(transport, &data, &all);
        let settings = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { transport, tokens: Tokens::of(&data), broker: Some(broker), settings, data, _folder: folder }
    }

    fn broker(&self) -> &Living {
        self.broker.as_ref().expect("it lives")
    }

    /// Kill -9; but a process that kills itself has no test left, so a broker within it shuts down.
    pub(super) fn kill(&mut self) {
        match self.broker.take().expect("it lives") {
            Living::Process(broker) => broker.kill(),
            Living::Within(mut broker) => {
                broker.ask_to_stop();
                broker.wait();
            }
        }
    }

    /// The next life on the same folder.
    pub(super) fn start_again(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(|(key, value)| (&**key, &**value)).collect();
        self.broker = Some(Living::start(self.transport, &self.data, &settings));
    }

    /// Asks the broker to stop, without waiting.
    pub(super) fn ask_to_stop(&mut self) {
        match self.broker.as_mut().expect("it lives") {
            Living::Process(broker) => broker.ask_to_stop(),
            Living::Within(broker) => broker.ask_to_stop(),
        }
    }

    /// Waits until the broker has left by itself, with success.
    pub(super) fn has_left(&mut self) {
        match self.broker.take().expect("it lives") {
            Living::Process(broker) => assert!(broker.wait()),
            Living::Within(broker) => broker.wait(),
        }
    }

    pub(super) fn hello(&self, grants: &[&str]) -> wire::Hello {
        wire::Hello { token: self.tokens.token("ada", grants), ..Default::default() }
    }

    /// Connects, and says nothing.
    pub(super) async fn open(&self) -> Client {
        self.try_open().await.unwrap()
    }

    pub(super) async fn try_open(&self) -> Result<Client, String> {
        let link = soon("it connects", self.transport.link(self.broker())).await?;
        Ok(Client::new(link, self.transport.encoding()))
    }

    /// Says hello: the welcome, or how it ended.
    pub(super) async fn greet(&self, hello: wire::Hello) -> Result<(Client, wire::Welcome), Ended> {
        let mut client = self.open().await;
        client.send(ClientFrame::Hello(hello)).await;
        match client.receive().await {
            Some(ServerFrame::Welcome(welcome)) => Ok((client, welcome)),
            Some(ServerFrame::Goodbye(goodbye)) => {
                Err(Ended { goodbye: Some(goodbye), ..client.ended().await })
            }
            other => panic!("{other:?} answers a hello"),
        }
    }

    pub(super) async fn connect_as(&self, token: &str) -> Client {
        let greeted = self.greet(wire::Hello { token: token.into(), ..Default::default() }).await;
        greeted.map(|(client, _)| client).unwrap()
    }

    /// A connection of somebody who may do everything in the tenant.
    pub(super) async fn connect(&self) -> Client {
        self.connect_as(&self.tokens.token("ada", &[ALL_OF_ACME])).await
    }

    /// A connection of somebody who may do everything.
    pub(super) async fn root(&self) -> Client {
        self.connect_as(&self.tokens.token("root", &[EVERYTHING])).await
    }

    /// What a metric stands at; 0 before it was counted.
    pub(super) async fn metric(&self, name: &str) -> u64 {
        let (address, token) = (self.broker().address(), self.tokens.token("root", &[EVERYTHING]));
        let bearer = format!("authorization: Bearer {token}");
        let (status, text) = match self.transport.is_tls() {
            true => tls_client::get(address, "/metrics", &format!("{bearer}\r\n")).await,
            false => get(address, "/metrics", &format!("host: {address}\r\n{bearer}")),
        };
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Waits until a metric has come to this.
    pub(super) async fn metric_is(&self, name: &str, wanted: u64) {
        let reaching = async {
            while self.metric(name).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        soon(&format!("{name} comes to {wanted}"), reaching).await;
    }
}
