//! What a peer passes with its hello, whatever it came on.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::HELLO_BYTES_MAX;
use tokio::time::{Instant, sleep_until};

use crate::sockets::SocketPlace;
use crate::transport::LinkEnd;
use crate::turns::is_missed;

#[derive(Debug)]
pub(super) struct Door {
    place: Option<Arc<SocketPlace>>,
    /// The first frame was handed over.
    has_greeted: bool,
    /// The peer was let in: when, and when its second frame is looked at.
    admitted: Option<(Instant, Instant)>,
}

impl Door {
    pub(super) fn new(place: Option<Arc<SocketPlace>>) -> Self {
        Self { place, has_greeted: false, admitted: None }
    }

    /// Lets the peer in.
    pub(super) fn admit(&mut self) -> Result<(), LinkEnd> {
        if let Some(place) = &self.place {
            self.admitted = Some((Instant::now(), place.admit().map_err(LinkEnd::Refused)?));
        }
        Ok(())
    }

    /// Waits for the turn of a peer that was let in.
    async fn pass(&mut self) {
        let (Some(place), Some((asked, mut turn))) = (&self.place, self.admitted) else { return };
        loop {
            self.admitted = Some((asked, turn));
            if turn > Instant::now() {
                sleep_until(turn).await;
            }
            if !is_missed(asked, turn, Instant::now()) {
                return;
            }
            turn = place.next_turn();
        }
    }

    /// Resolves when others need the place.
    async fn evicted(&self) -> LinkEnd {
        match &self.place {
            Some(place) => place.evicted().await,
            None => std::future::pending().await,
        }
        LinkEnd::Refused(SocketPlace::eviction())
    }
}

/// What is said to who goes on for longer than a hello may.
pub(super) fn hello_too_large() -> Error {
    let message = format!("the hello is not within the first {HELLO_BYTES_MAX} bytes");
    Error::new(ErrorCode::FrameTooLarge, message).limit(HELLO_BYTES_MAX)
}

/// The same, whatever limit a transport was the first to see passed.
fn greeting(end: LinkEnd) -> LinkEnd {
    match end {
        LinkEnd::Refused(error) if error.code == ErrorCode::FrameTooLarge => {
            LinkEnd::Refused(hello_too_large())
        }
        end => end,
    }
}

/// The next frame, once the door lets it through; there is no door any more behind the second one.
pub(super) async fn through(
    door: &mut Option<Door>,
    frame: impl Future<Output = Result<Bytes, LinkEnd>> + Send,
) -> Result<Bytes, LinkEnd> {
    if let Some(closed) = door.as_mut().filter(|door| door.has_greeted) {
        closed.pass().await;
        *door = None;
    }
    let Some(door) = door else { return frame.await };
    let first = tokio::select! {
        first = frame => first.map_err(greeting)?,
        end = door.evicted() => return Err(end),
    };
    door.has_greeted = true;
    Ok(first)
}
