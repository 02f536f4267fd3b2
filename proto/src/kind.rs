//! What a record means to the broker: its kind. An open set: a number that is not named here is carried on.

/// A whole message.
pub const MESSAGE: u32 = 0;
/// A piece of a message that grows.
pub const DELTA: u32 = 1;
/// The start of a run, or a change of one.
pub const RUN: u32 = 2;
/// A question.
pub const ASK: u32 = 3;
/// The end of an ask.
pub const ANSWER: u32 = 4;
/// Something that is put to an agent, or what became of it.
pub const INPUT: u32 = 5;
/// The order to end a run.
pub const CANCEL: u32 = 6;
/// A key of the session's state is set, or goes.
pub const STATE: u32 = 7;
/// A lease begins or ends. Only the broker writes it.
pub const LEASE: u32 = 9;
/// A change of the session itself; the body is a `SessionChange`. Only the broker writes it.
pub const SESSION: u32 = 10;
/// What is left of a record whose content was erased: when, who, and which publish. Only the broker writes it.
pub const TOMBSTONE: u32 = 11;
/// Kinds below this are the broker's; those that it does not know how to check yet are refused.
pub const RESERVED_BELOW: u32 = 32;
