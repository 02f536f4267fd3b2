//! The statuses of gRPC that errors have.

/// A status of gRPC (its `statuscodes.md`), of those that an error of ours can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrpcStatus {
    /// What was asked is wrong, whatever the state of the broker.
    InvalidArgument = 3,
    /// There is no such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// More than may be used.
    ResourceExhausted = 8,
    /// Wrong in the state that things are in.
    FailedPrecondition = 9,
    /// Somebody else was faster: read again, and try again.
    Aborted = 10,
    /// Outside of what there is.
    OutOfRange = 11,
    /// Nothing that this broker does.
    Unimplemented = 12,
    /// A defect.
    Internal = 13,
    /// Not now: try again.
    Unavailable = 14,
    /// What was stored is damaged.
    DataLoss = 15,
    /// Nobody known.
    Unauthenticated = 16,
}

impl GrpcStatus {
    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Its name, as gRPC writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}
