//! How a WebSocket is made.

use std::net::SocketAddr;

use longwire_proto::codec::Encoding;
use longwire_proto::error::ErrorCode;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::connect_failure::ConnectFailure;
use crate::error::Closed;
use crate::link::target::Target;
use crate::link::{MESSAGE_BYTES_MAX, Socket};
use crate::tls::failure::failure;
use crate::tls::stream::Stream;

/// Bytes read at a time: most frames are small, but the deliveries of who catches up are 256 KiB, and every read of a part is a
/// call of the system.
const READ_BUFFER_BYTES: usize = 32 << 10;
/// Bytes that the WebSocket gathers before it writes.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

pub(super) async fn connect(target: &Target, remote: SocketAddr) -> Result<Socket, ConnectFailure> {
    let (address, encoding) = (&target.address, target.encoding);
    let failed = |error: &dyn std::fmt::Display| ConnectFailure::passing(error.to_string());
    let failed_io = |error: &std::io::Error| {
        let fatal = failure(error).map(|failure| Closed::Tls { url: address.url.clone(), failure });
        ConnectFailure { fatal, ..failed(error) }
    };
    let mut request = address.websocket.as_str().into_client_request().map_err(|error| failed(&error))?;
    let subprotocol = HeaderValue::from_static(Encoding::subprotocol(encoding));
    request.headers_mut().insert("sec-websocket-protocol", subprotocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = TcpStream::connect(remote).await.map_err(|error| failed(&error))?;
    // Frames are gathered here; the kernel shall not wait for more.
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let stream = match &target.tls {
        None => Stream::Plain(stream),
        Some(tls) => Stream::Tls(Box::new(tls.connect(stream).await.map_err(|error| failed_io(&error))?)),
    };
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WebSocketError::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let status = response.status();
            let failure = failed(&format!("HTTP {status} {body}"));
            // The broker speaks none of our subprotocols; everything else a proxy may say for a while.
            let fatal = status.as_u16() == 400 && body.contains(ErrorCode::UnsupportedProtocol.as_str());
            let fatal = fatal.then(|| Closed::Refused(failure.error.clone()));
            Err(ConnectFailure { fatal, ..failure })
        }
        // In TLS 1.3 a client learns only now what the broker thinks of its certificate.
        Err(WebSocketError::Io(error)) => Err(failed_io(&error)),
        Err(error) => Err(failed(&error)),
    }
}
