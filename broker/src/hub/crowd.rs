//! Which sessions stay live when they have done what they were asked. As long as there are few, all do, for their idle time. Once there
//! is a crowd, who comes for the first time is on a *visit*, and leaves when it is over; who comes back soon stays, and the longest
//! unused rest for it. So thousands of sessions that are used once push nobody out, and cost memory only while they are at work.

use std::collections::{HashSet, VecDeque};

use longwire_proto::session_id::SessionId;

/// Sessions that stay live for all of their idle time, whoever comes: more than are in use at a time on most brokers, and at some KiB
/// each about ten MiB.
pub(super) const CROWD_MAX: usize = 2048;
/// Visits that are remembered, by name alone: twice the crowd, so that those of a few thousand that take turns come to stay.
const VISITS_MAX: usize = 2 * CROWD_MAX;
/// Members that are looked at for each session that is to stay. When so many were used since they were looked at last, they stay, and it
/// is on a visit once more.
const LOOKS: usize = 4;

/// What makes a session live is no use of it since.
const FIRST: u64 = 1;

#[derive(Debug)]
struct Member {
    session: SessionId,
    /// Requests that it had been sent when it was looked at last.
    sent: u64,
}

/// What is known of a session when its turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It has left memory, or stays there for as long as somebody reads it: it is a member no more.
    Settled,
    /// It has been sent so many requests.
    Sent(u64),
}

/// What becomes of a session that has become live, and of another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Joined {
    /// Whether it stays for its idle time. Otherwise it is on a visit.
    pub(super) stays: bool,
    /// Who is to rest for it.
    pub(super) rests: Option<SessionId>,
}

/// See the top of this file. Who is in it may have left memory by now; it is found out when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    members: VecDeque<Member>,
    /// The last visits, and whose they were.
    visits: VecDeque<SessionId>,
    visitors: HashSet<SessionId>,
}

impl Crowd {
    /// A session has become live. What members were sent since the last look tells whether somebody uses them.
    pub(super) fn join(&mut self, session: &SessionId, used: impl Fn(&SessionId) -> Use) -> Joined {
        let comes_back = self.visitors.remove(session);
        let mut rests = None;
        // Whoever comes looks for a place that is free by now; only for who comes back one is made free.
        for _ in 0..if comes_back { LOOKS } else { 1 } {
            if self.members.len() < CROWD_MAX {
                break;
            }
            let Some(member) = self.members.pop_front() else { break };
            match used(&member.session) {
                Use::Settled => {}
                Use::Sent(_) if !comes_back => self.members.push_back(member),
                Use::Sent(sent) if sent.max(FIRST) == member.sent => rests = Some(member.session),
                Use::Sent(sent) => self.members.push_back(Member { sent, ..member }),
            }
        }
        let stays = self.members.len() < CROWD_MAX;
        if stays {
            self.members.push_back(Member { session: session.clone(), sent: FIRST });
        } else {
            self.visited(session.clone());
        }
        Joined { stays, rests }
    }

    fn visited(&mut self, session: SessionId) {
        if self.visits.len() == VISITS_MAX
            && let Some(longest_ago) = self.visits.pop_front()
        {
            self.visitors.remove(&longest_ago);
        }
        self.visitors.insert(session.clone());
        self.visits.push_back(session);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const STAYS: Joined = Joined { stays: true, rests: None };
    const VISITS: Joined = Joined { stays: false, rests: None };

    fn id(number: usize) -> SessionId {
        SessionId::parse(&format!("s/{number}")).unwrap()
    }

    #[test]
    fn who_is_used_once_visits_and_who_comes_back_takes_the_place_of_the_longest_unused() {
        let mut crowd = Crowd::default();
        let mut sent: HashMap<SessionId, u64> = (0..CROWD_MAX).map(|number| (id(number), 1)).collect();
        for number in 0..CROWD_MAX {
            assert_eq!(crowd.join(&id(number), |_| Use::Sent(1)), STAYS, "no crowd, no hurry");
        }
        let (busy, read) = (id(3), id(5));
        sent.insert(busy.clone(), 2);
        let look = |sent: &HashMap<SessionId, u64>, session: &SessionId| match sent.get(session) {
            Some(sent) if *session != read => Use::Sent(*sent),
            _ => Use::Settled,
        };
        // However many come once: they get the one place of who is read, and push nobody out.
        let mut stayed = 0;
        for number in CROWD_MAX..4 * CROWD_MAX {
            if crowd.join(&id(number), |session| look(&sent, session)) != VISITS {
                sent.insert(id(number), 1);
                stayed += 1;
            }
        }
        assert_eq!(stayed, 1);
        let last = 4 * CROWD_MAX - 1;
        assert!(!crowd.visitors.contains(&id(CROWD_MAX)), "it was here too long ago");
        let mut rested = Vec::new();
        for number in (0..CROWD_MAX / 2).map(|back| last - back) {
            let joined = crowd.join(&id(number), |session| look(&sent, session));
            assert!(joined.stays, "{number} came back");
            sent.insert(id(number), 1);
            sent.retain(|session, _| joined.rests.as_ref() != Some(session));
            rested.extend(joined.rests);
        }
        assert_eq!(rested.len(), CROWD_MAX / 2);
        assert!(!rested.contains(&busy) && !rested.contains(&read));
    }

    #[test]
    fn it_is_bounded_when_all_are_used_and_when_names_come_back() {
        let mut crowd = Crowd::default();
        for now in 0..6 * VISITS_MAX {
            let joined = crowd.join(&id(now % (VISITS_MAX + 7)), |_| Use::Sent(now as u64 + 2));
            assert_eq!(joined.rests, None, "all are used");
            assert!(crowd.members.len() <= CROWD_MAX);
            assert!(crowd.visits.len() <= VISITS_MAX && crowd.visitors.len() <= crowd.visits.len());
        }
        for number in 0..CROWD_MAX {
            let joined = crowd.join(&id(number), |_| Use::Settled);
            assert_eq!(joined, STAYS, "there is a place for each that has gone");
        }
        assert_eq!(crowd.members.len(), CROWD_MAX);
    }
}
