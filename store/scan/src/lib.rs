//! From a disk to what an image of it is made of: its partitions, what of them
//! is worth keeping, and where that is cut into chunks.
//!
//! One rule for everybody: who cuts alike shares chunks. Nothing here knows
//! where chunks go.

#![forbid(unsafe_code)]

mod contents;
mod cut;
pub mod cuts;
mod disk;
mod image;
mod layout;
mod mbr;
mod read;
mod scan;

pub use contents::ImportedRegion;
pub use disk::{BLOCK, Disk, is_zero};
pub use image::{Chunks, Scanned, image};
pub use layout::{About, Layout, LayoutError, Span};
pub use scan::{Batch, Item, scan};
