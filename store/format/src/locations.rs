//! Where the chunks of one image are, at the moment (`docs/locations.md`).

use std::io::{self, Write};

use wire::Digest;

use crate::bytes::{self, DecodeError, Reader};
use crate::pack::{self, PackName};
use crate::table::EXTENTS_MAX;

const WHAT: &str = "a list of chunk locations";
const MAGIC: &[u8; 8] = b"INGOTLOC";
const VERSION: u32 = 2;
const LOCATION_LEN: usize = 16;

/// Most packs that an image may be spread over.
pub const PACKS_MAX: u64 = 1 << 16;
/// Most bytes of an encoded list.
pub const BYTES_MAX: u64 = EXTENTS_MAX * 16 + PACKS_MAX * 32 + 1024;

/// The place of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Index into [`Locations::packs`].
    pub pack: u32,
    /// Offset in that pack of the header of the frame that the chunk is in.
    pub offset: u64,
    /// Bytes of the frame, header included.
    pub frame_len: u32,
    /// Where the chunk starts in the plain bytes of the frame.
    pub plain_offset: u32,
}

/// The places of all chunks of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    /// The packs that hold them.
    pub packs: Vec<PackName>,
    /// One for each distinct chunk, in order of first occurrence in the
    /// image's chunk table.
    pub chunks: Vec<Location>,
}

impl Location {
    fn encode(&self) -> [u8; LOCATION_LEN] {
        let mut bytes = [0; LOCATION_LEN];
        bytes[..4].copy_from_slice(&self.pack.to_le_bytes());
        bytes[4..8].copy_from_slice(&pack::encoded_offset(self.offset));
        bytes[8..12].copy_from_slice(&self.frame_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.plain_offset.to_le_bytes());
        bytes
    }
}

/// What stands before the locations.
fn head(packs: &[PackName], chunks: usize) -> Vec<u8> {
    let mut out = bytes::start(MAGIC, VERSION, 12 + 16 + packs.len() * 32);
    bytes::put_len(&mut out, packs.len());
    packs.iter().for_each(|pack| out.extend_from_slice(&pack.0));
    bytes::put_len(&mut out, chunks);
    out
}

/// Writes a list of which not all is in memory.
#[derive(Debug)]
pub struct LocationsWriter<W> {
    out: W,
    hasher: blake3::Hasher,
    /// Locations that are still to come.
    left: usize,
}

impl<W: Write> LocationsWriter<W> {
    /// Begins a list of so many locations in these packs.
    pub fn new(out: W, packs: &[PackName], chunks: usize) -> io::Result<LocationsWriter<W>> {
        let mut writer = LocationsWriter { out, hasher: blake3::Hasher::new(), left: chunks };
        writer.put(&head(packs, chunks))?;
        Ok(writer)
    }

    /// Adds the next location.
    pub fn push(&mut self, location: &Location) -> io::Result<()> {
        let is_too_many = || io::Error::other("there are more locations than were announced");
        self.left = self.left.checked_sub(1).ok_or_else(is_too_many)?;
        self.put(&location.encode())
    }

    /// Ends the list; returns BLAKE3 of its bytes, too.
    pub fn finish(mut self) -> io::Result<(W, Digest)> {
        if self.left > 0 {
            return Err(io::Error::other("there are fewer locations than were announced"));
        }
        let sum = *self.hasher.finalize().as_bytes();
        self.put(&sum)?;
        self.out.flush()?;
        Ok((self.out, Digest(*self.hasher.finalize().as_bytes())))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

impl Locations {
    /// The list's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = head(&self.packs, self.chunks.len());
        out.reserve_exact(self.chunks.len() * LOCATION_LEN + 32);
        self.chunks.iter().for_each(|chunk| out.extend_from_slice(&chunk.encode()));
        bytes::finish(out)
    }

    /// Reads a list; every location is then possible and names a pack.
    pub fn decode(bytes: &[u8]) -> Result<Locations, DecodeError> {
        let mut reader = Reader::checked(WHAT, MAGIC, VERSION, bytes)?;
        let count = reader.count(PACKS_MAX, 32)?;
        let packs: Vec<PackName> =
            (0..count).map(|_| reader.array().map(PackName)).collect::<Result<_, _>>()?;
        let count = reader.count(EXTENTS_MAX, LOCATION_LEN)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let (pack, offset) = (reader.u32()?, u64::from(reader.u32()?));
            let (frame_len, plain_offset) = (reader.u32()?, reader.u32()?);
            let named = usize::try_from(pack).is_ok_and(|index| index < packs.len());
            // How long the chunk is says the chunk table.
            if !named || !pack::fits(offset, frame_len, plain_offset, 1) {
                return Err(reader.invalid("a location is impossible"));
            }
            chunks.push(Location { pack, offset, frame_len, plain_offset });
        }
        reader.end()?;
        Ok(Locations { packs, chunks })
    }

    /// The pack of a location of this list.
    pub fn pack(&self, location: &Location) -> Option<PackName> {
        self.packs.get(usize::try_from(location.pack).ok()?).copied()
    }
}
