//! The broker's log, on stderr, as `LONGWIRE_LOG` wants it.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Without the variable. What peers do wrong in HTTP/2 is no news, and must not fill the log.
const DEFAULT: &str = "info,h2=error";
/// What the names of our own parts begin with.
const OURS: &str = "longwire";

/// Starts it. One that was started before stays in use.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("LONGWIRE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    drop(tracing_subscriber::registry().with(filter).with(filter_fn(is_shown)).with(lines).try_init());
}

/// What others trace is every byte that comes and goes, tokens and records among them: no setting shows that.
fn is_shown(what: &Metadata<'_>) -> bool {
    *what.level() != Level::TRACE || what.target().starts_with(OURS)
}
