//! The service of gRPC, as `service.proto` has it.

/// Its name.
pub const NAME: &str = "longwire.v1.SessionService";

/// A `FileDescriptorSet` of it and of the frames, encoded: what reflection tells.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
