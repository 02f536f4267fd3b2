//! Requests that take more than one question to one session. Each is answered by one frame; several are under way at once.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use longwire_core::command::Description;
use longwire_proto::codec::encode_server;
use longwire_proto::error::Error;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire::server_frame::Frame;
use longwire_proto::{raw, wire};

use crate::asks;
use crate::auth::operation::Operation;
use crate::backup;
use crate::connection::reply::{described, refused, session_list};
use crate::connection::witness::Management;
use crate::connection::{Connection, read};
use crate::cursor::{self, CursorName};
use crate::life::{erase, fork, import, progress};
use crate::listing::Listing;
use crate::message_bytes;
use crate::store::BackedUp;
use crate::transport::{FrameSink, FrameSource};

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    /// Answers a request with what a future comes to, while others go on.
    fn look_up(
        &mut self,
        request: u64,
        asks: Operation,
        session: &str,
        answer: impl FnOnce(SessionId) -> Answering,
    ) {
        match self.access.session(asks, session) {
            Ok(session) => {
                let management = self.access.managing(asks, session.as_str());
                self.answer_later(request, management, answer(session));
            }
            Err(error) => self.say(refused(request, 0, &error)),
        }
    }

    pub(super) fn answer_later(&mut self, request: u64, management: Management, answering: Answering) {
        let encoding = self.encoding;
        self.give_later(request, management, async move { Ok(encode_server(encoding, answering.await?)) });
    }

    /// The same, with what comes to a whole frame.
    fn give_later(
        &mut self,
        request: u64,
        management: Management,
        frame: impl Future<Output = Result<Bytes, Error>> + Send + 'static,
    ) {
        let (encoding, permit) = (self.encoding, self.access.begin_request(self.frame_bytes));
        self.lookups.push(Box::pin(async move {
            let frame = match &permit {
                Ok(_) => frame.await,
                Err(error) => Err(error.clone()),
            };
            management.done(frame.as_ref().map(drop));
            frame.unwrap_or_else(|error| encode_server(encoding, refused(request, 0, &error)))
        }));
    }

    pub(super) fn list(&mut self, list: wire::ListSessions) {
        let request = list.request;
        let (store, principal) = (Arc::clone(self.context.hub.store()), self.access.principal());
        match Listing::from_wire(list, Arc::clone(&self.context.page_tokens)) {
            Ok(listing) => {
                self.answer_later(
                    request,
                    Management::default(),
                    boxed(async move {
                        let page = listing.page(&*store, &principal).await?;
                        Ok(session_list(request, &page))
                    }),
                );
            }
            Err(error) => self.say(refused(request, 0, &error)),
        }
    }

    pub(super) fn read(&mut self, read: wire::Read) {
        let request = read.request;
        let session = match self.access.session(Operation::Read, &read.session) {
            Ok(session) => session,
            Err(error) => return self.say(refused(request, 0, &error)),
        };
        let after_requests = self.asked.values().any(|asked| asked.session == session);
        let (hub, encoding) = (Arc::clone(&self.context.hub), self.encoding);
        self.give_later(request, Management::default(), async move {
            read::page(&hub, encoding, session, read, after_requests).await
        });
    }

    pub(super) fn erase(&mut self, erase: wire::EraseRecords) {
        let (request, name) = (erase.request, erase.session.clone());
        let (hub, sender, clock) = (Arc::clone(&self.context.hub), self.access.sender(), self.context.clock);
        self.look_up(request, Operation::Erase, &name, |session| {
            boxed(async move {
                let records = erase::erase(&hub, sender, &session, erase).await?;
                let gone_by_ms = clock.now_ms() + hub.store().capabilities().erased_within_ms;
                Ok(Frame::Erased(wire::Erased { request, records, gone_by_ms }))
            })
        });
    }

    pub(super) fn fork(&mut self, fork: wire::ForkSession) {
        let (request, name) = (fork.request, fork.session.clone());
        if let Err(error) = self.access.session(Operation::ForkFrom, &fork.from_session) {
            return self.say(refused(request, 0, &error));
        }
        let (hub, sender) = (Arc::clone(&self.context.hub), self.access.sender());
        let meter = self.access.meter();
        self.look_up(request, Operation::ForkInto, &name, |session| {
            boxed(async move {
                meter.create_session()?;
                let description = fork::fork(&hub, sender, &session, fork).await?;
                Ok(description_frame(request, &session, description))
            })
        });
    }

    pub(super) fn import(&mut self, import: raw::ImportRecords) {
        let (request, name) = (import.request, import.session.clone());
        let (hub, sender) = (Arc::clone(&self.context.hub), self.access.sender());
        let meter = self.access.meter();
        self.look_up(request, Operation::Import, &name, |session| {
            boxed(async move {
                meter.publish(import.records.len(), import.records.iter().map(Bytes::len).sum())?;
                let begins = || meter.create_session();
                let import::Step { next, finished } =
                    import::step(&hub, sender, &session, import, begins).await?;
                let session = finished.map(|description| described(&session, description));
                Ok(Frame::Imported(wire::Imported { request, next, session }))
            })
        });
    }

    pub(super) fn commit_cursor(&mut self, commit: wire::CommitCursor) {
        let wire::CommitCursor { request, session, cursor, position } = commit;
        let (hub, principal) = (Arc::clone(&self.context.hub), self.access.sender().principal);
        self.look_up(request, Operation::CommitCursor, &session, |session| {
            boxed(async move {
                let cursor = CursorName::new(&principal, &cursor)?;
                cursor::commit(&hub, &cursor, &session, &position).await?;
                Ok(Frame::Done(wire::Done { request }))
            })
        });
    }

    pub(super) fn describe_cursor(&mut self, describe: wire::DescribeCursor) {
        let wire::DescribeCursor { request, session, cursor } = describe;
        let (hub, principal) = (Arc::clone(&self.context.hub), self.access.sender().principal);
        self.look_up(request, Operation::DescribeCursor, &session, |session| {
            boxed(async move {
                let cursor = CursorName::new(&principal, &cursor)?;
                let log = progress(&hub, &session).await?.log;
                let position = cursor::position(&**hub.store(), &cursor, log).await?;
                let position = position.map(|position| position.to_string()).unwrap_or_default();
                Ok(Frame::CursorDescription(wire::CursorDescription { request, position }))
            })
        });
    }

    pub(super) fn describe_ask(&mut self, describe: wire::DescribeAsk) {
        let wire::DescribeAsk { request, session, ask } = describe;
        let hub = Arc::clone(&self.context.hub);
        self.look_up(request, Operation::DescribeAsk, &session, |session| {
            boxed(async move {
                let (offset, resolved) = asks::describe(&hub, &session, ask).await?;
                let resolved = resolved.map(|resolved| resolved.to_wire());
                Ok(Frame::AskDescription(wire::AskDescription { request, offset, resolved }))
            })
        });
    }

    pub(super) fn read_message(&mut self, read: wire::ReadMessage) {
        let (hub, request, session) = (Arc::clone(&self.context.hub), read.request, read.session.clone());
        self.look_up(request, Operation::ReadMessage, &session, |session| {
            boxed(async move { Ok(Frame::MessageBytes(message_bytes::read(&hub, session, read).await?)) })
        });
    }

    pub(super) fn back_up(&mut self, back_up: wire::BackUp) {
        let wire::BackUp { request, name } = back_up;
        if let Err(error) = self.access.everything(Operation::BackUp) {
            return self.say(refused(request, 0, &error));
        }
        let (hub, folder) = (Arc::clone(&self.context.hub), self.context.backups.clone());
        let management = self.access.managing(Operation::BackUp, "").to(&name);
        self.answer_later(
            request,
            management,
            boxed(async move {
                let backup = backup::back_up(hub.store(), folder, &name).await?;
                let BackedUp { folder, sessions, records, bytes } = backup;
                let folder = folder.display().to_string();
                Ok(Frame::BackedUp(wire::BackedUp { request, folder, sessions, records, bytes }))
            }),
        );
    }
}

/// What becomes the answer to a request.
pub(super) type Answering = std::pin::Pin<Box<dyn Future<Output = Result<Frame, Error>> + Send>>;

pub(super) fn boxed(future: impl Future<Output = Result<Frame, Error>> + Send + 'static) -> Answering {
    Box::pin(future)
}

fn description_frame(request: u64, session: &SessionId, description: Description) -> Frame {
    let session = Some(described(session, description));
    Frame::SessionDescription(wire::SessionDescription { request, session })
}
