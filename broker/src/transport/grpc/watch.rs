//! What a call makes of the frames that its connection sends.

use bytes::Bytes;
use longwire_proto::error::Error;
use longwire_proto::outcome::Outcome;
use longwire_proto::wire;
use prost::Message;
use tonic::Status;

use crate::transport::grpc::method::{
    GOODBYE, HEARTBEAT, PONG, REFUSED, SUBSCRIBED, SUBSCRIPTION_ENDED, message,
};
use crate::transport::grpc::status::{broken, of_error, of_wire};

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is passed on.
    Pass,
    /// It is passed on, and is the last one.
    Last(Status),
    /// It is not.
    Drop,
    /// Nor is anything behind it.
    End(Status),
}

/// Looks at the frames of a connection.
#[derive(Debug)]
pub(super) struct Watch {
    /// Subscriptions that are left, of a call that is about these alone.
    left: Option<usize>,
    goodbye: Option<Status>,
}

impl Watch {
    /// All frames are passed on.
    pub(super) fn all() -> Self {
        Self { left: None, goodbye: None }
    }

    /// Those of so many subscriptions are, until none is left.
    pub(super) fn subscriptions(count: usize) -> Self {
        Self { left: Some(count), goodbye: None }
    }

    pub(super) fn see(&mut self, frame: &Bytes) -> Seen {
        let Some((field, body)) = message(frame.clone()) else { return Seen::End(broken()) };
        match (field, self.left) {
            (GOODBYE, left) => {
                let status = goodbye(body);
                if left.is_some() {
                    return Seen::End(status);
                }
                self.goodbye = Some(status);
                Seen::Pass
            }
            (_, None) => Seen::Pass,
            (PONG, _) => Seen::Drop,
            (HEARTBEAT, _) => Seen::Pass,
            (SUBSCRIBED, _) => match wire::Subscribed::decode(body) {
                Ok(subscribed) if !is_subscribed(&subscribed) => self.less(Status::ok("")),
                _ => Seen::Pass,
            },
            (SUBSCRIPTION_ENDED, _) => match wire::SubscriptionEnded::decode(body) {
                Ok(ended) if ended.session.is_empty() => {
                    self.less(of_wire(ended.error.unwrap_or_default(), 0))
                }
                _ => Seen::Pass,
            },
            (REFUSED, _) => {
                let refused = wire::Refused::decode(body).unwrap_or_default();
                let status = of_wire(refused.error.unwrap_or_default(), 0);
                if refused.subscription == 0 { Seen::End(status) } else { self.less(status) }
            }
            _ => Seen::Pass,
        }
    }

    fn less(&mut self, status: Status) -> Seen {
        let left = self.left.map_or(0, |left| left.saturating_sub(1));
        self.left = Some(left);
        if left == 0 { Seen::Last(status) } else { Seen::Pass }
    }

    /// The status of a call whose connection has ended, with this error where it was with one.
    pub(super) fn ended(&mut self, error: Option<Error>) -> Status {
        match (self.goodbye.take(), error, self.left) {
            (Some(goodbye), _, _) => goodbye,
            (None, Some(error), _) => of_error(&error),
            // The client has ended its half.
            (None, None, None) => Status::ok(""),
            (None, None, Some(_)) => broken(),
        }
    }
}

/// Whether a subscription goes on behind the answer to it.
fn is_subscribed(subscribed: &wire::Subscribed) -> bool {
    // One session of a pattern is not all of it.
    !subscribed.pattern.is_empty() || Outcome::parse(&subscribed.outcome).is_none_or(Outcome::is_subscribed)
}

/// The status that a goodbye is.
pub(super) fn goodbye(body: Bytes) -> Status {
    let goodbye = wire::Goodbye::decode(body).unwrap_or_default();
    of_wire(goodbye.error.unwrap_or_default(), goodbye.reconnect_after_ms)
}

#[cfg(test)]
mod tests {
    use longwire_proto::codec::{Encoding, encode_server};
    use longwire_proto::error::ErrorCode;
    use longwire_proto::wire::server_frame::Frame;
    use tonic::Code;

    use super::*;

    fn bytes(frame: Frame) -> Bytes {
        encode_server(Encoding::Proto, frame)
    }

    fn error(code: ErrorCode) -> Option<wire::Error> {
        Some(Error::new(code, "why").to_wire())
    }

    fn refused(subscription: u32) -> Bytes {
        bytes(Frame::Refused(wire::Refused {
            request: 1,
            subscription,
            error: error(ErrorCode::SessionNotFound),
        }))
    }

    fn ended(session: &str) -> Bytes {
        bytes(Frame::SubscriptionEnded(wire::SubscriptionEnded {
            subscription: 1,
            session: session.to_owned(),
            error: error(ErrorCode::SessionDeleted),
            ..Default::default()
        }))
    }

    #[test]
    fn a_call_ends_with_the_last_of_its_subscriptions() {
        let mut watch = Watch::subscriptions(3);
        assert!(matches!(watch.see(&refused(2)), Seen::Pass));
        assert!(matches!(watch.see(&ended("a/b")), Seen::Pass));
        let closed = wire::Subscribed { outcome: "closed".into(), ..Default::default() };
        let resumed = wire::Subscribed { outcome: "resumed".into(), ..Default::default() };
        assert!(matches!(watch.see(&bytes(Frame::Subscribed(resumed))), Seen::Pass));
        assert!(matches!(watch.see(&bytes(Frame::Subscribed(closed))), Seen::Pass));
        assert!(matches!(watch.see(&bytes(Frame::Pong(wire::Pong::default()))), Seen::Drop));
        assert!(matches!(watch.see(&ended("")), Seen::Last(status) if status.code() == Code::NotFound));
        let mut watch = Watch::subscriptions(3);
        assert!(matches!(watch.see(&refused(0)), Seen::End(status) if status.code() == Code::NotFound));
        assert_eq!(watch.ended(None).code(), Code::Unavailable);
    }

    #[test]
    fn a_goodbye_is_the_status_of_the_call() {
        let frame = wire::Goodbye { error: error(ErrorCode::Draining), reconnect_after_ms: 20 };
        let frame = bytes(Frame::Goodbye(frame));
        let mut watch = Watch::all();
        assert!(matches!(watch.see(&refused(0)), Seen::Pass));
        assert!(matches!(watch.see(&frame), Seen::Pass));
        let status = watch.ended(Some(Error::new(ErrorCode::Draining, "")));
        assert_eq!((status.code(), status.metadata().len()), (Code::Unavailable, 1));
        assert!(
            matches!(Watch::subscriptions(1).see(&frame), Seen::End(status) if status.code() == Code::Unavailable)
        );
        assert_eq!(Watch::all().ended(None).code(), Code::Ok);
        assert_eq!(Watch::all().ended(Some(Error::new(ErrorCode::Internal, ""))).code(), Code::Internal);
    }
}
