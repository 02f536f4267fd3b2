//! gRPC written by hand over HTTP/2, so that it can be written wrongly.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::framing::{Deframer, grpc_prefix};
use longwire_proto::wire::client_frame::Frame;
use longwire_proto::{service, wire};
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::broker::hostile;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The status of what may be tried again.
const UNAVAILABLE: u8 = 14;
/// More than any message has.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The status of a call, as its number, and the code of our error in the details, when there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) number: u8,
    pub(crate) code: Option<String>,
    pub(crate) pushback_ms: Option<u64>,
}

impl Status {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap());
        let number = text("grpc-status")?.parse().unwrap();
        let code = text("grpc-message").and_then(|message| {
            let (_, code) = message.strip_suffix(")")?.rsplit_once('(')?;
            Some(code.to_owned())
        });
        assert_eq!(code.is_some(), headers.contains_key("grpc-status-details-bin"), "{headers:?}");
        let pushback_ms = text("grpc-retry-pushback-ms").map(|text| text.parse().unwrap());
        Some(Self { number, code, pushback_ms })
    }

    #[track_caller]
    pub(crate) fn is(&self, number: u8, code: &str) {
        assert_eq!((self.number, self.code.as_deref()), (number, Some(code)));
    }
}

/// One connection of HTTP/2, whose streams are calls.
#[derive(Clone)]
pub(crate) struct GrpcClient {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
}

/// A call under way.
pub(crate) struct Call {
    send: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    receive: Option<RecvStream>,
    headers: HeaderMap,
    deframer: Deframer,
    pub(crate) http_status: u16,
}

/// A message as gRPC sends it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = grpc_prefix(message).unwrap().to_vec();
    framed.extend(message);
    framed.into()
}

/// A frame of the protocol as `Attach` sends it.
pub(crate) fn client_frame(frame: Frame) -> Bytes {
    framed(&encode_client(Encoding::Proto, frame))
}

pub(crate) fn hello() -> Bytes {
    client_frame(Frame::Hello(wire::Hello::default()))
}

impl GrpcClient {
    /// Connects; the connection ends with the last of its clones and calls.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self { requests, address }
    }

    /// Begins a call of the service.
    pub(crate) async fn begin(&self, method: &str) -> Call {
        self.begin_with(&format!("/{}/{method}", service::NAME), &[]).await
    }

    /// Begins a call of a path, with metadata; `:authority` among them is the host.
    pub(crate) async fn begin_with(&self, path: &str, metadata: &[(&str, &str)]) -> Call {
        self.try_begin(path, metadata).await.unwrap()
    }

    pub(crate) async fn try_begin(&self, path: &str, metadata: &[(&str, &str)]) -> Result<Call, h2::Error> {
        let host =
            metadata.iter().find(|(name, _)| *name == ":authority").map(|(_, value)| (*value).to_owned());
        let host = host.unwrap_or_else(|| self.address.to_string());
        let mut request = Request::post(format!("http://{host}{path}")).header("te", "trailers");
        if !metadata.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in metadata.iter().filter(|(name, _)| *name != ":authority") {
            request = request.header(*name, *value);
        }
        let mut ready = timeout(PATIENCE, self.requests.clone().ready()).await.unwrap()?;
        let (response, send) = ready.send_request(request.body(()).unwrap(), false)?;
        Ok(Call {
            send,
            response: Some(response),
            receive: None,
            headers: HeaderMap::new(),
            deframer: Deframer::grpc(MESSAGE_BYTES_MAX),
            http_status: 0,
        })
    }

    /// A whole call with one message. Publishes are made again where the store is a hostile one.
    pub(crate) async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, Status> {
        loop {
            let mut call = self.begin(method).await;
            call.send(framed(message), true);
            match call.answer().await {
                Err(Status { number: UNAVAILABLE, .. }) if method == "Publish" && hostile().is_some() => {}
                answer => return answer,
            }
        }
    }
}

impl Call {
    /// Sends bytes, as they are.
    pub(crate) fn send(&mut self, bytes: impl Into<Bytes>, is_last: bool) {
        // Who does not take it any more has said so.
        drop(self.send.send_data(bytes.into(), is_last));
    }

    pub(crate) fn reset(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    async fn respond(&mut self) {
        if let Some(response) = self.response.take() {
            let response = timeout(PATIENCE, response).await.expect("no answer").unwrap();
            self.http_status = response.status().as_u16();
            self.headers = response.headers().clone();
            self.receive = Some(response.into_body());
        }
    }

    /// The next message, or the status at the end.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Status> {
        self.respond().await;
        let receive = self.receive.as_mut().unwrap();
        loop {
            if let Some(message) = self.deframer.pop().unwrap() {
                return Ok(message);
            }
            match timeout(PATIENCE, receive.data()).await.expect("nothing came") {
                Some(piece) => {
                    let piece = piece.unwrap();
                    drop(receive.flow_control().release_capacity(piece.len()));
                    self.deframer.push(piece);
                }
                None => {
                    assert!(self.deframer.is_between_frames());
                    let trailers = timeout(PATIENCE, receive.trailers()).await.unwrap().unwrap();
                    let headers = trailers.as_ref().unwrap_or(&self.headers);
                    return Err(Status::of(headers).unwrap_or_else(|| panic!("no status in {headers:?}")));
                }
            }
        }
    }

    /// The next frame of `Attach` or `Subscribe`.
    pub(crate) async fn frame(&mut self) -> Result<wire::server_frame::Frame, Status> {
        let message = self.next().await?;
        Ok(wire::ServerFrame::decode(message).unwrap().frame.unwrap())
    }

    /// The one message of a call that went well.
    async fn answer(mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        let status = self.next().await.unwrap_err();
        assert_eq!((status.number, status.code), (0, None));
        Ok(message)
    }

    /// The status, behind messages that nobody looks at.
    pub(crate) async fn status(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// The status, unless the broker ended the connection before it came.
    pub(crate) async fn status_or_cut(mut self) -> Option<Status> {
        self.respond().await;
        let receive = self.receive.as_mut().unwrap();
        while let Some(piece) = timeout(PATIENCE, receive.data()).await.expect("nothing came") {
            drop(receive.flow_control().release_capacity(piece.ok()?.len()));
        }
        Status::of(&timeout(PATIENCE, receive.trailers()).await.unwrap().ok()??)
    }

    /// The status of HTTP alone.
    pub(crate) async fn http_status(&mut self) -> u16 {
        self.respond().await;
        self.http_status
    }

    /// Takes nothing more; answers once the broker has ended the call without a status, or the connection.
    pub(crate) async fn cut_off(mut self) {
        self.respond().await;
        let receive = self.receive.as_mut().unwrap();
        // Nothing is released, so that no more comes than there is room for.
        let ended = async { while let Some(Ok(_)) = receive.data().await {} };
        timeout(PATIENCE, ended).await.expect("who does not read is kept");
    }
}
