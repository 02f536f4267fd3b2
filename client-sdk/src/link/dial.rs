//! Dialing: does what a [`Race`] says, until it is decided.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connect_failure::ConnectFailure;
use crate::dialer::Dialer;
use crate::dialer::race::{ADDRESSES_MAX, Attempt, Output, Race};
use crate::link::Open;
#[cfg(feature = "grpc")]
use crate::link::grpc::GrpcLink;
use crate::link::quic::QuicLink;
use crate::link::target::Target;
use crate::link::websocket;
use crate::transport::Transport;

/// A broker that does not answer within this time is not there.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes one attempt.
async fn connect(
    target: &Target,
    transport: Transport,
    remote: SocketAddr,
    greeting: &[Bytes],
) -> Result<Open, ConnectFailure> {
    match (transport, &target.tls) {
        (Transport::WebSocket, _) => {
            websocket::connect(target, remote).await.map(|socket| Open::WebSocket(Box::new(socket)))
        }
        (Transport::Quic, Some(tls)) => {
            QuicLink::connect(target, tls, remote, greeting).await.map(|link| Open::Quic(Box::new(link)))
        }
        (Transport::Quic, None) => Err(ConnectFailure::passing("there is no QUIC without TLS")),
        #[cfg(feature = "grpc")]
        (Transport::Grpc, _) => {
            GrpcLink::connect(target, remote).await.map(|link| Open::Grpc(Box::new(link)))
        }
        #[cfg(not(feature = "grpc"))]
        (Transport::Grpc, _) => Err(ConnectFailure::passing("this build has no gRPC")),
    }
}

/// What became of a dial.
pub(super) struct Dialed {
    /// Those that it could come to.
    pub(super) tried: Vec<Transport>,
    pub(super) outcome: Result<Open, ConnectFailure>,
    pub(super) greeting: Vec<Bytes>,
}

/// Finds the host and connects. The greeting is what is said over the connection first; QUIC takes it along. Times of the dialer count from
/// `began`.
pub(super) async fn dial(
    target: std::sync::Arc<Target>,
    dialer: Dialer,
    began: Instant,
    greeting: Vec<Bytes>,
) -> Dialed {
    let tried = dialer.transports(began.elapsed());
    let until = Instant::now() + DIAL_TIMEOUT;
    let outcome = async {
        let found = lookup_host((target.address.host.as_str(), target.address.port));
        let found = match timeout_at(until, found).await {
            Ok(found) => found.map_err(|error| ConnectFailure::passing(error.to_string()))?,
            Err(_) => return Err(ConnectFailure::passing("its host was not found in time")),
        };
        let addresses = in_turns(found.collect());
        let race = dialer.race(began.elapsed(), until.duration_since(began), addresses.len());
        run(&target, race, &addresses, began, &greeting).await
    };
    let outcome = outcome.await.map_err(|failure| ConnectFailure {
        error: format!("no connection to {}: {}", target.address.url, failure.error),
        ..failure
    });
    Dialed { tried, outcome, greeting }
}

/// The two families by turns, each in the order that the system prefers (RFC 8305, section 4): one of them may not lead
/// anywhere.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (mut ours, mut others): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    ours.reverse();
    others.reverse();
    let mut turns = Vec::new();
    while let Some(address) = ours.pop().or_else(|| others.pop()) {
        turns.push(address);
        turns.extend(others.pop());
    }
    turns.truncate(ADDRESSES_MAX);
    turns
}

type Outcome = Result<Open, ConnectFailure>;

struct UnderWay<'a> {
    attempt: Attempt,
    future: Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>,
}

/// Waits until attempts are over, and takes them out.
async fn over(attempts: &mut Vec<UnderWay<'_>>) -> Vec<(Attempt, Outcome)> {
    poll_fn(|context| {
        let mut outcomes = Vec::new();
        attempts.retain_mut(|under_way| match under_way.future.as_mut().poll(context) {
            Poll::Ready(outcome) => {
                outcomes.push((under_way.attempt, outcome));
                false
            }
            Poll::Pending => true,
        });
        if outcomes.is_empty() { Poll::Pending } else { Poll::Ready(outcomes) }
    })
    .await
}

async fn run(
    target: &Target,
    mut race: Race,
    addresses: &[SocketAddr],
    began: Instant,
    greeting: &[Bytes],
) -> Outcome {
    let mut attempts: Vec<UnderWay<'_>> = Vec::new();
    let mut open: Vec<(Attempt, Open)> = Vec::new();
    loop {
        while let Some(output) = race.poll(began.elapsed()) {
            match output {
                Output::Start(attempt) => {
                    let remote = addresses[attempt.address];
                    let future = Box::pin(connect(target, attempt.transport, remote, greeting));
                    attempts.push(UnderWay { attempt, future });
                }
                Output::Abandon(transport) => {
                    attempts.retain(|under_way| under_way.attempt.transport != transport);
                }
                Output::Won(winner) => {
                    let mut won = Err(ConnectFailure::passing("nothing was connected"));
                    for (attempt, open) in open {
                        if attempt == winner { won = Ok(open) } else { open.abandon() }
                    }
                    return won;
                }
                Output::Lost(failure) => return Err(failure),
            }
        }
        let until = race.poll_timeout().map(|timeout| began + timeout);
        let timer = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcomes = over(&mut attempts) => for (attempt, outcome) in outcomes {
                match outcome {
                    Ok(link) => {
                        open.push((attempt, link));
                        race.connected(attempt);
                    }
                    Err(failure) => race.failed(began.elapsed(), attempt, failure),
                }
            },
            () = timer => {}
        }
    }
}

#[cfg(test)]
mod tests;
