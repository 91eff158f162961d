//! What the store keeps and sends, as bytes: chunk frames, packs, envelopes,
//! chunk tables, locations, index segments, the plan for reading them, and
//! which blocks of a disk to write.
//!
//! Pure functions over byte slices, no I/O. Everything read from outside is
//! checked against named limits before memory is reserved for it, and each
//! structure carries a version and a checksum. All integers are little-endian.
//! Each format has a page under `docs/`.

#![forbid(unsafe_code)]

pub mod blocks;
mod bytes;
pub mod envelope;
pub mod frame;
mod geometry;
pub mod locations;
pub mod pack;
pub mod plan;
pub mod region;
pub mod segment;
pub mod table;
pub mod upload;

pub use bytes::DecodeError;
pub use envelope::{
    BootSpec, Envelope, EnvelopeError, GptPartition, MbrPartition, PartitionTable, Region,
};
pub use locations::{Location, Locations, LocationsWriter};
pub use pack::PackName;
pub use plan::{Plan, PlanError, PlanLimits, RangeRequest};
pub use table::{ChunkTable, Extent};

/// The name of some plain bytes.
pub fn digest_of(bytes: &[u8]) -> wire::Digest {
    wire::Digest(*blake3::hash(bytes).as_bytes())
}
