//! What a handler has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longwire_proto::input::Mode;
use longwire_proto::run_state::RunState;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ask::Ask;
use crate::error::PublishError;
use crate::lease::Lease;
use crate::message::StartMessage;
use crate::record::Record;
use crate::run::{Run, StartRun};
use crate::session::Session;
use crate::worker::WorkerError;
use crate::worker::inbox::Inbox;
use crate::worker::input::Input;

/// A session while it is served: shared by the handler and by what watches over it.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) lease: Lease,
    pub(crate) run: Run,
    pub(crate) resumed: bool,
    pub(crate) cancelled: CancellationToken,
    suspended: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Rung when an input has come.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    inbox: Inbox,
    /// Of the inputs that were taken: stopped by one that preempts them.
    stop: CancellationToken,
}

impl Active {
    pub(crate) fn new(lease: Lease, run: Run, resumed: bool) -> Self {
        let cancelled = CancellationToken::new();
        let waiting = Waiting { inbox: Inbox::default(), stop: cancelled.child_token() };
        let (waiting, suspended) = (Mutex::new(waiting), AtomicBool::new(false));
        Self { lease, run, resumed, cancelled, suspended, waiting, arrived: Notify::new() }
    }

    /// Whether the handler has given the lease up.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An input has come.
    pub(crate) fn push(&self, input: Record) {
        let mut waiting = self.waiting();
        if Mode::parse(&input.mode) == Some(Mode::Preempt) {
            std::mem::replace(&mut waiting.stop, self.cancelled.child_token()).cancel();
        }
        waiting.inbox.push(input);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// An input has ended.
    pub(crate) fn remove(&self, input: &str) {
        self.waiting().inbox.remove(input);
    }

    fn take(&self, pop: impl FnOnce(&mut Inbox) -> Option<Record>) -> Option<(Record, CancellationToken)> {
        let mut waiting = self.waiting();
        let record = pop(&mut waiting.inbox)?;
        Some((record, waiting.stop.clone()))
    }
}

/// What a handler has: the session, as the agent, and its inputs. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Context(pub(crate) Arc<Active>);

impl Context {
    /// The session. What is published, started and asked with this handle is the agent's.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.0.lease.session()
    }

    /// The run of this call of the handler.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.0.run
    }

    /// Whether the run was begun by a worker that did not come to its end: look at what it has done before doing it again.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.0.resumed
    }

    /// The next input, those that steer or preempt first; `None` when there is none. It is said that the agent has it.
    ///
    /// # Errors
    /// [`PublishError`]; with [`longwire_proto::error::ErrorCode::Fenced`] the lease has ended.
    pub async fn next_input(&self) -> Result<Option<Input>, PublishError> {
        self.hand_over(self.0.take(Inbox::pop)).await
    }

    /// The next input that steers or preempts, for who is in the middle of something; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::next_input`].
    pub async fn next_steering(&self) -> Result<Option<Input>, PublishError> {
        self.hand_over(self.0.take(Inbox::pop_urgent)).await
    }

    /// Waits for an input that steers or preempts, for who looks at other things meanwhile. Dropping the future loses nothing, except
    /// while the input is being handed over: then it is given again.
    ///
    /// # Errors
    /// As [`Self::next_input`].
    pub async fn steering(&self) -> Result<Input, PublishError> {
        loop {
            if let Some(input) = self.next_steering().await? {
                return Ok(input);
            }
            self.0.arrived.notified().await;
        }
    }

    async fn hand_over(
        &self,
        taken: Option<(Record, CancellationToken)>,
    ) -> Result<Option<Input>, PublishError> {
        let Some((record, stop)) = taken else { return Ok(None) };
        self.0.lease.delivered(&record.id).await?;
        Ok(Some(Input::new(record, Arc::clone(&self.0), stop)))
    }

    /// Cancelled when the run is: stop, say what there is to say, and return.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancelled
    }

    /// Gives the lease up until there is something to do, such as while an ask is open: the runs are suspended, and nobody holds the
    /// agent meanwhile. An answer to an ask of one of them, or an input, wakes the agent, here or in another worker: the handler is called
    /// again, with the same run. Return when this has come back: what is published with the lease afterwards is refused. An input that
    /// was taken and has not ended is given again, at once.
    ///
    /// # Errors
    /// [`WorkerError`]: the lease had ended before, or is still there; the handler goes on then, or fails.
    pub async fn suspend(&self) -> Result<(), WorkerError> {
        let Active { lease, suspended, .. } = &*self.0;
        let info = lease.session().describe().await?;
        let waits = |run: &str| info.asks.iter().any(|ask| ask.run == run);
        for run in &info.runs {
            let goes_on = RunState::parse(&run.state).is_some_and(|state| !state.has_ended());
            // A run that is suspended and waits for no answer would be gone on with at once.
            if goes_on && run.agent == lease.agent() && !waits(&run.id) {
                lease.session().run(&run.id).set_state(RunState::InputRequired, "").await?;
            }
        }
        suspended.store(true, Ordering::Release);
        let released = lease.clone().release().await;
        if released.is_err() {
            suspended.store(false, Ordering::Release);
        }
        Ok(released?)
    }

    /// A run that is a part of this one.
    pub fn start_run(&self, title: impl Into<String>) -> StartRun {
        self.0.run.start_run(title)
    }

    /// Begins a message that grows.
    pub fn open_message(&self, content_type: impl Into<String>) -> StartMessage {
        self.0.run.open_message(content_type)
    }

    /// Asks something; it is cancelled when the run ends.
    pub fn ask(&self, title: impl Into<String>) -> Ask {
        self.0.run.ask(title)
    }
}
