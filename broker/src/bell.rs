//! Tells a task which of the things that it waits for have something. Asking all of them each time costs more than what comes often:
//! what comes rarely is asked when it has rung.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

#[derive(Debug)]
struct Rope {
    is_pulled: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_pulled.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// See the top of this file. It has rung when it is made: nobody knows yet what there is.
#[derive(Debug)]
pub(crate) struct Bell {
    rope: Arc<Rope>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { rope: Arc::new(Rope { is_pulled: AtomicBool::new(true), task: AtomicWaker::new() }) }
    }
}

impl Bell {
    /// Has the task ask at its next look.
    pub(crate) fn ring(&self) {
        self.rope.is_pulled.store(true, Ordering::Release);
    }

    /// Whether it has rung since the last answer: then whatever may ring it is to be asked, each with this waker. Who is told that it has
    /// not is woken when it does.
    pub(crate) fn answer(&self, context: &Context<'_>) -> Option<Waker> {
        // Before the look: what rings behind it wakes the task.
        self.rope.task.register(context.waker());
        let has_rung = self.rope.is_pulled.swap(false, Ordering::AcqRel);
        has_rung.then(|| Waker::from(Arc::clone(&self.rope)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_answered_once_each_time_that_it_rings() {
        let (bell, woken) = (Bell::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        let rope = bell.answer(&context).unwrap();
        assert!(bell.answer(&context).is_none());
        rope.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        // Whoever has it from before rings the same one.
        assert!(bell.answer(&context).is_some_and(|waker| waker.will_wake(&rope)));
        assert!(bell.answer(&context).is_none());
        bell.ring();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "who rings it by hand is awake");
        assert!(bell.answer(&context).is_some());
    }

    #[test]
    fn what_rings_before_anybody_waits_is_heard_by_the_next_look() {
        let bell = Bell::default();
        let noop = Context::from_waker(Waker::noop());
        let rope = bell.answer(&noop).unwrap();
        rope.wake();
        assert!(bell.answer(&noop).is_some());
    }
}
