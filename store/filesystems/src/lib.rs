//! What a file system says about the bytes of its partition: which of them
//! nobody will ever read, and where its files begin and end
//! (`docs/filesystems.md`).
//!
//! Only ext2, ext3, ext4 and FAT are known, and only while they are clean and
//! agree with themselves: whoever asks would otherwise throw bytes away that
//! somebody needs. Pure: bytes come through [`ReadAt`].

#![forbid(unsafe_code)]

mod ext4;
mod fat;
mod fields;
mod map;

use std::fmt;
use std::io;

pub use map::Map;

/// Most places where files begin or end that are kept, 8 bytes each.
pub const EDGES_MAX: usize = 4 << 20;
/// Most stretches of free bytes that are kept, 16 bytes each.
pub const FREE_MAX: usize = 4 << 20;

/// The bytes of a partition.
pub trait ReadAt {
    /// Fills a buffer from an offset on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buffer.len());
        let found = end.and_then(|end| self.get(start..end));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A kind of file system that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext4,
    /// FAT12, FAT16 or FAT32.
    Fat,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Ext4 => "ext4",
            Kind::Fat => "FAT",
        })
    }
}

/// Why there is no map of a partition.
#[derive(Debug, thiserror::Error)]
pub enum NoMap {
    /// It has none of the file systems that are known.
    #[error("it is neither ext4 nor FAT")]
    Unknown,
    /// It has one, and that cannot be relied on.
    #[error("its {kind} cannot be relied on: {why}")]
    Unreliable {
        /// Which one.
        kind: Kind,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Reads what the file system of a partition of `bytes` bytes says. Reads its
/// metadata only; memory is bounded by [`EDGES_MAX`] and [`FREE_MAX`].
pub fn map(partition: &(impl ReadAt + ?Sized), bytes: u64) -> Result<Map, NoMap> {
    match ext4::map(partition, bytes) {
        Err(NoMap::Unknown) => fat::map(partition, bytes),
        other => other,
    }
}
