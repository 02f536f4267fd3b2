//! The one table of error codes, and the error that carries one.

use std::fmt;

use crate::grpc_status::GrpcStatus;
use crate::resolution::Resolution;
use crate::wire;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $retryable:literal, $http:literal, $close:literal, $grpc:ident;)*) => {
        /// What went wrong. `docs/protocol.md` carries the same table; a test keeps them equal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same request can succeed later.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// The status of an HTTP answer with this code.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// The status of a gRPC call with this code.
            #[must_use]
            pub fn grpc_status(self) -> GrpcStatus {
                match self { $(Self::$name => GrpcStatus::$grpc,)* }
            }

            /// The code of a WebSocket close (RFC 6455, section 7.4), and of a QUIC connection, when the error ends it.
            #[must_use]
            pub fn close_code(self) -> u16 {
                match self { $(Self::$name => $close,)* }
            }
        }
    };
}

codes! {
    /// The bytes are not a frame.
    InvalidFrame = "invalid_frame", false, 400, 1007, InvalidArgument;
    /// The frame has none of the known contents.
    UnknownFrame = "unknown_frame", false, 400, 1008, InvalidArgument;
    /// A JSON frame has a field that does not exist.
    UnknownField = "unknown_field", false, 400, 1007, InvalidArgument;
    /// The frame is above `frame_bytes_max`.
    FrameTooLarge = "frame_too_large", false, 413, 1009, ResourceExhausted;
    /// A text message where binary is due, or the other way round.
    WrongMessageType = "wrong_message_type", false, 400, 1003, InvalidArgument;
    /// The client offered no subprotocol that the broker speaks.
    UnsupportedProtocol = "unsupported_protocol", false, 400, 1002, Unimplemented;
    /// A page of another origin may not connect.
    OriginForbidden = "origin_forbidden", false, 403, 1008, PermissionDenied;
    /// No token, or one that is not accepted.
    Unauthenticated = "unauthenticated", false, 401, 1008, Unauthenticated;
    /// The token is no longer valid; a new one is.
    TokenExpired = "token_expired", false, 401, 1008, Unauthenticated;
    /// The token was revoked.
    TokenRevoked = "token_revoked", false, 401, 1008, Unauthenticated;
    /// The principal may see this, and may not do that to it.
    Forbidden = "forbidden", false, 403, 1008, PermissionDenied;
    /// The first frame was not `hello`.
    HelloExpected = "hello_expected", false, 400, 1008, FailedPrecondition;
    /// A second `hello`.
    HelloRepeated = "hello_repeated", false, 400, 1008, FailedPrecondition;
    /// No `hello` came in time.
    HandshakeTimeout = "handshake_timeout", true, 408, 1008, Unavailable;
    /// No frame came for the idle time.
    IdleTimeout = "idle_timeout", true, 408, 1001, Unavailable;
    /// The broker is shutting down; connect again.
    Draining = "draining", true, 503, 1012, Unavailable;
    /// A session id outside its grammar.
    InvalidSessionId = "invalid_session_id", false, 400, 1008, InvalidArgument;
    /// A text that is not a position.
    InvalidPosition = "invalid_position", false, 400, 1008, InvalidArgument;
    /// A record that is not well formed.
    InvalidRecord = "invalid_record", false, 400, 1008, InvalidArgument;
    /// Another argument that is not allowed.
    InvalidArgument = "invalid_argument", false, 400, 1008, InvalidArgument;
    /// A field that only the broker sets.
    FieldReserved = "field_reserved", false, 400, 1008, InvalidArgument;
    /// A kind that only the broker writes, or that this broker does not know how to check.
    KindReserved = "kind_reserved", false, 400, 1008, InvalidArgument;
    /// A record above `record_bytes_max`.
    RecordTooLarge = "record_too_large", false, 413, 1009, InvalidArgument;
    /// A publish above `batch_bytes_max` or `batch_records_max`.
    BatchTooLarge = "batch_too_large", false, 413, 1009, InvalidArgument;
    /// A publish without records.
    BatchEmpty = "batch_empty", false, 400, 1008, InvalidArgument;
    /// More than `subscriptions_max` subscriptions, or than one principal or tenant may have.
    TooManySubscriptions = "too_many_subscriptions", false, 429, 1008, ResourceExhausted;
    /// More connections than one principal or tenant may have.
    TooManyConnections = "too_many_connections", true, 429, 1013, ResourceExhausted;
    /// More unanswered requests, or claims of patterns, than one connection, principal or tenant may have.
    TooManyRequests = "too_many_requests", true, 429, 1013, ResourceExhausted;
    /// Faster than one connection, principal or tenant may be; `retry_after_ms` is when as much as this is allowed again.
    RateLimited = "rate_limited", true, 429, 1013, ResourceExhausted;
    /// There is no subscription with this number.
    SubscriptionNotFound = "subscription_not_found", false, 404, 1008, NotFound;
    /// There is no such session.
    SessionNotFound = "session_not_found", false, 404, 1008, NotFound;
    /// The session exists already.
    SessionExists = "session_exists", false, 409, 1008, AlreadyExists;
    /// The session is closed: it takes no more publishes.
    SessionClosed = "session_closed", false, 409, 1008, FailedPrecondition;
    /// The session was deleted.
    SessionDeleted = "session_deleted", false, 410, 1008, NotFound;
    /// The log does not have this place: it is beyond the end, or was trimmed.
    OutOfRange = "out_of_range", false, 400, 1008, OutOfRange;
    /// A position of another history of the session.
    ForeignPosition = "foreign_position", false, 409, 1008, FailedPrecondition;
    /// Records were trimmed before they could be delivered; subscribe again to be told which.
    Trimmed = "trimmed", true, 410, 1008, OutOfRange;
    /// A cursor never moves backwards; `expected` is the offset that it has.
    CursorBackwards = "cursor_backwards", false, 409, 1008, FailedPrecondition;
    /// The records belong to another session, which this one was forked off: erase them there.
    EraseElsewhere = "erase_elsewhere", false, 409, 1008, FailedPrecondition;
    /// The records do not go on where the import is; `expected` is the offset to go on at.
    ImportOutOfOrder = "import_out_of_order", false, 409, 1008, FailedPrecondition;
    /// A text that is not a pattern.
    InvalidPattern = "invalid_pattern", false, 400, 1008, InvalidArgument;
    /// A pattern that more sessions match than one subscription follows.
    PatternTooBroad = "pattern_too_broad", false, 400, 1008, InvalidArgument;
    /// A page of a list with other conditions.
    PageMismatch = "page_mismatch", false, 400, 1008, InvalidArgument;
    /// The broker was started without this.
    NotConfigured = "not_configured", false, 501, 1008, Unimplemented;
    /// There is a backup of this name.
    BackupExists = "backup_exists", false, 409, 1008, AlreadyExists;
    /// `if_end` is not the end; `expected` is.
    EndMismatch = "end_mismatch", false, 412, 1008, Aborted;
    /// The first sequence of an unknown producer must be 0.
    ProducerUnknown = "producer_unknown", false, 409, 1008, FailedPrecondition;
    /// A higher epoch of the producer has written; `expected` is the lowest that is taken.
    ProducerFenced = "producer_fenced", false, 409, 1008, FailedPrecondition;
    /// A sequence was skipped; `expected` is the next.
    SequenceGap = "sequence_gap", false, 409, 1008, FailedPrecondition;
    /// The sequence was published with another payload.
    SequenceConflict = "sequence_conflict", false, 409, 1008, AlreadyExists;
    /// The sequence was published longer ago than is remembered; `expected` is the highest known.
    Duplicate = "duplicate", false, 409, 1008, AlreadyExists;
    /// The session has something else of this id.
    IdInUse = "id_in_use", false, 409, 1008, AlreadyExists;
    /// There is no ask of this id in the session.
    AskNotFound = "ask_not_found", false, 404, 1008, NotFound;
    /// An ask that is not well formed.
    InvalidAsk = "invalid_ask", false, 400, 1008, InvalidArgument;
    /// The answer is none that the ask takes.
    InvalidAnswer = "invalid_answer", false, 400, 1008, InvalidArgument;
    /// The ask is not for this principal.
    NotAddressed = "not_addressed", false, 403, 1008, PermissionDenied;
    /// The ask has ended; `resolved` says how.
    AlreadyResolved = "already_resolved", false, 409, 1008, FailedPrecondition;
    /// There is no run of this id in the session.
    RunNotFound = "run_not_found", false, 404, 1008, NotFound;
    /// The run has ended.
    RunEnded = "run_ended", false, 409, 1008, FailedPrecondition;
    /// There is no message of this id in the session that grows or has grown.
    MessageNotFound = "message_not_found", false, 404, 1008, NotFound;
    /// The message was closed: it grows no more.
    MessageClosed = "message_closed", false, 409, 1008, FailedPrecondition;
    /// The message would have more than `message_bytes_max` bytes.
    MessageTooLarge = "message_too_large", false, 413, 1009, ResourceExhausted;
    /// Only whoever began it may go on with it.
    NotOwner = "not_owner", false, 403, 1008, PermissionDenied;
    /// The lease is not live, or is another principal's.
    Fenced = "fenced", false, 409, 1008, FailedPrecondition;
    /// Somebody else holds the lease; `retry_after_ms` is when it lapses unless it is renewed.
    LeaseHeld = "lease_held", true, 409, 1008, Aborted;
    /// No session of the pattern calls for the agent; the claim may wait longer, or be made again.
    NothingCalls = "nothing_calls", true, 404, 1008, NotFound;
    /// The key of the state was changed meanwhile; `expected` is its revision, 0 when it is not there.
    RevisionMismatch = "revision_mismatch", false, 412, 1008, Aborted;
    /// Nobody ever was this agent in the session.
    AgentUnknown = "agent_unknown", false, 404, 1008, NotFound;
    /// There is no input of this id in the session.
    InputNotFound = "input_not_found", false, 404, 1008, NotFound;
    /// The input was consumed, or is not going to be.
    InputEnded = "input_ended", false, 409, 1008, FailedPrecondition;
    /// More is open in the session, or in its state, than it takes; end or remove some of it.
    TooManyOpen = "too_many_open", false, 429, 1008, ResourceExhausted;
    /// There is no worker group of this name.
    WorkerGroupNotFound = "worker_group_not_found", false, 404, 1008, NotFound;
    /// The tenant has as many worker groups as it may.
    TooManyWorkerGroups = "too_many_worker_groups", false, 429, 1008, ResourceExhausted;
    /// The outcome is not known; the publish may be durable. Repeat it under the same sequence.
    OutcomeUnknown = "outcome_unknown", true, 503, 1013, Unavailable;
    /// Too much is waiting; try again later.
    Overloaded = "overloaded", true, 503, 1013, Unavailable;
    /// The store takes no writes for now, such as when the disk is full.
    StorageUnavailable = "storage_unavailable", true, 503, 1013, Unavailable;
    /// Stored bytes are damaged; they are not served.
    DataCorrupt = "data_corrupt", false, 500, 1011, DataLoss;
    /// A defect of the broker.
    Internal = "internal", false, 500, 1011, Internal;
}

impl ErrorCode {
    /// The code that a text on the wire names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: its code and what a human and a program need to act on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Error {
    /// What went wrong.
    pub code: ErrorCode,
    /// What was wrong, what is allowed and what to do.
    pub message: String,
    /// The field that was wrong.
    pub field: &'static str,
    /// The limit that was passed; 0 when none was.
    pub limit: u64,
    /// The value that would have been taken.
    pub expected: u64,
    /// When to try again; 0 when it does not matter or does not help.
    pub retry_after_ms: u64,
    /// How the ask ended that was answered.
    pub resolved: Option<Box<Resolution>>,
}

impl Error {
    /// An error with a code and a message.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: "",
            limit: 0,
            expected: 0,
            retry_after_ms: 0,
            resolved: None,
        }
    }

    /// There is no such session, or it may not be read: one refusal, so that nobody learns which of the two it is.
    #[must_use]
    pub fn no_such_session() -> Self {
        let message = "there is no session of this name that may be read; where that is allowed, a publish creates one, and \
                       `wait` subscribes before that";
        Self::new(ErrorCode::SessionNotFound, message).field("session")
    }

    /// A frame of so many bytes, where fewer are allowed.
    #[must_use]
    pub fn frame_too_large(bytes: usize, limit: usize) -> Self {
        let message = format!("the frame has {bytes} bytes; at most {limit} are allowed");
        Self::new(ErrorCode::FrameTooLarge, message).limit(limit)
    }

    /// Names the field that was wrong.
    #[must_use]
    pub fn field(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    /// Names the limit that was passed.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit as u64;
        self
    }

    /// Names the value that would have been taken.
    #[must_use]
    pub fn expected(mut self, expected: u64) -> Self {
        self.expected = expected;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// Says how the ask ended.
    #[must_use]
    pub fn resolved(mut self, resolved: Resolution) -> Self {
        self.resolved = Some(Box::new(resolved));
        self
    }

    /// The error as the wire carries it.
    #[must_use]
    pub fn to_wire(&self) -> wire::Error {
        wire::Error {
            code: self.code.as_str().to_owned(),
            message: self.message.clone(),
            retryable: self.code.retryable(),
            retry_after_ms: self.retry_after_ms,
            field: self.field.to_owned(),
            limit: self.limit,
            expected: self.expected,
            resolved: self.resolved.as_ref().map(|resolved| Box::new(resolved.to_wire())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_round_trip() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert!(!ErrorCode::ALL[..index].iter().any(|other| other.as_str() == code.as_str()));
        }
    }
}
