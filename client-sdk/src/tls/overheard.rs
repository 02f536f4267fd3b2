//! A stream that keeps what TLS had to say of its end, where who reads it is told only that there was one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::TlsFailure;
use crate::tls::failure::failure;
use crate::tls::stream::Stream;

/// The stream.
#[derive(Debug)]
pub(crate) struct Overheard {
    stream: Stream,
    failure: Arc<OnceLock<TlsFailure>>,
}

impl Overheard {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, failure: Arc::default() }
    }

    /// Why trying again is of no use, from when that was heard on.
    pub(crate) fn failure(&self) -> Arc<OnceLock<TlsFailure>> {
        Arc::clone(&self.failure)
    }

    fn listen<T>(&self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &done
            && let Some(failure) = failure(error)
        {
            self.failure.get_or_init(|| failure);
        }
        done
    }
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.listen(done)
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.listen(done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.listen(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        self.listen(done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(context);
        self.listen(done)
    }
}
