//! Sessions in the order in which they became live, so that the longest unused of a crowd rest before their time.

use std::collections::VecDeque;

use longwire_proto::session_id::SessionId;

use crate::hub::SESSIONS_LIVE_MAX;

/// Sessions that stay live for all of their idle time, whoever comes: more than are in use at a time on most brokers, and at some KiB
/// each about ten MiB.
pub(super) const CROWD_MAX: usize = 2048;
/// Sessions that are looked at for each one that comes: so many of the crowd may be in use, and it still does not grow.
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
    /// It has left memory, or stays there for as long as somebody reads it: it is looked at no more.
    Settled,
    /// It has been sent so many requests.
    Sent(u64),
}

/// See the top of this file. Who is in it may have left memory by now; it is found out when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Crowd(VecDeque<Member>);

impl Crowd {
    /// A session has become live. Answers those that are to rest now: what they were sent since the last look tells whether somebody
    /// uses them.
    pub(super) fn join(&mut self, session: SessionId, used: impl Fn(&SessionId) -> Use) -> Vec<SessionId> {
        self.0.push_back(Member { session, sent: FIRST });
        let mut resting = Vec::new();
        for _ in 0..LOOKS {
            if self.0.len() <= CROWD_MAX {
                break;
            }
            let Some(member) = self.0.pop_front() else { break };
            match used(&member.session) {
                Use::Settled => {}
                Use::Sent(sent) if sent.max(FIRST) == member.sent => resting.push(member.session),
                // A name is there more than once when its session rested and came back: the directory's bound is this one's, too.
                Use::Sent(sent) if self.0.len() < SESSIONS_LIVE_MAX => {
                    self.0.push_back(Member { sent, ..member });
                }
                Use::Sent(_) => {}
            }
        }
        resting
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn id(number: usize) -> SessionId {
        SessionId::parse(&format!("s/{number}")).unwrap()
    }

    #[test]
    fn the_longest_unused_rest_and_who_is_used_or_read_does_not() {
        let mut crowd = Crowd::default();
        let mut sent: HashMap<SessionId, u64> = HashMap::new();
        let mut rested = Vec::new();
        let (busy, read) = (id(3), id(5));
        let count = 4 * CROWD_MAX;
        for number in 0..count {
            sent.insert(id(number), 1);
            *sent.entry(busy.clone()).or_default() += 1;
            let resting = crowd.join(id(number), |session| match sent.get(session) {
                Some(sent) if *session != read => Use::Sent(*sent),
                _ => Use::Settled,
            });
            assert!(number >= CROWD_MAX / 2 || resting.is_empty(), "no crowd, no hurry");
            for session in &resting {
                sent.remove(session);
            }
            rested.extend(resting);
        }
        assert!(!rested.contains(&busy) && !rested.contains(&read));
        let oldest: Vec<_> =
            (0..100).map(id).filter(|session| *session != busy && *session != read).collect();
        assert_eq!(rested[..oldest.len()], oldest, "in the order in which they came");
        // All but the crowd, the one that is read and the one that is used.
        assert_eq!(crowd.0.len(), CROWD_MAX);
        assert_eq!(rested.len(), count - CROWD_MAX - 1);
    }

    #[test]
    fn it_is_bounded_when_all_are_used_and_when_names_come_back() {
        let mut crowd = Crowd::default();
        for now in 0..3 * SESSIONS_LIVE_MAX {
            let resting = crowd.join(id(now % SESSIONS_LIVE_MAX), |_| Use::Sent(now as u64 + 2));
            assert!(resting.is_empty() && crowd.0.len() <= SESSIONS_LIVE_MAX);
        }
        for number in 0..SESSIONS_LIVE_MAX {
            crowd.join(id(number), |_| Use::Settled);
        }
        assert_eq!(crowd.0.len(), CROWD_MAX);
    }
}
