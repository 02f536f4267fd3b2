//! How many connections there are.

/// A connection that is counted while it is served, also when whoever serves it drops it in the middle.
pub(super) struct Counted;

impl Counted {
    pub(super) fn begin() -> Self {
        metrics::gauge!("longwire_connections").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("longwire_connections").decrement(1.0);
    }
}
