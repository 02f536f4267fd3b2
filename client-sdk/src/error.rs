//! What can go wrong, and what to do about it.

use std::path::PathBuf;
use std::sync::Arc;

use longwire_proto::error::{Error as WireError, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::session_id::InvalidSessionId;
use longwire_proto::wire;

use crate::answered::Answered;

/// The broker's refusal, as it came.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message} ({code_text})")]
pub struct Refusal {
    /// What went wrong; `None` for a code that this SDK does not know.
    pub code: Option<ErrorCode>,
    /// The code as it came.
    pub code_text: String,
    /// What was wrong, what is allowed and what to do.
    pub message: String,
    /// The field that was wrong; empty when none was.
    pub field: String,
    /// The limit that was passed; 0 when none was.
    pub limit: u64,
    /// The value that would have been taken.
    pub expected: u64,
    /// Whether the same request can succeed later.
    pub retryable: bool,
    /// When, in milliseconds; 0 when the broker did not say.
    pub retry_after_ms: u64,
    /// With [`ErrorCode::AlreadyResolved`]: how the ask ended.
    pub resolved: Option<Box<Answered>>,
}

impl From<Option<wire::Error>> for Refusal {
    fn from(error: Option<wire::Error>) -> Self {
        let error = error.unwrap_or_default();
        Self {
            code: ErrorCode::parse(&error.code),
            code_text: error.code,
            message: error.message,
            field: error.field,
            limit: error.limit,
            expected: error.expected,
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms,
            resolved: error.resolved.and_then(|resolved| Answered::of(*resolved)).map(Box::new),
        }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not one of a broker.
    #[error(
        "`{url}` is not a broker's address: {reason}; use one such as ws://127.0.0.1:8700, or with TLS \
         longwire://broker.example, which finds out by itself, wss://broker.example or quic://broker.example"
    )]
    InvalidUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Whom to trust was said, and the URL asks for no TLS: nobody would be asked who they are.
    #[error(
        "`{url}` is plain text, but an authority, a fingerprint or a client certificate is given; use wss:// or \
         longwire://, or leave out what is given (LONGWIRE_CA, LONGWIRE_FINGERPRINT, LONGWIRE_CLIENT_CERTIFICATE, LONGWIRE_CLIENT_KEY)"
    )]
    PlainText {
        /// The URL as given.
        url: String,
    },
    /// TLS cannot be used as the builder was told.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The device name is outside its grammar.
    #[error("the device `{0}` must have 1 to 64 of the characters A-Z a-z 0-9 _ -")]
    InvalidDevice(String),
    /// The outbox file could not be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// There is no runtime to run the driver on.
    #[error("Client::connect needs a Tokio runtime; call it within one, or use Client::builder().build()")]
    NoRuntime,
    /// The operating system gave no random bytes, which producers need for their ids.
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
}

/// Why TLS cannot be used as a builder was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsSetupError {
    /// A file is not what it should be.
    #[error("the TLS file {} cannot be used: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The text is no fingerprint.
    #[error(
        "`{0}` is no fingerprint: it has 64 hexadecimal digits, as `longwire serve` prints them, with or without colons"
    )]
    InvalidFingerprint(String),
    /// A client certificate without its key, or a key without its certificate.
    #[error(
        "a client certificate and its key belong together: name both (LONGWIRE_CLIENT_CERTIFICATE, LONGWIRE_CLIENT_KEY), or none"
    )]
    HalfIdentity,
    /// The operating system trusts nobody.
    #[error(
        "this system has no certificate authorities ({reason}); install them (Debian: ca-certificates), or name the broker's \
         own (LONGWIRE_CA)"
    )]
    NoAuthorities {
        /// What was found instead.
        reason: String,
    },
    /// The cryptography that is built in does not do.
    #[error("TLS is not available: {0}")]
    Unsupported(String),
}

/// Why there is no TLS connection, and will be none until somebody does something about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// Nobody who is trusted vouches for the broker's certificate.
    #[error(
        "no authority that is trusted vouches for its certificate; name the one that does (LONGWIRE_CA, --ca), or for a \
         development certificate its fingerprint, which `longwire serve` prints (LONGWIRE_FINGERPRINT, --fingerprint)"
    )]
    UnknownAuthority,
    /// The certificate is another host's.
    #[error("its certificate is not for {wanted}, but for {}; use such a name in the URL", listed(names))]
    WrongName {
        /// The host of the URL.
        wanted: String,
        /// What the certificate is for.
        names: Vec<String>,
    },
    /// The certificate's time is over.
    #[error("its certificate has expired; renew it where the broker runs, or set this machine's clock right")]
    Expired,
    /// The certificate's time has not come.
    #[error("its certificate is not valid yet; set the clock right, here or where it was made")]
    NotValidYet,
    /// The certificate is not the one that was named.
    #[error(
        "its certificate has the fingerprint {found}, not {expected}: it was replaced, or somebody else answers; if you \
         replaced it, or a development certificate was renewed, take the fingerprint that `longwire serve` prints now"
    )]
    Fingerprint {
        /// What was named.
        expected: String,
        /// What came.
        found: String,
    },
    /// The certificate is not acceptable for another reason.
    #[error("its certificate is refused: {0}")]
    Certificate(String),
    /// The broker does not accept the certificate of this client, or wants one.
    #[error(
        "it wants a client certificate of an authority that it knows, and refuses what it got ({0}); name one \
         (LONGWIRE_CLIENT_CERTIFICATE and LONGWIRE_CLIENT_KEY)"
    )]
    ClientCertificate(String),
    /// What answers does not speak TLS.
    #[error(
        "what answers there does not speak TLS; set it up where the broker runs, or use ws:// where nobody listens in"
    )]
    PlainText,
    /// There is nothing that both sides speak.
    #[error("it does not speak TLS as this client does: {0}")]
    Incompatible(String),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "other names".to_owned() } else { names.join(", ") }
}

/// Why the outbox file cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another process (or client) uses the file.
    #[error("the outbox {} is in use by another client; give each client a file of its own", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not an outbox of this version; move it away or choose another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("the outbox {} cannot be {action}: {source}; check the disk and the permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// An entry's checksum does not match: the disk or another program damaged it.
    #[error("an entry of the outbox {} is damaged; the publish in it is lost, publish it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Why the client is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// `shutdown` or `close` was called, or the driver was dropped.
    #[error("the client was shut down; make a new one")]
    ShutDown,
    /// The broker refuses this client, and would again.
    #[error("the broker refuses this client: {0}")]
    Refused(String),
    /// By its certificate what answers is not the broker, or it does not take this client's.
    #[error("no secure connection to {url}: {failure}")]
    Tls {
        /// The broker's URL.
        url: String,
        /// What was wrong, and what to do.
        failure: TlsFailure,
    },
    /// The token has expired, and there is no callback that gives another one.
    #[error("the client's token has expired; connect with a new one, or give the client a token callback")]
    TokenExpired,
    /// The token was revoked, and no other one was given.
    #[error("the client's token was revoked; ask whoever gave it for another one")]
    TokenRevoked,
    /// The broker wants a token, or does not accept the one that it was given.
    #[error("the broker does not let this client in: {0}")]
    Unauthenticated(String),
}

/// Why a publish was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// The publication breaks a limit or rule of the wire; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] WireError),
    /// `publish_if_end` found another end. Read what is new, decide again and publish with that end.
    #[error("the session ends at {end}, not where the publish wanted it; read on and decide again")]
    EndMismatch {
        /// The actual end.
        end: u64,
    },
    /// The session takes no more publishes. This publish and those queued behind it were not made.
    #[error("the session is closed: it takes no more publishes; use another session")]
    SessionClosed,
    /// Another client publishes as this producer, such as from a copied outbox file.
    #[error("another client took over this producer (its epoch is {epoch}); do not copy outbox files")]
    Fenced {
        /// The epoch that is taken now.
        epoch: u64,
    },
    /// The publish is durable, but so long ago that its offsets are forgotten.
    #[error("the publish was made before and is durable, but its offsets are no longer remembered")]
    AlreadyPublished,
    /// The broker refused for another reason. Later publishes of the session go on.
    #[error(transparent)]
    Refused(Refusal),
    /// The outbox could not take or give back the publish.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The client is closed. With an outbox file, an accepted publish is made by the next client that opens it.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a request on a session was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such session.
    #[error("there is no session `{0}`; publish to it or create it first")]
    NotFound(String),
    /// The session exists already.
    #[error("the session `{0}` exists already; update it, or choose another id")]
    Exists(String),
    /// The connection broke before the answer to a create came; the session exists now, by this call or by another.
    #[error("the session `{0}` exists, but whether this call created it is unknown; describe it to see")]
    ExistsUncertain(String),
    /// The broker refused for another reason.
    #[error(transparent)]
    Refused(Refusal),
    /// The client is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The broker answered with something else than was asked for.
    #[error("the broker's answer does not fit the request; update the SDK or the broker")]
    UnexpectedAnswer,
}

/// Why bytes of a message cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadMessageError {
    /// The request was not carried out.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Some of them are gone. Those before and behind can be read.
    #[error("bytes {from} to {until} of the message are gone: {why}")]
    Missing {
        /// The first of them.
        from: u64,
        /// The one after the last of them.
        until: u64,
        /// `trimmed` or `erased`.
        why: String,
    },
}

/// Why something was not attached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttachError {
    /// It cannot be read.
    #[error("what is to be attached cannot be read: {0}")]
    Read(Arc<std::io::Error>),
    /// It is too long.
    #[error("it has more than {0} bytes, which is the most that a message has; divide it")]
    TooLarge(usize),
    /// It was not published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Why an ask has no answer here. It is open all the same when it was published: asking again under its id goes on waiting.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// It was not asked.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The session cannot be read any more.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// What became of it cannot be found out.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The session ended before it had an answer.
    #[error("the session was closed before the ask `{0}` had an answer")]
    SessionClosed(String),
}

/// Why it is not known what becomes of an input. It goes its way all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InputError {
    /// It was not sent.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The session cannot be read any more.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// The session ended before the input did.
    #[error("the session was closed before it was known what became of the input `{0}`")]
    SessionClosed(String),
}

/// What a subscription tells besides records.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubscriptionError {
    /// Records were trimmed before they were read. The stream goes on with `next`.
    #[error("the records from {from} up to {next} were trimmed; reading goes on at {next}")]
    Gap {
        /// The first missing offset.
        from: u64,
        /// The first offset that is there.
        next: u64,
    },
    /// The session has another history than the one read so far. The stream goes on at `resume`.
    #[error("the session has another history now; reading goes on at {resume}")]
    EpochChanged {
        /// Where the stream goes on.
        resume: Position,
    },
    /// The position is beyond the end. The stream ends.
    #[error("the position is beyond the session's end ({end}); it is of another session or of lost history")]
    FuturePosition {
        /// The session's end.
        end: Position,
    },
    /// There is no such session (and `wait_for_session` was not asked for), or none that may be read, which a broker tells
    /// nobody apart. The stream ends.
    #[error(
        "there is no session `{0}` that this client may read; publish to it first or subscribe with wait_for_session"
    )]
    NotFound(String),
    /// The session was deleted. The stream ends.
    #[error("the session was deleted")]
    Deleted,
    /// The session may not be read any more: the client's token allows less than it did. The stream ends.
    #[error("the session may not be read any more with this client's token: {0}")]
    NotAllowed(Refusal),
    /// The client has as many subscriptions as the broker lets it have. The stream ends.
    #[error("the client has {0} subscriptions, the most that are allowed; drop one or use another client")]
    TooMany(u64),
    /// The broker ended or refused the subscription for another reason. The stream ends.
    #[error(transparent)]
    Refused(Refusal),
    /// The client is closed. The stream ends.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl SubscriptionError {
    /// Whether records can follow it.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        matches!(self, Self::Gap { .. } | Self::EpochChanged { .. })
    }
}

/// A text that names no session.
pub type SessionIdError = InvalidSessionId;
