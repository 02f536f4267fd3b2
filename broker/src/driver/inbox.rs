//! What a session was asked and has not been decided yet.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::queue::Receiver;
use crate::request::Request;

/// Requests that were taken off the queue ahead of their turn: what is decided together, before the store is looked after again.
const AHEAD_MAX: usize = 256;

/// See the top of this file. They come out in the order in which they were sent.
pub(super) struct Inbox {
    requests: Receiver<Request>,
    ahead: VecDeque<Request>,
}

impl Inbox {
    /// What comes through this queue.
    pub(super) fn new(requests: Receiver<Request>) -> Self {
        Self { requests, ahead: VecDeque::new() }
    }

    /// The next request; none when nobody can send any more.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Request>> {
        match self.ahead.pop_front() {
            Some(request) => Poll::Ready(Some(request)),
            None => self.requests.poll_recv(context),
        }
    }

    /// What has come by now, without taking it out.
    pub(super) fn look_ahead(&mut self) -> impl Iterator<Item = &Request> {
        let more = AHEAD_MAX.saturating_sub(self.ahead.len());
        self.requests.take_into(&mut self.ahead, more);
        self.ahead.iter()
    }

    /// The next request of those that were looked at.
    pub(super) fn next_ahead(&mut self) -> Option<Request> {
        self.ahead.pop_front()
    }

    /// Whether nothing has come that was not taken.
    pub(super) fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.requests.is_empty()
    }

    /// Lets nobody send any more. What was sent before still comes.
    pub(super) fn close(&mut self) {
        self.requests.close();
    }

    /// Takes out what has come.
    pub(super) fn try_next(&mut self) -> Option<Request> {
        drop(self.look_ahead());
        self.next_ahead()
    }

    /// Gives back the memory that a crowd took.
    pub(super) fn shrink(&mut self) {
        self.requests.shrink();
        if self.ahead.is_empty() {
            self.ahead = VecDeque::new();
        }
    }
}
