//! Which transport a client connects by, and what it remembers of that. Without IO: time is an argument.
//!
//! ```text
//! race(now, ..) -> Race   one dial: which attempts to make, when, and which of them counts
//! decided(now, ..)        what became of it
//! heard() / silent(now)   whether the broker said anything over a connection by QUIC
//! ```
//! UDP counts as blocked when WebSocket came through and QUIC did not. From then on WebSocket is dialed alone, and nothing is
//! sent over UDP; after a time, which doubles whenever QUIC fails again, the next dial begins with QUIC again. A connection
//! that works is left alone, whatever carries it. When WebSocket fails too, nothing is known any more: the network may be
//! another one.
//!
//! What is remembered belongs to one client, and with it to one address. Another client in the same process finds out by
//! itself, which takes it the head start: nothing is kept in the process that its user cannot see.

#[cfg(test)]
mod model;
pub(crate) mod race;

use std::time::Duration;

use crate::dialer::race::Race;
use crate::transport::Transport;

/// After QUIC failed where WebSocket did not, it is not tried for so long: a reconnect within it needs no head start, and a
/// router that was busy has recovered.
pub(crate) const QUIC_AGAIN_BASE: Duration = Duration::from_secs(60);
/// However often it failed, it is not left alone for longer: a try costs a reconnect the head start, and a laptop that was carried
/// home should not stay with the second choice for the day.
pub(crate) const QUIC_AGAIN_CAP: Duration = Duration::from_secs(15 * 60);

/// UDP does not come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocked {
    /// When QUIC is tried again.
    again: Duration,
    /// For how long it was to be left alone.
    interval: Duration,
}

/// What a client knows about its broker's address.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    /// Best first.
    transports: &'static [Transport],
    blocked: Option<Blocked>,
}

impl Dialer {
    pub(crate) fn new(transports: &'static [Transport]) -> Self {
        Self { transports, blocked: None }
    }

    /// The transports of the next dial, best first.
    pub(crate) fn transports(&self, now: Duration) -> Vec<Transport> {
        let is_blocked = self.has_choice() && self.blocked.is_some_and(|blocked| now < blocked.again);
        let all = self.transports.iter().copied();
        all.filter(|transport| !is_blocked || *transport != Transport::Quic).collect()
    }

    /// Begins to dial. The race is over at `until`; see [`Race::new`].
    pub(crate) fn race(&self, now: Duration, until: Duration, addresses: usize) -> Race {
        Race::new(now, until, &self.transports(now), addresses)
    }

    /// A dial is over, for which there were these transports: the one that came through, if one did.
    pub(crate) fn decided(&mut self, now: Duration, tried: &[Transport], won: Option<Transport>) {
        match won {
            // What a handshake shows is that packets come and go; the rest is shown by a frame.
            Some(Transport::Quic) => {}
            Some(_) if tried.contains(&Transport::Quic) => self.block(now),
            Some(_) => {}
            None => {
                if let Some(blocked) = &mut self.blocked {
                    blocked.again = blocked.again.min(now);
                }
            }
        }
    }

    /// The broker said something over QUIC.
    pub(crate) fn heard(&mut self) {
        self.blocked = None;
    }

    /// A connection by QUIC was made, and nothing ever came over it: something on the way lets a handshake pass, and no more.
    pub(crate) fn silent(&mut self, now: Duration) {
        self.block(now);
    }

    fn has_choice(&self) -> bool {
        self.transports.len() > 1
    }

    fn block(&mut self, now: Duration) {
        if self.has_choice() {
            let longer = |blocked: Blocked| blocked.interval.saturating_mul(2).min(QUIC_AGAIN_CAP);
            let interval = self.blocked.map_or(QUIC_AGAIN_BASE, longer);
            self.blocked = Some(Blocked { again: now.saturating_add(interval), interval });
        }
    }
}
