//! The broker of the model: logs, producers, readers and tokens, and answers that it may give wrong.

use std::collections::{BTreeMap, VecDeque};

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use super::RECORD_BYTES;
use crate::machine::outbox::Slot;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Trouble {
    Overloaded,
    UnknownApplied,
    UnknownNotApplied,
    Invalid,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) records: Vec<String>,
    pub(super) producers: BTreeMap<String, (u64, Vec<Made>)>,
}

/// A publish's payload and its first offset.
pub(super) type Made = (Vec<String>, u64);

pub(super) struct Reader {
    pub(super) session: String,
    pub(super) next: u64,
    pub(super) consumed: u64,
    pub(super) window: u64,
}

#[derive(Default)]
pub(super) struct Broker {
    pub(super) logs: BTreeMap<String, Log>,
    pub(super) readers: BTreeMap<u32, Reader>,
    pub(super) troubles: VecDeque<Trouble>,
    /// Texts of publishes that were refused for good.
    pub(super) refused: Vec<String>,
    pub(super) answers: VecDeque<ServerFrame>,
    pub(super) now_ms: u64,
    /// When each token expires; the index is its number.
    pub(super) tokens: Vec<u64>,
    /// Lower ones are revoked.
    pub(super) revoked_below: usize,
    pub(super) refuse_refresh: bool,
    /// The token of the connection, from its hello on.
    pub(super) token: Option<usize>,
    /// It said goodbye: nothing more is read.
    pub(super) gone: bool,
    pub(super) refreshed: usize,
    pub(super) expired: usize,
}

impl Broker {
    pub(super) fn refuse(&mut self, request: u64, code: ErrorCode, expected: u64) {
        let error = Some(Error::new(code, "no").expected(expected).to_wire());
        self.answers.push_back(ServerFrame::Refused(wire::Refused { request, subscription: 0, error }));
    }

    pub(super) fn publish(&mut self, request: u64, session: &str, records: Vec<String>, slot: &Slot) {
        let trouble = self.troubles.pop_front();
        match trouble {
            Some(Trouble::Overloaded) => return self.refuse(request, ErrorCode::Overloaded, 0),
            Some(Trouble::UnknownNotApplied) => return self.refuse(request, ErrorCode::OutcomeUnknown, 0),
            _ => {}
        }
        let log = self.logs.entry(session.to_owned()).or_default();
        let known = log.producers.get(&slot.producer);
        let (epoch, taken) =
            known.map_or((slot.epoch, 0), |(epoch, publishes)| (*epoch, publishes.len() as u64));
        if slot.epoch < epoch {
            return self.refuse(request, ErrorCode::ProducerFenced, epoch);
        }
        let taken = if slot.epoch > epoch { 0 } else { taken };
        if slot.sequence > taken {
            let code = if known.is_none() { ErrorCode::ProducerUnknown } else { ErrorCode::SequenceGap };
            return self.refuse(request, code, taken);
        }
        if slot.sequence < taken {
            let (payload, from) = log.producers[&slot.producer].1[slot.sequence as usize].clone();
            assert_eq!(payload, records, "a sequence was given to another publish");
            let next = from + records.len() as u64;
            let answer = wire::Published { request, epoch: 0, from, next, duplicate: true };
            return self.answers.push_back(ServerFrame::Published(answer));
        }
        // What is invalid once is invalid for ever.
        if trouble == Some(Trouble::Invalid) || self.refused.contains(&records[0]) {
            self.refused.extend(records);
            return self.refuse(request, ErrorCode::InvalidRecord, 0);
        }
        let from = log.records.len() as u64;
        log.records.extend(records.clone());
        let producer = log.producers.entry(slot.producer.clone()).or_default();
        if producer.0 != slot.epoch {
            *producer = (slot.epoch, Vec::new());
        }
        producer.1.push((records, from));
        if trouble == Some(Trouble::UnknownApplied) {
            return self.refuse(request, ErrorCode::OutcomeUnknown, 0);
        }
        let next = log.records.len() as u64;
        self.answers.push_back(ServerFrame::Published(wire::Published {
            request,
            epoch: 0,
            from,
            next,
            duplicate: false,
        }));
    }

    /// Whether the token is good: its number, or why not.
    pub(super) fn admit(&self, token: &str) -> Result<usize, ErrorCode> {
        let number: usize = token.strip_prefix("token ").expect("a hello without a token").parse().unwrap();
        match self.tokens[number] {
            _ if number < self.revoked_below => Err(ErrorCode::TokenRevoked),
            expires_ms if expires_ms <= self.now_ms => Err(ErrorCode::TokenExpired),
            _ => Ok(number),
        }
    }

    pub(super) fn goodbye(&mut self, code: ErrorCode) {
        self.gone = true;
        self.expired += usize::from(code == ErrorCode::TokenExpired);
        let goodbye = wire::Goodbye { error: Some(Error::new(code, "bye").to_wire()), reconnect_after_ms: 0 };
        self.answers.push_back(ServerFrame::Goodbye(goodbye));
    }

    /// Ends the connection when its token is good no more; says whether it goes on.
    pub(super) fn check(&mut self) -> bool {
        if let Some(number) = self.token.filter(|_| !self.gone)
            && let Err(code) = self.admit(&format!("token {number}"))
        {
            self.goodbye(code);
        }
        !self.gone
    }

    pub(super) fn frame(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello(hello) => match self.admit(&hello.token) {
                Ok(number) => {
                    assert_eq!(self.token.replace(number), None, "a second hello");
                    let expires_ms = self.tokens[number];
                    let welcome = wire::Welcome {
                        heartbeat_ms: 1000,
                        idle_timeout_ms: 4000,
                        expires_ms,
                        ..Default::default()
                    };
                    self.answers.push_back(ServerFrame::Welcome(welcome));
                }
                Err(code) => self.goodbye(code),
            },
            ClientFrame::Authenticate(wire::Authenticate { request, token }) => match self.admit(&token) {
                _ if std::mem::take(&mut self.refuse_refresh) => {
                    self.refuse(request, ErrorCode::Forbidden, 0)
                }
                Ok(number) => {
                    assert!(self.token < Some(number), "no newer one");
                    self.token = Some(number);
                    self.refreshed += 1;
                    let expires_ms = self.tokens[number];
                    let answer = wire::Authenticated { request, expires_ms, ..Default::default() };
                    self.answers.push_back(ServerFrame::Authenticated(answer));
                }
                Err(code) => self.refuse(request, code, 0),
            },
            ClientFrame::Ping(_) => {
                self.answers.push_back(ServerFrame::Pong(wire::Pong { token: 0, time_ms: self.now_ms }));
            }
            ClientFrame::Subscribe(subscribe) => {
                for subscription in subscribe.subscriptions {
                    self.subscribe(subscribe.request, subscription);
                }
            }
            ClientFrame::Credit(credit) => {
                let reader = self.readers.get_mut(&credit.subscription).unwrap();
                assert!(credit.consumed_through <= reader.next);
                reader.consumed = reader.consumed.max(credit.consumed_through);
            }
            ClientFrame::Unsubscribe(_) => {}
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn subscribe(&mut self, request: u64, wanted: wire::Subscription) {
        let log = self.logs.get(&wanted.session);
        let end = log.map_or(0, |log| log.records.len() as u64);
        let from = match wanted.from.unwrap().from.unwrap() {
            wire::from::From::Start(_) => 0,
            wire::from::From::Position(position) => position.parse::<Position>().unwrap().offset,
            other => panic!("{other:?}"),
        };
        assert!(from <= end, "a position from the future");
        let reader = Reader {
            session: wanted.session.clone(),
            next: from,
            consumed: from,
            window: wanted.window_bytes.unwrap(),
        };
        self.readers.insert(wanted.subscription, reader);
        self.answers.push_back(ServerFrame::Subscribed(wire::Subscribed {
            request,
            subscription: wanted.subscription,
            session: wanted.session.clone(),
            exists: log.is_some(),
            end,
            outcome: "resumed".into(),
            from,
            ..Default::default()
        }));
    }

    pub(super) fn deliver(&mut self, number: u32, records: usize) -> bool {
        let Some(reader) = self.readers.get_mut(&number) else { return false };
        let Some(log) = self.logs.get(&reader.session) else { return false };
        let free =
            reader.window.saturating_sub((reader.next - reader.consumed) * RECORD_BYTES) / RECORD_BYTES;
        let left = log.records.len() - reader.next as usize;
        let count = records.min(left).min(free as usize);
        if count == 0 {
            return false;
        }
        let from = reader.next as usize;
        let records = log.records[from..from + count].iter().map(|text| wire::Record {
            body: Some(wire::record::Body::Text(text.clone())),
            ..Default::default()
        });
        reader.next += count as u64;
        self.answers.push_back(ServerFrame::Delivery(wire::Delivery {
            subscription: number,
            epoch: 0,
            from: from as u64,
            next: reader.next,
            records: records.collect(),
            offsets: Vec::new(),
            session: String::new(),
        }));
        true
    }
}
