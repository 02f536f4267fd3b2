//! A bounded queue with many senders and one receiver that takes memory for what waits in it. Most queues of a broker are empty at
//! any moment, and one that is made of blocks has room for some dozens from its first message on.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{Semaphore, TryAcquireError};

/// Why something was not sent. It is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Unsent<T> {
    /// There is no room.
    Full(T),
    /// Nobody receives any more.
    Closed(T),
}

impl<T> Unsent<T> {
    /// What was not sent.
    #[must_use]
    pub fn into_inner(self) -> T {
        let (Self::Full(item) | Self::Closed(item)) = self;
        item
    }
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<T>,
    receiver: Option<Waker>,
    /// Counts what was ever sent.
    sent: u64,
    /// Nothing comes any more: the receiver takes nothing in, or no sender is left.
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    /// Places that are free. Closed when nothing is taken in any more; who waits for a place has it in the order of asking.
    room: Semaphore,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing panics while it is held; were that to change, what waits is still whole between statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Option<Waker> {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.receiver.take()
    }

    /// Puts it in, for which there is a place.
    fn put(&self, item: T) -> Result<(), T> {
        let receiver = {
            let mut waiting = self.waiting();
            // It was closed after the place was given: nobody may look into the queue any more.
            if waiting.closed {
                return Err(item);
            }
            if waiting.items.capacity() == 0 {
                // Room for one: the next to come to most sessions comes when this one is done.
                waiting.items.reserve_exact(1);
            }
            waiting.items.push_back(item);
            waiting.sent += 1;
            waiting.receiver.take()
        };
        receiver.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

/// What all senders hold together: with the last of them it ends.
#[derive(Debug)]
struct Senders<T>(Arc<Shared<T>>);

impl<T> Drop for Senders<T> {
    fn drop(&mut self) {
        self.0.close().into_iter().for_each(Waker::wake);
    }
}

/// Sends.
#[derive(Debug)]
pub struct Sender<T>(Arc<Senders<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    /// Sends when there is room.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn try_send(&self, item: T) -> Result<(), Unsent<T>> {
        let shared = &self.0.0;
        match shared.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(TryAcquireError::NoPermits) => return Err(Unsent::Full(item)),
            Err(TryAcquireError::Closed) => return Err(Unsent::Closed(item)),
        }
        shared.put(item).map_err(Unsent::Closed)
    }

    /// Sends, waiting for room.
    ///
    /// # Errors
    /// What was to be sent, when nobody receives any more.
    pub async fn send(&self, item: T) -> Result<(), T> {
        let shared = &self.0.0;
        match shared.room.acquire().await {
            Ok(place) => place.forget(),
            Err(_) => return Err(item),
        }
        shared.put(item)
    }

    /// How many were ever sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.0.waiting().sent
    }
}

/// Receives.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next one; none when nothing comes any more.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut waiting = self.0.waiting();
        if let Some(item) = waiting.items.pop_front() {
            drop(waiting);
            self.0.room.add_permits(1);
            return Poll::Ready(Some(item));
        }
        if waiting.closed {
            return Poll::Ready(None);
        }
        if !waiting.receiver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            waiting.receiver = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the next one; none when nothing comes any more.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Whether nothing has come that was not taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.waiting().items.is_empty()
    }

    /// Moves what has come, at most so many, behind what is there already.
    pub fn take_into(&mut self, taken: &mut VecDeque<T>, most: usize) {
        let mut waiting = self.0.waiting();
        let count = most.min(waiting.items.len());
        if taken.is_empty() && count == waiting.items.len() {
            std::mem::swap(taken, &mut waiting.items);
        } else {
            taken.extend(waiting.items.drain(..count));
        }
        drop(waiting);
        self.0.room.add_permits(count);
    }

    /// Takes nothing in any more. What was sent before still comes.
    pub fn close(&mut self) {
        self.0.close();
        self.0.room.close();
    }

    /// Gives back the memory that a crowd took, when nothing waits.
    pub fn shrink(&mut self) {
        let mut waiting = self.0.waiting();
        if waiting.items.is_empty() {
            waiting.items = VecDeque::new();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        let left = std::mem::take(&mut self.0.waiting().items);
        // Outside the lock: what is dropped may send somewhere.
        drop(left);
    }
}

/// A queue with so many places.
#[must_use]
pub fn queue<T>(places: usize) -> (Sender<T>, Receiver<T>) {
    let waiting = Waiting { items: VecDeque::new(), receiver: None, sent: 0, closed: false };
    let shared = Arc::new(Shared { waiting: Mutex::new(waiting), room: Semaphore::new(places) });
    (Sender(Arc::new(Senders(Arc::clone(&shared)))), Receiver(shared))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn what_is_sent_comes_in_order_until_no_sender_is_left() {
        let (sender, mut receiver) = queue(3);
        let second = sender.clone();
        assert!(receiver.recv().now_or_never().is_none());
        for number in 0..3 {
            sender.try_send(number).unwrap();
        }
        assert_eq!(second.try_send(3), Err(Unsent::Full(3)));
        assert_eq!(receiver.recv().await, Some(0));
        second.try_send(4).unwrap();
        assert_eq!(second.sent(), 4);
        drop(sender);
        let mut taken = VecDeque::new();
        receiver.take_into(&mut taken, 2);
        assert_eq!(taken, [1, 2]);
        assert_eq!(receiver.recv().await, Some(4));
        assert!(receiver.recv().now_or_never().is_none());
        let ended = tokio::spawn(async move { receiver.recv().await });
        tokio::task::yield_now().await;
        drop(second);
        assert_eq!(ended.await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_was_sent_before_the_close_still_comes_and_the_rest_is_given_back() {
        let (sender, mut receiver) = queue(1);
        sender.try_send("first").unwrap();
        let waits = sender.clone();
        let waiting = tokio::spawn(async move { waits.send("waits").await });
        tokio::task::yield_now().await;
        receiver.close();
        assert_eq!(waiting.await.unwrap(), Err("waits"));
        assert_eq!(sender.try_send("late"), Err(Unsent::Closed("late")));
        assert_eq!(receiver.recv().await, Some("first"));
        assert_eq!(receiver.recv().await, None);
        drop(receiver);
        assert_eq!(sender.send("later").await, Err("later"));
    }

    #[tokio::test]
    async fn who_waits_for_room_is_served_in_turn_and_who_gives_up_takes_no_place() {
        let (sender, mut receiver) = queue(1);
        sender.try_send(0).unwrap();
        let mut gives_up = Box::pin(sender.send(1));
        assert!(gives_up.as_mut().now_or_never().is_none());
        let mut waits = Box::pin(sender.send(2));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(gives_up);
        assert_eq!(receiver.recv().await, Some(0));
        assert_eq!(sender.try_send(3), Err(Unsent::Full(3)), "the place is of who waits");
        assert_eq!(waits.await, Ok(()));
        assert_eq!(receiver.recv().await, Some(2));
        sender.try_send(4).unwrap();
    }

    #[tokio::test]
    async fn an_empty_one_keeps_no_memory_when_it_is_told() {
        let (sender, mut receiver) = queue(100);
        assert_eq!(receiver.0.waiting().items.capacity(), 0);
        (0..100).for_each(|number| sender.try_send(number).unwrap());
        receiver.shrink();
        let mut taken = VecDeque::new();
        receiver.take_into(&mut taken, 1000);
        assert_eq!(taken.len(), 100, "what waits is not lost");
        (0..100).for_each(|number| sender.try_send(number).unwrap());
        while receiver.recv().now_or_never().is_some() {}
        assert!(receiver.0.waiting().items.capacity() >= 100);
        receiver.shrink();
        assert_eq!(receiver.0.waiting().items.capacity(), 0);
        (0..100).for_each(|number| sender.try_send(number).unwrap());
        assert_eq!(sender.try_send(100), Err(Unsent::Full(100)));
    }

    /// Whoever is told that it was sent has it received, whenever the receiver closes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_is_lost_between_a_close_and_those_who_send() {
        for places in [1, 2, 100] {
            for stop_at in [0, 1, 50] {
                let (sender, mut receiver) = queue(places);
                let told = Arc::new(AtomicUsize::new(0));
                let mut sending = JoinSet::new();
                for _ in 0..4 {
                    let (sender, told) = (sender.clone(), Arc::clone(&told));
                    sending.spawn(async move {
                        loop {
                            let tried = sender.try_send(());
                            let sent = tried.is_ok() || sender.send(()).await.is_ok();
                            if !sent {
                                break;
                            }
                            told.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                let mut received = 0;
                for _ in 0..stop_at {
                    received += usize::from(receiver.recv().await.is_some());
                }
                receiver.close();
                sending.join_all().await;
                while receiver.recv().await.is_some() {
                    received += 1;
                }
                assert_eq!(received, told.load(Ordering::Relaxed), "{places} places, closed at {stop_at}");
            }
        }
    }
}
