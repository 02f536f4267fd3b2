//! What is said on a connection first.

use std::time::Duration;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;

use crate::machine::io::Output;
use crate::machine::{Awaited, Link, Machine};

impl Machine {
    /// What is said first is what only reads, so that it can go with the first packets: of those nobody knows how often they arrive.
    pub(super) fn connect(&mut self, now: Duration) {
        let hello = wire::Hello {
            device: self.config.device.clone(),
            client: self.config.client.clone(),
            features: Vec::new(),
            token: self.tokens.hello(),
        };
        let mut greeting = vec![ClientFrame::Hello(hello)];
        greeting.extend(self.poll_subscribe(now));
        self.link = Link::Connecting(Vec::new());
        self.outputs.push_back(Output::Connect(greeting));
    }

    pub(super) fn leave(&mut self, now: Duration, number: u32) {
        // Its answer is of no interest.
        let request = self.next_request;
        self.next_request += 1;
        self.send(now, ClientFrame::Unsubscribe(wire::Unsubscribe { request, subscription: number }));
    }

    /// Everything that can be subscribed now.
    pub(super) fn poll_subscribe(&mut self, now: Duration) -> Option<ClientFrame> {
        let subscriptions = self.subscriptions.poll_subscribe(now);
        let numbers: Vec<u32> = subscriptions.iter().map(|subscription| subscription.subscription).collect();
        (!numbers.is_empty()).then(|| {
            let request = self.request(Awaited::Subscribe(numbers));
            ClientFrame::Subscribe(wire::Subscribe { request, subscriptions })
        })
    }
}
