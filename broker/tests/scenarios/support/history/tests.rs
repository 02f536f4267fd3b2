//! Hand-made histories: each kind of violation is found, and what is only unusual is not.

use crate::support::history::{By, History, Kind, Look, Moment, Outcome, Page, Publish, Reader, Value};

use Outcome::{Failed, Ok, Unknown};

/// A history that is made statement by statement; a statement's number is its moment.
#[derive(Default)]
struct Story {
    history: History,
    log: Vec<Value>,
    now: Moment,
}

impl Story {
    fn new(log: &[Value]) -> Self {
        Self { log: log.to_vec(), ..Self::default() }
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A publish that began and has not ended.
    fn begin(&mut self, writer: &str, values: std::ops::Range<Value>) -> usize {
        let began = self.tick();
        let publish = Publish { writer: writer.into(), values, began, ended: Moment::MAX, outcome: Unknown };
        self.history.publishes.push(publish);
        self.history.publishes.len() - 1
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        let now = self.tick();
        let publish = &mut self.history.publishes[index];
        (publish.ended, publish.outcome) = (now, outcome);
    }

    fn publish(mut self, writer: &str, value: Value, outcome: Outcome) -> Self {
        let index = self.begin(writer, value..value + 1);
        if outcome != Unknown {
            self.end(index, outcome);
        }
        self
    }

    fn batch(mut self, values: std::ops::Range<Value>, outcome: Outcome) -> Self {
        let index = self.begin("batches", values);
        if outcome != Unknown {
            self.end(index, outcome);
        }
        self
    }

    fn told(mut self, by: By, end: u64) -> Self {
        let (began, ended) = (self.tick(), self.tick());
        self.history.looks.push(Look { by, began, ended, end, page: None });
        self
    }

    fn page(mut self, from: u64, next: u64, end: u64, records: &[(u64, Value)]) -> Self {
        let (began, ended) = (self.tick(), self.tick());
        let page = Some(Page { from, next, records: records.to_vec() });
        self.history.looks.push(Look { by: By::Page, began, ended, end, page });
        self
    }

    fn reader(mut self, from: u64, records: &[(u64, Value)], stayed: bool) -> Self {
        let seen = records.iter().map(|(offset, value)| (self.tick(), *offset, *value)).collect();
        self.history.readers.push(Reader { name: "r".into(), from, seen, stayed });
        self
    }

    /// The kinds that are found, each once.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> =
            self.history.violations(&self.log).iter().map(|violation| violation.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

/// Three records of two writers, seen by everyone.
fn good() -> Story {
    let seen = [(0, 10), (1, 20), (2, 11)];
    Story::new(&[10, 20, 11])
        .publish("a", 10, Ok(0))
        .publish("b", 20, Ok(1))
        .told(By::Describe, 2)
        .publish("a", 11, Ok(2))
        .told(By::List, 3)
        .page(0, 3, 3, &seen)
        .page(1, 2, 3, &seen[1..2])
        .reader(0, &seen, true)
        .reader(1, &seen[1..], true)
        .reader(1, &seen[1..2], false)
}

#[test]
fn good_histories_have_no_violation() {
    assert_eq!(good().kinds(), []);
    assert_eq!(Story::new(&[]).kinds(), []);
    assert_eq!(Story::new(&[]).publish("a", 1, Unknown).publish("a", 2, Failed).kinds(), []);
    // What is not known may be there.
    assert_eq!(Story::new(&[1]).publish("a", 1, Unknown).reader(0, &[(0, 1)], true).kinds(), []);
    assert_eq!(Story::new(&[5, 6]).batch(5..7, Unknown).kinds(), []);
    assert_eq!(Story::new(&[]).batch(5..7, Unknown).kinds(), []);
    assert_eq!(Story::new(&[5, 6]).batch(5..7, Ok(0)).batch(7..9, Failed).kinds(), []);
    // A reader that came for what there was not yet.
    assert_eq!(good().reader(3, &[], true).kinds(), []);
}

#[test]
fn publishes_at_the_same_time_may_have_either_order() {
    for log in [[1, 2], [2, 1]] {
        let mut story = Story::new(&log);
        let (one, other) = (story.begin("a", 1..2), story.begin("b", 2..3));
        story.end(one, Ok(u64::from(log[0] != 1)));
        story.end(other, Ok(u64::from(log[0] == 1)));
        assert_eq!(story.kinds(), []);
    }
}

#[test]
fn an_answer_that_was_under_way_may_be_older() {
    let mut story = Story::new(&[1]);
    let began = story.tick();
    let publish = story.begin("a", 1..2);
    story.end(publish, Ok(0));
    let ended = story.tick();
    story.history.looks.push(Look { by: By::Describe, began, ended, end: 0, page: None });
    assert_eq!(story.kinds(), []);
}

#[test]
fn what_was_acknowledged_and_is_not_there_is_lost() {
    assert_eq!(good().publish("c", 30, Ok(3)).kinds(), [Kind::Lost]);
    let short = Story::new(&[5]).batch(5..7, Ok(0));
    assert_eq!(short.kinds(), [Kind::Lost]);
}

#[test]
fn a_value_that_is_there_twice_is_a_duplicate() {
    let mut story = good();
    story.log.push(10);
    story.history.readers.clear();
    assert_eq!(story.kinds(), [Kind::Duplicate]);
}

#[test]
fn acknowledgement_log_and_readers_must_agree() {
    let swapped = Story::new(&[1, 2]).publish("a", 2, Unknown).publish("b", 1, Ok(1));
    assert_eq!(swapped.kinds(), [Kind::InconsistentOffset]);
    let seen = Story::new(&[1, 2]).publish("a", 1, Ok(0)).publish("b", 2, Ok(1));
    assert_eq!(seen.reader(0, &[(0, 2)], false).kinds(), [Kind::InconsistentOffset]);
    assert_eq!(good().page(0, 1, 3, &[(0, 20)]).kinds(), [Kind::InconsistentOffset]);
    let batch = Story::new(&[5, 9, 6]).publish("a", 9, Unknown).batch(5..7, Ok(0));
    assert_eq!(batch.kinds(), [Kind::InconsistentOffset]);
}

#[test]
fn what_was_refused_must_not_be_seen() {
    let mut story = good();
    story.log.push(30);
    story.history.readers.clear();
    assert_eq!(story.publish("c", 30, Failed).kinds(), [Kind::AbortedRead]);
    let shown = good().publish("c", 30, Failed);
    assert_eq!(shown.reader(2, &[(2, 30)], false).kinds(), [Kind::AbortedRead]);
    let page = good().publish("c", 30, Failed).page(2, 3, 3, &[(2, 30)]);
    assert_eq!(page.kinds(), [Kind::AbortedRead]);
}

#[test]
fn a_reader_gets_every_offset_once_in_order() {
    for seen in [
        [(0, 10), (2, 11)].as_slice(),
        &[(1, 20), (2, 11)],
        &[(0, 10), (0, 10), (1, 20)],
        &[(0, 10), (2, 11), (1, 20)],
    ] {
        assert_eq!(good().reader(0, seen, false).kinds(), [Kind::Gap], "{seen:?}");
    }
}

#[test]
fn a_page_has_what_it_says() {
    assert_eq!(good().page(0, 3, 3, &[(0, 10), (2, 11)]).kinds(), [Kind::Gap]);
    assert_eq!(good().page(0, 3, 3, &[(0, 10), (1, 20)]).kinds(), [Kind::Gap]);
    assert_eq!(good().page(0, 2, 3, &[(1, 20), (0, 10)]).kinds(), [Kind::Gap]);
}

#[test]
fn what_nobody_published_is_a_phantom() {
    let mut story = good();
    story.log.push(99);
    story.history.readers.clear();
    assert_eq!(story.kinds(), [Kind::Phantom]);
    assert_eq!(good().reader(2, &[(2, 99)], false).kinds(), [Kind::Phantom]);
}

#[test]
fn what_was_seen_stays() {
    let gone = good().publish("c", 30, Unknown).reader(3, &[(3, 30)], false);
    assert_eq!(gone.kinds(), [Kind::SeenAndGone]);
    for by in [By::Describe, By::List, By::Subscribed, By::Refusal] {
        assert_eq!(good().told(by, 4).kinds(), [Kind::SeenAndGone]);
    }
}

#[test]
fn a_later_publish_is_behind_everything_that_was_known_before_it() {
    let after_ack = Story::new(&[2, 1]).publish("a", 1, Ok(1)).publish("b", 2, Ok(0));
    assert_eq!(after_ack.kinds(), [Kind::RealTimeOrder]);
    let unknown = Story::new(&[2, 1]).publish("a", 1, Ok(1)).publish("b", 2, Unknown);
    assert_eq!(unknown.kinds(), [Kind::RealTimeOrder]);
    let after_delivery =
        Story::new(&[2, 1]).publish("a", 1, Unknown).reader(1, &[(1, 1)], false).publish("b", 2, Ok(0));
    assert_eq!(after_delivery.kinds(), [Kind::RealTimeOrder]);
    let after_answer =
        Story::new(&[2, 1]).publish("a", 1, Unknown).told(By::Describe, 2).publish("b", 2, Ok(0));
    assert_eq!(after_answer.kinds(), [Kind::RealTimeOrder]);
}

#[test]
fn publishes_of_one_writer_keep_their_order() {
    let mut story = Story::new(&[2, 1]);
    let (one, other) = (story.begin("a", 1..2), story.begin("a", 2..3));
    story.end(one, Ok(1));
    story.end(other, Ok(0));
    assert_eq!(story.kinds(), [Kind::WriterOrder]);
}

#[test]
fn an_answer_includes_what_was_acknowledged_before_the_question() {
    for by in [By::Describe, By::List, By::Subscribed, By::Refusal] {
        assert_eq!(good().told(by, 2).kinds(), [Kind::StaleRead]);
    }
    assert_eq!(good().page(0, 1, 1, &[(0, 10)]).kinds(), [Kind::StaleRead]);
}

#[test]
fn who_stays_to_the_end_sees_everything() {
    assert_eq!(good().reader(0, &[(0, 10), (1, 20)], true).kinds(), [Kind::Unseen]);
    assert_eq!(good().reader(1, &[], true).kinds(), [Kind::Unseen]);
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    assert_eq!(Story::new(&[5]).batch(5..7, Unknown).kinds(), [Kind::Torn]);
    assert_eq!(Story::new(&[6]).batch(5..7, Unknown).kinds(), [Kind::Torn]);
    let apart = Story::new(&[5, 9, 6]).publish("a", 9, Unknown).batch(5..7, Unknown);
    assert_eq!(apart.kinds(), [Kind::Torn]);
}

/// A long history takes no longer a record than a short one: this one would take hours in quadratic time.
#[test]
fn a_long_history_is_checked_at_once() {
    const RECORDS: u64 = 300_000;
    let log: Vec<Value> = (0..RECORDS).collect();
    let mut story = Story::new(&log);
    for value in 0..RECORDS {
        story = story.publish("a", value, Ok(value)).told(By::Describe, value + 1);
    }
    let all: Vec<(u64, Value)> = (0..).zip(log).collect();
    assert_eq!(story.reader(0, &all, true).kinds(), []);
}
