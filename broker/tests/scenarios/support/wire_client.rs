//! A client that speaks frames and nothing else, for what the SDK would never send.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::broker::hostile;
use crate::support::patience::{Patience, Received};

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct WireClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    encoding: Encoding,
    requests: u64,
    /// In a run with a hostile store; who connects to what may not be there tries again in ways of their own.
    patience: Option<Patience>,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) goodbye: Option<wire::Goodbye>,
    pub(crate) close: Option<CloseFrame>,
}

impl Ended {
    pub(crate) fn code(&self) -> &str {
        self.goodbye.as_ref().and_then(|goodbye| goodbye.error.as_ref()).map_or("", |error| &error.code)
    }

    pub(crate) fn message(&self) -> &str {
        self.goodbye.as_ref().and_then(|goodbye| goodbye.error.as_ref()).map_or("", |error| &error.message)
    }

    pub(crate) fn close_code(&self) -> u16 {
        self.close.as_ref().map_or(0, |close| close.code.into())
    }
}

impl WireClient {
    /// Opens a WebSocket with a subprotocol and says nothing.
    pub(crate) async fn open(address: SocketAddr, protocol: &str) -> Result<Self, tungstenite::Error> {
        Self::open_path(address, "/v1/connect", protocol).await
    }

    /// The same, at another path, or with a query.
    pub(crate) async fn open_at(address: SocketAddr, path: &str) -> Self {
        Self::open_path(address, path, Encoding::Proto.subprotocol()).await.unwrap()
    }

    async fn open_path(address: SocketAddr, path: &str, protocol: &str) -> Result<Self, tungstenite::Error> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if !protocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        let json = protocol == Encoding::Json.subprotocol();
        Ok(Self {
            socket,
            encoding: if json { Encoding::Json } else { Encoding::Proto },
            requests: 0,
            patience: None,
        })
    }

    /// Connects, says hello, and takes the welcome.
    pub(crate) async fn connect(address: SocketAddr, encoding: Encoding) -> Self {
        Self::connect_with(address, encoding, wire::Hello::default()).await
    }

    /// Connects with a token, and takes the welcome.
    pub(crate) async fn connect_as(address: SocketAddr, token: &str) -> Self {
        let hello = wire::Hello { token: token.into(), ..Default::default() };
        Self::connect_with(address, Encoding::Proto, hello).await
    }

    /// Connects with a hello of one's own, and takes the welcome.
    pub(crate) async fn connect_with(address: SocketAddr, encoding: Encoding, hello: wire::Hello) -> Self {
        let mut client = Self::open(address, encoding.subprotocol()).await.unwrap();
        client.send(ClientFrame::Hello(hello)).await;
        match client.receive().await {
            ServerFrame::Welcome(_) => {
                client.be_patient();
                client
            }
            other => panic!("{other:?} came instead of a welcome"),
        }
    }

    /// Has the patience of [`Self::connect`], once it was welcomed some other way.
    pub(crate) fn be_patient(&mut self) {
        self.patience = hostile().map(|_| Patience::default());
    }

    /// Says hello: the welcome, or how it ended.
    pub(crate) async fn greet(
        address: SocketAddr,
        hello: wire::Hello,
    ) -> Result<(Self, wire::Welcome), Ended> {
        let mut client = Self::open(address, Encoding::Proto.subprotocol()).await.unwrap();
        client.send(ClientFrame::Hello(hello)).await;
        match client.receive_any().await {
            Some(ServerFrame::Welcome(welcome)) => {
                client.patience = hostile().map(|_| Patience::default());
                Ok((client, welcome))
            }
            Some(ServerFrame::Goodbye(goodbye)) => {
                let ended = client.ended().await;
                Err(Ended { goodbye: Some(goodbye), ..ended })
            }
            other => panic!("{other:?} answers a hello"),
        }
    }

    /// Connects to what may not be there.
    pub(crate) async fn try_connect(address: SocketAddr) -> Option<Self> {
        let mut client = Self::open(address, Encoding::Proto.subprotocol()).await.ok()?;
        client.send(ClientFrame::Hello(wire::Hello::default())).await;
        match client.receive_any().await {
            Some(ServerFrame::Welcome(_)) => Some(client),
            _ => None,
        }
    }

    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        let frame = match &mut self.patience {
            Some(patience) => patience.sending(frame),
            None => frame,
        };
        self.send_as_is(frame).await;
    }

    /// Sends a frame that is not sent again when it is refused for now.
    pub(crate) async fn send_as_is(&mut self, frame: ClientFrame) {
        let bytes = encode_client(self.encoding, frame);
        self.send_bytes(bytes).await;
    }

    /// Sends bytes as a message of the type that is due.
    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) {
        let message = match self.encoding {
            Encoding::Proto => Message::Binary(bytes),
            Encoding::Json => Message::Text(String::from_utf8(bytes.to_vec()).unwrap().into()),
        };
        self.send_message(message).await;
    }

    /// The peer may have ended the connection; what it said is read by [`WireClient::ended`].
    pub(crate) async fn send_message(&mut self, message: Message) {
        drop(self.socket.send(message).await);
    }

    pub(crate) fn socket(&mut self) -> &mut WebSocketStream<MaybeTlsStream<TcpStream>> {
        &mut self.socket
    }

    /// The next frame that is not a heartbeat.
    pub(crate) async fn receive(&mut self) -> ServerFrame {
        loop {
            match self.receive_any().await {
                Some(ServerFrame::Heartbeat(_)) => {}
                Some(frame) => return frame,
                None => panic!("the connection ended"),
            }
        }
    }

    /// The next frame; `None` when the connection has ended.
    pub(crate) async fn receive_any(&mut self) -> Option<ServerFrame> {
        loop {
            let frame = self.receive_as_is().await?;
            let Some(patience) = &mut self.patience else { return Some(frame) };
            let Received { frame, again, after } = patience.received(frame);
            if !again.is_empty() {
                tokio::time::sleep(after).await;
            }
            for again in again {
                self.send_as_is(again).await;
            }
            if frame.is_some() {
                return frame;
            }
        }
    }

    /// The next frame, also when it only says that something is to be tried again.
    pub(crate) async fn receive_as_is(&mut self) -> Option<ServerFrame> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            return match next {
                Some(Ok(Message::Binary(bytes))) => Some(decode_server(self.encoding, bytes).unwrap()),
                Some(Ok(Message::Text(text))) => Some(decode_server(self.encoding, text.into()).unwrap()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => None,
                Some(Ok(_)) => continue,
            };
        }
    }

    /// Reads until the connection has ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        let mut ended = Ended { goodbye: None, close: None };
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the connection goes on") {
                Some(Ok(Message::Close(close))) => ended.close = close,
                Some(Ok(Message::Binary(bytes))) => ended.note(decode_server(self.encoding, bytes).unwrap()),
                Some(Ok(Message::Text(text))) => {
                    ended.note(decode_server(self.encoding, text.into()).unwrap())
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return ended,
            }
        }
    }

    /// Sends a request, made with its number, and answers what came back.
    pub(crate) async fn ask(&mut self, frame: impl FnOnce(u64) -> ClientFrame) -> ServerFrame {
        let request = self.next_request();
        self.send(frame(request)).await;
        self.receive().await
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Publishes texts and answers what came back.
    pub(crate) async fn publish(&mut self, session: &str, texts: &[&str]) -> ServerFrame {
        let records = texts.iter().map(|text| record(text)).collect();
        self.publish_with(wire::Publish { session: session.into(), records, ..Default::default() }).await
    }

    /// Publishes and answers what came back.
    pub(crate) async fn publish_with(&mut self, mut publish: wire::Publish) -> ServerFrame {
        publish.request = self.next_request();
        self.send(ClientFrame::Publish(publish)).await;
        self.receive().await
    }

    /// Subscribes and answers what came back.
    pub(crate) async fn subscribe(&mut self, session: &str, from: wire::from::From) -> ServerFrame {
        self.subscribe_with(wire::Subscription {
            subscription: 1,
            session: session.into(),
            from: Some(wire::From { from: Some(from) }),
            ..Default::default()
        })
        .await
    }

    /// Subscribes and answers what came back.
    pub(crate) async fn subscribe_with(&mut self, subscription: wire::Subscription) -> ServerFrame {
        let request = self.next_request();
        self.send(ClientFrame::Subscribe(wire::Subscribe { request, subscriptions: vec![subscription] }))
            .await;
        self.receive().await
    }

    /// The records of a range, in however many deliveries they come.
    pub(crate) async fn take(&mut self, from: u64, until: u64) -> Vec<wire::Record> {
        let (mut next, mut records) = (from, Vec::new());
        while next < until {
            let delivery = delivery(self.receive().await);
            assert_eq!((delivery.from, delivery.next), (next, next + delivery.records.len() as u64));
            next = delivery.next;
            records.extend(delivery.records);
        }
        assert_eq!(next, until);
        records
    }

    /// The refusal that the next frame is.
    pub(crate) async fn refusal(&mut self) -> wire::Error {
        refusal(self.receive().await)
    }
}

impl Ended {
    fn note(&mut self, frame: ServerFrame) {
        if let ServerFrame::Goodbye(goodbye) = frame {
            self.goodbye = Some(goodbye);
        }
    }
}

/// Whether a frame says that something may succeed when it is tried again, which only a hostile store brings about.
pub(crate) fn is_for_now(frame: &ServerFrame) -> bool {
    let error = match frame {
        ServerFrame::Refused(refused) => refused.error.as_ref(),
        ServerFrame::SubscriptionEnded(ended) => ended.error.as_ref(),
        _ => None,
    };
    hostile().is_some() && error.is_some_and(|error| error.retryable)
}

/// The error of a refusal.
pub(crate) fn refusal(frame: ServerFrame) -> wire::Error {
    match frame {
        ServerFrame::Refused(refused) => refused.error.unwrap(),
        other => panic!("{other:?} came instead of a refusal"),
    }
}

/// The offsets of a publish.
pub(crate) fn published(frame: ServerFrame) -> wire::Published {
    match frame {
        ServerFrame::Published(published) => published,
        other => panic!("{other:?} came instead of an acknowledgement"),
    }
}

/// The answer to a subscribe.
pub(crate) fn subscribed(frame: ServerFrame) -> wire::Subscribed {
    match frame {
        ServerFrame::Subscribed(subscribed) => subscribed,
        other => panic!("{other:?} came instead of a subscription"),
    }
}

/// A delivery.
pub(crate) fn delivery(frame: ServerFrame) -> wire::Delivery {
    match frame {
        ServerFrame::Delivery(delivery) => delivery,
        other => panic!("{other:?} came instead of a delivery"),
    }
}

/// A record with a text.
pub(crate) fn record(text: &str) -> wire::Record {
    wire::Record { body: Some(wire::record::Body::Text(text.into())), ..Default::default() }
}

/// The text of a record.
pub(crate) fn text(record: &wire::Record) -> &str {
    match &record.body {
        Some(wire::record::Body::Text(text)) => text,
        other => panic!("{other:?} is not a text"),
    }
}
