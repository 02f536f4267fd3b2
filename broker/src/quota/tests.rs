use std::num::{NonZeroU32, NonZeroU64};

use governor::clock::FakeRelativeClock;
use proptest::prelude::*;

use super::*;

fn told(limits: Limits) -> (Arc<Quotas>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    (Quotas::with_ticks(limits, &Ticks::Told(clock.clone())), clock)
}

fn count(number: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(number)
}

fn rate(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

fn only_principal(principal: ScopeLimits) -> Limits {
    Limits { principal, ..Limits::default() }
}

fn used(quotas: &Quotas) -> [u64; 4] {
    Counted::ALL.map(|counted| quotas.broker.used(counted))
}

#[test]
fn what_is_held_is_refused_typed_and_comes_back() {
    let one = ScopeLimits {
        connections: count(2),
        subscriptions: count(1),
        requests: count(2),
        request_bytes: count(100),
        ..ScopeLimits::default()
    };
    let (quotas, _) = told(only_principal(one));
    let first = quotas.connect("ada", None).unwrap();
    let second = quotas.connect("ada", None).unwrap();
    let refused = quotas.connect("ada", None).unwrap_err();
    assert_eq!((refused.code, refused.limit), (ErrorCode::TooManyConnections, 2));
    assert!(refused.retry_after_ms > 0 && refused.message.contains("principal"), "{refused:?}");
    assert!(quotas.connect("bob", None).is_ok(), "another principal is not concerned");
    let subscription = first.subscribe().unwrap();
    let refused = second.subscribe().unwrap_err();
    assert_eq!((refused.code, refused.limit), (ErrorCode::TooManySubscriptions, 1));
    drop(subscription);
    second.subscribe().unwrap();
    let request = first.request(60).unwrap();
    let refused = second.request(60).unwrap_err();
    assert_eq!((refused.code, refused.limit), (ErrorCode::TooManyRequests, 100));
    let other = second.request(40).unwrap();
    assert_eq!(first.request(0).unwrap_err().limit, 2);
    drop((request, other, first));
    quotas.connect("ada", None).unwrap();
    drop(second);
    assert_eq!(used(&quotas), [0; 4]);
    assert!(quotas.principals.is_empty());
}

#[test]
fn nobody_in_particular_is_no_principal() {
    let (quotas, _) = told(only_principal(ScopeLimits { connections: count(1), ..ScopeLimits::default() }));
    let permits = [(); 3].map(|()| quotas.connect(ANONYMOUS, None).unwrap());
    assert_eq!(used(&quotas)[0], permits.len() as u64);
}

#[test]
fn a_tenant_holds_its_principals_together_and_the_broker_everybody() {
    let limits = Limits {
        tenant: ScopeLimits { connections: count(2), ..ScopeLimits::default() },
        broker: ScopeLimits { connections: count(3), ..ScopeLimits::default() },
        ..Limits::default()
    };
    let (quotas, _) = told(limits);
    let _acme = [quotas.connect("ada", Some("acme")).unwrap(), quotas.connect("bob", Some("acme")).unwrap()];
    let refused = quotas.connect("eve", Some("acme")).unwrap_err();
    assert!(refused.message.contains("tenant"), "{refused:?}");
    let _beta = quotas.connect("eve", Some("beta")).unwrap();
    let refused = quotas.connect("kim", Some("beta")).unwrap_err();
    assert_eq!((refused.code, refused.limit), (ErrorCode::Overloaded, 3));
    assert_eq!(quotas.principals.len(), 3, "who was refused left nothing");
}

#[test]
fn a_rate_outlives_the_connection_and_says_when_to_come_back() {
    let scope = ScopeLimits { publish_records_per_second: rate(10_000), ..ScopeLimits::default() };
    let (quotas, clock) = told(only_principal(scope));
    quotas.connect("ada", None).unwrap().publish(10_000, 1).unwrap();
    let again = quotas.connect("ada", None).unwrap();
    let refused = again.publish(1000, 1).unwrap_err();
    assert_eq!((refused.code, refused.limit, refused.retry_after_ms), (ErrorCode::RateLimited, 10_000, 100));
    quotas.connect("bob", None).unwrap().publish(10_000, 1).unwrap();
    clock.advance(Duration::from_millis(refused.retry_after_ms));
    again.publish(1000, 1).unwrap();
}

#[test]
fn bytes_and_sessions_have_rates_too() {
    let scope = ScopeLimits {
        publish_kib_per_second: rate(8192),
        sessions_per_minute: rate(6),
        ..ScopeLimits::default()
    };
    let (quotas, clock) = told(only_principal(scope));
    let ada = quotas.connect("ada", None).unwrap();
    ada.publish(1, 8 << 20).unwrap();
    assert_eq!(ada.publish(1, 1).unwrap_err().limit, 8192);
    for _ in 0..6 {
        ada.create_session().unwrap();
    }
    let refused = ada.create_session().unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (ErrorCode::RateLimited, 10_000));
    clock.advance(Duration::from_secs(10));
    ada.create_session().unwrap();
}

#[test]
fn who_is_refused_by_its_own_limit_uses_up_nothing_of_the_tenants() {
    let limits = Limits {
        connection: ScopeLimits { publish_records_per_second: rate(1024), ..ScopeLimits::default() },
        tenant: ScopeLimits { publish_records_per_second: rate(2048), ..ScopeLimits::default() },
        ..Limits::default()
    };
    let (quotas, _) = told(limits);
    let greedy = quotas.connect("eve", Some("acme")).unwrap();
    greedy.publish(1024, 1).unwrap();
    for _ in 0..100 {
        assert!(greedy.publish(1024, 1).unwrap_err().message.contains("connection"));
    }
    quotas.connect("ada", Some("acme")).unwrap().publish(1024, 1).unwrap();
}

#[test]
fn the_largest_batch_passes_at_the_lowest_rate() {
    let scope = ScopeLimits {
        publish_records_per_second: rate(1),
        publish_kib_per_second: rate(1),
        ..ScopeLimits::default()
    };
    let (quotas, _) = told(only_principal(scope));
    quotas.connect("ada", None).unwrap().publish(BATCH_RECORDS_MAX, BATCH_BYTES_MAX).unwrap();
}

#[test]
fn keys_are_bounded_and_idle_ones_make_room() {
    let scope = ScopeLimits { sessions_per_minute: rate(1), ..ScopeLimits::default() };
    let (quotas, clock) = told(only_principal(scope));
    for number in 0..KEYS_MAX {
        quotas.connect(&format!("p{number}"), None).unwrap().create_session().unwrap();
    }
    let refused = quotas.connect("one-more", None).unwrap_err();
    assert_eq!((refused.code, refused.limit), (ErrorCode::Overloaded, KEYS_MAX as u64));
    clock.advance(Duration::from_secs(121));
    quotas.connect("one-more", None).unwrap();
    assert_eq!(quotas.principal_rates.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_keys_are_forgotten_by_themselves_and_busy_ones_are_not() {
    let scope = ScopeLimits { sessions_per_minute: rate(1), ..ScopeLimits::default() };
    let (quotas, clock) = told(only_principal(scope));
    let stop = CancellationToken::new();
    let chore = tokio::spawn(Arc::clone(&quotas).keep(stop.clone()));
    quotas.connect("idle", None).unwrap().create_session().unwrap();
    clock.advance(Duration::from_secs(121));
    let busy = quotas.connect("busy", None).unwrap();
    busy.create_session().unwrap();
    // Time goes on by itself when nothing else does.
    tokio::time::sleep(FORGET_EVERY + Duration::from_millis(1)).await;
    assert_eq!(quotas.principal_rates.keys(), 1);
    assert!(busy.create_session().is_err(), "what is known is still known");
    stop.cancel();
    chore.await.unwrap();
}

#[test]
fn defaults_are_met_by_no_single_user() {
    let quotas = Quotas::new(Limits::default());
    let user = quotas.connect("ada", Some("acme")).unwrap();
    let subscriptions: Vec<_> = (0..1000).map(|_| user.subscribe().unwrap()).collect();
    let requests: Vec<_> = (0..1024).map(|_| user.request(100 << 10).unwrap()).collect();
    for _ in 0..10_000 {
        user.publish(BATCH_RECORDS_MAX, BATCH_BYTES_MAX).unwrap();
        user.create_session().unwrap();
    }
    drop((subscriptions, requests));
}

/// What a test does with permits.
#[derive(Clone, Debug)]
enum Step {
    Connect { principal: u8, tenant: Option<u8> },
    Subscribe(usize),
    Request(usize, u16),
    Publish(usize, u16),
    Drop(usize),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, proptest::option::of(0u8..2))
            .prop_map(|(principal, tenant)| Step::Connect { principal, tenant }),
        4 => any::<usize>().prop_map(Step::Subscribe),
        4 => (any::<usize>(), any::<u16>()).prop_map(|(at, bytes)| Step::Request(at, bytes)),
        2 => (any::<usize>(), 1u16..2048).prop_map(|(at, records)| Step::Publish(at, records)),
        5 => any::<usize>().prop_map(Step::Drop),
        1 => any::<u16>().prop_map(Step::Wait),
    ]
}

/// A permit, and what it counts.
enum Permit {
    Connection(ConnectionPermit, u8),
    Subscription { _held: SubscriptionPermit },
    Request { _held: RequestPermit, bytes: u64 },
}

fn connection_at(permits: &[Permit], at: usize) -> Option<&ConnectionPermit> {
    let connections: Vec<_> = permits
        .iter()
        .filter_map(|permit| match permit {
            Permit::Connection(connection, _) => Some(connection),
            _ => None,
        })
        .collect();
    (!connections.is_empty()).then(|| connections[at % connections.len()])
}

proptest! {
    /// Whatever is taken, refused and dropped, in whatever order: the counters are the sums of what is held, no limit is
    /// passed, and nothing is left in the end.
    #[test]
    fn nothing_leaks(steps in proptest::collection::vec(step(), 0..200)) {
        let limit = |connections, others| ScopeLimits {
            connections: count(connections),
            subscriptions: count(others),
            requests: count(others),
            request_bytes: count(100_000 * others),
            publish_records_per_second: rate(4096),
            ..ScopeLimits::default()
        };
        let limits = Limits {
            connection: limit(1, 3), principal: limit(2, 5), tenant: limit(4, 8), broker: limit(6, 12),
        };
        let (quotas, clock) = told(limits.clone());
        let mut permits: Vec<Permit> = Vec::new();
        for step in steps {
            match step {
                Step::Connect { principal, tenant } => {
                    let name = tenant.map(|tenant| format!("t{tenant}"));
                    if let Ok(connection) = quotas.connect(&format!("p{principal}"), name.as_deref()) {
                        permits.push(Permit::Connection(connection, principal));
                    }
                }
                Step::Subscribe(at) => {
                    let taken = connection_at(&permits, at).and_then(|one| one.subscribe().ok());
                    permits.extend(taken.map(|held| Permit::Subscription { _held: held }));
                }
                Step::Request(at, bytes) => {
                    let taken = connection_at(&permits, at).and_then(|one| one.request(bytes.into()).ok());
                    permits.extend(taken.map(|held| Permit::Request { _held: held, bytes: bytes.into() }));
                }
                Step::Publish(at, records) => {
                    if let Some(Err(error)) =
                        connection_at(&permits, at).map(|one| one.publish(records.into(), 1))
                    {
                        prop_assert_eq!(error.code, ErrorCode::RateLimited);
                        prop_assert!(error.retry_after_ms > 0);
                    }
                }
                Step::Drop(at) if !permits.is_empty() => drop(permits.swap_remove(at % permits.len())),
                Step::Drop(_) => {}
                Step::Wait(by) => clock.advance(Duration::from_millis(by.into())),
            }
            let mut sums = [0; 4];
            let mut by_principal = [0; 4];
            for permit in &permits {
                match permit {
                    Permit::Connection(_, principal) => {
                        sums[0] += 1;
                        by_principal[usize::from(*principal)] += 1;
                    }
                    Permit::Subscription { .. } => sums[1] += 1,
                    Permit::Request { bytes, .. } => {
                        sums[2] += 1;
                        sums[3] += bytes;
                    }
                }
            }
            prop_assert_eq!(used(&quotas), sums);
            for (counted, sum) in Counted::ALL.into_iter().zip(sums) {
                prop_assert!(sum <= counted.limit(&limits.broker));
            }
            for (principal, connections) in by_principal.into_iter().enumerate() {
                let usage = quotas.principals.get(format!("p{principal}").as_str()).map(|one| Arc::clone(&one));
                let counted = usage.map_or(0, |usage| usage.used(Counted::Connections));
                prop_assert_eq!(counted, connections);
                prop_assert!(connections <= 2);
            }
        }
        permits.clear();
        prop_assert_eq!(used(&quotas), [0; 4]);
        prop_assert!(quotas.principals.is_empty() && quotas.tenants.is_empty());
    }
}

#[test]
fn threads_that_connect_and_leave_at_once_leave_nothing() {
    let (quotas, _) = told(only_principal(ScopeLimits { connections: count(4), ..ScopeLimits::default() }));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    if let Ok(connection) = quotas.connect("ada", Some("acme")) {
                        let held = connection.subscribe().unwrap();
                        drop(connection);
                        drop(held);
                    }
                }
            });
        }
    });
    assert_eq!(used(&quotas), [0; 4]);
    assert!(quotas.principals.is_empty() && quotas.tenants.is_empty());
}
