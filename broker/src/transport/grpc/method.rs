//! The methods of the service, and the frames that they are.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

/// A method that asks one thing: the field of `ClientFrame` that its request is, and that of `ServerFrame` that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unary {
    pub(super) name: &'static str,
    pub(super) request: u32,
    pub(super) reply: u32,
}

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Attach,
    Subscribe,
    Unary(Unary),
}

const UNARY: [Unary; 23] = [
    Unary { name: "Publish", request: 3, reply: 3 },
    Unary { name: "Read", request: 12, reply: 13 },
    Unary { name: "DescribeSession", request: 7, reply: 7 },
    Unary { name: "ListSessions", request: 11, reply: 8 },
    Unary { name: "CreateSession", request: 8, reply: 7 },
    Unary { name: "CloseSession", request: 9, reply: 7 },
    Unary { name: "DeleteSession", request: 10, reply: 9 },
    Unary { name: "TrimSession", request: 13, reply: 7 },
    Unary { name: "EraseRecords", request: 14, reply: 14 },
    Unary { name: "ForkSession", request: 15, reply: 7 },
    Unary { name: "ImportRecords", request: 16, reply: 15 },
    Unary { name: "CommitCursor", request: 17, reply: 9 },
    Unary { name: "DescribeCursor", request: 18, reply: 16 },
    Unary { name: "BackUp", request: 19, reply: 17 },
    Unary { name: "ShareSession", request: 21, reply: 19 },
    Unary { name: "RevokeToken", request: 22, reply: 9 },
    Unary { name: "DescribeAsk", request: 23, reply: 20 },
    Unary { name: "ReadMessage", request: 24, reply: 21 },
    Unary { name: "Claim", request: 25, reply: 22 },
    Unary { name: "ReleaseLease", request: 26, reply: 9 },
    Unary { name: "SetWorkerGroup", request: 27, reply: 9 },
    Unary { name: "ListWorkerGroups", request: 28, reply: 23 },
    Unary { name: "RemoveWorkerGroup", request: 29, reply: 9 },
];

/// The field of `ClientFrame` that `Subscribe` is.
pub(super) const SUBSCRIBE: u32 = 4;
/// Fields of `ServerFrame`.
pub(super) const WELCOME: u32 = 1;
pub(super) const PONG: u32 = 2;
pub(super) const SUBSCRIBED: u32 = 4;
pub(super) const SUBSCRIPTION_ENDED: u32 = 6;
pub(super) const REFUSED: u32 = 10;
pub(super) const HEARTBEAT: u32 = 11;
pub(super) const GOODBYE: u32 = 12;

impl Method {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "Attach" => Some(Self::Attach),
            "Subscribe" => Some(Self::Subscribe),
            name => UNARY.iter().find(|unary| unary.name == name).copied().map(Self::Unary),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attach => "Attach",
            Self::Subscribe => "Subscribe",
            Self::Unary(unary) => unary.name,
        }
    }
}

/// A message as the frame that has it: as it is, behind its field and its length.
pub(super) fn frame(field: u32, message: &[u8]) -> Bytes {
    let length = message.len() as u64;
    let mut frame = BytesMut::with_capacity(key_len(field) + encoded_len_varint(length) + message.len());
    encode_key(field, WireType::LengthDelimited, &mut frame);
    encode_varint(length, &mut frame);
    frame.put_slice(message);
    frame.freeze()
}

/// The field of a frame of the broker, and the message that it has.
pub(super) fn message(mut frame: Bytes) -> Option<(u32, Bytes)> {
    let (field, WireType::LengthDelimited) = decode_key(&mut frame).ok()? else { return None };
    let length = usize::try_from(decode_varint(&mut frame).ok()?).ok()?;
    (length == frame.remaining()).then_some((field, frame))
}

#[cfg(test)]
mod tests {
    use longwire_proto::codec::{Encoding, decode_client, encode_server};
    use longwire_proto::{raw, service, wire};
    use prost::Message;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;

    fn field(message: &DescriptorProto, of: &str) -> u32 {
        let found = message.field.iter().find(|field| field.type_name() == of);
        found.unwrap_or_else(|| panic!("no frame has {of}")).number().try_into().unwrap()
    }

    #[test]
    fn the_table_is_what_the_service_says() {
        let files = FileDescriptorSet::decode(service::DESCRIPTORS).unwrap().file;
        let message = |name| {
            files.iter().flat_map(|file| &file.message_type).find(|message| message.name() == name).unwrap()
        };
        let (client, server) = (message("ClientFrame"), message("ServerFrame"));
        let file = files.iter().find(|file| !file.service.is_empty()).unwrap();
        let [found] = file.service.as_slice() else { panic!("one service") };
        assert_eq!(format!("{}.{}", file.package(), found.name()), service::NAME);
        assert_eq!(found.method.len(), UNARY.len() + 2);
        for method in &found.method {
            let known = Method::of(method.name()).unwrap();
            assert_eq!(known.name(), method.name());
            let streams = (method.client_streaming(), method.server_streaming());
            match known {
                Method::Attach => assert_eq!(streams, (true, true)),
                Method::Subscribe => {
                    assert_eq!(streams, (false, true));
                    assert_eq!(field(client, method.input_type()), SUBSCRIBE);
                }
                Method::Unary(unary) => {
                    assert_eq!(streams, (false, false));
                    assert_eq!(field(client, method.input_type()), unary.request, "{}", unary.name);
                    assert_eq!(field(server, method.output_type()), unary.reply, "{}", unary.name);
                }
            }
        }
        for (number, name) in [
            (WELCOME, "Welcome"),
            (PONG, "Pong"),
            (SUBSCRIBED, "Subscribed"),
            (SUBSCRIPTION_ENDED, "SubscriptionEnded"),
            (REFUSED, "Refused"),
            (HEARTBEAT, "Heartbeat"),
            (GOODBYE, "Goodbye"),
        ] {
            assert_eq!(field(server, &format!(".longwire.v1.{name}")), number);
        }
        assert_eq!(Method::of("Connect"), None);
    }

    #[test]
    fn a_message_is_a_frame_without_being_encoded_again() {
        let publish = wire::Publish { session: "a".repeat(200), ..Default::default() };
        let spliced = frame(3, &publish.encode_to_vec());
        let raw::client_frame::Frame::Publish(found) = decode_client(Encoding::Proto, spliced).unwrap()
        else {
            panic!("another frame");
        };
        assert_eq!(found.session, publish.session);
        let published = wire::Published { next: 300, ..Default::default() };
        let encoded = encode_server(Encoding::Proto, wire::server_frame::Frame::Published(published));
        let (field, body) = message(encoded).unwrap();
        assert_eq!((field, wire::Published::decode(body).unwrap()), (3, published));
        for damaged in [&b""[..], b"\x1a", b"\x1a\x05\x08", b"\x18\x00", b"\xff\xff"] {
            assert_eq!(message(Bytes::from_static(damaged)), None);
        }
    }
}
