//! A link within the process of the broker.

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use longwire_broker::transport::LinkEnd;
use longwire_broker::transport::memory::{MemoryClient, MemoryPort};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::links::{Close, Link};

pub(in crate::every_transport) struct MemoryLink {
    client: MemoryClient,
    close: Close,
}

impl MemoryLink {
    /// Connects, and says nothing.
    pub(in crate::every_transport) fn open(port: &MemoryPort) -> Box<dyn Link> {
        Box::new(Self { client: port.connect(Encoding::Proto), close: Close::default() })
    }

    async fn next(&mut self) -> Option<ServerFrame> {
        match self.client.next().await {
            Ok(frame) => Some(decode_server(Encoding::Proto, frame).unwrap()),
            Err(LinkEnd::Gone) => None,
            Err(LinkEnd::Refused(error)) => {
                let reason = format!("{}: {}", error.code, error.message);
                self.close = Close { code: error.code.close_code(), reason, is_status: false };
                None
            }
        }
    }
}

impl Link for MemoryLink {
    fn send(&mut self, frame: Bytes) -> BoxFuture<'_, ()> {
        // The broker may have ended the link; what it said is there to be read.
        self.client.send(frame).map(drop).boxed()
    }

    fn begin(&mut self) -> BoxFuture<'_, ()> {
        // Frames have no parts here.
        std::future::ready(()).boxed()
    }

    fn receive(&mut self) -> BoxFuture<'_, Option<ServerFrame>> {
        self.next().boxed()
    }

    fn closed(&mut self) -> BoxFuture<'_, Close> {
        let ending = async {
            while self.next().await.is_some() {}
            self.close.clone()
        };
        ending.boxed()
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    fn abort(self: Box<Self>) {}
}
