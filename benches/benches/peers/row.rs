//! The rows of the table: what is done, by whom, and what was asked for.

use super::subject::Subject;

/// What is measured of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Records, or deliveries, a second.
    PerSecond,
    /// Seconds.
    P50,
    P99,
    /// Seconds of an append of one record and its fdatasync, just before and after.
    Disk,
    /// Microseconds of the server's processors a record, or a delivery.
    Cpu,
}

impl Measure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PerSecond => "a second",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Disk => "the disk then",
            Self::Cpu => "server CPU each",
        }
    }

    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1e6 => format!("{:.2} M", value / 1e6),
            Self::PerSecond if value >= 1e3 => format!("{:.1} k", value / 1e3),
            Self::PerSecond => format!("{value:.0}"),
            Self::P50 | Self::P99 | Self::Disk if value < 1e-3 => format!("{:.0} µs", value * 1e6),
            Self::P50 | Self::P99 | Self::Disk => format!("{:.2} ms", value * 1e3),
            Self::Cpu => format!("{value:.2} µs"),
        }
    }
}

/// What Longwire is asked to be, beside another subject of the same round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Least(Measure, f64, Subject),
    /// At least the first, and better the second.
    Stretch(Measure, f64, f64, Subject),
    Most(Measure, f64, Subject),
    /// At most so much, or at most so many times the other.
    MostOr(Measure, f64, f64, Subject),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    One,
    Connections,
    ConnectionsDeep,
    Deep,
    FanOut,
    Pace,
    CatchUp,
    PingPong,
}

use Goal::{Least, Most, MostOr, Stretch};
use Measure::{Cpu, Disk, P50, P99, PerSecond};
use Subject as S;

/// Those that a publish is sent to.
const STORES: [Subject; 9] = [
    S::Longwire,
    S::LongwireOther,
    S::Raw,
    S::Redis,
    S::NatsAlways,
    S::Nats,
    S::S2,
    S::DurableStreams,
    S::DurableStreamsServer,
];

impl Row {
    pub(crate) const ALL: [Self; 8] = [
        Self::One,
        Self::Connections,
        Self::ConnectionsDeep,
        Self::Deep,
        Self::FanOut,
        Self::Pace,
        Self::CatchUp,
        Self::PingPong,
    ];

    /// What `LONGWIRE_BENCH_ROWS` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "1x1",
            Self::Connections => "64x1",
            Self::ConnectionsDeep => "64x16",
            Self::Deep => "1x256",
            Self::FanOut => "fan-out",
            Self::Pace => "pace",
            Self::CatchUp => "catch-up",
            Self::PingPong => "ping-pong",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::One => "One publisher, one record in flight",
            Self::Connections => "64 connections, one record in flight each, a session each",
            Self::ConnectionsDeep => "64 connections, 16 records in flight each, a session each",
            Self::Deep => "One connection, 256 records in flight",
            Self::FanOut => "One publisher, 1,000 WebSocket subscribers, as fast as it goes",
            Self::Pace => {
                "One publisher at 50 records a second, 1,000 WebSocket subscribers, until the last of them has it"
            }
            Self::CatchUp => "One reader catches up with 1,000,000 records, decoding included",
            Self::PingPong => "256 bytes there and back over TCP on the loopback",
        }
    }

    pub(crate) fn subjects(self) -> &'static [Subject] {
        match self {
            Self::One | Self::Connections | Self::ConnectionsDeep | Self::Deep => &STORES,
            Self::FanOut => &[
                S::Longwire,
                S::LongwireOther,
                S::RawEncoded,
                S::RawEncodedSynced,
                S::RawTungstenite,
                S::Redis,
                S::Nats,
                S::NatsCore,
            ],
            Self::Pace => {
                &[S::Longwire, S::LongwireOther, S::RawEncoded, S::RawEncodedSynced, S::Redis, S::NatsAlways]
            }
            Self::CatchUp => &[S::Longwire, S::LongwireOther, S::Redis, S::Nats],
            Self::PingPong => &[S::Raw],
        }
    }

    pub(crate) fn measures(self) -> &'static [Measure] {
        match self {
            Self::One => &[P50, P99, PerSecond, Cpu, Disk],
            Self::Connections => &[PerSecond, P50, P99, Cpu, Disk],
            Self::ConnectionsDeep | Self::Deep => &[PerSecond, Cpu, Disk],
            Self::Pace => &[P50, P99, Cpu],
            Self::PingPong => &[P50, P99],
            _ => &[PerSecond, Cpu],
        }
    }

    pub(crate) fn goals(self) -> &'static [Goal] {
        match self {
            Self::One => &[Most(P50, 1.5, S::Raw), Most(P50, 0.85, S::NatsAlways), Most(P50, 1.2, S::Redis)],
            Self::Connections => &[Least(PerSecond, 1.0, S::Redis), Least(PerSecond, 5.5, S::NatsAlways)],
            Self::ConnectionsDeep => {
                &[Stretch(PerSecond, 1.0, 1.5, S::Redis), Least(PerSecond, 15.0, S::NatsAlways)]
            }
            Self::Deep => &[Stretch(PerSecond, 1.5, 2.0, S::Redis)],
            Self::FanOut => &[
                Least(PerSecond, 0.65, S::RawEncoded),
                Least(PerSecond, 5.0, S::Nats),
                Least(PerSecond, 1.5, S::Redis),
                Least(PerSecond, 1.0, S::NatsCore),
            ],
            Self::Pace => &[
                Most(P50, 1.2, S::RawEncodedSynced),
                Most(P99, 1.5, S::RawEncodedSynced),
                MostOr(Cpu, 6.0, 1.8, S::RawEncodedSynced),
            ],
            Self::CatchUp => &[Stretch(PerSecond, 1.2, 1.5, S::Redis), Least(PerSecond, 3.0, S::Nats)],
            Self::PingPong => &[],
        }
    }
}
