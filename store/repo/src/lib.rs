//! A store of images: ingest, read, check, repair.
//!
//! Bytes are in an object store (a local folder, or a bucket of S3), records in
//! SQLite, and an index of the chunks in memory-mapped files beside it. Packs are the
//! truth about chunks: the index can be lost.
//!
//! ```text
//! ingot-store.json     what this folder is, and its format version
//! store.db             images, references, packs
//! packs/ab/abcd…       chunks (docs/pack.md), named by SHA-256
//! blobs/ab/abcd…       envelopes and chunk tables, named by BLAKE3
//! index/….idx          where chunks are (docs/index.md)
//! ```
//!
//! Everything is written in the order pack, index segment, blobs, records,
//! each durable before the next: where a process stops, the store is whole and
//! has at worst packs that nothing needs.

mod blocks;
mod bucket;
mod check;
mod database;
mod diff;
mod export;
mod fetch;
mod garbage;
mod group;
mod images;
mod index;
mod ingest;
mod lease;
mod locations;
mod map;
mod marker;
mod open;
mod packer;
mod packs;
mod place;
mod qcow2;
mod read;
mod reader;
mod receive;
mod record;
mod repair;
mod sharing;
mod shelf;
#[cfg(test)]
mod simulation;
mod sorted;
mod source;
mod storage;
mod survey;
mod tables;
mod usage;

pub use check::{CheckReport, Problem};
pub use diff::{Aspect, Change, File, FileDiff, FilesDiff, Kind};
pub use diff::{ImageDiff, RegionDiff, Transfer, ValueDiff};
pub use export::{ExportError, ExportFormat, ExportOptions, ExportProgress, Exported};
pub use fetch::{FetchPlan, Lacking, OpenImage};
pub use garbage::{GarbageError, GarbagePlan, GarbageReport, PackPlan};
pub use images::{BlobRead, ImageDetails, ImageSummary, NameError};
pub use ingest::{ImportError, ImportOptions, ImportProgress, Imported};
pub use open::{OpenError, Repo};
pub use packs::{PackBytes, PackRead};
pub use place::Place;
pub use read::{Piece, Pieces, ReadError};
pub use reader::Reader;
pub use receive::{ReceiveError, Upload};
pub use repair::{
    Donor, DonorError, RepairError, RepairPlan, RepairReport, Repaired, SalvagePlan, Taken,
};
pub use sharing::{SharedWith, Sharing};
pub use source::Source;
pub use storage::{Cause, Storage, StorageError};
pub use store_scan::{ImportedRegion, LayoutError};
pub use usage::{Overhead, Usage, UsageError};
