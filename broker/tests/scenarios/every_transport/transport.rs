//! The transports, and a broker to be reached by one of them.

use std::path::PathBuf;

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tempfile::TempDir;

use crate::every_transport::client::{Client, Ended, soon};
use crate::every_transport::links::Link;
use crate::every_transport::links::quic::QuicLink;
use crate::every_transport::links::websocket::WebSocketLink;
use crate::support::broker::{Broker, folder};
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
}

impl Transport {
    pub(super) fn is_tls(self) -> bool {
        match self {
            Self::WsProto | Self::WsJson => false,
            Self::WssProto | Self::WssJson | Self::Quic => true,
        }
    }

    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::WsJson | Self::WssJson => Encoding::Json,
            Self::WsProto | Self::WssProto | Self::Quic => Encoding::Proto,
        }
    }

    async fn link(self, broker: &Broker) -> Result<Box<dyn Link>, String> {
        let address = broker.address();
        match self {
            Self::WsProto | Self::WsJson | Self::WssProto | Self::WssJson => {
                WebSocketLink::open(address, self.encoding(), self.is_tls()).await
            }
            Self::Quic => QuicLink::open(address).await,
        }
    }
}

/// A broker that asks everybody for a token, and the transport that it is reached by.
pub(super) struct Bed {
    pub(super) transport: Transport,
    pub(super) tokens: Tokens,
    /// Absent between two lives.
    broker: Option<Broker>,
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
        let broker = Broker::start_with(&data, &all);
        let settings = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { transport, tokens: Tokens::of(&data), broker: Some(broker), settings, data, _folder: folder }
    }

    pub(super) fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("it lives")
    }

    /// Kill -9.
    pub(super) fn kill(&mut self) {
        self.broker.take().expect("it lives").kill();
    }

    /// The next life on the same folder.
    pub(super) fn start_again(&mut self) {
        let settings: Vec<_> = self.settings.iter().map(|(key, value)| (&**key, &**value)).collect();
        self.broker = Some(Broker::start_with(&self.data, &settings));
    }

    /// Waits until the broker has left by itself, with success.
    pub(super) fn has_left(&mut self) {
        assert!(self.broker.take().expect("it lives").wait());
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
        let (broker, token) = (self.broker(), self.tokens.token("root", &[EVERYTHING]));
        let (status, text) = match self.transport.is_tls() {
            true => {
                let headers = format!("authorization: Bearer {token}\r\n");
                tls_client::get(broker.address(), "/metrics", &headers).await
            }
            false => broker.get_bearer(&token, "/metrics"),
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
