//! The table of transports and scenarios: what came of each cell, for `scripts/test` to print.

use std::fs;
use std::future::Future;
use std::path::PathBuf;

use crate::every_transport::transport::Transport;

/// Below the folder of the build, a folder a scenario, and in it a file a transport.
const FOLDER: &str = "every-transport";

/// A cell that is being filled.
struct Cell(PathBuf);

impl Cell {
    /// Failed, until it is known better.
    fn begin(transport: &str, scenario: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(FOLDER).join(scenario);
        fs::create_dir_all(&folder).unwrap();
        let cell = Self(folder.join(transport));
        cell.write("FAILED");
        cell
    }

    fn write(&self, what: &str) {
        fs::write(&self.0, what).unwrap();
    }
}

/// Runs a scenario over a transport.
pub(super) async fn run<F: Future<Output = ()>>(
    name: &str,
    transport: Transport,
    scenario: &str,
    steps: impl FnOnce(Transport) -> F,
) {
    let cell = Cell::begin(name, scenario);
    steps(transport).await;
    cell.write("ok");
}
