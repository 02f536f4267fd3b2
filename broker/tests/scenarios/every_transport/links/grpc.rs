//! gRPC: the call `Attach` of HTTP/2, a stream of frames each way, over TCP or TLS; its end is a status.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::framing::{Deframer, grpc_prefix};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::service;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::every_transport::links::stream::Stream;
use crate::every_transport::links::{Close, Link};

/// Pieces that are on their way to the socket: the next one waits.
const PIECES_MAX: usize = 4;

/// The answer of the broker, whose headers come with its first frame.
enum Answer {
    Awaited(JoinHandle<hyper::Result<Response<Incoming>>>),
    Begun(Incoming),
    Over,
}

pub(in crate::every_transport) struct GrpcLink {
    pieces: Option<mpsc::Sender<Bytes>>,
    answer: Answer,
    frames: Deframer,
    close: Close,
    driver: JoinHandle<()>,
}

impl GrpcLink {
    /// Makes a call and says nothing.
    pub(in crate::every_transport) async fn open(
        address: SocketAddr,
        is_tls: bool,
    ) -> Result<Box<dyn Link>, String> {
        let stream = Stream::open(address, is_tls, "h2").await?;
        // What is gone without a word is reset, not ended.
        stream.tcp().set_zero_linger().unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut calls, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection.map(drop));
        let (pieces, taken) = mpsc::channel(PIECES_MAX);
        let body = unfold(taken, |mut taken| async {
            let piece = taken.recv().await?;
            Some((Ok::<_, Infallible>(BodyFrame::data(piece)), taken))
        });
        let scheme = if is_tls { "https" } else { "http" };
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("{scheme}://{address}/{}/Attach", service::NAME))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(Box::pin(body)))
            .unwrap();
        // It is made whether or not somebody waits for its answer, which begins with what the broker says.
        let answer = tokio::spawn(async move { calls.send_request(request).await });
        Ok(Box::new(Self {
            pieces: Some(pieces),
            answer: Answer::Awaited(answer),
            frames: Deframer::grpc(FRAME_BYTES_MAX),
            close: Close { is_status: true, ..Close::default() },
            driver,
        }))
    }

    async fn send_piece(&self, piece: Bytes) {
        if let Some(pieces) = &self.pieces {
            drop(pieces.send(piece).await);
        }
    }

    async fn next(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some(frame) = self.frames.pop().unwrap() {
                return Some(decode_server(Encoding::Proto, frame).unwrap());
            }
            match &mut self.answer {
                Answer::Awaited(awaited) => match awaited.await.unwrap() {
                    Ok(response) => {
                        self.close.note(response.headers());
                        self.answer = Answer::Begun(response.into_body());
                    }
                    Err(_) => self.answer = Answer::Over,
                },
                Answer::Begun(body) => match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(piece) => self.frames.push(piece),
                        Err(frame) => self.close.note(frame.trailers_ref().unwrap()),
                    },
                    Some(Err(_)) | None => self.answer = Answer::Over,
                },
                Answer::Over => return None,
            }
        }
    }
}

impl Close {
    /// The status, where it is.
    fn note(&mut self, headers: &HeaderMap) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(status) = text("grpc-status") {
            self.code = status.parse().unwrap();
            self.reason = percent_decoded(text("grpc-message").unwrap_or_default());
        }
    }
}

/// The text of a `grpc-message`.
fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = after;
            }
            (first, _) => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl Link for GrpcLink {
    fn send(&mut self, frame: Bytes) -> BoxFuture<'_, ()> {
        let sending = async move {
            // As libraries do: peers of HTTP/2 take many small pieces for a flood.
            self.send_piece([&grpc_prefix(&frame).unwrap(), &frame[..]].concat().into()).await;
        };
        sending.boxed()
    }

    fn begin(&mut self) -> BoxFuture<'_, ()> {
        // A length, and nothing of what is so long.
        let piece = Bytes::from_static(&[0, 0, 0, 0, 9, 0x0a]);
        async move { self.send_piece(piece).await }.boxed()
    }

    fn receive(&mut self) -> BoxFuture<'_, Option<ServerFrame>> {
        self.next().boxed()
    }

    fn closed(&mut self) -> BoxFuture<'_, Close> {
        let ending = async {
            while self.next().await.is_some() {}
            self.close.clone()
        };
        ending.boxed()
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        let leaving = async move {
            let mut link = *self;
            // The end of what is said; the broker ends the call then.
            link.pieces = None;
            while link.next().await.is_some() {}
            drop(link.answer);
            drop(link.driver.await);
        };
        leaving.boxed()
    }

    fn abort(self: Box<Self>) {
        self.driver.abort();
    }
}
