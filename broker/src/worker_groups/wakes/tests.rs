//! The machine against a reference that keeps everything in a list, by random steps.

use proptest::prelude::*;

use super::*;

const LOGS: u64 = 6;
const IN_FLIGHT: usize = 2;
const ATTEMPTS: u32 = 3;

#[derive(Clone, Debug)]
enum Act {
    /// A session was looked at; a call is of this lease and input.
    See {
        log: u64,
        call: Option<(u64, u64)>,
        watched: bool,
    },
    /// Whatever is due begins.
    Begin,
    /// One of those that are under way ends.
    End {
        which: usize,
        how: u8,
        random: u64,
    },
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let call = prop::option::weighted(0.7, (0..3u64, 1..3u64));
    prop_oneof![
        3 => (0..LOGS, call, any::<bool>()).prop_map(|(log, call, watched)| Act::See { log, call, watched }),
        3 => Just(Act::Begin),
        3 => (0..4usize, 0..8u8, any::<u64>()).prop_map(|(which, how, random)| Act::End { which, how, random }),
        2 => prop_oneof![1..3_000u64, 3_000..400_000u64].prop_map(Act::Wait),
    ]
}

fn id(log: u64) -> SessionId {
    SessionId::parse(&format!("acme/{log}")).unwrap()
}

fn seen(log: u64, call: Option<Call>, commit: u64) -> Seen {
    let position = Position { epoch: 0, offset: commit };
    Seen { log: LogId(log), session: id(log), position, commit, call }
}

/// What is known of one log, without any order or time.
#[derive(Clone, Debug, Default)]
struct Known {
    call: Option<Call>,
    /// Since when it is called, by commits.
    since: u64,
    /// Tries of the wake that is there.
    tries: u32,
    serial: u64,
    refused: bool,
    given_up: Option<Call>,
}

#[derive(Default)]
struct Reference {
    known: BTreeMap<u64, Known>,
    under_way: Vec<(Step, u64)>,
    commit: u64,
    now_ms: u64,
}

impl Reference {
    fn see(&mut self, wakes: &mut Wakes, log: u64, call: Option<Call>, watched: bool) {
        self.commit += 1;
        wakes.see(seen(log, call, self.commit), watched, self.now_ms);
        let known = self.known.entry(log).or_default();
        let same = known.call.zip(call).is_some_and(|(old, new)| old.generation == new.generation);
        if call.is_none() {
            *known = Known::default();
        } else if !same && known.given_up != call {
            *known = Known { call, since: self.commit, ..Known::default() };
        }
    }

    fn begin(&mut self, wakes: &mut Wakes) {
        while let Some(step) = wakes.next(self.now_ms) {
            let (Step::Post(attempt) | Step::Bury(attempt, _)) = &step;
            let known = self.known.get_mut(&attempt.log.0).unwrap();
            assert_eq!(known.call, Some(attempt.call), "it is called, and by that");
            assert_eq!(attempt.position.offset, known.since);
            if known.serial != attempt.serial {
                assert_eq!((known.serial, known.tries), (0, 0), "a new wake begins anew");
                known.serial = attempt.serial;
            }
            assert!(
                !self.under_way.iter().any(|(_, serial)| *serial == attempt.serial),
                "no wake is tried twice at once"
            );
            let is_over = known.refused || known.tries == ATTEMPTS;
            match &step {
                Step::Post(_) => {
                    known.tries += 1;
                    assert!(!is_over && attempt.number == known.tries);
                }
                Step::Bury(_, why) => assert!(is_over && !why.is_empty()),
            }
            let serial = attempt.serial;
            self.under_way.push((step, serial));
            assert!(self.under_way.len() <= IN_FLIGHT);
        }
    }

    fn end(&mut self, wakes: &mut Wakes, which: usize, how: u8, random: u64) {
        if self.under_way.is_empty() {
            return;
        }
        let (step, serial) = self.under_way.swap_remove(which % self.under_way.len());
        let (Step::Post(attempt) | Step::Bury(attempt, _)) = &step;
        let log = attempt.log;
        let known = self.known.get_mut(&log.0).unwrap();
        let is_current = known.serial == serial;
        let (outcome, longest_ms) = match (&step, how) {
            (Step::Bury(..), 0) => (Outcome::NotBuried, BACKOFF_BASE_MS),
            (Step::Bury(..), _) => {
                if is_current {
                    *known = Known { given_up: known.call, ..Known::default() };
                }
                (Outcome::Buried, 0)
            }
            (Step::Post(_), 0) => {
                known.refused |= is_current;
                (Outcome::Refused("gone".into()), 0)
            }
            (Step::Post(_), 1) => (Outcome::Failed("x".into(), Some(u64::MAX)), RETRY_AFTER_MAX_MS),
            (Step::Post(_), 2..5) => (Outcome::Accepted, CLAIM_WAIT_MS),
            (Step::Post(attempt), _) => {
                (Outcome::Failed("x".into(), None), BACKOFF_BASE_MS << (attempt.number - 1))
            }
        };
        wakes.ended(log, serial, outcome, self.now_ms, random);
        if is_current && let Some(wake) = wakes.wakes.get(&log) {
            assert!(wake.due_ms.unwrap() <= self.now_ms + longest_ms, "it waits too long");
        }
    }

    fn check(&self, wakes: &Wakes) {
        let called = self.known.values().filter(|known| known.call.is_some());
        assert_eq!(wakes.len(), called.clone().count());
        let first = called.map(|known| known.since - 1).min();
        assert_eq!(wakes.cursor(self.commit), first.unwrap_or(self.commit), "what is left is after it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whoever_is_called_is_woken_and_nobody_else(acts in prop::collection::vec(act(), 1..120)) {
        let (mut wakes, mut reference) = (Wakes::new(IN_FLIGHT, ATTEMPTS), Reference::default());
        for act in acts {
            match act {
                Act::See { log, call, watched } => {
                    let call = call.map(|(generation, inputs_next)| {
                        Call { generation, inputs_next, ..Call::default() }
                    });
                    reference.see(&mut wakes, log, call, watched);
                }
                Act::Begin => reference.begin(&mut wakes),
                Act::End { which, how, random } => reference.end(&mut wakes, which, how, random),
                Act::Wait(ms) => reference.now_ms += ms,
            }
            reference.check(&wakes);
        }
        // Nothing else happens: everything that is called is tried, as often as it may be, and then given up.
        for _ in 0..1000 {
            reference.begin(&mut wakes);
            while !reference.under_way.is_empty() {
                reference.end(&mut wakes, 0, 7, 0);
            }
            let Some(next_ms) = wakes.next_at_ms() else { break };
            reference.now_ms = reference.now_ms.max(next_ms);
        }
        prop_assert!(wakes.is_empty() && reference.known.values().all(|known| known.call.is_none()));
    }
}

fn call(generation: u64) -> Option<Call> {
    Some(Call { generation, inputs_next: 1, ..Call::default() })
}

#[test]
fn who_watches_has_time_and_nobody_waits_for_those_who_do_not() {
    let mut wakes = Wakes::new(9, 9);
    wakes.see(seen(1, call(0), 1), true, 5);
    wakes.see(seen(2, call(0), 2), false, 5);
    let Some(Step::Post(attempt)) = wakes.next(5) else { panic!("it is due") };
    assert_eq!(
        (attempt.log, wakes.next(4 + GRACE_MS), wakes.next_at_ms()),
        (LogId(2), None, Some(5 + GRACE_MS))
    );
    // It was claimed meanwhile.
    wakes.see(seen(1, None, 3), true, 6);
    assert_eq!((wakes.next(u64::MAX), wakes.next_at_ms()), (None, None));
}

#[test]
fn what_finds_no_room_is_looked_at_again_and_not_forgotten() {
    let mut wakes = Wakes::new(1, 1);
    let most = WAKES_MAX as u64;
    for log in 0..most + 5 {
        wakes.see(seen(log, call(0), log + 10), false, 0);
    }
    assert_eq!((wakes.len(), wakes.look_again()), (WAKES_MAX, None));
    // What is known is looked at, and what would find no room is not.
    assert!(wakes.wants(LogId(0), u64::MAX) && wakes.wants(LogId(most), most));
    assert!(!wakes.wants(LogId(most + 9), most + 10));
    for log in 0..most {
        wakes.see(seen(log, None, most + 100 + log), false, 0);
        if wakes.len() == WAKES_MAX / 2 {
            break;
        }
    }
    assert_eq!(wakes.cursor(u64::MAX), most / 2 + 9);
    let mut later = wakes;
    for log in most / 2..most {
        later.see(seen(log, None, 3 * most + log), false, 0);
    }
    assert_eq!(later.cursor(u64::MAX), most + 9, "those without room are after it");
    assert_eq!((later.look_again(), later.look_again()), (Some(most + 10), None));
}

#[test]
fn a_wake_that_was_given_up_begins_again_when_something_else_calls() {
    let mut wakes = Wakes::new(1, 1);
    wakes.see(seen(1, call(0), 1), false, 0);
    let Some(Step::Post(first)) = wakes.next(0) else { panic!("it is due") };
    wakes.ended(first.log, first.serial, Outcome::Failed("x".into(), None), 0, 0);
    let Some(Step::Bury(last, _)) = wakes.next(0) else { panic!("it is over") };
    wakes.ended(last.log, last.serial, Outcome::Buried, 0, 0);
    wakes.see(seen(1, call(0), 2), false, 0);
    assert!(wakes.is_empty(), "something else was said in the session");
    let more = Call { inputs_next: 9, ..call(0).unwrap() };
    wakes.see(seen(1, Some(more), 3), false, 0);
    assert!(
        matches!(wakes.next(0), Some(Step::Post(again)) if again.number == 1 && again.serial != first.serial)
    );
}
