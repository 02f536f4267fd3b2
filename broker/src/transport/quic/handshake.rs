//! How far the handshake of a connection is. A client that comes back says its first frames with its first packets (0-RTT), which
//! somebody else may have sent once more; that it is there is known when the handshake is over.

use futures_util::FutureExt;
use futures_util::future::Shared;
use quinn::{Connection, ZeroRttAccepted};

/// Whoever has finished a handshake can make keys out of it; what they are for is of no interest.
const LABEL: &[u8] = b"longwire handshake";

#[derive(Clone)]
pub(super) struct Handshake {
    connection: Connection,
    /// Resolves when it is over, whatever came of it.
    over: Shared<ZeroRttAccepted>,
}

impl Handshake {
    pub(super) fn new(connection: Connection, over: ZeroRttAccepted) -> Self {
        Self { connection, over: over.shared() }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Resolves when it is over, with whether it was finished.
    pub(super) async fn over(&self) -> bool {
        self.over.clone().await;
        self.is_finished()
    }

    /// Asked of TLS itself: a connection may have been closed since.
    fn is_finished(&self) -> bool {
        self.connection.export_keying_material(&mut [0; 32], LABEL, &[]).is_ok()
    }
}
