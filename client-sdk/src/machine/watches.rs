//! Which sessions of a pattern something has happened to. What happened is not kept: whoever watches looks at the session, so nothing is
//! lost when the connection breaks, and each session is told once, however often it changes before it is looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use longwire_proto::pattern::Pattern;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::backoff::{Backoff, Jitter};
use crate::error::{Refusal, SubscriptionError};
use crate::machine::event::{Event, Violation};
use crate::machine::phase::Phase;

/// Sessions that are in the application's queue at most; others wait here, each once.
const TOLD_MAX: usize = 64;

/// What the application wants to watch.
#[derive(Clone, Debug)]
pub(crate) struct Sought {
    pub(crate) pattern: Pattern,
    /// Only records of these kinds are of interest; all of them when there are none.
    pub(crate) kinds: Vec<u32>,
}

#[derive(Debug)]
struct Watch {
    sought: Sought,
    phase: Phase,
    ever_live: bool,
    refusals: u32,
    /// Sessions to be told of, the longest waiting first.
    touched: VecDeque<SessionId>,
    /// Those in `touched`.
    waiting: BTreeSet<SessionId>,
    /// Sessions in the application's queue.
    told: usize,
}

#[derive(Debug)]
pub(crate) struct Watches {
    backoff: Backoff,
    all: BTreeMap<u32, Watch>,
    events: VecDeque<(u32, Event)>,
}

impl Watches {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, all: BTreeMap::new(), events: VecDeque::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        self.all.contains_key(&number)
    }

    pub(crate) fn poll_event(&mut self) -> Option<(u32, Event)> {
        self.events.pop_front()
    }

    pub(crate) fn add(&mut self, number: u32, sought: Sought) {
        let watch = Watch {
            sought,
            phase: Phase::Wanted(Duration::ZERO),
            ever_live: false,
            refusals: 0,
            touched: VecDeque::new(),
            waiting: BTreeSet::new(),
            told: 0,
        };
        self.all.insert(number, watch);
    }

    /// Forgets one; says whether the broker knows of it.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        self.all.remove(&number).is_some_and(|watch| !matches!(watch.phase, Phase::Wanted(_)))
    }

    /// What can be asked for now.
    pub(crate) fn poll_subscribe(&mut self, now: Duration) -> impl Iterator<Item = wire::Subscription> {
        let due = self.all.iter_mut().filter(move |(_, watch)| match watch.phase {
            Phase::Wanted(not_before) => not_before <= now,
            Phase::Asked | Phase::Live => false,
        });
        due.map(|(number, watch)| {
            watch.phase = Phase::Asked;
            let kinds = watch.sought.kinds.clone();
            wire::Subscription {
                subscription: *number,
                pattern: watch.sought.pattern.to_string(),
                from: Some(wire::From { from: Some(wire::from::From::End(true)) }),
                filter: (!kinds.is_empty()).then(|| wire::Filter { kinds, ..Default::default() }),
                ..Default::default()
            }
        })
    }

    /// The broker has begun, or has found a session.
    pub(crate) fn subscribed(&mut self, answer: &wire::Subscribed) -> Result<(), Violation> {
        let number = answer.subscription;
        let Some(watch) = self.all.get_mut(&number) else { return Ok(()) };
        if !answer.session.is_empty() {
            return self.touch(number, &answer.session);
        }
        (watch.phase, watch.refusals) = (Phase::Live, 0);
        if !std::mem::replace(&mut watch.ever_live, true) {
            self.events.push_back((number, Event::Watching));
        }
        Ok(())
    }

    /// Something may have happened to a session.
    pub(crate) fn touch(&mut self, number: u32, session: &str) -> Result<(), Violation> {
        let Some(watch) = self.all.get_mut(&number) else { return Ok(()) };
        let session = SessionId::parse(session)
            .map_err(|error| Violation(format!("a session of a pattern has no id: {error}")))?;
        if watch.waiting.insert(session.clone()) {
            watch.touched.push_back(session);
            self.tell(number);
        }
        Ok(())
    }

    /// The application has looked at one.
    pub(crate) fn consumed(&mut self, number: u32) {
        if let Some(watch) = self.all.get_mut(&number) {
            watch.told = watch.told.saturating_sub(1);
            self.tell(number);
        }
    }

    fn tell(&mut self, number: u32) {
        let Some(watch) = self.all.get_mut(&number) else { return };
        while watch.told < TOLD_MAX
            && let Some(session) = watch.touched.pop_front()
        {
            watch.waiting.remove(&session);
            watch.told += 1;
            self.events.push_back((number, Event::Touched(session)));
        }
    }

    fn end(&mut self, number: u32, error: SubscriptionError) {
        self.events.push_back((number, Event::Failed(error)));
        self.events.push_back((number, Event::Ended));
        self.all.remove(&number);
    }

    /// The broker refuses it, or has ended it.
    pub(crate) fn refused(&mut self, now: Duration, number: u32, refusal: Refusal, jitter: &mut Jitter) {
        let Some(watch) = self.all.get_mut(&number) else { return };
        if !refusal.retryable {
            return self.end(number, SubscriptionError::Refused(refusal));
        }
        let delay = self.backoff.delay(watch.refusals, jitter);
        watch.refusals = watch.refusals.saturating_add(1);
        watch.phase = Phase::Wanted(now + delay.max(Duration::from_millis(refusal.retry_after_ms)));
    }

    pub(crate) fn disconnected(&mut self) {
        for watch in self.all.values_mut() {
            watch.phase = Phase::Wanted(Duration::ZERO);
        }
    }

    pub(crate) fn close(&mut self, error: &SubscriptionError) {
        for number in self.all.keys().copied().collect::<Vec<_>>() {
            self.end(number, error.clone());
        }
    }

    /// When the next one is to be asked for.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let wanted = self.all.values().filter_map(|watch| match watch.phase {
            Phase::Wanted(at) => Some(at),
            Phase::Asked | Phase::Live => None,
        });
        wanted.min()
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::error::{Error, ErrorCode};

    use super::*;

    const NUMBER: u32 = 7;

    fn watches() -> Watches {
        let mut watches = Watches::new(Backoff::default());
        watches.add(NUMBER, Sought { pattern: "acme/*".parse().unwrap(), kinds: vec![5] });
        watches
    }

    fn joined(session: &str) -> wire::Subscribed {
        wire::Subscribed { subscription: NUMBER, session: session.to_owned(), ..Default::default() }
    }

    fn touched(watches: &mut Watches) -> Vec<String> {
        let events = std::iter::from_fn(|| watches.poll_event());
        let told = events.map(|(number, event)| match event {
            Event::Touched(session) if number == NUMBER => session.to_string(),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    fn begin(watches: &mut Watches, now: Duration) {
        let asked: Vec<_> = watches.poll_subscribe(now).collect();
        assert_eq!(asked.len(), 1);
        assert_eq!((asked[0].subscription, asked[0].pattern.as_str()), (NUMBER, "acme/*"));
        assert_eq!(watches.poll_subscribe(now).count(), 0, "once a connection");
        watches.subscribed(&joined("")).unwrap();
    }

    #[test]
    fn each_session_is_told_once_until_it_is_looked_at() {
        let mut watches = watches();
        begin(&mut watches, Duration::ZERO);
        assert!(matches!(watches.poll_event(), Some((NUMBER, Event::Watching))));
        let ids: Vec<String> = (0..TOLD_MAX + 2).map(|index| format!("acme/{index}")).collect();
        for id in &ids {
            watches.subscribed(&joined(id)).unwrap();
        }
        assert_eq!(touched(&mut watches), ids[..TOLD_MAX]);
        // Those that still wait are told once, however often they change; one that was told is told again.
        for id in [&ids[TOLD_MAX], &ids[TOLD_MAX], &ids[0]] {
            watches.touch(NUMBER, id).unwrap();
        }
        (0..3).for_each(|_| watches.consumed(NUMBER));
        assert_eq!(touched(&mut watches), [&*ids[TOLD_MAX], &*ids[TOLD_MAX + 1], &*ids[0]]);
        (0..TOLD_MAX).for_each(|_| watches.consumed(NUMBER));
        assert!(touched(&mut watches).is_empty());
    }

    #[test]
    fn a_new_connection_finds_every_session_again() {
        let mut watches = watches();
        begin(&mut watches, Duration::ZERO);
        assert!(watches.poll_event().is_some());
        watches.disconnected();
        begin(&mut watches, Duration::ZERO);
        watches.subscribed(&joined("acme/a")).unwrap();
        assert_eq!(touched(&mut watches), ["acme/a"], "and does not begin twice");
    }

    #[test]
    fn a_refusal_that_passes_is_asked_again() {
        let mut watches = watches();
        begin(&mut watches, Duration::ZERO);
        assert!(watches.poll_event().is_some());
        let refusal = |code| Refusal::from(Some(Error::new(code, "no").to_wire()));
        let jitter = &mut Jitter::new(1);
        watches.refused(Duration::ZERO, NUMBER, refusal(ErrorCode::StorageUnavailable), jitter);
        let at = watches.poll_timeout().unwrap();
        begin(&mut watches, at);
        watches.refused(at, NUMBER, refusal(ErrorCode::PatternTooBroad), jitter);
        assert!(matches!(watches.poll_event(), Some((_, Event::Failed(SubscriptionError::Refused(_))))));
        assert!(matches!(watches.poll_event(), Some((_, Event::Ended))));
        assert!(!watches.has(NUMBER));
    }
}
