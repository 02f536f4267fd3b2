//! The conformance suite over the engine, with small and with real limits.

use std::time::Duration;

use crate::store::conformance;
use crate::store::local::LocalStore;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::FaultyDisk;

/// Settles at once, so that reads come from the database.
fn eager() -> Tuning {
    Tuning { settle_age: Duration::ZERO, segment_bytes: 1 << 20, ballast_bytes: 4096, ..Tuning::default() }
}

/// Settles only when asked or when snapshots wait, so that reads come from memory.
fn lazy() -> Tuning {
    Tuning {
        settle_age: Duration::from_millis(200),
        segment_bytes: 1 << 20,
        ballast_bytes: 4096,
        ..Tuning::default()
    }
}

mod settled {
    use super::*;
    conformance::suite!(async || (FaultyDisk::new().store(eager()), ()));
}

mod in_memory {
    use super::*;
    conformance::suite!(async || (FaultyDisk::new().store(lazy()), ()));
}

mod evicting {
    use super::*;
    conformance::suite!(async || (FaultyDisk::new().store(Tuning { logs_max: 8, ..eager() }), ()));
}

mod on_disk {
    use super::*;
    use crate::store::local::LocalConfig;
    conformance::suite!(async || {
        let folder = tempfile::tempdir().unwrap();
        (LocalStore::open(LocalConfig::new(folder.path())).unwrap(), folder)
    });
}
