//! Requests on sessions that wait for their answer: describe, create, close, delete, list, read, and what happens to whole logs.

use std::collections::BTreeMap;
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::backoff::{Backoff, Jitter};
use crate::error::{Refusal, RequestError};

/// Times that a request is repeated when the broker cannot carry it out for now. Unlike a publish, someone usually
/// waits for it.
pub(crate) const CALL_RETRIES_MAX: u32 = 5;

/// Names a request of the application.
pub(crate) type Ticket = u64;

/// A request; its number is put in when it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Describe(wire::DescribeSession),
    Create(wire::CreateSession),
    Close(wire::CloseSession),
    Delete(wire::DeleteSession),
    List(wire::ListSessions),
    Read(wire::Read),
    Trim(wire::TrimSession),
    Erase(wire::EraseRecords),
    Fork(wire::ForkSession),
    Import(Box<wire::ImportRecords>),
    CommitCursor(wire::CommitCursor),
    DescribeCursor(wire::DescribeCursor),
    BackUp(wire::BackUp),
    Share(wire::ShareSession),
    RevokeToken(wire::RevokeToken),
    DescribeAsk(wire::DescribeAsk),
    ReadMessage(wire::ReadMessage),
    Claim(wire::Claim),
    ReleaseLease(wire::ReleaseLease),
    SetWorkerGroup(wire::SetWorkerGroup),
    ListWorkerGroups(wire::ListWorkerGroups),
    RemoveWorkerGroup(wire::RemoveWorkerGroup),
}

impl Call {
    fn frame(&self, request: u64) -> Frame {
        match self.clone() {
            Self::Describe(call) => Frame::DescribeSession(wire::DescribeSession { request, ..call }),
            Self::Create(call) => Frame::CreateSession(wire::CreateSession { request, ..call }),
            Self::Close(call) => Frame::CloseSession(wire::CloseSession { request, ..call }),
            Self::Delete(call) => Frame::DeleteSession(wire::DeleteSession { request, ..call }),
            Self::List(call) => Frame::ListSessions(wire::ListSessions { request, ..call }),
            Self::Read(call) => Frame::Read(wire::Read { request, ..call }),
            Self::Trim(call) => Frame::TrimSession(wire::TrimSession { request, ..call }),
            Self::Erase(call) => Frame::EraseRecords(wire::EraseRecords { request, ..call }),
            Self::Fork(call) => Frame::ForkSession(wire::ForkSession { request, ..call }),
            Self::Import(call) => Frame::ImportRecords(wire::ImportRecords { request, ..*call }),
            Self::CommitCursor(call) => Frame::CommitCursor(wire::CommitCursor { request, ..call }),
            Self::DescribeCursor(call) => Frame::DescribeCursor(wire::DescribeCursor { request, ..call }),
            Self::BackUp(call) => Frame::BackUp(wire::BackUp { request, ..call }),
            Self::Share(call) => Frame::ShareSession(wire::ShareSession { request, ..call }),
            Self::RevokeToken(call) => Frame::RevokeToken(wire::RevokeToken { request, ..call }),
            Self::DescribeAsk(call) => Frame::DescribeAsk(wire::DescribeAsk { request, ..call }),
            Self::ReadMessage(call) => Frame::ReadMessage(wire::ReadMessage { request, ..call }),
            Self::Claim(call) => Frame::Claim(wire::Claim { request, ..call }),
            Self::ReleaseLease(call) => Frame::ReleaseLease(wire::ReleaseLease { request, ..call }),
            Self::SetWorkerGroup(call) => Frame::SetWorkerGroup(wire::SetWorkerGroup { request, ..call }),
            Self::ListWorkerGroups(_) => Frame::ListWorkerGroups(wire::ListWorkerGroups { request }),
            Self::RemoveWorkerGroup(call) => {
                Frame::RemoveWorkerGroup(wire::RemoveWorkerGroup { request, ..call })
            }
        }
    }

    fn session(&self) -> String {
        match self {
            Self::Describe(call) => call.session.clone(),
            Self::Create(call) => call.session.clone(),
            Self::Close(call) => call.session.clone(),
            Self::Delete(call) => call.session.clone(),
            Self::List(_) | Self::BackUp(_) | Self::RevokeToken(_) | Self::ListWorkerGroups(_) => {
                String::new()
            }
            Self::SetWorkerGroup(call) => call.group.clone(),
            Self::RemoveWorkerGroup(call) => call.group.clone(),
            Self::Read(call) => call.session.clone(),
            Self::Trim(call) => call.session.clone(),
            Self::Erase(call) => call.session.clone(),
            Self::Fork(call) => call.session.clone(),
            Self::Import(call) => call.session.clone(),
            Self::CommitCursor(call) => call.session.clone(),
            Self::DescribeCursor(call) => call.session.clone(),
            Self::Share(call) => call.session.clone(),
            Self::DescribeAsk(call) => call.session.clone(),
            Self::ReadMessage(call) => call.session.clone(),
            Self::Claim(call) => call.session.clone(),
            Self::ReleaseLease(call) => call.session.clone(),
        }
    }
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Session(Box<wire::Session>),
    List(wire::SessionList),
    Page(Box<wire::Page>),
    Erased(wire::Erased),
    Imported(Box<wire::Imported>),
    Cursor(wire::CursorDescription),
    BackedUp(wire::BackedUp),
    Shared(wire::Shared),
    Ask(Box<wire::AskDescription>),
    Message(Box<wire::MessageBytes>),
    Claimed(Box<wire::Claimed>),
    WorkerGroups(wire::WorkerGroupList),
    Done,
}

impl Answer {
    /// The answer that a frame is, and to which request; `None` when it is none.
    pub(crate) fn of(frame: ServerFrame) -> Option<(u64, Self)> {
        Some(match frame {
            ServerFrame::SessionDescription(answer) => {
                (answer.request, Self::Session(Box::new(answer.session.unwrap_or_default())))
            }
            ServerFrame::SessionList(list) => (list.request, Self::List(list)),
            ServerFrame::Page(page) => (page.request, Self::Page(Box::new(page))),
            ServerFrame::Erased(erased) => (erased.request, Self::Erased(erased)),
            ServerFrame::Imported(imported) => (imported.request, Self::Imported(Box::new(imported))),
            ServerFrame::CursorDescription(cursor) => (cursor.request, Self::Cursor(cursor)),
            ServerFrame::BackedUp(backup) => (backup.request, Self::BackedUp(backup)),
            ServerFrame::Shared(shared) => (shared.request, Self::Shared(shared)),
            ServerFrame::AskDescription(ask) => (ask.request, Self::Ask(Box::new(ask))),
            ServerFrame::MessageBytes(bytes) => (bytes.request, Self::Message(Box::new(bytes))),
            ServerFrame::Claimed(claimed) => (claimed.request, Self::Claimed(Box::new(claimed))),
            ServerFrame::WorkerGroupList(groups) => (groups.request, Self::WorkerGroups(groups)),
            ServerFrame::Done(done) => (done.request, Self::Done),
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    /// Sent on this connection.
    sent: bool,
    /// Sent on an earlier connection that broke before the answer, or refused with an unknown outcome.
    maybe_done: bool,
    retries: u32,
    not_before: Duration,
}

#[derive(Debug)]
pub(crate) struct Calls {
    backoff: Backoff,
    waiting: BTreeMap<Ticket, Waiting>,
}

impl Calls {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, waiting: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, ticket: Ticket, call: Call) {
        let waiting =
            Waiting { call, sent: false, maybe_done: false, retries: 0, not_before: Duration::ZERO };
        self.waiting.insert(ticket, waiting);
    }

    /// The next request that is due, as a frame with this number.
    pub(crate) fn poll_send(&mut self, now: Duration, request: u64) -> Option<(Ticket, Frame)> {
        let mut due = self.waiting.iter_mut().filter(|(_, call)| !call.sent && call.not_before <= now);
        let (ticket, waiting) = due.next()?;
        waiting.sent = true;
        Some((*ticket, waiting.call.frame(request)))
    }

    /// Everything that waits.
    pub(crate) fn tickets(&self) -> Vec<Ticket> {
        self.waiting.keys().copied().collect()
    }

    pub(crate) fn answered(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
    }

    /// What to tell the application about a refusal; nothing when the request is repeated.
    pub(crate) fn refused(
        &mut self,
        now: Duration,
        ticket: Ticket,
        refusal: Refusal,
        jitter: &mut Jitter,
    ) -> Option<Result<Answer, RequestError>> {
        let waiting = self.waiting.get_mut(&ticket)?;
        // Who holds a lease may hold it for days, and nothing may call for as long; whoever wants it knows how long to try.
        let is_patient = matches!(refusal.code, Some(ErrorCode::LeaseHeld | ErrorCode::NothingCalls));
        let repeats = refusal.retryable && !is_patient;
        if repeats && waiting.retries < CALL_RETRIES_MAX {
            let delay = self.backoff.delay(waiting.retries, jitter);
            waiting.not_before = now + delay.max(Duration::from_millis(refusal.retry_after_ms));
            waiting.retries += 1;
            waiting.sent = false;
            waiting.maybe_done |= refusal.code == Some(ErrorCode::OutcomeUnknown);
            return None;
        }
        let Waiting { call, maybe_done, .. } = self.waiting.remove(&ticket)?;
        let session = call.session();
        Some(match (refusal.code, &call) {
            // Our own delete, whose answer was lost, leaves the session as any other would.
            (Some(ErrorCode::SessionNotFound), Call::Delete(_)) if maybe_done => Ok(Answer::Done),
            (Some(ErrorCode::Fenced), Call::ReleaseLease(_)) if maybe_done => Ok(Answer::Done),
            (Some(ErrorCode::SessionNotFound), _) => Err(RequestError::NotFound(session)),
            (Some(ErrorCode::SessionExists), _) if maybe_done => Err(RequestError::ExistsUncertain(session)),
            (Some(ErrorCode::SessionExists), _) => Err(RequestError::Exists(session)),
            _ => Err(RequestError::Refused(refusal)),
        })
    }

    pub(crate) fn disconnected(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.maybe_done |= waiting.sent;
            waiting.sent = false;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.waiting.values().filter(|call| !call.sent).map(|call| call.not_before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: ErrorCode) -> Refusal {
        Refusal::from(Some(longwire_proto::error::Error::new(code, "no").to_wire()))
    }

    fn delete() -> Call {
        Call::Delete(wire::DeleteSession { request: 0, session: "a".into() })
    }

    #[test]
    fn a_delete_whose_answer_was_lost_is_done() {
        let mut calls = Calls::new(Backoff::default());
        let jitter = &mut Jitter::new(1);
        calls.add(1, delete());
        assert!(calls.poll_send(Duration::ZERO, 9).is_some());
        calls.disconnected();
        assert!(calls.poll_send(Duration::ZERO, 10).is_some());
        let answer = calls.refused(Duration::ZERO, 1, refusal(ErrorCode::SessionNotFound), jitter);
        assert!(matches!(answer, Some(Ok(Answer::Done))), "{answer:?}");
        calls.add(2, delete());
        assert!(calls.poll_send(Duration::ZERO, 11).is_some());
        let answer = calls.refused(Duration::ZERO, 2, refusal(ErrorCode::SessionNotFound), jitter);
        assert!(matches!(answer, Some(Err(RequestError::NotFound(_)))), "{answer:?}");
    }

    #[test]
    fn a_busy_broker_is_asked_again_and_not_for_ever() {
        let mut calls = Calls::new(Backoff::default());
        let jitter = &mut Jitter::new(1);
        calls.add(1, delete());
        let mut now = Duration::ZERO;
        for _ in 0..CALL_RETRIES_MAX {
            assert!(calls.poll_send(now, 1).is_some());
            assert!(calls.refused(now, 1, refusal(ErrorCode::Overloaded), jitter).is_none());
            now = calls.poll_timeout().unwrap();
        }
        assert!(calls.poll_send(now, 1).is_some());
        let answer = calls.refused(now, 1, refusal(ErrorCode::Overloaded), jitter);
        assert!(matches!(answer, Some(Err(RequestError::Refused(_)))), "{answer:?}");
    }
}
