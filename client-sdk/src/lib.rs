//! The Longwire SDK: publish to durable sessions, read them, and resume both over any break.
//!
//! ```no_run
//! use longwire::{Client, From};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::from_env()?;
//!     let session = client.session("acme/build/42")?;
//!     session.publish("compiling").await?;
//!     let mut records = session.subscribe(From::Start).await?;
//!     while let Some(record) = records.next().await {
//!         println!("{}", record?.text().unwrap_or("(data)"));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What is promised
//! - A publish that returned is durable; it was made exactly once and in order. `Session` says more.
//! - A subscription yields each record once and in order, or a typed error that says why it cannot.
//! - Across a restart of your program the same needs two things from you: an outbox file
//!   (`ClientBuilder::outbox_file`) for what you publish, and saving `Subscription::position` with the effects of what
//!   you read. "Exactly once" ends where your code begins.
//! - Memory is bounded: the outbox and every subscription's window have limits that the builder sets.
//! - Nothing is spawned silently: `Client::connect` and `Client::from_env` run one task, `ClientBuilder::build` none.
//!
//! # Which URL
//! `ws://127.0.0.1:8700`, the default, is for the machine itself. Over a network use `longwire://broker.example`: QUIC, or a
//! WebSocket over TLS where UDP is blocked. `ClientBuilder::url` has the others, and `ClientBuilder::ca_file` and
//! `ClientBuilder::fingerprint` say whom to trust if not the authorities of the system.
//!
//! Inside: machines without IO make every decision (`machine` what is said, `dialer` over what), and a driver moves frames, files
//! and time.

mod address;
mod answered;
mod ask;
mod attachment;
mod backoff;
mod builder;
mod client;
mod connect_failure;
mod connection_state;
mod delivered;
mod dialer;
mod driver;
mod error;
mod fields;
mod from;
mod heard;
mod ids;
mod import;
mod lane;
mod lease;
mod link;
mod machine;
mod message;
mod message_end;
mod message_part;
mod outbox_entry;
mod outbox_file;
mod outbox_space;
mod outbox_status;
mod plain_record;
mod publication;
mod published;
mod read_page;
mod receipts;
mod record;
mod run;
mod sending;
mod session;
mod session_info;
mod session_list;
mod share;
mod spool;
mod state;
mod subscribe;
mod subscription;
mod tls;
mod token;
mod transport;
mod watch;
mod worker;
mod worker_group;

pub use address::{DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE};
pub use answered::Answered;
pub use ask::{Ask, FieldValue, Reply};
pub use attachment::Attachment;
pub use backoff::{BACKOFF_BASE, BACKOFF_CAP, Backoff};
pub use builder::ClientBuilder;
pub use client::Client;
pub use connection_state::ConnectionState;
pub use driver::Driver;
pub use error::{
    AskError, AttachError, Closed, ConnectError, InputError, OutboxError, PublishError, ReadMessageError,
    Refusal, RequestError, SessionIdError, SubscriptionError, TlsFailure, TlsSetupError,
};
pub use from::From;
pub use import::{Import, ImportStep};
pub use lease::{Claim, Lease, PatternClaim};
pub use longwire_proto::codec::Encoding;
pub use longwire_proto::error::ErrorCode;
pub use longwire_proto::input::Mode;
pub use longwire_proto::outcome::Outcome;
pub use longwire_proto::pattern::Pattern;
pub use longwire_proto::position::{LineageEntry, Position};
pub use longwire_proto::resolution::AskOutcome;
pub use longwire_proto::retention::{Expiry, Retention};
pub use longwire_proto::right::{InvalidRights, Right, Rights};
pub use longwire_proto::run_state::RunState;
pub use longwire_proto::session_id::SessionId;
pub use longwire_proto::wire::state_entry::Value as StateValue;
pub use longwire_proto::wire::{
    Agent as AgentInfo, AskOption, BackedUp, FormField, ImportBegin, Limits, OpenAsk, OpenInput, Producer,
    Run as RunInfo, StateEntry, WorkerGroup as WorkerGroupInfo,
};
pub use machine::event::Began;
pub use message::{OpenMessage, StartMessage};
pub use message_end::MessageEnd;
pub use message_part::MessagePart;
pub use outbox_space::{
    OUTBOX_BYTES_MAX, OUTBOX_ENTRIES_MAX, OUTBOX_FILE_BYTES_MAX, OUTBOX_FILE_ENTRIES_MAX,
};
pub use outbox_status::OutboxStatus;
pub use publication::Publication;
pub use published::Published;
pub use read_page::{Page, ReadPage};
pub use record::{Body, Record, Sender};
pub use run::{Run, StartRun};
pub use sending::{InputState, SendInput, SentInput};
pub use session::{Acknowledgement, Erased, Session};
pub use session_info::{SessionInfo, SessionMeta};
pub use session_list::SessionList;
pub use share::Share;
pub use state::SetState;
pub use subscribe::Subscribe;
pub use subscription::{Subscription, WINDOW_BYTES_DEFAULT};
pub use tls::{CA_VARIABLE, CLIENT_CERTIFICATE_VARIABLE, CLIENT_KEY_VARIABLE, FINGERPRINT_VARIABLE};
pub use tokio_util::sync::CancellationToken;
pub use transport::Transport;
pub use watch::{StartWatch, Watch};
pub use worker::{Context, HandlerError, Input, WORKER_SESSIONS_DEFAULT, Worker, WorkerError};
pub use worker_group::WorkerGroup;

/// The example of the README is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
