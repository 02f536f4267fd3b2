//! What the broker says. The records of a delivery stay encoded until they are taken: decoding them is most of the work of
//! reading, and is done where the application reads, one by one, while the next delivery comes in.

use bytes::Bytes;
use longwire_proto::codec::{self, Encoding};
use longwire_proto::error::Error;
use longwire_proto::wire::server_frame::Frame;

use crate::delivered::Arrived;
use crate::fields::{Fields, Value};

/// The number of the field that a frame has when it is a delivery.
const DELIVERY: u32 = 5;

/// See the top of this file.
#[derive(Debug)]
pub(crate) enum Heard {
    /// With its records as they are encoded.
    Delivery(Arrived),
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
            && let Some(delivery) = delivery(&bytes)
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

/// The delivery that a frame is; `None` when it is something else, or may be.
fn delivery(frame: &Bytes) -> Option<Arrived> {
    let mut fields = Fields(frame);
    match fields.next_field()? {
        (DELIVERY, Value::Bytes(delivery)) if fields.is_empty() => Arrived::parse(frame.slice_ref(delivery)),
        _ => None,
    }
}
