//! What one connection, one principal, one tenant and everybody together may use. A refusal is typed, and says which limit it
//! was and when to try again.
//!
//! What is held (connections, subscriptions, requests) is counted by permits that give it back when they are dropped; what
//! passes (publishes, new sessions) is counted by rates. Scopes are asked from the narrowest to the widest, so who is refused
//! by one of its own has used up nothing of the others'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::auth::principal::ANONYMOUS;
use crate::quota::limits::{Limits, ScopeLimits};
use crate::quota::rates::Rates;
use crate::quota::ticks::Ticks;
use crate::quota::usage::{Counted, Usage};

pub mod limits;
mod rate;
mod rates;
mod ticks;
mod usage;

/// Keys of one rate that are known at once. A key is idle, and forgotten, when its bucket is full again.
pub const KEYS_MAX: usize = 100_000;
/// How often idle keys are forgotten: who was here a minute ago is cheap to know, and nobody stays known for ever.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// When to try again what waits for others to give something back, which nobody knows.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Connection,
    Principal,
    Tenant,
    Broker,
}

impl Whose {
    /// As a message has it.
    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Principal => "principal",
            Self::Tenant => "tenant",
            Self::Broker => "broker",
        }
    }
}

/// What everybody uses, and what they may use.
#[derive(Debug)]
pub struct Quotas {
    limits: Limits,
    broker: Arc<Usage>,
    principals: DashMap<Arc<str>, Arc<Usage>>,
    tenants: DashMap<Arc<str>, Arc<Usage>>,
    connection_rates: Rates<u64>,
    principal_rates: Rates<Arc<str>>,
    tenant_rates: Rates<Arc<str>>,
    broker_rates: Rates<()>,
    connections: AtomicU64,
}

impl Quotas {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::with_ticks(limits, &Ticks::Since(Instant::now()))
    }

    fn with_ticks(limits: Limits, ticks: &Ticks) -> Arc<Self> {
        Arc::new(Self {
            connection_rates: Rates::new(&limits.connection, ticks),
            principal_rates: Rates::new(&limits.principal, ticks),
            tenant_rates: Rates::new(&limits.tenant, ticks),
            broker_rates: Rates::new(&limits.broker, ticks),
            limits,
            broker: Arc::default(),
            principals: DashMap::new(),
            tenants: DashMap::new(),
            connections: AtomicU64::new(0),
        })
    }

    /// A connection of a principal, whose grants are of one tenant or of several.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyConnections`], or [`ErrorCode::Overloaded`] when it is not the principal's doing.
    pub fn connect(
        self: &Arc<Self>,
        principal: &str,
        tenant: Option<&str>,
    ) -> Result<ConnectionPermit, Error> {
        self.make_room_for_keys()?;
        let principal = (principal != ANONYMOUS).then(|| Member::join(&self.principals, principal));
        let scopes = Arc::new(Scopes {
            number: self.connections.fetch_add(1, Ordering::Relaxed),
            quotas: Arc::clone(self),
            own: Usage::default(),
            principal,
            tenant: tenant.map(|tenant| Member::join(&self.tenants, tenant)),
        });
        let held = Held::take(&scopes, &[(Counted::Connections, 1)])?;
        Ok(ConnectionPermit { _held: held, scopes })
    }

    /// Forgets who is idle now and then, until `stop` is cancelled.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(FORGET_EVERY) => self.forget_idle(),
            }
        }
    }

    /// Forgets who has not done anything for as long as its buckets take to fill.
    pub fn forget_idle(&self) {
        self.connection_rates.forget_idle();
        self.principal_rates.forget_idle();
        self.tenant_rates.forget_idle();
    }

    fn make_room_for_keys(&self) -> Result<(), Error> {
        let keys = || {
            let owned = self.principal_rates.keys().max(self.tenant_rates.keys());
            self.connection_rates.keys().max(owned)
        };
        if keys() >= KEYS_MAX {
            self.forget_idle();
        }
        if keys() >= KEYS_MAX {
            let message = format!("{KEYS_MAX} principals have published a moment ago; connect again later");
            return Err(Error::new(ErrorCode::Overloaded, message)
                .limit(KEYS_MAX)
                .retry_after_ms(millis(RETRY_AFTER)));
        }
        Ok(())
    }
}

/// A principal or a tenant that is connected.
#[derive(Debug)]
struct Member {
    key: Arc<str>,
    usage: Arc<Usage>,
}

impl Member {
    fn join(table: &DashMap<Arc<str>, Arc<Usage>>, name: &str) -> Self {
        let entry = table.entry(Arc::from(name));
        let key = Arc::clone(entry.key());
        let usage = Arc::clone(&entry.or_default());
        Self { key, usage }
    }

    /// Leaves, and removes what the last one leaves behind. New members join under the table's lock, as this looks.
    fn leave(self, table: &DashMap<Arc<str>, Arc<Usage>>) {
        let Self { key, usage } = self;
        drop(usage);
        table.remove_if(&key, |_, usage| Arc::strong_count(usage) == 1);
    }
}

/// The scopes that one connection is in.
#[derive(Debug)]
struct Scopes {
    quotas: Arc<Quotas>,
    number: u64,
    own: Usage,
    principal: Option<Member>,
    tenant: Option<Member>,
}

impl Scopes {
    /// From the narrowest to the widest.
    fn usages(&self) -> impl Iterator<Item = (Whose, &Usage, &ScopeLimits)> {
        let limits = &self.quotas.limits;
        let principal = self.principal.as_ref().map(|m| (Whose::Principal, &*m.usage, &limits.principal));
        let tenant = self.tenant.as_ref().map(|m| (Whose::Tenant, &*m.usage, &limits.tenant));
        let own = (Whose::Connection, &self.own, &limits.connection);
        let broker = (Whose::Broker, &*self.quotas.broker, &limits.broker);
        [Some(own), principal, tenant, Some(broker)].into_iter().flatten()
    }

    fn take(&self, counted: Counted, amount: u64) -> Result<(), Error> {
        for (index, (whose, usage, limits)) in self.usages().enumerate() {
            let limit = counted.limit(limits);
            if !usage.take(counted, amount, limit) {
                for (_, usage, _) in self.usages().take(index) {
                    usage.give_back(counted, amount);
                }
                return Err(refusal(whose, counted, limit));
            }
        }
        Ok(())
    }

    fn give_back(&self, counted: Counted, amount: u64) {
        for (_, usage, _) in self.usages() {
            usage.give_back(counted, amount);
        }
    }

    /// Takes from the rates of every scope.
    fn pass(&self, passing: Passing) -> Result<(), Error> {
        let quotas = &self.quotas;
        quotas.connection_rates.take(&self.number, passing).map_err(|e| too_fast(Whose::Connection, e))?;
        if let Some(member) = &self.principal {
            quotas.principal_rates.take(&member.key, passing).map_err(|e| too_fast(Whose::Principal, e))?;
        }
        if let Some(member) = &self.tenant {
            quotas.tenant_rates.take(&member.key, passing).map_err(|e| too_fast(Whose::Tenant, e))?;
        }
        quotas.broker_rates.take(&(), passing).map_err(|e| too_fast(Whose::Broker, e))
    }
}

impl Drop for Scopes {
    fn drop(&mut self) {
        if let Some(member) = self.principal.take() {
            member.leave(&self.quotas.principals);
        }
        if let Some(member) = self.tenant.take() {
            member.leave(&self.quotas.tenants);
        }
    }
}

/// What a rate is asked for.
#[derive(Clone, Copy, Debug)]
enum Passing {
    Publish { records: u64, bytes: u64 },
    Session,
}

/// Something that is counted; given back when it is dropped.
#[derive(Debug)]
struct Held {
    scopes: Arc<Scopes>,
    amounts: [u64; Counted::ALL.len()],
}

impl Held {
    fn take(scopes: &Arc<Scopes>, amounts: &[(Counted, u64)]) -> Result<Self, Error> {
        let mut held = Self { scopes: Arc::clone(scopes), amounts: Default::default() };
        for (counted, amount) in amounts {
            scopes.take(*counted, *amount)?;
            held.amounts[*counted as usize] += amount;
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for counted in Counted::ALL {
            match self.amounts[counted as usize] {
                0 => {}
                amount => self.scopes.give_back(counted, amount),
            }
        }
    }
}

/// A connection's place, and what it asks for more.
#[derive(Debug)]
pub struct ConnectionPermit {
    _held: Held,
    scopes: Arc<Scopes>,
}

/// A subscription's place.
#[derive(Debug)]
pub struct SubscriptionPermit {
    _held: Held,
}

/// A place among the requests that wait for an answer.
#[derive(Debug)]
pub struct RequestPermit {
    _held: Held,
}

/// Counts what a connection does later, when it is known that it does.
#[derive(Debug)]
pub struct Meter {
    scopes: Arc<Scopes>,
}

impl Meter {
    /// Counts records that are written, as [`ConnectionPermit::publish`].
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub fn publish(&self, records: usize, bytes: usize) -> Result<(), Error> {
        self.scopes.pass(Passing::Publish { records: records as u64, bytes: bytes as u64 })
    }

    /// Counts a session that is created.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub fn create_session(&self) -> Result<(), Error> {
        self.scopes.pass(Passing::Session)
    }
}

impl ConnectionPermit {
    /// Counts a publish, before anything is done for it.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub fn publish(&self, records: usize, bytes: usize) -> Result<(), Error> {
        self.scopes.pass(Passing::Publish { records: records as u64, bytes: bytes as u64 })
    }

    /// Counts a session that is created.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub fn create_session(&self) -> Result<(), Error> {
        self.scopes.pass(Passing::Session)
    }

    /// What counts later.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter { scopes: Arc::clone(&self.scopes) }
    }

    /// A place for one more subscription.
    ///
    /// # Errors
    /// [`ErrorCode::TooManySubscriptions`], or [`ErrorCode::Overloaded`] when it is not the principal's doing.
    pub fn subscribe(&self) -> Result<SubscriptionPermit, Error> {
        let held = Held::take(&self.scopes, &[(Counted::Subscriptions, 1)])?;
        Ok(SubscriptionPermit { _held: held })
    }

    /// A place for one more request, whose frame has `bytes`, until it is answered.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyRequests`], or [`ErrorCode::Overloaded`] when it is not the principal's doing.
    pub fn request(&self, bytes: usize) -> Result<RequestPermit, Error> {
        let held =
            Held::take(&self.scopes, &[(Counted::Requests, 1), (Counted::RequestBytes, bytes as u64)])?;
        Ok(RequestPermit { _held: held })
    }
}

fn refusal(whose: Whose, counted: Counted, limit: u64) -> Error {
    count_refusal(whose, counted.name());
    let code = match (whose, counted) {
        (Whose::Broker, _) => ErrorCode::Overloaded,
        (_, Counted::Connections) => ErrorCode::TooManyConnections,
        (_, Counted::Subscriptions) => ErrorCode::TooManySubscriptions,
        (_, Counted::Requests | Counted::RequestBytes) => ErrorCode::TooManyRequests,
    };
    let message = format!(
        "a {} may have {limit} {} at once; end one, or try again later",
        whose.name(),
        counted.name()
    );
    let error = Error::new(code, message).limit(usize::try_from(limit).unwrap_or(usize::MAX));
    error.retry_after_ms(millis(RETRY_AFTER))
}

fn too_fast(whose: Whose, refused: rates::Refused) -> Error {
    count_refusal(whose, refused.what);
    let message =
        format!("a {} may use {} {}; go on later, and slower", whose.name(), refused.limit, refused.what);
    let limit = usize::try_from(refused.limit).unwrap_or(usize::MAX);
    Error::new(ErrorCode::RateLimited, message).limit(limit).retry_after_ms(millis(refused.wait))
}

fn count_refusal(whose: Whose, what: &'static str) {
    metrics::counter!("longwire_quota_refusals_total", "scope" => whose.name(), "what" => what).increment(1);
}

/// Milliseconds, rounded up: who comes back then is not too early.
fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The largest publish, in the units of the rates.
const BATCH_RECORDS: u32 = BATCH_RECORDS_MAX as u32;
const BATCH_KIB: u32 = (BATCH_BYTES_MAX >> 10) as u32;

#[cfg(test)]
mod tests;
