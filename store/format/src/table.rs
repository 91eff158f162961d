//! Which chunks an image is made of (`docs/chunk-table.md`).

mod derived;
mod outline;
mod writer;

use std::collections::HashSet;

use wire::Digest;

use crate::bytes::{self, DecodeError, Reader};
use crate::envelope::{Envelope, REGIONS_MAX};
use crate::frame;

pub use derived::{DerivedTable, KeptTable};
pub use outline::{Outline, PAGE_EXTENTS, Page, TableError};
pub use writer::TableWriter;

const WHAT: &str = "a chunk table";
const MAGIC: &[u8; 8] = b"INGOTTBL";
const VERSION: u32 = 1;
const EXTENT_LEN: usize = 40;

/// Most extents in a table: 1 TiB of chunks of the usual 64 KiB.
pub const EXTENTS_MAX: u64 = 1 << 24;
/// Most bytes of an encoded table.
pub const BYTES_MAX: u64 = EXTENTS_MAX * 40 + (64 << 10);

/// The id that stands for a hole; no bytes are known to have this digest.
const HOLE: Digest = Digest([0; 32]);

/// A stretch of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Zero bytes, which are not stored.
    Hole {
        /// How many, at least 1.
        bytes: u64,
    },
    /// The plain bytes of one chunk.
    Chunk {
        /// BLAKE3 of the bytes.
        id: Digest,
        /// How many, 1 to [`frame::CHUNK_MAX`].
        bytes: u32,
    },
}

impl Extent {
    /// Bytes of the region that it covers.
    pub fn bytes(&self) -> u64 {
        match *self {
            Extent::Hole { bytes } => bytes,
            Extent::Chunk { bytes, .. } => u64::from(bytes),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let id = match self {
            Extent::Hole { .. } => HOLE,
            Extent::Chunk { id, .. } => *id,
        };
        out.extend_from_slice(&self.bytes().to_le_bytes());
        out.extend_from_slice(&id.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Extent, DecodeError> {
        let (bytes, id) = (reader.u64()?, reader.digest()?);
        Ok(match id == HOLE {
            true => Extent::Hole { bytes },
            false => Extent::Chunk { id, bytes: chunk_len(reader, bytes)? },
        })
    }
}

/// The extents of each region of an image, in the order of the envelope's
/// regions. Two holes never follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    /// The image that the table is of: BLAKE3 of its envelope.
    pub image: Digest,
    /// Per region its extents, in order, without gaps.
    pub regions: Vec<Vec<Extent>>,
}

impl ChunkTable {
    /// The table's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let extents: usize = self.regions.iter().map(Vec::len).sum();
        let len = 12 + 32 + 8 + self.regions.len() * 8 + extents * EXTENT_LEN + 32;
        let mut out = bytes::start(MAGIC, VERSION, len);
        out.extend_from_slice(&self.image.0);
        bytes::put_len(&mut out, self.regions.len());
        for region in &self.regions {
            bytes::put_len(&mut out, region.len());
            region.iter().for_each(|extent| extent.encode(&mut out));
        }
        bytes::finish(out)
    }

    /// Reads a table. That it fits its image is for [`ChunkTable::check`].
    pub fn decode(bytes: &[u8]) -> Result<ChunkTable, DecodeError> {
        let mut reader = Reader::checked(WHAT, MAGIC, VERSION, bytes)?;
        let image = reader.digest()?;
        let count = reader.count(REGIONS_MAX as u64, 8)?;
        let mut left = EXTENTS_MAX;
        let mut regions = Vec::with_capacity(count);
        for _ in 0..count {
            let extents = reader.count(left, EXTENT_LEN)?;
            left -= extents as u64;
            regions.push(decode_region(&mut reader, extents)?);
        }
        reader.end()?;
        Ok(ChunkTable { image, regions })
    }

    /// Checks that the table is of this image: that it names it and that each
    /// region has its length.
    pub fn check(&self, envelope: &Envelope) -> Result<(), DecodeError> {
        check_fit(&self.image, self.regions.iter().map(|extents| sum(extents)), envelope)
    }

    /// Every chunk once, in order of first occurrence: the order of
    /// [`crate::Locations::chunks`].
    pub fn distinct(&self) -> impl Iterator<Item = (Digest, u32)> + '_ {
        let mut seen = HashSet::new();
        self.regions.iter().flatten().filter_map(move |extent| match *extent {
            Extent::Chunk { id, bytes } if seen.insert(id) => Some((id, bytes)),
            _ => None,
        })
    }

    /// The ids of all chunks: what a reader has that holds this image.
    pub fn ids(&self) -> HashSet<Digest> {
        self.distinct().map(|(id, _)| id).collect()
    }
}

/// Checks that a table of this image, with regions of these lengths, is of an
/// envelope.
fn check_fit(
    image: &Digest,
    regions: impl ExactSizeIterator<Item = Option<u64>>,
    envelope: &Envelope,
) -> Result<(), DecodeError> {
    let invalid = |why| Err(DecodeError::Invalid { what: WHAT, why });
    if *image != envelope.digest() {
        return invalid("it belongs to another image");
    }
    if regions.len() != envelope.regions.len() {
        return invalid("it has another number of regions than its image");
    }
    if regions.zip(&envelope.regions).any(|(bytes, region)| bytes != Some(region.bytes)) {
        return invalid("a region has another length than in its image");
    }
    Ok(())
}

fn sum(extents: &[Extent]) -> Option<u64> {
    extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.bytes()))
}

fn decode_region(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Extent>, DecodeError> {
    let extents = (0..count).map(|_| Extent::decode(reader)).collect::<Result<Vec<_>, _>>()?;
    match check_region(&extents) {
        Ok(()) => Ok(extents),
        Err(why) => Err(reader.invalid(why)),
    }
}

/// What is wrong with the extents of a region, if anything.
fn check_region(extents: &[Extent]) -> Result<(), &'static str> {
    let is_hole = |extent: &Extent| matches!(extent, Extent::Hole { .. });
    let continues = |pair: &[Extent]| pair.iter().all(is_hole);
    if extents.iter().any(|extent| extent.bytes() == 0) || extents.windows(2).any(continues) {
        return Err("an extent is empty or continues a hole");
    }
    sum(extents).map(drop).ok_or("a region is longer than 64 bits can say")
}

fn chunk_len(reader: &Reader<'_>, bytes: u64) -> Result<u32, DecodeError> {
    u32::try_from(bytes)
        .ok()
        .filter(|len| *len <= frame::CHUNK_MAX)
        .ok_or_else(|| reader.invalid("a chunk is longer than chunks may be"))
}
