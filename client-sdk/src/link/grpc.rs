//! gRPC: one call, `Attach`, whose messages each way are frames.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, Connection, ResponseFuture};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use longwire_proto::codec::Encoding;
use longwire_proto::error::ErrorCode;
use longwire_proto::framing::{Deframer, grpc_prefix};
use longwire_proto::grpc_status::GrpcStatus;
use longwire_proto::service;
use tokio::net::TcpStream;

use crate::address::Address;
use crate::connect_failure::ConnectFailure;
use crate::error::Closed;
use crate::heard::Heard;
use crate::link::MESSAGE_BYTES_MAX;
use crate::link::target::Target;
use crate::tls::failure::failure;
use crate::tls::overheard::Overheard;
use crate::tls::stream::Stream;

/// Bytes that come ahead of what was read: there is one stream, so it has the same as all.
const WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of one frame of HTTP/2 that is received: a delivery comes in few.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Bytes of headers and trailers: a status with its details.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes that wait for the socket; what is above waits in the link's own queue.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Bytes of frames that are gathered before they are passed on.
const GATHERED_BYTES: usize = 32 << 10;
/// A frame of so many bytes is not copied for that.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// An open call, and the connection that it has for itself.
pub(super) struct GrpcLink {
    connection: Connection<Overheard, Bytes>,
    /// Why the connection is over; it is not polled again then.
    ended: Option<String>,
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What is being written.
    pieces: VecDeque<Bytes>,
    frames: Deframer,
}

impl GrpcLink {
    pub(super) async fn connect(target: &Target, remote: SocketAddr) -> Result<Self, ConnectFailure> {
        let address = &target.address;
        let failed = |error: &dyn std::fmt::Display| ConnectFailure::passing(error.to_string());
        let failed_io = |error: &std::io::Error| {
            let fatal = failure(error).map(|failure| Closed::Tls { url: address.url.clone(), failure });
            ConnectFailure { fatal, ..failed(error) }
        };
        let stream = TcpStream::connect(remote).await.map_err(|error| failed(&error))?;
        // Frames are gathered here; the kernel shall not wait for more.
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = match &target.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let stream = tls.connect_grpc(stream).await.map_err(|error| failed_io(&error))?;
                Stream::Tls(Box::new(stream))
            }
        };
        let stream = Overheard::new(stream);
        // In TLS 1.3 a client learns only behind its handshake what the broker thinks of its certificate.
        let heard = stream.failure();
        let failed_h2 = |error: h2::Error| {
            let fatal =
                heard.get().map(|failure| Closed::Tls { url: address.url.clone(), failure: failure.clone() });
            ConnectFailure { fatal, ..failed(&error) }
        };
        let handshake = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .handshake(stream);
        let (mut requests, mut connection) = handshake.await.map_err(failed_h2)?;
        let request = request(address, target.tls.is_some()).map_err(|error| failed(&error))?;
        let (mut answer, send) = requests.send_request(request, false).map_err(failed_h2)?;
        let answer = poll_fn(|context| poll_answer(&mut connection, &mut answer, context));
        let answer = answer.await.map_err(failed_h2)?;
        if let Some(refusal) = refusal(&answer) {
            let failure = failed(&refusal);
            // The broker has no such service; everything else a proxy may say for a while.
            let has_none =
                status(answer.headers()).is_some_and(|status| status == GrpcStatus::Unimplemented.number());
            return Err(ConnectFailure {
                fatal: has_none.then(|| Closed::Refused(failure.error.clone())),
                ..failure
            });
        }
        let (receive, frames) = (answer.into_body(), Deframer::grpc(MESSAGE_BYTES_MAX));
        Ok(Self { connection, ended: None, send, receive, pieces: VecDeque::new(), frames })
    }

    /// Moves what goes either way.
    fn drive(&mut self, context: &mut Context<'_>) {
        if self.ended.is_none()
            && let Poll::Ready(end) = Pin::new(&mut self.connection).poll(context)
        {
            let error = end.err().map(|error| error.to_string());
            self.ended = Some(error.unwrap_or_else(|| "the broker ended the connection".to_owned()));
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
        queued_bytes: &mut usize,
    ) -> Poll<Result<(), String>> {
        loop {
            while let Some(piece) = self.pieces.front_mut() {
                self.send.reserve_capacity(piece.len());
                let room = match self.send.capacity() {
                    0 => match ready!(self.send.poll_capacity(context)) {
                        Some(room) => room.map_err(|error| error.to_string())?,
                        // What is read says why.
                        None => return Poll::Pending,
                    },
                    room => room,
                };
                let part = piece.split_to(room.min(piece.len()));
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                self.send.send_data(part, false).map_err(|error| error.to_string())?;
            }
            if queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.gather(queue, queued_bytes)?;
        }
    }

    /// Takes the next frames to write, small ones together.
    fn gather(&mut self, queue: &mut VecDeque<Bytes>, queued_bytes: &mut usize) -> Result<(), String> {
        let mut gathered = BytesMut::new();
        while gathered.len() < GATHERED_BYTES {
            let Some(frame) = queue.pop_front() else { break };
            *queued_bytes -= frame.len();
            let prefix = grpc_prefix(&frame).ok_or("a frame is too long")?;
            gathered.put_slice(&prefix);
            if frame.len() <= COPIED_BYTES_MAX {
                gathered.put_slice(&frame);
                continue;
            }
            self.pieces.extend([gathered.split().freeze(), frame]);
        }
        if !gathered.is_empty() {
            self.pieces.push_back(gathered.freeze());
        }
        Ok(())
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(Heard, u64), String>> {
        loop {
            self.drive(context);
            if let Some(bytes) = self.frames.pop().map_err(|error| error.to_string())? {
                let length = bytes.len() as u64;
                match Heard::decode(Encoding::Proto, bytes) {
                    Ok(frame) => return Poll::Ready(Ok((frame, length))),
                    // A newer broker may say more than this SDK understands.
                    Err(error) if error.code == ErrorCode::UnknownFrame => continue,
                    Err(error) => return Poll::Ready(Err(error.to_string())),
                }
            }
            match (self.receive.poll_data(context), &self.ended) {
                (Poll::Ready(Some(Ok(piece))), _) => {
                    let released = self.receive.flow_control().release_capacity(piece.len());
                    released.map_err(|error| error.to_string())?;
                    self.frames.push(piece);
                }
                (Poll::Ready(Some(Err(error))), _) => return Poll::Ready(Err(error.to_string())),
                (Poll::Ready(None), _) => {
                    let trailers = ready!(self.receive.poll_trailers(context));
                    return Poll::Ready(Err(end(trailers)));
                }
                (Poll::Pending, Some(ended)) => return Poll::Ready(Err(ended.clone())),
                (Poll::Pending, None) => return Poll::Pending,
            }
        }
    }

    /// Sends the rest, and leaves.
    pub(super) async fn close(&mut self, queue: &mut VecDeque<Bytes>) {
        let mut queued_bytes = queue.iter().map(Bytes::len).sum();
        let written = poll_fn(|context| {
            self.drive(context);
            let written = self.poll_write(context, queue, &mut queued_bytes);
            self.drive(context);
            if self.ended.is_some() { Poll::Ready(Err(String::new())) } else { written }
        });
        if written.await.is_ok() && self.send.send_data(Bytes::new(), true).is_ok() {
            // The broker ends its half when it has taken all of it.
            while poll_fn(|context| self.poll_read(context)).await.is_ok() {}
        }
    }
}

fn request(address: &Address, has_tls: bool) -> Result<Request<()>, http::Error> {
    let scheme = if has_tls { "https" } else { "http" };
    let authority = address.url.split_once("://").map_or("", |(_, authority)| authority);
    Request::post(format!("{scheme}://{authority}/{}/Attach", service::NAME))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("longwire/", env!("CARGO_PKG_VERSION")))
        .body(())
}

fn poll_answer(
    connection: &mut Connection<Overheard, Bytes>,
    answer: &mut ResponseFuture,
    context: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, h2::Error>> {
    let driven = Pin::new(connection).poll(context);
    match (Pin::new(answer).poll(context), driven) {
        (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
        (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
        (answered, _) => answered,
    }
}

/// Why the answer is none to the call.
fn refusal(answer: &Response<RecvStream>) -> Option<String> {
    if answer.status() != StatusCode::OK {
        return Some(format!("HTTP {}", answer.status()));
    }
    status(answer.headers()).map(|_| said(answer.headers()))
}

fn status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// What a status says, for humans.
fn said(headers: &HeaderMap) -> String {
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok());
    let status = status(headers).map_or_else(|| "none".to_owned(), |status| status.to_string());
    format!("{} (gRPC status {status})", message.unwrap_or_default().replace("%20", " "))
}

fn end(trailers: Result<Option<HeaderMap>, h2::Error>) -> String {
    match trailers {
        Ok(Some(trailers)) => format!("the broker closed the connection: {}", said(&trailers)),
        Ok(None) => "the broker ended the connection".to_owned(),
        Err(error) => error.to_string(),
    }
}
