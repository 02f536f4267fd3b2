//! Dials against what should come of them, worked out another way, over networks that proptest thinks of.

use std::time::Duration;

use proptest::prelude::*;

use crate::connect_failure::ConnectFailure;
use crate::dialer::race::{ADDRESS_DELAY, Attempt, DECIDE_WITHIN, HEAD_START, Output, Race};
use crate::dialer::{Dialer, QUIC_AGAIN_BASE, QUIC_AGAIN_CAP};
use crate::error::{Closed, TlsFailure};
use crate::transport::Transport;

const BOTH: &[Transport] = &[Transport::Quic, Transport::WebSocket];
const UNTIL: Duration = Duration::from_secs(10);

/// What comes of an attempt, so long after it began.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Connects(Duration),
    Fails(Duration),
    /// By its certificate what answers is not the broker.
    Refused(Duration),
    /// What answers speaks something else.
    Foreign(Duration),
    Silent,
}

fn fatal(failure: TlsFailure) -> ConnectFailure {
    let fatal = Some(Closed::Tls { url: String::new(), failure });
    ConnectFailure { error: "refused".into(), fatal }
}

fn refused() -> ConnectFailure {
    fatal(TlsFailure::UnknownAuthority)
}

fn foreign() -> ConnectFailure {
    fatal(TlsFailure::Incompatible("h3".into()))
}

fn fails() -> ConnectFailure {
    ConnectFailure::passing("reset")
}

impl Fate {
    fn outcome(self) -> Option<(Duration, Result<(), ConnectFailure>)> {
        match self {
            Self::Connects(after) => Some((after, Ok(()))),
            Self::Fails(after) => Some((after, Err(fails()))),
            Self::Refused(after) => Some((after, Err(refused()))),
            Self::Foreign(after) => Some((after, Err(foreign()))),
            Self::Silent => None,
        }
    }
}

/// How a race went.
#[derive(Debug)]
struct Ran {
    starts: Vec<(Duration, Attempt)>,
    end: Duration,
    outcome: Result<Attempt, ConnectFailure>,
}

fn run(mut race: Race, fate: impl Fn(Attempt) -> Fate) -> Ran {
    let mut now = Duration::ZERO;
    let mut starts = Vec::new();
    let mut coming: Vec<(Duration, Attempt, Result<(), ConnectFailure>)> = Vec::new();
    loop {
        while let Some(output) = race.poll(now) {
            let outcome = match output {
                Output::Start(attempt) => {
                    starts.push((now, attempt));
                    let outcome = fate(attempt).outcome();
                    coming.extend(outcome.map(|(after, outcome)| (now + after, attempt, outcome)));
                    continue;
                }
                Output::Abandon(transport) => {
                    coming.retain(|(_, attempt, _)| attempt.transport != transport);
                    continue;
                }
                Output::Won(attempt) => Ok(attempt),
                Output::Lost(failure) => Err(failure),
            };
            assert_eq!(race.poll(now), None, "it is over");
            return Ran { starts, end: now, outcome };
        }
        let due = coming.iter().map(|(at, _, _)| *at).chain(race.poll_timeout()).min();
        let due = due.unwrap_or_else(|| panic!("nothing will ever happen: {race:?}"));
        assert!(due > now || coming.iter().any(|(at, _, _)| *at == due), "it spins: {race:?}");
        now = due;
        let (happened, later) = coming.into_iter().partition(|(at, _, _)| *at <= now);
        coming = later;
        for (_, attempt, outcome) in happened {
            match outcome {
                Ok(()) => race.connected(attempt),
                Err(failure) => race.failed(now, attempt, failure),
            }
        }
    }
}

/// What should come of a race between two, to one address.
fn wanted(quic: Fate, websocket: Fate) -> (Duration, Result<Transport, ConnectFailure>) {
    let quic = quic.outcome().filter(|(at, _)| *at <= DECIDE_WITHIN);
    let (quic_end, quic) = match &quic {
        Some((at, outcome)) => (*at, Some(outcome)),
        None => (DECIDE_WITHIN, None),
    };
    // Who connects, or is refused for good, leaves nothing to begin earlier for.
    let gives_way = quic.is_some_and(|outcome| outcome.is_err() && *outcome != Err(refused()));
    let began = if gives_way { HEAD_START.min(quic_end) } else { HEAD_START };
    let websocket = websocket.outcome().map(|(after, outcome)| (began + after, outcome));
    let (websocket_end, websocket) = match websocket.filter(|(at, _)| *at <= UNTIL) {
        Some((at, outcome)) => (at, Some(outcome)),
        None => (UNTIL, None),
    };
    let comes = websocket == Some(Ok(()));
    match quic {
        Some(Ok(())) if !comes || quic_end <= websocket_end => (quic_end, Ok(Transport::Quic)),
        Some(Err(failure)) if *failure == refused() && (!comes || quic_end <= websocket_end) => {
            (quic_end, Err(refused()))
        }
        _ => {
            let end = if comes { websocket_end } else { websocket_end.max(quic_end) };
            (end, websocket.unwrap_or(Err(fails())).map(|()| Transport::WebSocket))
        }
    }
}

fn fate(most_ms: u64) -> impl Strategy<Value = Fate> {
    // Often at the same moment as something else.
    let after = prop_oneof![
        0..most_ms,
        Just(0),
        Just(HEAD_START.as_millis() as u64),
        Just((DECIDE_WITHIN - HEAD_START).as_millis() as u64),
        Just(DECIDE_WITHIN.as_millis() as u64),
    ];
    (0..5, after).prop_map(|(kind, after)| {
        let after = Duration::from_millis(after);
        match kind {
            0 => Fate::Connects(after),
            1 => Fate::Fails(after),
            2 => Fate::Refused(after),
            3 => Fate::Foreign(after),
            _ => Fate::Silent,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_right_one_wins_at_the_right_time(quic in fate(4_000), websocket in fate(12_000)) {
        let ran = run(Race::new(Duration::ZERO, UNTIL, BOTH, 1), |attempt| match attempt.transport {
            Transport::Quic => quic,
            _ => websocket,
        });
        let (end, outcome) = wanted(quic, websocket);
        prop_assert_eq!(ran.end, end);
        match (ran.outcome, outcome) {
            (Ok(attempt), Ok(transport)) => prop_assert_eq!(attempt.transport, transport),
            (Err(found), Err(wanted)) => prop_assert_eq!(found.fatal, wanted.fatal),
            (found, wanted) => prop_assert!(false, "{:?} instead of {:?}", found, wanted),
        }
    }

    #[test]
    fn addresses_are_tried_in_order_and_none_is_waited_for_alone(
        fates in proptest::collection::vec((fate(4_000), fate(4_000)), 1..6),
    ) {
        let of = |attempt: Attempt| match attempt.transport {
            Transport::Quic => fates[attempt.address].0,
            _ => fates[attempt.address].1,
        };
        let ran = run(Race::new(Duration::ZERO, UNTIL, BOTH, fates.len()), of);
        prop_assert!(ran.end <= UNTIL);
        for transport in BOTH {
            let head_start = if *transport == Transport::Quic { Duration::ZERO } else { HEAD_START };
            let starts = ran.starts.iter().filter(|(_, attempt)| attempt.transport == *transport);
            for (place, (at, attempt)) in starts.enumerate() {
                prop_assert_eq!(attempt.address, place);
                prop_assert!(*at <= head_start + ADDRESS_DELAY * place as u32);
            }
        }
        if let Ok(won) = &ran.outcome {
            let (began, _) = ran.starts.iter().find(|(_, attempt)| attempt == won).unwrap();
            prop_assert_eq!(of(*won).outcome(), Some((ran.end - *began, Ok(()))));
        }
        // Nobody speaks for good, and somebody would be reached in time: then somebody is.
        let may_be = fates.iter().all(|(quic, websocket)| {
            !matches!((quic, websocket), (Fate::Refused(_) | Fate::Foreign(_), _) | (_, Fate::Refused(_) | Fate::Foreign(_)))
        });
        if may_be && fates.iter().any(|(_, websocket)| matches!(websocket, Fate::Connects(_))) {
            prop_assert!(ran.outcome.is_ok(), "{:?}", ran);
        }
    }

    #[test]
    fn what_is_remembered_is_used_and_forgotten(
        steps in proptest::collection::vec((0..4, 0..1_200u64), 1..60),
    ) {
        let mut dialer = Dialer::new(BOTH);
        let mut now = Duration::ZERO;
        // When UDP was last seen to be blocked, and since when nothing else was seen.
        let mut blocked: Option<Duration> = None;
        for (kind, seconds) in steps {
            now += Duration::from_secs(seconds);
            let tried = dialer.transports(now);
            let has_quic = tried.contains(&Transport::Quic);
            prop_assert_eq!(tried.last(), Some(&Transport::WebSocket));
            match blocked {
                None => prop_assert!(has_quic, "nothing is known"),
                Some(since) if now < since + QUIC_AGAIN_BASE => prop_assert!(!has_quic, "it is known"),
                Some(since) if now >= since + QUIC_AGAIN_CAP => prop_assert!(has_quic, "long ago"),
                Some(_) => {}
            }
            match kind {
                // UDP comes through.
                0 if has_quic => {
                    dialer.decided(now, &tried, Some(Transport::Quic));
                    dialer.heard();
                    blocked = None;
                }
                // So does a handshake, and nothing more.
                1 if has_quic => {
                    dialer.decided(now, &tried, Some(Transport::Quic));
                    dialer.silent(now);
                    blocked = Some(now);
                }
                2 => {
                    dialer.decided(now, &tried, None);
                    blocked = None;
                }
                _ => {
                    dialer.decided(now, &tried, Some(Transport::WebSocket));
                    blocked = if has_quic { Some(now) } else { blocked };
                }
            }
        }
    }
}

#[test]
fn quic_is_left_alone_for_longer_each_time_up_to_a_cap() {
    let mut dialer = Dialer::new(BOTH);
    let mut now = Duration::ZERO;
    let mut interval = QUIC_AGAIN_BASE;
    for _ in 0..8 {
        assert_eq!(dialer.transports(now), BOTH);
        dialer.decided(now, BOTH, Some(Transport::WebSocket));
        now += interval - Duration::from_millis(1);
        assert_eq!(dialer.transports(now), [Transport::WebSocket]);
        now += Duration::from_millis(1);
        interval = (interval * 2).min(QUIC_AGAIN_CAP);
    }
    dialer.heard();
    dialer.decided(now, BOTH, Some(Transport::WebSocket));
    assert_eq!(dialer.transports(now + QUIC_AGAIN_BASE), BOTH);
}

#[test]
fn who_has_no_choice_has_nothing_to_remember() {
    const QUIC: &[Transport] = &[Transport::Quic];
    let mut dialer = Dialer::new(QUIC);
    dialer.silent(Duration::ZERO);
    assert_eq!(dialer.transports(Duration::ZERO), QUIC);
    let alone = |fate| {
        let ran = run(Race::new(Duration::ZERO, UNTIL, QUIC, 1), |_| fate);
        (ran.end, ran.outcome.map_err(|failure| failure.fatal.is_some()))
    };
    // There is nobody to take the choice, so that it may take its time.
    let late = DECIDE_WITHIN * 2;
    let won = Attempt { transport: Transport::Quic, address: 0 };
    assert_eq!(alone(Fate::Connects(late)), (late, Ok(won)));
    assert_eq!(alone(Fate::Silent), (UNTIL, Err(false)));
    assert_eq!(alone(Fate::Foreign(late)), (late, Err(true)));
}
