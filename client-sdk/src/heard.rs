//! What the broker says. The records of a delivery stay encoded until they are taken: decoding them is most of the work of
//! reading, and is done where the application reads, one by one, while the next delivery comes in.

use bytes::Bytes;
use longwire_proto::codec::{self, Encoding};
use longwire_proto::error::Error;
use longwire_proto::raw;
use longwire_proto::raw::server_frame::Frame as RawFrame;
use longwire_proto::wire::server_frame::Frame;
use prost::Message as _;

/// How a frame begins that is a delivery: the key of its field.
const DELIVERY_KEY: u8 = 5 << 3 | 2;

/// See the top of this file.
#[derive(Debug)]
pub(crate) enum Heard {
    /// With its records as they are encoded.
    Delivery(raw::Delivery),
    /// Anything, decoded.
    Frame(Frame),
}

impl Heard {
    /// What a frame says.
    ///
    /// # Errors
    /// As [`codec::decode_server`].
    pub(crate) fn decode(encoding: Encoding, bytes: Bytes) -> Result<Self, Error> {
        if encoding == Encoding::Proto
            && bytes.first() == Some(&DELIVERY_KEY)
            && let Ok(raw::ServerFrame { frame: Some(RawFrame::Delivery(delivery)) }) =
                raw::ServerFrame::decode(bytes.clone())
        {
            return Ok(Self::Delivery(delivery));
        }
        codec::decode_server(encoding, bytes).map(Self::Frame)
    }
}

impl From<Frame> for Heard {
    fn from(frame: Frame) -> Self {
        Self::Frame(frame)
    }
}
