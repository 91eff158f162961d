//! A chunk table of which a part at a time is in memory.

use std::io::{self, Read};
use std::ops::Range;

use wire::Digest;

use super::{ChunkTable, EXTENT_LEN, EXTENTS_MAX, Extent, MAGIC, VERSION, WHAT, check_fit};
use crate::bytes::{DecodeError, Reader, SUM};
use crate::digest_of;
use crate::envelope::{Envelope, REGIONS_MAX};

/// Most extents of a page: some 256 MiB of content.
pub const PAGE_EXTENTS: usize = 4096;
/// Magic, version, image, number of regions.
const HEAD: usize = 52;

/// Why a table that is not in memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The bytes could not be read or written.
    #[error("the bytes of a chunk table cannot be read or written")]
    Io(#[from] io::Error),
    /// The bytes are no table, or too long for one.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// All of a table but its extents, which are read page by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The image that the table is of: BLAKE3 of its envelope.
    pub image: Digest,
    /// BLAKE3 of the table's bytes.
    pub name: Digest,
    /// How many bytes the table has.
    pub len: u64,
    /// The extents in order, none of two regions in one page.
    pub pages: Vec<Page>,
    /// Bytes of each region.
    regions: Vec<u64>,
}

/// Extents that stand together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where they are in the table's bytes.
    pub range: Range<u64>,
    /// What they cover of the disk.
    pub disk: Range<u64>,
    /// BLAKE3 of their bytes: who comes back shall find what was checked.
    digest: Digest,
}

impl Outline {
    /// Reads a table from its first byte to its last. Everything is checked but
    /// that it fits its image, which is for [`Outline::check`].
    pub fn read(from: impl Read) -> Result<Outline, TableError> {
        let mut from = Summed { from, hasher: blake3::Hasher::new(), len: 0 };
        let (image, count) = from.head()?;
        let (mut regions, mut pages) = (Vec::new(), Vec::new());
        let (mut disk, mut left) = (0, EXTENTS_MAX);
        for _ in 0..count {
            let extents = from.number()?;
            left = left
                .checked_sub(extents)
                .ok_or(too_many(extents.saturating_add(EXTENTS_MAX - left)))?;
            let start = disk;
            from.region(extents, &mut disk, &mut pages)?;
            regions.push(disk - start);
        }
        let (name, len) = from.end()?;
        Ok(Outline { image, name, len, pages, regions })
    }

    /// Bytes of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.regions.iter().sum()
    }

    /// As [`ChunkTable::check`].
    pub fn check(&self, envelope: &Envelope) -> Result<(), DecodeError> {
        check_fit(&self.image, self.regions.iter().copied().map(Some), envelope)
    }
}

impl Page {
    /// The extents, each with its offset on the disk, of the bytes at
    /// [`Page::range`].
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<(u64, Extent)>, DecodeError> {
        if digest_of(bytes) != self.digest {
            return Err(DecodeError::Checksum { what: WHAT });
        }
        let mut at = self.disk.start;
        let mut reader = Reader::new(WHAT, bytes);
        let extents = (0..bytes.len() / EXTENT_LEN).map(|_| {
            let extent = Extent::decode(&mut reader)?;
            let offset = at;
            at += extent.bytes();
            Ok((offset, extent))
        });
        extents.collect()
    }
}

impl ChunkTable {
    /// [`Outline::read`] of this table.
    pub fn outline(&self) -> Result<Outline, TableError> {
        Outline::read(&self.encode()[..])
    }
}

/// Bytes on their way into the checksum.
struct Summed<R> {
    from: R,
    hasher: blake3::Hasher,
    len: u64,
}

impl<R: Read> Summed<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TableError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DecodeError::Truncated { what: WHAT }.into(),
            _ => TableError::Io(error),
        })?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn number(&mut self) -> Result<u64, TableError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The image, and the number of regions.
    fn head(&mut self) -> Result<(Digest, u64), TableError> {
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let mut reader = Reader::new(WHAT, &head);
        reader.start(MAGIC, VERSION)?;
        let (image, count) = (reader.digest()?, reader.u64()?);
        let limit = REGIONS_MAX as u64;
        match count > limit {
            true => Err(DecodeError::TooMany { what: WHAT, count, limit }.into()),
            false => Ok((image, count)),
        }
    }

    /// The pages of a region, which moves `disk` on.
    fn region(
        &mut self,
        mut extents: u64,
        disk: &mut u64,
        pages: &mut Vec<Page>,
    ) -> Result<(), TableError> {
        let mut after_hole = false;
        let mut bytes = Vec::new();
        while extents > 0 {
            let now = extents.min(PAGE_EXTENTS as u64);
            extents -= now;
            // A page is small.
            bytes.resize(now as usize * EXTENT_LEN, 0);
            let at = self.len;
            self.fill(&mut bytes)?;
            let start = *disk;
            let mut reader = Reader::new(WHAT, &bytes);
            for _ in 0..now {
                let extent = Extent::decode(&mut reader)?;
                let is_hole = matches!(extent, Extent::Hole { .. });
                if extent.bytes() == 0 || (is_hole && after_hole) {
                    return Err(reader.invalid("an extent is empty or continues a hole").into());
                }
                after_hole = is_hole;
                *disk = disk
                    .checked_add(extent.bytes())
                    .ok_or_else(|| reader.invalid("it is longer than 64 bits can say"))?;
            }
            let digest = digest_of(&bytes);
            pages.push(Page { range: at..self.len, disk: start..*disk, digest });
        }
        Ok(())
    }

    /// What follows is the checksum, and nothing else. Returns name and length.
    fn end(mut self) -> Result<(Digest, u64), TableError> {
        let sum = self.hasher.finalize();
        let mut found = [0; SUM];
        self.fill(&mut found)?;
        if sum != found {
            return Err(DecodeError::Checksum { what: WHAT }.into());
        }
        match self.from.read(&mut [0])? {
            0 => Ok((Digest(*self.hasher.finalize().as_bytes()), self.len)),
            _ => {
                let why = "bytes follow its end";
                Err(DecodeError::Invalid { what: WHAT, why }.into())
            }
        }
    }
}

pub(super) fn too_many(count: u64) -> DecodeError {
    DecodeError::TooMany { what: WHAT, count, limit: EXTENTS_MAX }
}
