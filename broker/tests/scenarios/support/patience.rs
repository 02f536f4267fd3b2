//! What docs/protocol.md tells clients to do about answers that say "try again", for the client that speaks frames: in a
//! run with a hostile store any request can be refused for now, and any subscription can end for now.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::requests::{answered, request_mut};

/// What is waited where the broker does not say how long.
const PAUSE: Duration = Duration::from_millis(5);

/// Makes the ids of producers differ.
static PUBLISHES: AtomicU64 = AtomicU64::new(0);

/// What a client remembers so that it can try again.
#[derive(Default)]
pub(crate) struct Patience {
    requests: Vec<Open>,
    subscriptions: HashMap<u32, Subscribed>,
}

/// A request without an answer that is one.
struct Open {
    request: u64,
    frame: ClientFrame,
    /// It was refused for now, and is sent again when nothing of its session before it can come any more.
    refused: bool,
}

struct Subscribed {
    request: u64,
    wish: wire::Subscription,
    /// It has ended for now; the answer to subscribing again is nobody's.
    resumes: bool,
}

/// What follows from a frame.
#[derive(Default)]
pub(crate) struct Received {
    /// What is for the test.
    pub(crate) frame: Option<ServerFrame>,
    /// What is sent after a while.
    pub(crate) again: Vec<ClientFrame>,
    pub(crate) after: Duration,
}

impl Patience {
    /// Takes note of a frame that is about to be sent, and gives it back. A publish that may have to be repeated has a
    /// producer.
    pub(crate) fn sending(&mut self, mut frame: ClientFrame) -> ClientFrame {
        if let ClientFrame::Publish(publish) = &mut frame
            && publish.producer.is_none()
        {
            let id = format!("patient-{}", PUBLISHES.fetch_add(1, Ordering::Relaxed));
            let id = format!("{id}-{}", std::process::id());
            publish.producer = Some(wire::Producer { id, epoch: 0, sequence: 0 });
        }
        match &frame {
            ClientFrame::Subscribe(subscribe) => {
                for wish in subscribe.subscriptions.iter().cloned() {
                    let subscribed = Subscribed { request: subscribe.request, wish, resumes: false };
                    self.subscriptions.insert(subscribed.wish.subscription, subscribed);
                }
            }
            _ => {
                if let Some(request) = request_mut(&mut frame).map(|request| *request) {
                    self.requests.push(Open { request, frame: frame.clone(), refused: false });
                }
            }
        }
        frame
    }

    /// Looks at a frame that came.
    pub(crate) fn received(&mut self, frame: ServerFrame) -> Received {
        match &frame {
            ServerFrame::Refused(refused) if refused.subscription != 0 => self.not_subscribed(frame),
            ServerFrame::Refused(refused) => {
                let refused = refused.clone();
                self.refused(frame, &refused)
            }
            ServerFrame::Subscribed(subscribed) if subscribed.request != 0 => {
                let known = self.subscriptions.get_mut(&subscribed.subscription);
                let resumed = known.is_some_and(|known| std::mem::take(&mut known.resumes));
                Received { frame: (!resumed).then_some(frame), ..Received::default() }
            }
            ServerFrame::SubscriptionEnded(ended) if ended.session.is_empty() => {
                let ended = ended.clone();
                self.ended(frame, &ended)
            }
            answer => {
                let mut again = Vec::new();
                if let Some(place) = answered(answer).and_then(|request| self.place(request)) {
                    let open = self.requests.remove(place);
                    again = self.due(&open.frame);
                }
                Received { frame: Some(frame), again, after: PAUSE }
            }
        }
    }

    fn place(&self, request: u64) -> Option<usize> {
        self.requests.iter().position(|open| open.request == request && !open.refused)
    }

    fn refused(&mut self, frame: ServerFrame, refused: &wire::Refused) -> Received {
        let error = refused.error.clone().unwrap_or_default();
        let Some(place) = self.place(refused.request) else {
            return Received { frame: Some(frame), ..Received::default() };
        };
        let sent = self.requests[place].frame.clone();
        let earlier =
            self.requests[..place].iter().any(|open| open.refused && same_producer(&open.frame, &sent));
        // After `draining` comes the goodbye; there is nothing to wait for.
        let for_now = error.retryable && error.code != "draining";
        if for_now || (error.code == "sequence_gap" && earlier) {
            self.requests[place].refused = true;
            let after = Duration::from_millis(error.retry_after_ms).max(PAUSE);
            return Received { frame: None, again: self.due(&sent), after };
        }
        self.requests.remove(place);
        Received { frame: Some(frame), again: self.due(&sent), after: PAUSE }
    }

    /// What is to be sent again: publishes of a session when all of them are answered, from the lowest on; anything else
    /// at once.
    fn due(&mut self, beside: &ClientFrame) -> Vec<ClientFrame> {
        let session = publish_of(beside).map(|publish| publish.session.clone());
        let is_one =
            |open: &Open| publish_of(&open.frame).map(|publish| &publish.session) == session.as_ref();
        if session.is_some() && self.requests.iter().any(|open| is_one(open) && !open.refused) {
            return Vec::new();
        }
        let due = self.requests.iter_mut().filter(|open| is_one(open) && open.refused);
        due.map(|open| {
            open.refused = false;
            open.frame.clone()
        })
        .collect()
    }

    fn not_subscribed(&mut self, frame: ServerFrame) -> Received {
        let ServerFrame::Refused(refused) = &frame else { return Received::default() };
        let error = refused.error.clone().unwrap_or_default();
        let known = self.subscriptions.get(&refused.subscription);
        match known.filter(|known| known.request == refused.request && error.retryable) {
            Some(known) => {
                let after = Duration::from_millis(error.retry_after_ms).max(PAUSE);
                Received { frame: None, again: vec![subscribe(known)], after }
            }
            None => Received { frame: Some(frame), ..Received::default() },
        }
    }

    fn ended(&mut self, frame: ServerFrame, ended: &wire::SubscriptionEnded) -> Received {
        let error = ended.error.clone().unwrap_or_default();
        let known = self.subscriptions.get_mut(&ended.subscription);
        match known.filter(|_| error.retryable && error.code != "draining") {
            Some(known) => {
                let position = format!("{:016}_{:016}", ended.epoch, ended.next);
                known.wish.from = Some(wire::From { from: Some(From::Position(position)) });
                known.resumes = true;
                let after = Duration::from_millis(error.retry_after_ms).max(PAUSE);
                Received { frame: None, again: vec![subscribe(known)], after }
            }
            None => Received { frame: Some(frame), ..Received::default() },
        }
    }
}

fn subscribe(subscribed: &Subscribed) -> ClientFrame {
    let Subscribed { request, wish, .. } = subscribed;
    ClientFrame::Subscribe(wire::Subscribe { request: *request, subscriptions: vec![wish.clone()] })
}

fn publish_of(frame: &ClientFrame) -> Option<&wire::Publish> {
    match frame {
        ClientFrame::Publish(publish) => Some(publish),
        _ => None,
    }
}

fn same_producer(one: &ClientFrame, other: &ClientFrame) -> bool {
    let producer = |frame| {
        let publish = publish_of(frame)?;
        Some((publish.session.as_str(), publish.producer.as_ref()?.id.as_str()))
    };
    producer(one).is_some() && producer(one) == producer(other)
}
