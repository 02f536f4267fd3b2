//! A stream that gives few bytes until its peer was let in: who has shown nothing yet makes the broker keep nothing large.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the two sides of a threshold share.
#[derive(Debug)]
pub(super) struct Threshold {
    /// Bytes that may still be read.
    left: AtomicUsize,
    open: AtomicBool,
}

impl Threshold {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes_max), open: AtomicBool::new(false) })
    }

    /// Lets the peer in.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Whether more came than may come before the peer was let in.
    pub(super) fn is_spent(&self) -> bool {
        !self.open.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) == 0
    }
}

/// The stream.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    threshold: Arc<Threshold>,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, threshold: Arc<Threshold>) -> Self {
        Self { stream, threshold }
    }

    /// The stream itself, without a threshold.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.threshold.open.load(Ordering::Relaxed) {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let left = this.threshold.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        let most = left.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        this.threshold.left.store(left - read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn few_bytes_pass_before_and_all_after() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let threshold = Threshold::new(10);
        let mut bounded = Bounded::new(stream, Arc::clone(&threshold));
        peer.write_all(&[1; 15]).await.unwrap();
        let mut buf = [0; 64];
        assert_eq!(bounded.read(&mut buf).await.unwrap(), 10);
        assert!(threshold.is_spent());
        assert_eq!(bounded.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        threshold.open();
        assert!(!threshold.is_spent());
        assert_eq!(bounded.read(&mut buf).await.unwrap(), 5, "nothing was lost");
        peer.write_all(&[2; 64]).await.unwrap();
        assert_eq!(bounded.read(&mut buf).await.unwrap(), 64);
    }
}
