//! What the machine is made of, what it is told and what it says.

use longwire_proto::position::Position;
use longwire_proto::wire::client_frame::Frame as ClientFrame;

use crate::backoff::Backoff;
use crate::connection_state::ConnectionState;
use crate::error::{Closed, PublishError, RequestError};
use crate::heard::Heard;
use crate::lane::Lane;
use crate::machine::calls::{Answer, Call, Ticket};
use crate::machine::event::Event;
use crate::machine::outbox::{Due, Entry, Recovered};
use crate::machine::subscriptions::Wanted;
use crate::machine::tokens::Known;
use crate::published::Published;
use crate::token::Token;
use crate::transport::Transport;

/// What the machine is told once.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) device: String,
    pub(crate) client: String,
    pub(crate) backoff: Backoff,
    /// Unique for each process and client: new producers are named after it.
    pub(crate) producer_base: String,
    pub(crate) seed: u64,
    pub(crate) recovered: Recovered,
    pub(crate) token: Known,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// What [`Output::AskToken`] came to.
    Token(Result<Token, String>),
    Connected(Transport),
    /// No connection could be made. `fatal` when none ever will.
    ConnectFailed {
        error: String,
        fatal: Option<Closed>,
    },
    Disconnected {
        error: String,
    },
    /// A frame and its size.
    Frame(Box<Heard>, u64),
    Time,
    /// A publish was written to the spool under the slot from [`Machine::reserve`](crate::machine::Machine::reserve).
    Accepted {
        entry: Entry,
        lane: Lane,
        bytes: u64,
    },
    /// The spool could not give back a publish that [`Machine::poll_publish`](crate::machine::Machine::poll_publish) named.
    Lost {
        due: Due,
        error: PublishError,
    },
    Call {
        ticket: Ticket,
        call: Call,
    },
    Subscribe {
        number: u32,
        wanted: Wanted,
    },
    Unsubscribe {
        number: u32,
    },
    Consumed {
        number: u32,
        through: Position,
        bytes: u64,
    },
    Close(Closed),
}

/// What to do.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // few are alive at a time, and a box would cost every publish one
pub(crate) enum Output {
    /// Ask the application for a token, instead of any asking that is under way.
    AskToken,
    /// Make a connection, and say this first. It only reads, so it does no harm when it is heard more than once.
    Connect(Vec<ClientFrame>),
    /// Drop the connection; no input about it is wanted.
    Disconnect,
    Send(ClientFrame),
    /// Settle a publish: answer its caller and drop it from the spool.
    Settled {
        entry: Entry,
        result: Result<Published, PublishError>,
    },
    /// Write down that what the spool has of the lane is numbered anew.
    Renumbered {
        lane: Lane,
        epoch: u64,
    },
    Answer {
        ticket: Ticket,
        result: Result<Answer, RequestError>,
    },
    Event {
        number: u32,
        event: Event,
    },
    State(ConnectionState),
}
