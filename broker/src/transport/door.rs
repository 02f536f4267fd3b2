//! What a peer passes with its hello, whatever it came on.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::HELLO_BYTES_MAX;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::sockets::SocketPlace;
use crate::transport::LinkEnd;
use crate::turns::is_missed;

pub(super) struct Door {
    place: Option<Arc<SocketPlace>>,
    /// The first frame was handed over.
    has_greeted: bool,
    /// The peer was let in: when, and when its second frame is looked at.
    admitted: Option<(Instant, Instant)>,
    /// Resolves when others need the place.
    evicted: BoxFuture<'static, ()>,
    alarm: Option<Alarm>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("admitted", &self.admitted).finish_non_exhaustive()
    }
}

impl Door {
    pub(super) fn new(place: Option<Arc<SocketPlace>>) -> Self {
        let watched = place.clone();
        let evicted = Box::pin(async move {
            match &watched {
                Some(place) => place.evicted().await,
                None => std::future::pending().await,
            }
        });
        Self { place, has_greeted: false, admitted: None, evicted, alarm: None }
    }

    /// Lets the peer in.
    pub(super) fn admit(&mut self) -> Result<(), LinkEnd> {
        if let Some(place) = &self.place {
            self.admitted = Some((Instant::now(), place.admit().map_err(LinkEnd::Refused)?));
        }
        Ok(())
    }

    /// Waits for the turn of a peer that was let in.
    fn poll_pass(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (Some(place), Some((asked, turn))) = (&self.place, &mut self.admitted) else {
            return Poll::Ready(());
        };
        loop {
            if *turn > Instant::now() {
                let alarm = self.alarm.get_or_insert_with(|| Alarm::new(*turn));
                ready!(alarm.poll(context, *turn));
            }
            if !is_missed(*asked, *turn, Instant::now()) {
                return Poll::Ready(());
            }
            *turn = place.next_turn();
        }
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
pub(super) fn poll_through(
    door: &mut Option<Door>,
    context: &mut Context<'_>,
    poll_frame: impl FnOnce(&mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>>,
) -> Poll<Result<Bytes, LinkEnd>> {
    if let Some(closed) = door.as_mut().filter(|door| door.has_greeted) {
        ready!(closed.poll_pass(context));
        *door = None;
    }
    let Some(door) = door else { return poll_frame(context) };
    if let Poll::Ready(first) = poll_frame(context) {
        door.has_greeted = first.is_ok();
        return Poll::Ready(first.map_err(greeting));
    }
    ready!(door.evicted.as_mut().poll(context));
    Poll::Ready(Err(LinkEnd::Refused(SocketPlace::eviction())))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::sockets::Sockets;

    fn next(door: &mut Option<Door>) -> impl Future<Output = Result<Bytes, LinkEnd>> {
        poll_fn(move |context| poll_through(door, context, |_| Poll::Ready(Ok(Bytes::from_static(b"frame")))))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_is_woken_for_it() {
        let sockets = Sockets::new(10, 1, 10);
        let enter = || Arc::new(sockets.enter(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let mut doors = Vec::new();
        for _ in 0..3 {
            let mut door = Some(Door::new(Some(enter())));
            next(&mut door).await.unwrap();
            door.as_mut().unwrap().admit().unwrap();
            doors.push(door);
        }
        let last = doors.last_mut().unwrap();
        assert!(next(last).now_or_never().is_none(), "its turn is later");
        // Time stands still but for timers: one that was dropped would leave the waking to the other.
        let (began, late) = (Instant::now(), Duration::from_secs(3600));
        tokio::time::timeout(late, next(last)).await.unwrap().unwrap();
        assert!(began.elapsed() < late, "nothing woke it for its turn");
        assert!(last.is_none(), "behind the second frame there is no door");
    }

    #[tokio::test]
    async fn who_loses_the_place_hears_of_it_while_nothing_comes() {
        let sockets = Sockets::new(10, 1000, 1);
        let enter = || Arc::new(sockets.enter(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let mut door = Some(Door::new(Some(enter())));
        let mut silent = Box::pin(poll_fn(|context| poll_through(&mut door, context, |_| Poll::Pending)));
        assert!((&mut silent).now_or_never().is_none());
        let _other = enter();
        assert!(matches!(silent.await, Err(LinkEnd::Refused(error)) if error.code == ErrorCode::Overloaded));
    }
}
