//! When a token is asked for, sent, and given up. The broker's own clock says how long one is valid, so a wrong clock of
//! this machine does no harm.

use std::time::Duration;

use longwire_proto::error::ErrorCode;

use crate::backoff::{Backoff, Jitter};
use crate::error::{Closed, Refusal};
use crate::token::Token;

/// A callback that has not given a token within this time will not: the try to connect has failed.
pub(crate) const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// The part of a token's remaining life, in percent, after which a newer one is asked for: late enough to be rare, and
/// early enough for several tries.
const REFRESH_PERCENT: u64 = 75;
/// Up to so much is added at random, so that clients whose tokens were made together do not all ask at once.
const REFRESH_JITTER_PERCENT: u64 = 10;
/// A newer token is not asked for more often than this, however short their lives are: one that lives no longer is
/// replaced by connecting again.
pub(crate) const REFRESH_MIN: Duration = Duration::from_secs(1);

/// What the machine knows from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// There is no token, and none is wanted.
    #[default]
    None,
    /// There is this one and no other.
    Fixed(Token),
    /// Each is asked for.
    Asked,
}

/// How far the refresh of this connection's token is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Refresh {
    /// Not known to be needed.
    #[default]
    Idle,
    At(Duration),
    Asked,
    Sent,
}

/// What follows from a goodbye about a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Connect again, with the token that the application gives then.
    Again,
    Close(Closed),
}

#[derive(Debug)]
pub(crate) struct Tokens {
    asked: bool,
    current: Option<Token>,
    /// A token that the broker refused for good, why, and whether another one was tried since.
    rejected: Option<(Token, Closed, bool)>,
    /// What the broker's clock showed, and when.
    clock: Option<(Duration, u64)>,
    expires_ms: u64,
    refresh: Refresh,
    /// A newer one that has no answer yet.
    sent: Option<Token>,
    failures: u32,
}

impl Tokens {
    pub(crate) fn new(known: Known) -> Self {
        let asked = known == Known::Asked;
        let current = match known {
            Known::Fixed(token) => Some(token),
            Known::None | Known::Asked => None,
        };
        Self {
            asked,
            current,
            rejected: None,
            clock: None,
            expires_ms: 0,
            refresh: Refresh::Idle,
            sent: None,
            failures: 0,
        }
    }

    /// Whether each connection begins with asking for a token.
    pub(crate) fn are_asked_for(&self) -> bool {
        self.asked
    }

    /// What to say hello with; empty without a token.
    pub(crate) fn hello(&self) -> String {
        self.current.as_ref().map(Token::reveal).unwrap_or_default()
    }

    /// A token for the next connection came. It is an error when the broker refused it for good before.
    pub(crate) fn take(&mut self, token: Token) -> Result<(), Closed> {
        if let Some((rejected, closed, tried)) = &mut self.rejected {
            if *rejected == token {
                return Err(closed.clone());
            }
            *tried = true;
        }
        self.current = Some(token);
        Ok(())
    }

    /// The broker let the client in.
    pub(crate) fn welcomed(&mut self, now: Duration, expires_ms: u64, jitter: &mut Jitter) {
        self.rejected = None;
        self.failures = 0;
        self.expires_ms = expires_ms;
        self.schedule(now, jitter);
    }

    /// The broker took the newer one.
    pub(crate) fn authenticated(&mut self, now: Duration, expires_ms: u64, jitter: &mut Jitter) {
        self.current = self.sent.take().or(self.current.take());
        self.welcomed(now, expires_ms, jitter);
    }

    /// The broker's clock shows this.
    pub(crate) fn clock(&mut self, now: Duration, time_ms: u64, jitter: &mut Jitter) {
        if time_ms == 0 {
            return;
        }
        self.clock = Some((now, time_ms));
        if self.refresh == Refresh::Idle {
            self.schedule(now, jitter);
        }
    }

    fn schedule(&mut self, now: Duration, jitter: &mut Jitter) {
        self.refresh = Refresh::Idle;
        let Some((at, time_ms)) = self.clock.filter(|_| self.asked && self.expires_ms > 0) else { return };
        let passed = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let left_ms = self.expires_ms.saturating_sub(time_ms.saturating_add(passed));
        let percent = REFRESH_PERCENT + jitter.below(REFRESH_JITTER_PERCENT + 1);
        let wait = Duration::from_millis(left_ms / 100 * percent + left_ms % 100 * percent / 100);
        self.refresh = Refresh::At(now.saturating_add(wait.max(REFRESH_MIN)));
    }

    /// Whether a newer token is to be asked for now; says so once.
    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        let due = matches!(self.refresh, Refresh::At(at) if at <= now);
        if due {
            self.refresh = Refresh::Asked;
        }
        due
    }

    /// A newer token came for this connection: gives it back when it is to be sent.
    pub(crate) fn newer(&mut self, now: Duration, token: Token, jitter: &mut Jitter) -> Option<Token> {
        if self.refresh != Refresh::Asked {
            return None;
        }
        if self.current.as_ref() == Some(&token) {
            // The application keeps it until it has expired, or nearly.
            self.schedule(now, jitter);
            return None;
        }
        self.refresh = Refresh::Sent;
        self.sent = Some(token.clone());
        Some(token)
    }

    /// No newer token came, or the broker cannot look at it for now. The old one goes on.
    pub(crate) fn failed(&mut self, now: Duration, wait: Duration, backoff: Backoff, jitter: &mut Jitter) {
        if matches!(self.refresh, Refresh::Asked | Refresh::Sent) {
            let wait = wait.max(backoff.delay(self.failures, jitter)).max(REFRESH_MIN);
            self.failures = self.failures.saturating_add(1);
            self.refresh = Refresh::At(now + wait);
        }
    }

    /// The broker ended the connection, and says why; nothing when that is not about the token.
    pub(crate) fn goodbye(&mut self, refusal: &Refusal) -> Option<Verdict> {
        let closed = match refusal.code? {
            ErrorCode::TokenExpired if self.asked => return Some(Verdict::Again),
            ErrorCode::TokenExpired => Closed::TokenExpired,
            ErrorCode::TokenRevoked => Closed::TokenRevoked,
            ErrorCode::Unauthenticated => Closed::Unauthenticated(refusal.message.clone()),
            _ => return None,
        };
        let tried = matches!(self.rejected, Some((_, _, true)));
        match self.current.clone().filter(|_| self.asked && !tried) {
            Some(token) => {
                self.rejected = Some((token, closed, false));
                Some(Verdict::Again)
            }
            None => Some(Verdict::Close(closed)),
        }
    }

    pub(crate) fn disconnected(&mut self) {
        self.clock = None;
        self.sent = None;
        self.refresh = Refresh::Idle;
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        match self.refresh {
            Refresh::At(at) => Some(at),
            Refresh::Idle | Refresh::Asked | Refresh::Sent => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    fn refusal(code: ErrorCode) -> Refusal {
        Refusal::from(Some(longwire_proto::error::Error::new(code, "no").to_wire()))
    }

    const NOW: Duration = Duration::from_secs(5);

    /// Tokens of which one was welcomed, and has so long to live by the broker's clock.
    fn welcomed(left_ms: u64, seed: u64) -> (Tokens, Jitter) {
        let (mut tokens, mut jitter) = (Tokens::new(Known::Asked), Jitter::new(seed));
        tokens.take(token("a")).unwrap();
        tokens.welcomed(NOW, 1_000_000 + left_ms, &mut jitter);
        assert_eq!(tokens.poll_timeout(), None, "how long that is is not known yet");
        tokens.clock(NOW, 1_000_000, &mut jitter);
        (tokens, jitter)
    }

    #[test]
    fn a_newer_one_is_asked_for_in_time_and_not_too_often() {
        for seed in 0..200 {
            let (tokens, _) = welcomed(100_000, seed);
            let at = tokens.poll_timeout().unwrap() - NOW;
            assert!((75..=85).contains(&at.as_secs()), "seed {seed}: {at:?}");
            for short_ms in [0, 1, 1_000] {
                let (tokens, _) = welcomed(short_ms, seed);
                assert_eq!(tokens.poll_timeout(), Some(NOW + REFRESH_MIN), "seed {seed}");
            }
        }
        let (tokens, _) = welcomed(longwire_proto::position::COUNTER_MAX - 1_000_000, 0);
        assert!(tokens.poll_timeout().is_some());
    }

    #[test]
    fn it_is_asked_once_and_sent_once() {
        let (mut tokens, mut jitter) = welcomed(100_000, 1);
        let at = tokens.poll_timeout().unwrap();
        assert!(!tokens.is_due(at - Duration::from_millis(1)));
        assert!(tokens.is_due(at) && !tokens.is_due(at));
        // A heartbeat meanwhile changes nothing.
        tokens.clock(at, 1_080_000, &mut jitter);
        assert_eq!(tokens.poll_timeout(), None);
        assert_eq!(tokens.newer(at, token("b"), &mut jitter), Some(token("b")));
        assert_eq!(tokens.newer(at, token("c"), &mut jitter), None);
        tokens.authenticated(at, 1_200_000, &mut jitter);
        assert!(tokens.poll_timeout().unwrap() > at + Duration::from_secs(60));
        assert_eq!(tokens.hello(), "b");
    }

    #[test]
    fn one_that_is_no_newer_is_not_sent_and_a_failure_is_tried_again() {
        let (mut tokens, mut jitter) = welcomed(100_000, 1);
        let mut now = tokens.poll_timeout().unwrap();
        assert!(tokens.is_due(now));
        assert_eq!(tokens.newer(now, token("a"), &mut jitter), None);
        let next = tokens.poll_timeout().unwrap();
        assert!(next >= now + REFRESH_MIN && next < NOW + Duration::from_secs(100));
        for _ in 0..50 {
            now = tokens.poll_timeout().unwrap();
            assert!(tokens.is_due(now));
            tokens.failed(now, Duration::ZERO, Backoff::default(), &mut jitter);
            assert!(tokens.poll_timeout().unwrap() >= now + REFRESH_MIN);
        }
    }

    #[test]
    fn a_fixed_one_is_never_refreshed_and_its_end_is_final() {
        let (mut tokens, mut jitter) = (Tokens::new(Known::Fixed(token("a"))), Jitter::new(1));
        tokens.welcomed(NOW, 2_000, &mut jitter);
        tokens.clock(NOW, 1_000, &mut jitter);
        assert_eq!(tokens.poll_timeout(), None);
        let mut verdict = |code| tokens.goodbye(&refusal(code));
        assert_eq!(verdict(ErrorCode::TokenExpired), Some(Verdict::Close(Closed::TokenExpired)));
        assert_eq!(verdict(ErrorCode::TokenRevoked), Some(Verdict::Close(Closed::TokenRevoked)));
        let closed = Closed::Unauthenticated("no".into());
        assert_eq!(verdict(ErrorCode::Unauthenticated), Some(Verdict::Close(closed)));
        assert_eq!(verdict(ErrorCode::Draining), None);
    }

    #[test]
    fn another_token_is_tried_once_after_a_refusal_for_good() {
        for code in [ErrorCode::TokenRevoked, ErrorCode::Unauthenticated] {
            let (mut tokens, mut jitter) = welcomed(100_000, 1);
            assert_eq!(tokens.goodbye(&refusal(code)), Some(Verdict::Again));
            assert!(tokens.take(token("a")).is_err(), "it was refused");
            tokens.take(token("b")).unwrap();
            assert!(matches!(tokens.goodbye(&refusal(code)), Some(Verdict::Close(_))));
            // One that was welcomed counts anew.
            let mut tokens = welcomed(100_000, 1).0;
            tokens.goodbye(&refusal(code));
            tokens.take(token("b")).unwrap();
            tokens.welcomed(NOW, 2_000_000, &mut jitter);
            assert_eq!(tokens.goodbye(&refusal(code)), Some(Verdict::Again));
        }
        let mut tokens = welcomed(100_000, 1).0;
        for _ in 0..3 {
            assert_eq!(tokens.goodbye(&refusal(ErrorCode::TokenExpired)), Some(Verdict::Again));
            tokens.take(token("a")).unwrap();
        }
    }
}
