//! Inputs that wait for their agent, in the order in which it is to see them.

use std::collections::VecDeque;

use longwire_proto::input::Mode;

use crate::record::Record;

/// Inputs that wait. At most as many as the broker lets be open in a session.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// What is to be looked at before all that follows: it changes what is being done.
    urgent: VecDeque<Record>,
    others: VecDeque<Record>,
}

impl Inbox {
    pub(crate) fn push(&mut self, input: Record) {
        match Mode::parse(&input.mode).unwrap_or_default() {
            Mode::Preempt | Mode::Steer => self.urgent.push_back(input),
            Mode::Followup => self.others.push_back(input),
        }
    }

    /// The next of those that change what is being done.
    pub(crate) fn pop_urgent(&mut self) -> Option<Record> {
        self.urgent.pop_front()
    }

    pub(crate) fn pop(&mut self) -> Option<Record> {
        self.pop_urgent().or_else(|| self.others.pop_front())
    }

    /// Forgets one that has ended.
    pub(crate) fn remove(&mut self, id: &str) {
        self.urgent.retain(|input| input.id != id);
        self.others.retain(|input| input.id != id);
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::wire;

    use super::*;

    #[test]
    fn what_changes_the_work_comes_before_what_follows_it() {
        let mut inbox = Inbox::default();
        for (id, mode) in [("a", ""), ("b", "steer"), ("c", "followup"), ("d", "preempt"), ("e", "steer")] {
            let record = wire::Record { id: id.into(), mode: mode.into(), ..Default::default() };
            inbox.push(Record::new(0, 0, record));
        }
        inbox.remove("e");
        let order: Vec<String> = std::iter::from_fn(|| inbox.pop()).map(|input| input.id).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }
}
