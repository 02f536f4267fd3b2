//! How many files the process may open: every socket is one.

use longwire_broker::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside sockets: the store's, the log, and what is opened for a moment. Sockets never take these.
const OTHER_FILES: u64 = 256;

/// Raises what the process may open to what the system lets it, and lowers the numbers of sockets to what that has room for.
pub(crate) fn fit(config: Config) -> Config {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The lower limit is for programs that know no number above 1,023.
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the number of open files stays as it is");
            current
        }
    };
    let Some(allowed) = allowed else { return config };
    let fitted = within(config.clone(), allowed);
    if fitted != config {
        tracing::warn!(
            files_max = allowed,
            connections_max = fitted.connections_max,
            unauthenticated_max = fitted.unauthenticated_max,
            "the system lets this process open fewer files than the configuration needs, so there are fewer sockets: raise it \
             (`ulimit -Hn`, LimitNOFILE of systemd)"
        );
    }
    fitted
}

fn within(mut config: Config, allowed: u64) -> Config {
    let room = allowed.saturating_sub(OTHER_FILES);
    let wanted = (config.connections_max + config.unauthenticated_max) as u64;
    if wanted > room {
        // At least one of each: a broker that serves nobody would say nothing of why.
        let share = |count: usize| {
            usize::try_from(u128::from(room) * count as u128 / u128::from(wanted)).unwrap_or(count).max(1)
        };
        config.connections_max = share(config.connections_max);
        config.unauthenticated_max = share(config.unauthenticated_max);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_leave_files_to_the_store() {
        let sockets = |allowed| {
            let fitted = within(Config::default(), allowed);
            (fitted.connections_max, fitted.unauthenticated_max)
        };
        assert_eq!(sockets(20_000), (10_000, 2_000));
        assert_eq!(sockets(12_256), (10_000, 2_000));
        assert_eq!(sockets(1024), (640, 128));
        assert_eq!(sockets(10), (1, 1));
    }
}
