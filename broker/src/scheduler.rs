//! Deadlines of sessions that nobody uses: wakes each when its time has come.
//!
//! The store keeps one deadline a session. Whoever owns the session decides what is due; here it is only loaded and asked
//! to look. After a downtime everything overdue is worked off at a bounded rate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{StreamExt, iter};
use longwire_proto::error::ErrorCode;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::ageing::Ageing;
use crate::clock::Clock;
use crate::hub::Hub;
use crate::request::Operation;
use crate::store::reconcile::{self, retry_read};
use crate::store::{Cas, Store, StoreError};

/// How often deadlines are looked for: what expires is late by this much.
const PAUSE: Duration = Duration::from_secs(1);
/// Sessions woken in one round, so a second: after a downtime a million overdue sessions take a quarter of an hour, in
/// which others are served.
const WAKES_MAX: usize = 1000;
/// Sessions being woken at once: each is loaded from the store.
const WAKES_AT_ONCE: usize = 16;
/// How often the time is written down, for the next start to compare its clock with.
const CLOCK_PAUSE: Duration = Duration::from_secs(60);
/// Where the time is written down.
const CLOCK_KEY: Bytes = Bytes::from_static(b"clock");

/// The time that the broker knew last, in Unix milliseconds; `None` at the first start.
///
/// # Errors
/// Those of the store.
pub async fn last_known_ms(store: &dyn Store) -> Result<Option<u64>, StoreError> {
    let value = retry_read(|| store.get(CLOCK_KEY)).await?;
    Ok(value.and_then(|value| Some(u64::from_le_bytes(value.as_ref().try_into().ok()?))))
}

/// Writes down what time it is.
pub async fn write_clock(store: &dyn Store, clock: Clock) {
    let value = Bytes::copy_from_slice(&clock.now_ms().to_le_bytes());
    let written = async {
        let expected = retry_read(|| store.get(CLOCK_KEY)).await?;
        reconcile::cas(store, vec![Cas { key: CLOCK_KEY, expected, value: Some(value) }]).await
    };
    if let Err(error) = written.await {
        tracing::debug!(%error, "the time was not written down; it is tried again");
    }
}

/// Wakes sessions until it is stopped.
pub struct Scheduler {
    /// The directory of sessions.
    pub hub: Arc<Hub>,
    /// The time.
    pub clock: Clock,
    /// Whether it is to be trusted.
    pub ageing: Ageing,
}

impl Scheduler {
    /// Works until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut rounds = interval(PAUSE);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clock_at = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = rounds.tick() => {}
            }
            metrics::gauge!("longwire_ageing_suspended").set(f64::from(u8::from(self.ageing.is_suspended())));
            if !self.ageing.is_suspended() {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = self.round() => {}
                }
                if clock_at <= Instant::now() {
                    clock_at = Instant::now() + CLOCK_PAUSE;
                    write_clock(&**self.hub.store(), self.clock).await;
                }
            }
            metrics::counter!("longwire_deadline_rounds_total").increment(1);
        }
        if !self.ageing.is_suspended() {
            write_clock(&**self.hub.store(), self.clock).await;
        }
    }

    async fn round(&self) {
        let due = match self.hub.store().due(self.clock.now_ms(), None, WAKES_MAX).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "the deadlines cannot be read; they are looked for again");
                return;
            }
        };
        metrics::gauge!("longwire_deadlines_overdue").set(due.len() as f64);
        let wakes = due.into_iter().map(|due| async move {
            let woken = self.hub.ask(&due.session, Operation::Wake).await;
            match woken {
                Ok(_) => metrics::counter!("longwire_deadlines_total").increment(1),
                // It has expired: that is what it was woken for.
                Err(error) if error.code == ErrorCode::SessionDeleted => {
                    metrics::counter!("longwire_deadlines_total").increment(1);
                }
                Err(error) => tracing::debug!(session = %due.session, %error, "a deadline waits"),
            }
        });
        iter(wakes).buffer_unordered(WAKES_AT_ONCE).collect::<()>().await;
    }
}
