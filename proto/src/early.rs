//! What a client may say before it has shown that it is there: QUIC's 0-RTT, which whoever has seen it can send again.

use prost::encoding::{DecodeContext, decode_key, skip_field};

/// The numbers, in a `ClientFrame`, of what changes nothing however often it is said: `hello` and `subscribe`.
const READS: [u32; 2] = [1, 4];

/// Whether a frame, in protobuf, only reads. All of it is looked at, and not its beginning: of several contents the last one counts.
#[must_use]
pub fn only_reads(mut frame: &[u8]) -> bool {
    let mut reads = false;
    while !frame.is_empty() {
        let Ok((number, kind)) = decode_key(&mut frame) else { return false };
        if !READS.contains(&number) || skip_field(kind, number, &mut frame, DecodeContext::default()).is_err()
        {
            return false;
        }
        reads = true;
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Encoding, encode_client};
    use crate::wire;
    use crate::wire::client_frame::Frame;

    fn bytes(frame: Frame) -> Vec<u8> {
        encode_client(Encoding::Proto, frame).to_vec()
    }

    #[test]
    fn a_hello_and_a_subscribe_read_and_nothing_else_does() {
        assert!(only_reads(&bytes(Frame::Hello(wire::Hello { token: "t".into(), ..Default::default() }))));
        let subscribe = wire::Subscribe { request: 1, subscriptions: vec![wire::Subscription::default()] };
        assert!(only_reads(&bytes(Frame::Subscribe(subscribe))));
        for other in [
            Frame::Ping(wire::Ping::default()),
            Frame::Publish(wire::Publish::default()),
            Frame::Unsubscribe(wire::Unsubscribe::default()),
            Frame::Credit(wire::Credit::default()),
            Frame::CreateSession(wire::CreateSession::default()),
            Frame::DeleteSession(wire::DeleteSession::default()),
            Frame::CommitCursor(wire::CommitCursor::default()),
            Frame::Authenticate(wire::Authenticate::default()),
            Frame::ShareSession(wire::ShareSession::default()),
            Frame::RevokeToken(wire::RevokeToken::default()),
        ] {
            assert!(!only_reads(&bytes(other.clone())), "{other:?}");
        }
    }

    #[test]
    fn what_hides_behind_a_read_is_found() {
        let subscribe = bytes(Frame::Subscribe(wire::Subscribe::default()));
        let publish = bytes(Frame::Publish(wire::Publish { request: 1, ..Default::default() }));
        assert!(!only_reads(&[subscribe.clone(), publish.clone()].concat()));
        assert!(!only_reads(&[publish, subscribe.clone()].concat()));
        // A field that nobody knows yet may be a command one day.
        assert!(!only_reads(&[subscribe.clone(), vec![0xfa, 0x3f, 0]].concat()));
        assert!(!only_reads(&subscribe[..subscribe.len() - 1]));
        assert!(!only_reads(&[]));
        assert!(!only_reads(&[0xff; 11]));
    }
}
