//! Claims of patterns: each waits for a session that calls for its agent, while others are asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwire_core::command::{Claimed, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::PATTERNS_MAX;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use tokio::time::Instant;

use crate::connection::lookups::{Answering, boxed};
use crate::connection::reply::{claimed, refused};
use crate::connection::request::PatternClaim;
use crate::connection::witness::Management;
use crate::connection::{Connection, request};
use crate::hub::Hub;
use crate::pulse::Pulse;
use crate::quota::Meter;
use crate::request::Operation;
use crate::seeker::{Seeker, nothing_calls};
use crate::transport::{FrameSink, FrameSource};

/// Seekers of a connection. Those that are not at work are kept for the next claim of their pattern and agent.
#[derive(Clone, Default)]
pub(super) struct Seekers(Arc<Mutex<Pool>>);

#[derive(Default)]
struct Pool {
    /// The longest unused first; at most [`PATTERNS_MAX`].
    idle: Vec<Seeker>,
    at_work: usize,
}

impl Seekers {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has looked for this before, or a new one.
    fn begin(&self, claim: &PatternClaim, new: impl FnOnce() -> Seeker) -> Result<AtWork, Error> {
        let mut pool = self.pool();
        if pool.at_work >= PATTERNS_MAX {
            let message =
                format!("at most {PATTERNS_MAX} claims of patterns wait on one connection; open another one");
            return Err(Error::new(ErrorCode::TooManyRequests, message).limit(PATTERNS_MAX));
        }
        let known = pool.idle.iter().rposition(|seeker| seeker.is_for(&claim.pattern, &claim.agent));
        let seeker = known.map(|index| pool.idle.remove(index));
        pool.at_work += 1;
        drop(pool);
        let seeker = Some(seeker.unwrap_or_else(new));
        Ok(AtWork { seeker, seekers: self.clone() })
    }
}

/// A seeker at work; it goes back when this is dropped.
struct AtWork {
    seeker: Option<Seeker>,
    seekers: Seekers,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut pool = self.seekers.pool();
        pool.at_work -= 1;
        if pool.idle.len() >= PATTERNS_MAX {
            pool.idle.remove(0);
        }
        pool.idle.extend(self.seeker.take());
    }
}

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    /// Claims the agent of the next session of a pattern that calls for it.
    pub(super) fn claim_next(&mut self, claim: wire::Claim) {
        let request = claim.request;
        match self.seek(claim) {
            Ok(answering) => self.answer_later(request, Management::default(), answering),
            Err(error) => self.say(refused(request, 0, &error)),
        }
    }

    fn seek(&mut self, claim: wire::Claim) -> Result<Answering, Error> {
        let request = claim.request;
        let claim = request::pattern_claim(self.access.sender(), claim)?;
        let (hub, whoever) = (Arc::clone(&self.context.hub), self.access.whoever());
        let new = || Seeker::new(Arc::clone(&hub), whoever, claim.pattern.clone(), claim.agent.clone());
        let at_work = self.seekers.begin(&claim, new)?;
        let (meter, pulse) = (self.access.meter(), self.own_pulse());
        Ok(boxed(async move {
            let (session, found) = seek(&hub, at_work, claim, &meter, &pulse).await?;
            Ok(Frame::Claimed(claimed(request, &session, &found)))
        }))
    }
}

async fn seek(
    hub: &Arc<Hub>,
    mut at_work: AtWork,
    claim: PatternClaim,
    meter: &Meter,
    pulse: &Arc<Pulse>,
) -> Result<(SessionId, Box<Claimed>), Error> {
    let PatternClaim { pattern, agent, wait, command } = claim;
    let Some(seeker) = &mut at_work.seeker else { return Err(nothing_calls(&pattern, &agent)) };
    let until = Instant::now() + wait;
    while let Some(session) = seeker.next(until).await? {
        if let Err(error) = meter.publish(1, 0) {
            seeker.look_again(session);
            return Err(error);
        }
        // Not under the wait: a lease that was claimed and not told would have to lapse.
        match hub.claim(&session, Operation::Command(command.clone()), Arc::clone(pulse)).await {
            Ok(Some(Reply::Claimed(found))) => return Ok((session, found)),
            Ok(_) => return Err(Error::new(ErrorCode::Internal, "the session did not answer a claim")),
            // Somebody was quicker.
            Err(error) if is_over(error.code) => {}
            Err(error) => {
                seeker.look_again(session);
                return Err(error);
            }
        }
    }
    Err(nothing_calls(&pattern, &agent))
}

/// Whether there is nothing to be claimed any more in a session that called.
fn is_over(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::LeaseHeld
            | ErrorCode::SessionNotFound
            | ErrorCode::SessionDeleted
            | ErrorCode::SessionClosed
            | ErrorCode::DataCorrupt
    )
}
