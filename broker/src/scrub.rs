//! The scrub: reads everything in the background, slowly, so that damage is found before somebody needs the record.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::inspect::{PIECE_BYTES, Report, Scan};
use crate::store::Store;

/// The pause between one pass over everything and the next.
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// Scrubs until it is stopped.
pub struct Scrub {
    /// What is read.
    pub store: Arc<dyn Store>,
    /// How much of it a second, at most.
    pub bytes_per_second: u64,
}

impl Scrub {
    /// Works until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.passes() => {}
        }
    }

    async fn passes(&self) {
        // Even a piece without records costs a look.
        let piece_time = |bytes: u64| {
            Duration::from_secs_f64(bytes.max(PIECE_BYTES as u64 / 256) as f64 / self.bytes_per_second as f64)
        };
        loop {
            let mut scan = Scan::new(Arc::clone(&self.store));
            let mut known = Report::default();
            loop {
                match scan.step().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the scrub cannot list the sessions; it begins again later");
                        break;
                    }
                }
                let report = scan.report();
                for damage in &report.damages[known.damages.len()..] {
                    metrics::counter!("longwire_scrub_damages_total").increment(1);
                    tracing::error!(
                        session = %damage.session, offset = damage.offset, what = damage.what,
                        "the scrub found damage; restore the session from a backup"
                    );
                }
                metrics::counter!("longwire_scrub_bytes_total").increment(report.bytes - known.bytes);
                let bytes = report.bytes - known.bytes;
                known = report.clone();
                sleep(piece_time(bytes)).await;
            }
            metrics::counter!("longwire_scrub_passes_total").increment(1);
            sleep(PAUSE).await;
        }
    }
}
