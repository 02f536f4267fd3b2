//! Where and whose a record is that is folded.

/// The record that is folded, apart from what it means.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its time, in Unix milliseconds.
    pub time_ms: u64,
    /// Its sender's principal.
    pub principal: &'a str,
    /// The agent that the sender acted as; empty when it was none.
    pub agent: &'a str,
    /// The generation of the agent's lease.
    pub generation: u64,
}
