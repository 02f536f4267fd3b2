//! A broker of a few hundred lines that speaks the frames over real WebSockets and can be told to cut connections.

#![allow(clippy::unwrap_used, clippy::result_large_err)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::{self, Encoding};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::raw;
use longwire_proto::raw::client_frame::Frame as ClientFrame;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Bytes>,
    producers: BTreeMap<String, (u64, Vec<(u64, u64)>)>,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) logs: Mutex<BTreeMap<String, Log>>,
    changed: watch::Sender<u64>,
    /// Frames that may still be sent before the connection is cut; negative for never.
    pub(crate) frames_left: AtomicI64,
    /// Frames for each connection after a cut.
    pub(crate) frames_per_connection: AtomicI64,
    pub(crate) connections: AtomicU64,
    /// Bytes of records sent and not credited, the most there ever were.
    pub(crate) outstanding_max: AtomicU64,
    pub(crate) goodbye: Mutex<Option<ErrorCode>>,
}

pub(crate) struct MiniBroker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for MiniBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MiniBroker {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        shared.frames_left.store(-1, Ordering::SeqCst);
        shared.frames_per_connection.store(-1, Ordering::SeqCst);
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), shared)
    }

    pub(crate) fn start_on(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let accepting = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let per = accepting.frames_per_connection.load(Ordering::SeqCst);
                accepting.frames_left.store(per, Ordering::SeqCst);
                let shared = Arc::clone(&accepting);
                connections.spawn(async move { serve(stream, shared).await });
            }
        });
        Self { shared, url, task }
    }

    /// Cuts every connection after so many more frames.
    pub(crate) fn cut_every(&self, frames: i64) {
        self.shared.frames_per_connection.store(frames, Ordering::SeqCst);
        self.shared.frames_left.store(frames, Ordering::SeqCst);
    }

    pub(crate) fn texts(&self, session: &str) -> Vec<String> {
        let logs = self.shared.logs.lock().unwrap();
        let records = logs.get(session).map(|log| log.records.clone()).unwrap_or_default();
        records.into_iter().map(text).collect()
    }

    pub(crate) fn close_session(&self, session: &str) {
        self.shared.logs.lock().unwrap().entry(session.into()).or_default().closed = true;
        self.shared.changed.send_modify(|version| *version += 1);
    }
}

fn text(record: Bytes) -> String {
    match wire::Record::decode(record).unwrap().body {
        Some(wire::record::Body::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

struct Reader {
    session: String,
    next: u64,
    consumed: u64,
    window: u64,
    ended: bool,
}

struct Connection {
    socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
    shared: Arc<Shared>,
    readers: BTreeMap<u32, Reader>,
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut encoding = Encoding::Proto;
    let choose = |request: &Request, mut response: Response| {
        assert_eq!(request.uri().path(), "/v1/connect");
        let offered = request.headers()["sec-websocket-protocol"].clone();
        encoding = *Encoding::ALL.iter().find(|encoding| offered == encoding.subprotocol()).unwrap();
        response.headers_mut().insert("sec-websocket-protocol", offered);
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, choose).await.ok()?;
    let mut changed = shared.changed.subscribe();
    let mut connection = Connection { socket, encoding, shared, readers: BTreeMap::new() };
    loop {
        connection.deliver().await?;
        tokio::select! {
            message = connection.socket.next() => match message?.ok()? {
                Message::Binary(bytes) => connection.frame(bytes).await?,
                Message::Text(text) => connection.frame(Bytes::from(text)).await?,
                _ => return None,
            },
            result = changed.changed() => result.ok()?,
        }
    }
}

impl Connection {
    async fn send(&mut self, frame: ServerFrame) -> Option<()> {
        if self.shared.frames_left.fetch_sub(1, Ordering::SeqCst) == 0 {
            return None;
        }
        let bytes = codec::encode_server(self.encoding, frame);
        let message = match self.encoding {
            Encoding::Proto => Message::Binary(bytes),
            Encoding::Json => Message::text(String::from_utf8(bytes.to_vec()).unwrap()),
        };
        self.socket.send(message).await.ok()
    }

    async fn refuse(&mut self, request: u64, code: ErrorCode, expected: u64) -> Option<()> {
        let error = Some(Error::new(code, "no").expected(expected).to_wire());
        self.send(ServerFrame::Refused(wire::Refused { request, subscription: 0, error })).await
    }

    async fn frame(&mut self, bytes: Bytes) -> Option<()> {
        match codec::decode_client(self.encoding, bytes).unwrap() {
            ClientFrame::Hello(_) => {
                let goodbye = *self.shared.goodbye.lock().unwrap();
                if let Some(code) = goodbye {
                    let error = Some(Error::new(code, "go away").to_wire());
                    let goodbye = wire::Goodbye { error, reconnect_after_ms: 0 };
                    return self.send(ServerFrame::Goodbye(goodbye)).await;
                }
                let welcome = wire::Welcome {
                    principal: "anonymous".into(),
                    heartbeat_ms: 60_000,
                    idle_timeout_ms: 180_000,
                    ..Default::default()
                };
                self.send(ServerFrame::Welcome(welcome)).await
            }
            ClientFrame::Publish(publish) => self.publish(publish).await,
            ClientFrame::Subscribe(subscribe) => {
                for subscription in subscribe.subscriptions {
                    self.subscribe(subscribe.request, subscription).await?;
                }
                Some(())
            }
            ClientFrame::Credit(credit) => {
                if let Some(reader) = self.readers.get_mut(&credit.subscription) {
                    reader.consumed = reader.consumed.max(credit.consumed_through);
                }
                Some(())
            }
            ClientFrame::Unsubscribe(unsubscribe) => {
                self.readers.remove(&unsubscribe.subscription);
                self.send(ServerFrame::Done(wire::Done { request: unsubscribe.request })).await
            }
            ClientFrame::DescribeSession(describe) => {
                let session = wire::Session { session: describe.session, ..Default::default() };
                let description =
                    wire::SessionDescription { request: describe.request, session: Some(session) };
                self.send(ServerFrame::SessionDescription(description)).await
            }
            ClientFrame::Ping(ping) => {
                self.send(ServerFrame::Pong(wire::Pong { token: ping.token, time_ms: 0 })).await
            }
            other => panic!("{other:?}"),
        }
    }

    async fn publish(&mut self, publish: raw::Publish) -> Option<()> {
        let producer = publish.producer.unwrap();
        let (answer, refusal) = {
            let mut logs = self.shared.logs.lock().unwrap();
            let log = logs.entry(publish.session).or_default();
            let known = log.producers.entry(producer.id).or_insert((producer.epoch, Vec::new()));
            if producer.epoch > known.0 {
                *known = (producer.epoch, Vec::new());
            }
            assert_eq!(producer.epoch, known.0);
            let taken = known.1.len() as u64;
            let mut answer = wire::Published { request: publish.request, ..Default::default() };
            if let Some((from, next)) = known.1.get(producer.sequence as usize) {
                (answer.from, answer.next, answer.duplicate) = (*from, *next, true);
                (Some(answer), None)
            } else if producer.sequence > taken {
                (None, Some((ErrorCode::SequenceGap, taken)))
            } else if publish.if_end.is_some_and(|end| end != log.records.len() as u64) {
                (None, Some((ErrorCode::EndMismatch, log.records.len() as u64)))
            } else if log.closed {
                (None, Some((ErrorCode::SessionClosed, 0)))
            } else {
                answer.from = log.records.len() as u64;
                log.records.extend(publish.records);
                answer.next = log.records.len() as u64;
                known.1.push((answer.from, answer.next));
                (Some(answer), None)
            }
        };
        self.shared.changed.send_modify(|version| *version += 1);
        match (answer, refusal) {
            (Some(answer), _) => self.send(ServerFrame::Published(answer)).await,
            (None, refusal) => {
                let (code, expected) = refusal.unwrap();
                self.refuse(publish.request, code, expected).await
            }
        }
    }

    async fn subscribe(&mut self, request: u64, wanted: wire::Subscription) -> Option<()> {
        let (exists, end) = {
            let logs = self.shared.logs.lock().unwrap();
            let log = logs.get(&wanted.session);
            (log.is_some(), log.map_or(0, |log| log.records.len() as u64))
        };
        if !exists && !wanted.wait {
            let error = Some(Error::new(ErrorCode::SessionNotFound, "no").to_wire());
            let subscription = wanted.subscription;
            return self.send(ServerFrame::Refused(wire::Refused { request, subscription, error })).await;
        }
        let (from, outcome) = match wanted.from.unwrap().from.unwrap() {
            wire::from::From::Start(_) | wire::from::From::Cursor(_) => (0, "from_start"),
            wire::from::From::End(_) => (end, "resumed"),
            wire::from::From::Position(text) => (text.parse::<Position>().unwrap().offset, "resumed"),
            wire::from::From::Offset(offset) => (offset, "resumed"),
            wire::from::From::Last(count) => (end.saturating_sub(count), "resumed"),
        };
        let outcome = if from > end { "future_position" } else { outcome };
        let subscription = wanted.subscription;
        if from <= end {
            let window = wanted.window_bytes.unwrap();
            let reader =
                Reader { session: wanted.session.clone(), next: from, consumed: from, window, ended: false };
            self.readers.insert(subscription, reader);
        }
        self.send(ServerFrame::Subscribed(wire::Subscribed {
            request,
            subscription,
            session: wanted.session,
            exists,
            end,
            outcome: outcome.into(),
            from,
            ..Default::default()
        }))
        .await
    }

    async fn deliver(&mut self) -> Option<()> {
        loop {
            let mut frames = Vec::new();
            {
                let logs = self.shared.logs.lock().unwrap();
                for (number, reader) in &mut self.readers {
                    let Some(log) = logs.get(&reader.session).filter(|_| !reader.ended) else { continue };
                    let size = |from: u64, to: u64| -> u64 {
                        log.records[from as usize..to as usize].iter().map(|record| record.len() as u64).sum()
                    };
                    let outstanding = size(reader.consumed.min(reader.next), reader.next);
                    if reader.next < log.records.len() as u64 && outstanding < reader.window {
                        let next = (reader.next + 3).min(log.records.len() as u64);
                        let sent = size(reader.next, next);
                        self.shared.outstanding_max.fetch_max(outstanding + sent, Ordering::SeqCst);
                        let decode = |record: &Bytes| wire::Record::decode(record.clone()).unwrap();
                        let records = log.records[reader.next as usize..next as usize].iter().map(decode);
                        frames.push(ServerFrame::Delivery(wire::Delivery {
                            subscription: *number,
                            epoch: 0,
                            from: reader.next,
                            next,
                            records: records.collect(),
                            offsets: Vec::new(),
                            session: String::new(),
                        }));
                        reader.next = next;
                    } else if log.closed && reader.next == log.records.len() as u64 {
                        reader.ended = true;
                        frames.push(ServerFrame::SubscriptionEnded(wire::SubscriptionEnded {
                            subscription: *number,
                            epoch: 0,
                            next: reader.next,
                            error: Some(Error::new(ErrorCode::SessionClosed, "closed").to_wire()),
                            session: String::new(),
                        }));
                    }
                }
            }
            if frames.is_empty() {
                return Some(());
            }
            for frame in frames {
                self.send(frame).await?;
            }
        }
    }
}
