//! Tests of the engine on the local disk.

mod conform;
mod faulty_disk;
