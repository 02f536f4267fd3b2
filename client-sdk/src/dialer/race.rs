//! One dial: transports and addresses are tried beside each other, each a little after the one before it, as RFC 8305 does it
//! with addresses, until one of them connects.

use std::time::Duration;

use crate::connect_failure::ConnectFailure;
use crate::transport::Transport;

/// How long a transport is tried alone before the next one is tried beside it. QUIC connects within one round trip, and a
/// WebSocket takes three, so that it is this and two round trips behind: who has QUIC nearly always gets it. Most paths
/// are shorter than this, so that most dials make one connection only.
pub(crate) const HEAD_START: Duration = Duration::from_millis(300);
/// How long an address is tried alone before the next one is tried beside it: what RFC 8305, section 8, recommends.
pub(crate) const ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// When a better transport has not connected by now, the choice falls on the next one. By then QUIC, whose first packets are sent
/// again after a second, has tried twice.
pub(crate) const DECIDE_WITHIN: Duration = Duration::from_secs(3);
/// Addresses of a host that are tried in one dial. A host has one or two; this many begin within two seconds.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// One transport to one address, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) transport: Transport,
    pub(crate) address: usize,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Start(Attempt),
    /// Give up what is under way by this transport.
    Abandon(Transport),
    /// It is decided; everything else is given up.
    Won(Attempt),
    Lost(ConnectFailure),
}

/// The attempts by one transport.
#[derive(Debug)]
struct Course {
    transport: Transport,
    next: usize,
    /// When the next address is tried.
    next_at: Duration,
    /// When it is given up.
    until: Duration,
    under_way: Vec<usize>,
    is_over: bool,
    failure: Option<ConnectFailure>,
}

/// One dial.
#[derive(Debug)]
pub(crate) struct Race {
    addresses: usize,
    courses: Vec<Course>,
    connected: Vec<Attempt>,
    is_over: bool,
}

impl Race {
    /// Over `transports`, best first, to so many addresses. It is lost at `until`; the last transport is tried until then.
    pub(crate) fn new(now: Duration, until: Duration, transports: &[Transport], addresses: usize) -> Self {
        let last = transports.len().saturating_sub(1);
        let course = |(place, transport): (usize, &Transport)| Course {
            transport: *transport,
            next: 0,
            next_at: now + HEAD_START * u32::try_from(place).unwrap_or(u32::MAX),
            until: if place < last { until.min(now + DECIDE_WITHIN) } else { until },
            under_way: Vec::new(),
            is_over: false,
            failure: None,
        };
        Self {
            addresses: addresses.min(ADDRESSES_MAX),
            courses: transports.iter().enumerate().map(course).collect(),
            connected: Vec::new(),
            is_over: false,
        }
    }

    pub(crate) fn connected(&mut self, attempt: Attempt) {
        self.connected.push(attempt);
    }

    pub(crate) fn failed(&mut self, now: Duration, attempt: Attempt, failure: ConnectFailure) {
        let Some(course) = self.courses.iter_mut().find(|course| course.transport == attempt.transport)
        else {
            return;
        };
        if course.is_over {
            return;
        }
        course.under_way.retain(|address| *address != attempt.address);
        // No other address of the same broker gives another answer.
        let is_final = failure.fatal.is_some();
        course.next_at = course.next_at.min(now);
        course.failure = Some(failure);
        if is_final || (course.under_way.is_empty() && course.next >= self.addresses) {
            course.is_over = true;
        }
    }

    /// What to do now. Tell everything that has happened before asking: of transports that connect together the best one
    /// wins.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<Output> {
        if self.is_over {
            return None;
        }
        if let Some(verdict) = self.verdict() {
            self.is_over = true;
            return Some(verdict);
        }
        let mut are_over = true;
        for course in &mut self.courses {
            if are_over {
                // There is nothing to give a head start to.
                course.next_at = if course.next == 0 { course.next_at.min(now) } else { course.next_at };
            }
            if let Some(output) = course.poll(now, self.addresses) {
                return Some(output);
            }
            are_over &= course.is_over;
        }
        are_over.then(|| {
            self.is_over = true;
            Output::Lost(self.failure())
        })
    }

    /// When to ask again, at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let due = |course: &Course| match course.next < self.addresses {
            true => course.next_at.min(course.until),
            false => course.until,
        };
        self.courses.iter().filter(|course| !course.is_over).map(due).min()
    }

    /// What the best transport that said anything said: a connection, or a refusal for good. A refusal counts once nothing
    /// better can come.
    fn verdict(&self) -> Option<Output> {
        let mut nothing_better = true;
        for (place, course) in self.courses.iter().enumerate() {
            let connected = self.connected.iter().find(|attempt| attempt.transport == course.transport);
            if let Some(attempt) = connected {
                return Some(Output::Won(*attempt));
            }
            let is_last = place + 1 == self.courses.len();
            let refusal = course.failure.as_ref().filter(|failure| failure.fatal.is_some());
            let refusal = refusal.filter(|failure| is_last || !failure.is_of_the_transport());
            nothing_better &= course.is_over;
            if let Some(failure) = refusal.filter(|_| nothing_better) {
                return Some(Output::Lost(failure.clone()));
            }
        }
        None
    }

    fn failure(&self) -> ConnectFailure {
        let told =
            self.courses.iter().filter_map(|course| Some((course.transport, course.failure.as_ref()?)));
        let told: Vec<String> = match &self.courses[..] {
            [_] => told.map(|(_, failure)| failure.error.clone()).collect(),
            _ => told.map(|(transport, failure)| format!("by {transport}: {}", failure.error)).collect(),
        };
        ConnectFailure::passing(told.join("; "))
    }
}

impl Course {
    fn poll(&mut self, now: Duration, addresses: usize) -> Option<Output> {
        if self.is_over {
            // Those that go on beside one that was refused for good.
            return (!std::mem::take(&mut self.under_way).is_empty())
                .then_some(Output::Abandon(self.transport));
        }
        if addresses == 0 || now >= self.until {
            self.is_over = true;
            let reason = if addresses == 0 { "its host has no address" } else { "it did not answer in time" };
            self.failure.get_or_insert_with(|| ConnectFailure::passing(reason));
            self.under_way.clear();
            return Some(Output::Abandon(self.transport));
        }
        if self.next < addresses && now >= self.next_at {
            let address = self.next;
            self.next += 1;
            self.next_at = now + ADDRESS_DELAY;
            self.under_way.push(address);
            return Some(Output::Start(Attempt { transport: self.transport, address }));
        }
        None
    }
}
