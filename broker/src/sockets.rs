//! The open sockets: who is let in, and who goes when there are too many.
//!
//! A socket *waits* until a hello of its was accepted; then it is *admitted*. Those that wait have places of their own, so
//! that they take none from connections, and connections none from whoever wants to ask how the broker is.
//!
//! When every waiting place is taken, the newest socket is not refused: an attacker who holds all places would keep everybody
//! out for as long as a handshake may take. Instead the oldest goes, of the address that has the most. So who floods from few
//! addresses pushes out itself; who floods from many must open all places anew within the time that an honest handshake
//! takes, a few round trips, and not within the deadline. There is no cap by address beside that: behind a proxy or one
//! address of a whole office there are many honest people, and a cap would refuse them without any need.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longwire_proto::error::{Error, ErrorCode};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::turns::Turns;

/// Bits of an IPv6 address that one customer of a network gets: within them, addresses cost nothing.
const IPV6_NETWORK_BITS: u32 = 64;
/// The part of the waiting places, one in so many, that makes a crowd: an honest one costs a round trip in it.
const CROWD_PART: usize = 4;
/// How long a connection that lost its place may take to say so: it has nothing to send but a goodbye.
const EVICTED_GRACE: Duration = Duration::from_millis(100);
/// When to try again what was refused because too many others are here.
const RETRY_AFTER_MS: u64 = 1000;

/// The places for sockets.
#[derive(Debug)]
pub struct Sockets {
    waiting_max: usize,
    admitted_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// By network and age.
    waiting: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    waiting_count: usize,
    admitted: usize,
    next: u64,
    turns: Turns,
}

impl Table {
    fn remove(&mut self, network: IpAddr, number: u64) -> Option<CancellationToken> {
        let sockets = self.waiting.get_mut(&network)?;
        let found = sockets.remove(&number)?;
        if sockets.is_empty() {
            self.waiting.remove(&network);
        }
        self.waiting_count -= 1;
        Some(found)
    }

    /// The oldest socket of the network that has the most; of several such networks, that with the oldest.
    fn victim(&self) -> Option<(IpAddr, u64)> {
        let oldest = |sockets: &BTreeMap<u64, _>| sockets.keys().next().copied();
        let found = self
            .waiting
            .iter()
            .filter_map(|(network, sockets)| Some((sockets.len(), oldest(sockets)?, *network)))
            .max_by_key(|(count, oldest, _)| (*count, u64::MAX - oldest))?;
        Some((found.2, found.1))
    }

    fn evict(&mut self) -> bool {
        let Some((network, number)) = self.victim() else { return false };
        // Counted first: who sees its socket end may look.
        metrics::counter!("longwire_sockets_evicted_total").increment(1);
        if let Some(evicted) = self.remove(network, number) {
            evicted.cancel();
        }
        true
    }

    fn show(&self) {
        metrics::gauge!("longwire_sockets_waiting").set(self.waiting_count as f64);
    }
}

/// What may cost an attacker nothing to change does not count.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let host_bits = u128::BITS - IPV6_NETWORK_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits))
        }
    }
}

impl Sockets {
    /// Places for `admitted_max` connections, `admissions_per_second` at a time, and for `waiting_max` sockets that are none
    /// yet.
    #[must_use]
    pub fn new(admitted_max: usize, admissions_per_second: u32, waiting_max: usize) -> Arc<Self> {
        let turns = Turns::new(admissions_per_second, Instant::now());
        let table = Table { waiting: HashMap::new(), waiting_count: 0, admitted: 0, next: 0, turns };
        Arc::new(Self { waiting_max, admitted_max, table: Mutex::new(table) })
    }

    // Nothing panics while it holds the lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a socket that was accepted. Another one loses its own when there is none.
    #[must_use]
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> SocketPlace {
        let network = network(from);
        let evicted = CancellationToken::new();
        let mut table = self.table();
        while table.waiting_count >= self.waiting_max && table.evict() {}
        let number = table.next;
        table.next += 1;
        table.waiting_count += 1;
        table.waiting.entry(network).or_default().insert(number, evicted.clone());
        table.show();
        drop(table);
        let (admitted, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
        SocketPlace { sockets: Arc::clone(self), network, number, evicted, admitted, calls }
    }

    /// Ends a socket that waits, such as when the process can open no more.
    pub fn evict(&self) {
        let mut table = self.table();
        table.evict();
        table.show();
    }

    /// Whether so many wait that one whose address may be forged should prove it before it takes a place.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.table().waiting_count * CROWD_PART >= self.waiting_max
    }

    /// Whether one more connection would be admitted now.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`].
    pub fn check_room(&self) -> Result<(), Error> {
        self.room(&self.table())
    }

    fn room(&self, table: &Table) -> Result<(), Error> {
        if table.admitted < self.admitted_max {
            return Ok(());
        }
        let message = format!("the broker has {} connections, which is all it may have", self.admitted_max);
        let error = Error::new(ErrorCode::Overloaded, message).limit(self.admitted_max);
        Err(error.retry_after_ms(RETRY_AFTER_MS))
    }
}

/// The place of one socket; left when it is dropped.
#[derive(Debug)]
pub struct SocketPlace {
    sockets: Arc<Sockets>,
    network: IpAddr,
    number: u64,
    evicted: CancellationToken,
    /// Changed under the table's lock.
    admitted: AtomicBool,
    /// Connections that the socket carries as calls. Changed under the table's lock.
    calls: AtomicUsize,
}

/// The place of a connection that shares its socket with others; left when it is dropped.
#[derive(Debug)]
pub struct CallPlace(Arc<SocketPlace>);

impl SocketPlace {
    /// All places.
    #[must_use]
    pub fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// The socket becomes a connection's, and nobody takes its place any more. Answers when it is its turn: what it asks for
    /// is looked at then, so that a crowd that comes back at once is served one after the other.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] when there are too many connections, or when its place was taken meanwhile.
    pub fn admit(&self) -> Result<Instant, Error> {
        let now = Instant::now();
        let mut table = self.sockets.table();
        if self.admitted.load(Ordering::Relaxed) {
            return Ok(now);
        }
        if self.evicted.is_cancelled() {
            return Err(Self::eviction());
        }
        self.sockets.room(&table)?;
        table.remove(self.network, self.number);
        table.admitted += 1;
        self.admitted.store(true, Ordering::Relaxed);
        table.show();
        Ok(table.turns.take(now))
    }

    /// One more connection on a socket that was admitted. The first one has the socket's own place, and each other one takes a
    /// place as if it had come on a socket of its own.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] when there are too many connections.
    pub fn begin_call(self: &Arc<Self>) -> Result<CallPlace, Error> {
        let mut table = self.sockets.table();
        let calls = self.calls.load(Ordering::Relaxed);
        if calls > 0 {
            self.sockets.room(&table)?;
            table.admitted += 1;
        }
        self.calls.store(calls + 1, Ordering::Relaxed);
        Ok(CallPlace(Arc::clone(self)))
    }

    /// Another turn, for who missed its own.
    pub(crate) fn next_turn(&self) -> Instant {
        self.sockets.table().turns.take(Instant::now())
    }

    /// Resolves when the place was given to somebody else.
    pub fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }

    /// Resolves when somebody else has had the place for a while.
    pub async fn outlived(&self) {
        self.evicted().await;
        sleep(EVICTED_GRACE).await;
    }

    /// What is said to who lost its place.
    #[must_use]
    pub fn eviction() -> Error {
        let message = "too many sockets say no hello, and this is one of the oldest: connect again";
        Error::new(ErrorCode::Overloaded, message).retry_after_ms(RETRY_AFTER_MS)
    }
}

impl Drop for SocketPlace {
    fn drop(&mut self) {
        let mut table = self.sockets.table();
        if self.admitted.load(Ordering::Relaxed) {
            table.admitted -= 1;
        } else {
            table.remove(self.network, self.number);
        }
        table.show();
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        let mut table = self.0.sockets.table();
        let calls = self.0.calls.load(Ordering::Relaxed) - 1;
        self.0.calls.store(calls, Ordering::Relaxed);
        if calls > 0 {
            table.admitted -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn counts(sockets: &Sockets) -> (usize, usize) {
        let table = sockets.table();
        assert_eq!(table.waiting_count, table.waiting.values().map(BTreeMap::len).sum::<usize>());
        assert!(table.waiting.values().all(|sockets| !sockets.is_empty()));
        (table.waiting_count, table.admitted)
    }

    #[test]
    fn the_oldest_of_the_greediest_goes() {
        let sockets = Sockets::new(10, 1000, 4);
        let honest = sockets.enter(address(1));
        let greedy: Vec<_> = (0..3).map(|_| sockets.enter(address(2))).collect();
        let newest = sockets.enter(address(3));
        assert!(greedy[0].evicted.is_cancelled());
        let others = [&honest, &greedy[1], &greedy[2], &newest];
        assert!(others.iter().all(|place| !place.evicted.is_cancelled()));
        assert_eq!(counts(&sockets), (4, 0));
        assert_eq!(greedy[0].admit().unwrap_err().code, ErrorCode::Overloaded);
        drop(greedy);
        assert_eq!(counts(&sockets), (2, 0), "who was evicted gives nothing back a second time");
    }

    #[test]
    fn among_equals_the_oldest_goes() {
        let sockets = Sockets::new(10, 1000, 3);
        let places: Vec<_> = (1..=5).map(|last| sockets.enter(address(last))).collect();
        let evicted: Vec<_> = places.iter().map(|place| place.evicted.is_cancelled()).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
    }

    #[test]
    fn who_is_admitted_stays_and_frees_a_place() {
        let sockets = Sockets::new(2, 1000, 1);
        let first = sockets.enter(address(1));
        first.admit().unwrap();
        first.admit().unwrap();
        let second = sockets.enter(address(1));
        assert!(!first.evicted.is_cancelled() && sockets.check_room().is_ok());
        second.admit().unwrap();
        let third = sockets.enter(address(1));
        let refused = third.admit().unwrap_err();
        assert_eq!((refused.code, refused.limit), (ErrorCode::Overloaded, 2));
        assert!(sockets.check_room().is_err());
        drop(first);
        third.admit().unwrap();
        drop((second, third));
        assert_eq!(counts(&sockets), (0, 0));
    }

    #[test]
    fn calls_on_one_socket_have_a_place_each() {
        let sockets = Sockets::new(3, 1000, 2);
        let socket = Arc::new(sockets.enter(address(1)));
        socket.admit().unwrap();
        let first = socket.begin_call().unwrap();
        assert_eq!(counts(&sockets), (0, 1), "the first one has the socket's");
        let more = [socket.begin_call().unwrap(), socket.begin_call().unwrap()];
        assert_eq!(counts(&sockets), (0, 3));
        assert_eq!(socket.begin_call().unwrap_err().code, ErrorCode::Overloaded);
        drop(first);
        assert_eq!(counts(&sockets), (0, 2));
        drop(more);
        assert_eq!(counts(&sockets), (0, 1));
        drop(socket.begin_call().unwrap());
        drop(socket);
        assert_eq!(counts(&sockets), (0, 0));
    }

    #[test]
    fn one_network_is_one_however_many_addresses_it_has() {
        let same = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"].map(|text| network(text.parse().unwrap()));
        assert_eq!(same[0], same[1]);
        assert_ne!(same[0], network("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    proptest! {
        #[test]
        fn places_are_never_lost_and_never_too_many(steps in proptest::collection::vec((0u8..3, 0u8..4, any::<usize>()), 0..300)) {
            let sockets = Sockets::new(5, 1000, 6);
            let mut places: Vec<SocketPlace> = Vec::new();
            for (what, from, at) in steps {
                match what {
                    0 => places.push(sockets.enter(address(from))),
                    1 if !places.is_empty() => {
                        let _ = places[at % places.len()].admit();
                    }
                    _ if !places.is_empty() => drop(places.swap_remove(at % places.len())),
                    _ => {}
                }
                let admitted = places.iter().filter(|place| place.admitted.load(Ordering::Relaxed)).count();
                let evicted = places.iter().filter(|place| place.evicted.is_cancelled()).count();
                prop_assert_eq!(counts(&sockets), (places.len() - admitted - evicted, admitted));
                prop_assert!(admitted <= 5 && places.len() - admitted - evicted <= 6);
            }
            drop(places);
            prop_assert_eq!(counts(&sockets), (0, 0));
        }
    }
}
