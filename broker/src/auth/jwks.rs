//! Keys of issuers that publish them as a JWKS at an address.
//!
//! One task fetches all of them: at the start, whenever they are due, and earlier when somebody shows a token of a key that
//! nobody knows. That is the only thing that a token, of which nothing is verified then, brings about: not where a request
//! goes, and not how often, because all such tokens together make for one request each [`EARLY_EVERY`].

pub mod fetch;
mod schedule;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::auth::guard::Guard;
use crate::auth::jwks::fetch::{FetchError, Fetched, fetch};
use crate::auth::jwks::schedule::Schedule;
use crate::auth::key::Source;
use crate::auth::key_set::Keys;
use crate::outgoing::Place;

/// How often unknown keys are looked for, at most.
pub const EARLY_EVERY: Duration = Duration::from_secs(30);
/// How long the task sleeps when nothing is due: it is woken by what comes.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// An issuer whose keys are elsewhere.
#[derive(Clone)]
pub struct Published {
    /// Its name.
    pub issuer: String,
    /// Where its keys are.
    pub place: Place,
    /// How often they are fetched.
    pub refresh: Duration,
    /// How long they are good when they cannot be fetched again.
    pub keep: Duration,
}

struct Known {
    published: Published,
    schedule: Schedule,
    /// Of the text that the keys in use are from: the same text again is no news for anybody.
    digest: Option<Digest>,
}

type Outcome = (usize, Result<Fetched, FetchError>);

/// See the top of this file.
pub struct JwksRefresh {
    guard: Arc<Guard>,
    known: Vec<Known>,
}

impl JwksRefresh {
    /// Fetches the keys of these issuers for a guard.
    #[must_use]
    pub fn new(guard: Arc<Guard>, published: Vec<Published>) -> Self {
        let now = Instant::now();
        let known = published.into_iter().map(|published| {
            guard.await_keys(&published.issuer);
            let schedule = Schedule::new(published.refresh, published.keep, now);
            Known { published, schedule, digest: None }
        });
        let known = known.collect();
        Self { guard, known }
    }

    /// Works until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work(fetch) => {}
        }
    }

    async fn work<F, A>(mut self, fetch: F)
    where
        F: Fn(Place) -> A,
        A: Future<Output = Result<Fetched, FetchError>> + Send + 'static,
    {
        let guard = Arc::clone(&self.guard);
        let mut under_way: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        // All of them are fetched now.
        let mut early_from = Instant::now() + EARLY_EVERY;
        loop {
            let now = Instant::now();
            for (index, known) in self.known.iter_mut().enumerate() {
                if known.schedule.expire(now) {
                    known.digest = None;
                    let issuer = &known.published.issuer;
                    tracing::error!(
                        issuer,
                        "the keys of an issuer could not be fetched for too long; its tokens are refused"
                    );
                    guard.lose_keys(issuer);
                }
                if known.schedule.begin(now) {
                    let issuer = known.published.issuer.clone();
                    metrics::counter!("longwire_jwks_fetches_total", "issuer" => issuer).increment(1);
                    let answer = fetch(known.published.place.clone());
                    under_way.push(Box::pin(async move { (index, answer.await) }));
                }
            }
            let next = self.known.iter().filter_map(|known| known.schedule.next());
            let wake =
                next.chain([early_from].into_iter().filter(|from| *from > now)).min().unwrap_or(now + IDLE);
            tokio::select! {
                Some((index, outcome)) = under_way.next(), if !under_way.is_empty() => self.take(index, outcome),
                () = guard.unknown_key(), if early_from <= now => {
                    early_from = now + EARLY_EVERY;
                    self.known.iter_mut().for_each(|known| known.schedule.hurry(now));
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take(&mut self, index: usize, outcome: Result<Fetched, FetchError>) {
        let Some(known) = self.known.get_mut(index) else { return };
        let (issuer, now) = (&known.published.issuer, Instant::now());
        let taken = outcome.map_err(|error| error.to_string()).and_then(|fetched| {
            let digest = digest(&SHA256, fetched.text.as_bytes());
            if known.digest.as_ref().is_none_or(|known| known.as_ref() != digest.as_ref()) {
                let keys =
                    Keys::from_jwks(&fetched.text, Source::Elsewhere).map_err(|error| error.to_string())?;
                tracing::info!(issuer, keys = keys.iter().count(), "keys of an issuer are in use");
                self.guard.put_keys(issuer, keys);
                known.digest = Some(digest);
            }
            Ok(fetched.max_age)
        });
        match taken {
            Ok(max_age) => known.schedule.succeeded(max_age, now),
            Err(error) => {
                metrics::counter!("longwire_jwks_failures_total", "issuer" => issuer.clone()).increment(1);
                tracing::warn!(
                    issuer,
                    error,
                    has_keys = known.digest.is_some(),
                    "the keys of an issuer cannot be fetched; it is tried again"
                );
                known.schedule.failed(now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
