//! What a call ends with, by the one table of errors.

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use prost::Message;
use prost_types::{Any, Duration};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The type of the details that every refusal has.
const ERROR_TYPE: &str = "type.googleapis.com/longwire.v1.Error";
/// The type of the details that say when to try again.
const RETRY_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";
/// What tells a gRPC library when to try again (its proposal A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Bytes of a message: what is longer may pass what a client takes of headers. The details have as much, once more.
const MESSAGE_BYTES_MAX: usize = 1024;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Duration>,
}

/// The status of an error that ends a call.
pub(super) fn of_error(error: &Error) -> Status {
    of_wire(error.to_wire(), 0)
}

/// The same of an error as the wire has it, of a broker that says when to come back.
pub(super) fn of_wire(mut error: wire::Error, reconnect_after_ms: u64) -> Status {
    error.message.truncate(error.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    let number = ErrorCode::parse(&error.code).unwrap_or(ErrorCode::Internal).grpc_status().number();
    let retry_after_ms = error.retry_after_ms.max(reconnect_after_ms);
    let mut details = vec![Any { type_url: ERROR_TYPE.to_owned(), value: error.encode_to_vec() }];
    if retry_after_ms > 0 {
        let (seconds, nanos) = (retry_after_ms / 1000, retry_after_ms % 1000 * 1_000_000);
        let retry_delay = Duration {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos).unwrap_or_default(),
        };
        let info = RetryInfo { retry_delay: Some(retry_delay) };
        details.push(Any { type_url: RETRY_TYPE.to_owned(), value: info.encode_to_vec() });
    }
    let message = format!("{} ({})", error.message, error.code);
    let details = RpcStatus { code: number, message: message.clone(), details };
    let details = Bytes::from(details.encode_to_vec());
    let mut status = Status::with_details(Code::from(number), message, details);
    if retry_after_ms > 0 {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from(retry_after_ms));
    }
    status
}

/// The status of a call whose time is over.
pub(super) fn deadline() -> Status {
    Status::deadline_exceeded("the time that the call was given is over; what it asked may have been done")
}

/// The status of a call whose connection ended without a word.
pub(super) fn broken() -> Status {
    of_error(&Error::new(ErrorCode::Overloaded, "the call was cut short; make it again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_whole() {
        let error = Error::new(ErrorCode::RateLimited, "é".repeat(2000)).limit(7).retry_after_ms(1500);
        let status = of_error(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "1500");
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((details.code, details.details.len()), (8, 2));
        let told = wire::Error::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!((told.code.as_str(), told.limit, told.retryable), ("rate_limited", 7, true));
        assert_eq!(told.message.len(), MESSAGE_BYTES_MAX);
        let retry = RetryInfo::decode(details.details[1].value.as_slice()).unwrap().retry_delay.unwrap();
        assert_eq!((retry.seconds, retry.nanos), (1, 500_000_000));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        assert!(headers.contains_key("grpc-status-details-bin"));
    }

    #[test]
    fn every_code_is_one_of_grpc() {
        for code in ErrorCode::ALL {
            let status = of_error(&Error::new(*code, "x"));
            assert_eq!(i32::from(status.code()), code.grpc_status().number());
            assert_eq!(
                format!("{:?}", status.code()).to_uppercase(),
                code.grpc_status().as_str().replace('_', "")
            );
        }
    }
}
