//! A client that asks a session again and again, in every way there is, where it ends and what it has, and whose publishes
//! are often refused for good.

use std::sync::Arc;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::read::Place;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::history::{By, Invocation, Moment, Outcome, Page, moment};
use crate::support::rng::Rng;
use crate::support::traffic::{Traffic, Worked, position, records, values};
use crate::support::wire_client::WireClient;

/// Records of one page: a history keeps every one.
const PAGE_MAX: u64 = 16;

/// One connection. What it is asked answers `None` when it has ended.
struct Asker<'t> {
    traffic: &'t Traffic,
    index: usize,
    writer: Arc<str>,
    client: WireClient,
    known_end: u64,
}

/// Asks until the traffic is stopped.
pub(crate) async fn ask(traffic: Arc<Traffic>, index: usize, name: String, mut rng: Rng) {
    let writer: Arc<str> = name.into();
    // The one publish of its producer: everything else under that sequence is a conflict.
    let mut first: Option<(Invocation, bool)> = None;
    let mut known_end = 0;
    while !traffic.stopped() {
        let Some(client) = traffic.connect().await else { continue };
        let writer = Arc::clone(&writer);
        let mut asker = Asker { traffic: &traffic, index, writer, client, known_end };
        while !traffic.stopped() {
            let went_on = match rng.below(8) {
                0 => asker.describe().await,
                1 => asker.list().await,
                2 => asker.page(None, 1 + rng.below(PAGE_MAX)).await,
                3 => {
                    let before = position(rng.below(asker.known_end + 1));
                    asker.page(Some(Place::Before(before)), 1 + rng.below(PAGE_MAX)).await
                }
                4 | 5 => {
                    let after = position(asker.known_end.saturating_sub(rng.below(PAGE_MAX)));
                    asker.page(Some(Place::After(after)), PAGE_MAX).await
                }
                6 => {
                    let if_end = asker.known_end.saturating_sub(rng.below(2));
                    asker.publish_if_end(if_end).await
                }
                _ => asker.conflict(&mut first).await,
            };
            if went_on.is_none() {
                break;
            }
        }
        known_end = asker.known_end;
    }
}

impl Asker<'_> {
    fn worked(&self) -> &Worked {
        &self.traffic.sessions[self.index]
    }

    async fn request(&mut self, frame: ClientFrame) -> Option<ServerFrame> {
        self.client.send(frame).await;
        loop {
            match self.client.receive_any().await? {
                ServerFrame::Heartbeat(_) => {}
                ServerFrame::Goodbye(_) => return None,
                frame => return Some(frame),
            }
        }
    }

    fn saw(&mut self, by: By, began: Moment, end: u64, page: Option<Page>) {
        self.known_end = self.known_end.max(end);
        self.worked().recorder.look(by, began, end, page);
    }

    /// A session that is not there ends at 0; every other refusal may be repeated and tells nothing.
    fn refused(&mut self, by: By, began: Moment, refused: wire::Refused) {
        let error = refused.error.unwrap();
        match error.code.as_str() {
            "session_not_found" => self.saw(by, began, 0, None),
            _ => assert!(error.retryable, "{error:?}"),
        }
    }

    async fn describe(&mut self) -> Option<()> {
        let began = moment();
        let session = self.worked().session.clone();
        let describe = wire::DescribeSession { request: 1, session };
        match self.request(ClientFrame::DescribeSession(describe)).await? {
            ServerFrame::SessionDescription(described) => {
                self.saw(By::Describe, began, described.session.unwrap().end, None);
            }
            ServerFrame::Refused(refused) => self.refused(By::Describe, began, refused),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    async fn list(&mut self) -> Option<()> {
        let began = moment();
        match self.request(ClientFrame::ListSessions(wire::ListSessions::default())).await? {
            ServerFrame::SessionList(list) => {
                for Worked { session, recorder } in &self.traffic.sessions {
                    let listed = list.sessions.iter().find(|listed| listed.session == *session);
                    recorder.look(By::List, began, listed.map_or(0, |listed| listed.end), None);
                }
            }
            ServerFrame::Refused(refused) => self.refused(By::List, began, refused),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    async fn page(&mut self, place: Option<Place>, limit: u64) -> Option<()> {
        let began = moment();
        let session = self.worked().session.clone();
        let limit = u32::try_from(limit).unwrap();
        let read = wire::Read { request: 1, session, place, limit, ..Default::default() };
        match self.request(ClientFrame::Read(read)).await? {
            ServerFrame::Page(page) => {
                assert_eq!(page.outcome, "resumed", "{page:?}");
                let records = values(page.from, &page.records);
                let shown = Page { from: page.from, next: page.next, records };
                self.saw(By::Page, began, page.end, Some(shown));
            }
            ServerFrame::Refused(refused) => self.refused(By::Page, began, refused),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    /// Publishes unless somebody has published since; when it is refused it must not be there.
    async fn publish_if_end(&mut self, if_end: u64) -> Option<()> {
        let Worked { session, recorder } = self.worked().clone();
        let invocation = recorder.publish(&self.writer, 2);
        let began = moment();
        let publish = wire::Publish {
            request: 1,
            session,
            records: records(&invocation),
            if_end: Some(if_end),
            ..Default::default()
        };
        match self.request(ClientFrame::Publish(publish)).await? {
            ServerFrame::Published(ack) => {
                assert_eq!(ack.from, if_end);
                self.traffic.note(&recorder, &invocation, ack.from);
            }
            ServerFrame::Refused(refused) => {
                let error = refused.error.unwrap();
                if error.code == "end_mismatch" {
                    recorder.ended(&invocation, Outcome::Failed);
                    self.saw(By::Refusal, began, error.expected, None);
                } else {
                    assert!(error.retryable, "{error:?}");
                }
            }
            other => panic!("{other:?}"),
        }
        Some(())
    }

    /// Publishes under a sequence that has another payload already.
    async fn conflict(&mut self, first: &mut Option<(Invocation, bool)>) -> Option<()> {
        let Worked { session, recorder } = self.worked().clone();
        let known = first.as_ref().is_some_and(|(_, known)| *known);
        let invocation = match first {
            Some((invocation, false)) => invocation.clone(),
            // A writer of its own: it may be published after later ones, because it is repeated.
            _ => recorder.publish(&format!("{}-first", self.writer).into(), 1),
        };
        if first.is_none() {
            *first = Some((invocation.clone(), false));
        }
        let publish = wire::Publish {
            request: 1,
            session,
            records: records(&invocation),
            producer: Some(wire::Producer { id: self.writer.to_string(), epoch: 0, sequence: 0 }),
            ..Default::default()
        };
        match self.request(ClientFrame::Publish(publish)).await? {
            ServerFrame::Published(ack) => {
                self.traffic.note(&recorder, &invocation, ack.from);
                *first = Some((invocation, true));
            }
            ServerFrame::Refused(refused) => {
                let error = refused.error.unwrap();
                if error.code == "sequence_conflict" && known {
                    recorder.ended(&invocation, Outcome::Failed);
                } else {
                    assert!(error.retryable, "{error:?}");
                }
            }
            other => panic!("{other:?}"),
        }
        Some(())
    }
}
