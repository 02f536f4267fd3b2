//! The command as an agent of its session: it holds the lease, has a run, and is told what others want of it. Nothing of this keeps
//! the command waiting, and what the command says is recorded without it.

mod desk;
mod obstacle;

use std::time::Duration;

use longwire::{Client, Record, Session};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::run::agent::desk::Desk;
use crate::cli::run::ending::Outcome;
use crate::cli::run::trace::Trace;

/// Inputs that wait until the command reads them; more are refused. As many as a session has.
const INPUTS_MAX: usize = longwire_proto::limits::INPUTS_OPEN_MAX;

/// What the agent is to be.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// Its name; a free one is found when there is none.
    pub(crate) name: Option<String>,
    /// After so long without a connection somebody else may be it.
    pub(crate) ttl: Option<Duration>,
    /// The id of the run.
    pub(crate) run: String,
    /// The run's title.
    pub(crate) title: String,
    /// The run that it is a part of; none, or that of the `longwire run` around this one.
    pub(crate) parent: Option<String>,
    /// Whether the command is given input.
    pub(crate) takes_input: bool,
    /// The trace that the run is a part of.
    pub(crate) trace: Trace,
}

/// Input on its way to the command.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// What is to be written.
    pub(crate) given: mpsc::Receiver<Record>,
    /// The ids of what was.
    pub(crate) written: mpsc::Sender<String>,
}

/// The agent, at work in a task of its own. Dropping it stops that, and ends nothing.
#[derive(Debug)]
pub(crate) struct Agent {
    /// When the command is to be killed, once somebody has cancelled its run.
    pub(crate) cancel: watch::Receiver<Option<Instant>>,
    outcome: oneshot::Sender<Outcome>,
    task: JoinSet<()>,
}

impl Agent {
    /// Begins, with a client of its own: what is said as the agent must not outlive its lease in the outbox file.
    pub(crate) fn start(client: Client, session: Session, role: Role) -> (Self, Inputs) {
        let (given_to, given) = mpsc::channel(INPUTS_MAX);
        let (written, written_in) = mpsc::channel(INPUTS_MAX);
        let (cancel, cancelled) = watch::channel(None);
        let (outcome, over) = oneshot::channel();
        let desk = Desk::new(client, session, role, cancel, given_to, written_in);
        let mut task = JoinSet::new();
        task.spawn(desk.work(Over { outcome: over, came: None }));
        (Self { cancel: cancelled, outcome, task }, Inputs { given, written })
    }

    /// The command has ended, and the broker has what it said: ends the run and gives the lease up.
    pub(crate) async fn end(mut self, outcome: Outcome) {
        // Fails when there is no run any more.
        let _ = self.outcome.send(outcome);
        drop(self.task.join_next().await);
    }
}

/// That the command has ended.
#[derive(Debug)]
struct Over {
    outcome: oneshot::Receiver<Outcome>,
    came: Option<Outcome>,
}

impl Over {
    async fn wait(&mut self) -> Outcome {
        if let Some(came) = self.came {
            return came;
        }
        match (&mut self.outcome).await {
            Ok(outcome) => *self.came.insert(outcome),
            // Whoever would say it is gone, and this is about to be.
            Err(_) => std::future::pending().await,
        }
    }
}
