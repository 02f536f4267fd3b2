//! Requests about tokens: a newer one for this connection, one for somebody else, one that is accepted no longer.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::right::{Right, Rights};
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;

use crate::auth::operation::Operation;
use crate::connection::Connection;
use crate::connection::lookups::boxed;
use crate::connection::reply::refused;
use crate::connection::witness::Management;
use crate::transport::{FrameSink, FrameSource};

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    /// What was asked before is answered as it was allowed; subscriptions that are not allowed any more end at once.
    pub(super) fn authenticate(&mut self, authenticate: wire::Authenticate) {
        let wire::Authenticate { request, token } = authenticate;
        if let Err(error) = self.access.refresh(&token) {
            return self.say(refused(request, 0, &error));
        }
        let ended = self.subscriptions.narrow();
        self.leave_lanes();
        for ended in ended {
            self.say(Frame::SubscriptionEnded(ended));
        }
        let principal = self.access.principal();
        let (id, expires_ms) = (principal.id.clone(), principal.expires_ms);
        self.say(Frame::Authenticated(wire::Authenticated { request, principal: id, expires_ms }));
    }

    pub(super) fn share(&mut self, share: wire::ShareSession) {
        let request = share.request;
        let management = self.access.managing(Operation::Share, &share.session);
        let shared = self.shared(share);
        let management = management.to(shared.as_ref().map_or("", |shared| &shared.id));
        management.done(shared.as_ref().map(drop));
        let frame = match shared {
            Ok(shared) => Frame::Shared(shared),
            Err(error) => refused(request, 0, &error),
        };
        self.say(frame);
    }

    fn shared(&mut self, share: wire::ShareSession) -> Result<wire::Shared, Error> {
        let wire::ShareSession { request, session, rights, ttl_ms } = share;
        let session = self.access.session(Operation::Share, &session)?;
        let rights = match rights.as_slice() {
            [] => Rights::from(Right::Read),
            rights => rights.join(",").parse().map_err(|error| {
                Error::new(ErrorCode::InvalidArgument, format!("{error}")).field("rights")
            })?,
        };
        let minted = self.access.guard().share(&self.access.principal(), &session, rights, ttl_ms)?;
        let (token, id, expires_ms) = (minted.token, minted.id.id().to_owned(), minted.expires_ms);
        Ok(wire::Shared { request, token, id, expires_ms })
    }

    pub(super) fn revoke(&mut self, revoke: wire::RevokeToken) {
        let wire::RevokeToken { request, token, id } = revoke;
        let (guard, principal) = (Arc::clone(self.access.guard()), self.access.principal());
        let management = self.access.managing(Operation::RevokeToken, "");
        self.answer_later(
            request,
            // Which token it is is known in the end.
            Management::default(),
            boxed(async move {
                let revoked = guard.revoke(&principal, &token, &id).await;
                let management = management.to(revoked.as_ref().map_or("", |token| token.id()));
                management.done(revoked.as_ref().map(drop));
                revoked?;
                Ok(Frame::Done(wire::Done { request }))
            }),
        );
    }
}
