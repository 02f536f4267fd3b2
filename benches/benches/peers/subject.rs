//! What is measured beside each other.

use std::net::SocketAddr;
use std::path::Path;

use super::link::Link;
use super::server::Server;
use super::{broadcaster, durable_streams, longwire, nats, redis, s2};

/// In the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Raw,
    RawEncoded,
    RawEncodedSynced,
    RawTungstenite,
    Longwire,
    LongwireOther,
    Redis,
    NatsAlways,
    Nats,
    NatsCore,
    S2,
    DurableStreams,
    DurableStreamsServer,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RawEncoded => "raw-encoded",
            Self::RawEncodedSynced => "raw-encoded-synced",
            Self::RawTungstenite => "raw-tungstenite",
            Self::Longwire => "longwire",
            Self::LongwireOther => "longwire-other",
            Self::Redis => "redis",
            Self::NatsAlways => "nats-always",
            Self::Nats => "nats",
            Self::NatsCore => "nats-core",
            Self::S2 => "s2-lite",
            Self::DurableStreams => "durable-streams",
            Self::DurableStreamsServer => "durable-streams-server",
        }
    }

    /// What it is, in a table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "the file system or the loopback alone",
            Self::RawEncoded => "bare broadcaster of frames that were encoded once",
            Self::RawEncodedSynced => "the same, with an fdatasync a group",
            Self::RawTungstenite => "bare broadcaster with tokio-tungstenite",
            Self::Longwire => "**Longwire**",
            Self::LongwireOther => "another build of Longwire",
            Self::Redis => "Redis, `appendfsync always`",
            Self::NatsAlways => "NATS JetStream, `sync_interval: always`",
            Self::Nats => "NATS JetStream as it is by default (answers before it is on disk)",
            Self::NatsCore => "NATS core (stores nothing)",
            Self::S2 => "s2-lite, local files",
            Self::DurableStreams => "Durable Streams, the project's server",
            Self::DurableStreamsServer => "Durable Streams, `durable-streams-server`, `file-durable`",
        }
    }

    /// The file that `scripts/peers` installs.
    pub(crate) fn binary(self) -> Option<&'static str> {
        match self {
            Self::Redis => Some("redis-server"),
            Self::NatsAlways | Self::Nats | Self::NatsCore => Some("nats-server"),
            Self::S2 => Some("s2-lite"),
            Self::DurableStreams => Some("durable-streams"),
            Self::DurableStreamsServer => Some("durable-streams-server"),
            _ => None,
        }
    }

    fn broadcaster(self) -> broadcaster::Kind {
        match self {
            Self::RawEncoded => broadcaster::Kind::Encoded,
            Self::RawEncodedSynced => broadcaster::Kind::EncodedSynced,
            Self::RawTungstenite => broadcaster::Kind::Tungstenite,
            _ => broadcaster::Kind::Echo,
        }
    }

    fn durable_streams(self) -> durable_streams::Kind {
        match self {
            Self::DurableStreams => durable_streams::Kind::Project,
            _ => durable_streams::Kind::Other,
        }
    }
}

/// One that is running.
pub(crate) struct Running {
    pub(crate) server: Server,
    subject: Subject,
    /// Where it takes WebSockets.
    websocket: SocketAddr,
}

impl Running {
    /// Starts it with a folder that is empty; `None` when it is not installed.
    pub(crate) fn start(subject: Subject, folder: &Path) -> Option<Self> {
        use Subject as S;
        let alone = |server: Server| {
            let websocket = server.address;
            (server, websocket)
        };
        let (server, websocket) = match subject {
            S::Raw | S::RawEncoded | S::RawEncodedSynced | S::RawTungstenite => {
                subject.broadcaster().start(folder)
            }
            S::Longwire => alone(Server::broker(folder)),
            S::LongwireOther => alone(Server::other_broker(folder)?),
            S::Redis => alone(redis::start(folder)?),
            S::NatsAlways => nats::start(folder, true)?,
            S::Nats | S::NatsCore => nats::start(folder, false)?,
            S::S2 => alone(s2::start(folder)?),
            S::DurableStreams | S::DurableStreamsServer => alone(subject.durable_streams().start(folder)?),
        };
        Some(Self { server, subject, websocket })
    }

    /// A connection that publishes to a session of its own.
    pub(crate) async fn publisher(&self, session: &str) -> Link {
        use Subject as S;
        let address = self.server.address;
        let link = match self.subject {
            S::Raw => broadcaster::publisher(address, super::BODY_BYTES).await,
            S::RawEncoded | S::RawEncodedSynced | S::RawTungstenite => {
                broadcaster::publisher(address, 1).await
            }
            S::Longwire | S::LongwireOther => longwire::publisher(address, session, 1).await,
            S::Redis => redis::publisher(address, session).await,
            S::NatsAlways | S::Nats => {
                nats::Administrator::open(address).await.create_stream(session).await;
                nats::publisher(address, session).await
            }
            S::NatsCore => nats::core_publisher(address, session).await,
            S::S2 => s2::publisher(address, session).await,
            S::DurableStreams | S::DurableStreamsServer => {
                self.subject.durable_streams().publisher(address, session).await
            }
        };
        link.ready()
    }

    /// Connections that follow a session, after its publisher was made.
    pub(crate) async fn subscriber(&self, session: &str, number: usize) -> Link {
        use Subject as S;
        let link = match self.subject {
            S::RawEncoded | S::RawEncodedSynced | S::RawTungstenite => {
                broadcaster::subscriber(self.websocket).await
            }
            S::Longwire | S::LongwireOther => longwire::subscriber(self.websocket, session).await,
            S::Redis => redis::subscriber(self.server.address, session).await,
            S::NatsAlways | S::Nats => {
                let to = format!("to.{session}.{number}");
                let link = nats::subscriber(self.websocket, &to).await;
                nats::Administrator::open(self.server.address).await.create_consumer(session, &to).await;
                link
            }
            S::NatsCore => nats::subscriber(self.websocket, session).await,
            _ => panic!("{} is not followed", self.subject.name()),
        };
        link.ready()
    }

    /// Whether a publish is answered at all.
    pub(crate) fn answers(&self) -> bool {
        self.subject != Subject::NatsCore
    }
}
