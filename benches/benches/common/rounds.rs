//! Several rounds of the same, one transport after the other in each, so that what else the machine does hits all of them alike.

use std::collections::BTreeMap;

use crate::common::from_env;
use crate::common::link::Transport;
use crate::common::quantile;

/// What was measured of each transport, a value a round.
pub(crate) struct Rounds {
    transports: Vec<Transport>,
    values: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

/// How often each is measured.
pub(crate) fn rounds() -> u64 {
    from_env("LONGWIRE_BENCH_ROUNDS", 5)
}

impl Rounds {
    /// Those that `LONGWIRE_BENCH_TRANSPORTS` names, such as `wss,quic`; without it all of them.
    pub(crate) fn new(all: &[Transport]) -> Self {
        let wanted = std::env::var("LONGWIRE_BENCH_TRANSPORTS").ok();
        let is_wanted = |transport: &Transport| {
            wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|name| name == transport.name()))
        };
        let transports = all.iter().copied().filter(is_wanted).collect();
        Self { transports, values: BTreeMap::new() }
    }

    /// Those of one round. Each round begins with another one.
    pub(crate) fn round(&self, round: u64) -> Vec<Transport> {
        let mut transports = self.transports.clone();
        let first = round as usize % transports.len();
        transports.rotate_left(first);
        transports
    }

    pub(crate) fn add(&mut self, what: &'static str, transport: Transport, value: f64) {
        println!("{} {what} {value:.2}", transport.name());
        self.values.entry((what, transport.name())).or_default().push(value);
    }

    fn median(&self, what: &'static str, transport: Transport) -> Option<f64> {
        let mut values = self.values.get(&(what, transport.name()))?.clone();
        values.sort_by(f64::total_cmp);
        Some(quantile(&values, 0.5))
    }

    /// Tells the medians and the ranges, and what the median is of that of another transport.
    pub(crate) fn tell(&self, of: Transport) {
        println!();
        for ((what, name), values) in &self.values {
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            let median = quantile(&values, 0.5);
            let (min, max) = (quantile(&values, 0.0), quantile(&values, 1.0));
            let base = self.median(what, of).filter(|base| *base > 0.0);
            let ratio =
                base.map(|base| format!(", {:.2} of {}", median / base, of.name())).unwrap_or_default();
            println!("COUNT {name}_{what}={median:.2} ({min:.2} to {max:.2}{ratio})");
        }
    }
}
