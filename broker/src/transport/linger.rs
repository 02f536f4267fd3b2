//! A stream whose end is not lost. A socket that is closed while it has input that nobody read is reset, and a reset throws away
//! what was sent before it: the peer that is told why it is refused would never hear it, and most refusals are of somebody who is
//! still sending. So after the last word the rest is read, and thrown away, until the peer has closed too.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use longwire_proto::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// How long a peer may take to hear the last word.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// Bytes that are thrown away for that: the rest of a frame that was too large, and as much that was sent behind it.
const LINGER_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Bytes that are thrown away at once.
const PIECE_BYTES: usize = 4 << 10;

/// The stream, for whoever talks.
#[derive(Debug)]
pub(super) struct Shared<S>(Arc<Mutex<S>>);

/// The same stream, for who ends it.
#[derive(Debug)]
pub struct Linger<S>(Arc<Mutex<S>>);

pub(super) fn share<S>(stream: S) -> (Shared<S>, Linger<S>) {
    let stream = Arc::new(Mutex::new(stream));
    (Shared(Arc::clone(&stream)), Linger(stream))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Linger<S> {
    /// Ends the stream once all that was said to the peer has been heard, or the peer takes too long.
    pub async fn end(self) {
        let mut stream = Shared(self.0);
        let heard = async {
            stream.shutdown().await?;
            let (mut piece, mut thrown) = ([0; PIECE_BYTES], 0);
            while thrown < LINGER_BYTES_MAX {
                match stream.read(&mut piece).await? {
                    0 => break,
                    read => thrown += read,
                }
            }
            io::Result::Ok(())
        };
        // Whoever is gone, or does not go, has been told as well as it can be.
        drop(timeout(LINGER_TIME, heard).await);
    }
}

impl<S: Unpin> Shared<S> {
    // Nothing panics while it holds the lock, and only one side uses the stream at a time.
    fn stream(&self) -> MutexGuard<'_, S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shared<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shared<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_thrown_away_until_the_peer_has_closed_or_the_time_is_over() {
        let (mut peer, stream) = duplex(64);
        let (mut talk, linger) = share(stream);
        talk.write_all(b"goodbye").await.unwrap();
        drop(talk);
        let sending = tokio::spawn(async move {
            peer.write_all(&[0; 100_000]).await.unwrap();
            let mut heard = String::new();
            peer.read_to_string(&mut heard).await.unwrap();
            heard
        });
        let began = Instant::now();
        linger.end().await;
        assert_eq!(sending.await.unwrap(), "goodbye");
        assert!(began.elapsed() < LINGER_TIME);
        let (_peer, stream) = duplex(64);
        let began = Instant::now();
        share(stream).1.end().await;
        assert_eq!(began.elapsed(), LINGER_TIME);
    }
}
