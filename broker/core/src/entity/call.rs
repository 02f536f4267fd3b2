//! What calls for an agent that nobody acts as.

use longwire_proto::run_state::RunState;

use crate::entity::view::View;

/// What an agent has to do while nobody holds its lease. Two that are equal are the same call, however much else happens in the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// The generation of the agent's last lease.
    pub generation: u64,
    /// The offset after its newest input; 0 when it has none.
    pub inputs_next: u64,
    /// How many of its runs are suspended and wait for no answer.
    pub runs: u64,
    /// The offset after the last record of these.
    pub runs_next: u64,
}

impl Call {
    /// The call for an agent; `None` when it has nothing to do, or somebody acts as it.
    #[must_use]
    pub fn of(view: &View, name: &str) -> Option<Self> {
        let agent = view.agents.get(name).filter(|agent| !view.is_live(agent))?;
        let inputs = view.inputs.values().filter(|input| *input.agent == *name);
        let inputs_next = inputs.map(|input| input.offset + 1).max().unwrap_or_default();
        let runs = view
            .runs
            .iter()
            .filter(|(id, run)| *run.agent == *name && run.state == RunState::Suspended && !view.waits(id));
        let (runs, runs_next) =
            runs.fold((0, 0), |(runs, next), (_, run)| (runs + 1, next.max(run.changed + 1)));
        let is_called = inputs_next > 0 || runs > 0;
        is_called.then_some(Self { generation: agent.generation, inputs_next, runs, runs_next })
    }
}
