//! Publishes of one connection, and the end of an ask that another one had ended before.

use std::sync::Arc;

use longwire_proto::codec::encode_server;
use longwire_proto::error::Error;
use longwire_proto::raw;

use crate::asks;
use crate::connection::access::Access;
use crate::connection::reply::{Asked, refused};
use crate::connection::{Connection, request};
use crate::request::Operation;
use crate::transport::{FrameSink, FrameSource};

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    pub(super) fn publish(&mut self, publish: raw::Publish) {
        let number = publish.request;
        let meanings = request::records(&publish.records);
        let meant = meanings.as_ref().map_or(&[][..], Vec::as_slice);
        let mut asks = request::asks(meant, publish.lease.is_some());
        let session = asks.try_fold(None, |_, asks| self.access.session(asks, &publish.session).map(Some));
        let session = session.and_then(|session| session.ok_or_else(Error::no_such_session));
        let command = session.as_ref().map_err(Clone::clone).and_then(|session| {
            let sender = self.access.publisher(&publish.act_as, session)?;
            let act_as = publish.act_as.clone();
            request::publish(sender, publish, meanings?, || self.access.standing(&act_as, session))
        });
        let (records, bytes) =
            command.as_ref().map_or((0, 0), |publish| (publish.records(), publish.bytes()));
        let count = |access: &mut Access| {
            access.count_publish(records, bytes)?;
            Ok(access.begin_creation())
        };
        self.ask_with(number, session, command.map(Operation::Command), count);
    }

    /// Refuses with how the ask ended, once the answer was read that ended it.
    pub(super) fn refuse_with_answer(&mut self, asked: Asked, mut error: Error) {
        let (hub, encoding) = (Arc::clone(&self.context.hub), self.encoding);
        self.lookups.push(Box::pin(async move {
            if let Some(resolved) = &mut error.resolved {
                asks::read_answer(&hub, &asked.session, resolved).await;
            }
            encode_server(encoding, refused(asked.request, 0, &error))
        }));
    }
}
