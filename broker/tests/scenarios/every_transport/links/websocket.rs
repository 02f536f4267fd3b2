//! WebSocket, over TCP or TLS, in either encoding.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::every_transport::links::stream::Stream;
use crate::every_transport::links::{Close, Link};

pub(in crate::every_transport) struct WebSocketLink {
    socket: WebSocketStream<Stream>,
    encoding: Encoding,
    close: Close,
}

impl WebSocketLink {
    /// Opens a WebSocket and says nothing.
    pub(in crate::every_transport) async fn open(
        address: SocketAddr,
        encoding: Encoding,
        is_tls: bool,
    ) -> Result<Box<dyn Link>, String> {
        let stream = Stream::open(address, is_tls, "http/1.1").await?;
        let mut request = format!("ws://{address}/v1/connect").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", encoding.subprotocol().parse().unwrap());
        // What is sent goes out whatever its size: the tests send what is too large.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(Box::new(Self { socket, encoding, close: Close::default() })),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.into_body().unwrap_or_default();
                Err(String::from_utf8_lossy(&body).into_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Link for WebSocketLink {
    fn send(&mut self, frame: Bytes) -> BoxFuture<'_, ()> {
        let message = match self.encoding {
            Encoding::Proto => Message::Binary(frame),
            Encoding::Json => Message::Text(String::from_utf8(frame.to_vec()).unwrap().into()),
        };
        self.socket.send(message).map(drop).boxed()
    }

    fn begin(&mut self) -> BoxFuture<'_, ()> {
        let (opcode, payload) = match self.encoding {
            Encoding::Proto => (Data::Binary, &[0x0a][..]),
            Encoding::Json => (Data::Text, &br#"{"hello":"#[..]),
        };
        let part = Frame::message(payload, OpCode::Data(opcode), false);
        self.socket.send(Message::Frame(part)).map(drop).boxed()
    }

    fn receive(&mut self) -> BoxFuture<'_, Option<ServerFrame>> {
        let receiving = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(bytes))) if self.encoding == Encoding::Proto => {
                        return Some(decode_server(self.encoding, bytes).unwrap());
                    }
                    Some(Ok(Message::Text(text))) if self.encoding == Encoding::Json => {
                        return Some(decode_server(self.encoding, text.into()).unwrap());
                    }
                    Some(Ok(Message::Close(close))) => {
                        if let Some(close) = close {
                            self.close = Close {
                                code: close.code.into(),
                                reason: close.reason.to_string(),
                                ..Close::default()
                            };
                        }
                        return None;
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(other)) => panic!("{other:?} came"),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        receiving.boxed()
    }

    fn closed(&mut self) -> BoxFuture<'_, Close> {
        let ending = async {
            while let Some(Ok(_)) = self.socket.next().await {}
            self.close.clone()
        };
        ending.boxed()
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        let mut socket = self.socket;
        let leaving = async move {
            drop(socket.close(None).await);
            while let Some(Ok(_)) = socket.next().await {}
        };
        leaving.boxed()
    }

    fn abort(self: Box<Self>) {
        // A reset, not an end: nothing of TLS or WebSocket is said either.
        self.socket.get_ref().tcp().set_zero_linger().unwrap();
    }
}
