//! The socket that calls come on, and what they share of it.

use std::sync::Arc;

use longwire_proto::error::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::patience::{Requests, UnderWay};
use crate::sockets::{CallPlace, SocketPlace};

/// Calls of one socket that may be answered before their hello was accepted, or to nobody known, such as reflection; the next
/// ones wait for these. So a socket of a stranger costs little more than one without streams.
pub(crate) const STRANGE_CALLS_MAX: usize = 4;

/// A socket.
#[derive(Clone)]
pub(crate) struct Caller {
    place: Arc<SocketPlace>,
    requests: Requests,
    strange: Arc<Semaphore>,
    cut: CancellationToken,
}

impl Caller {
    pub(crate) fn new(place: Arc<SocketPlace>, requests: Requests) -> Self {
        let strange = Arc::new(Semaphore::new(STRANGE_CALLS_MAX));
        Self { place, requests, strange, cut: CancellationToken::new() }
    }

    pub(super) fn place(&self) -> &Arc<SocketPlace> {
        &self.place
    }

    /// Keeps the socket from being taken for an idle one.
    pub(super) fn begin(&self) -> UnderWay {
        self.requests.begin()
    }

    /// Takes the place of a connection, once the socket has one itself.
    pub(super) fn admit(&self) -> Result<CallPlace, Error> {
        self.place.begin_call()
    }

    /// Waits until one more stranger may be answered.
    pub(super) async fn strange(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.strange).acquire_owned().await.ok()
    }

    /// Ends the socket: nobody there takes what is sent.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Resolves when the socket is to end.
    pub(crate) async fn is_cut(&self) {
        self.cut.cancelled().await;
    }
}
