//! An immutable sorted part of the index: where chunks are (`docs/index.md`).

mod write;

use wire::Digest;

use crate::bytes::{DecodeError, Reader, SUM};
use crate::pack::{Entry, PackName};

pub use write::{encode, merge};

const WHAT: &str = "an index segment";
const MAGIC: &[u8; 8] = b"INGOTIDX";
const VERSION: u32 = 2;
/// Magic, version, four zero bytes, count of packs, count of entries.
const HEAD: usize = 32;
const PACK_LEN: usize = 32;
const ENTRY_LEN: usize = 56;
const DIRECTORY_LEN: usize = 4;
/// Entries to a number of the directory, where it is at its smallest: such a
/// directory stays in the processor's cache, and what it leads to is a few
/// cache lines.
const ENTRIES_PER_NUMBER: usize = 4;
/// Entries between two pauses for the caller.
const PAUSE: usize = 1 << 16;

/// Most packs in a segment.
pub const PACKS_MAX: u64 = 1 << 24;
/// Most entries in a segment.
pub const ENTRIES_MAX: u64 = (1 << 32) - 1;

/// A chunk and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: PackName,
    /// The chunk in that pack.
    pub entry: Entry,
}

/// Bits of an id that choose a number of the directory of so many entries.
fn directory_bits(entries: usize) -> u32 {
    entries.div_ceil(ENTRIES_PER_NUMBER).next_power_of_two().trailing_zeros()
}

fn directory_bytes(entries: usize) -> usize {
    DIRECTORY_LEN << directory_bits(entries)
}

/// The first bits of an id.
fn first_bits(id: &[u8], bits: u32) -> usize {
    let first = id.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
    // At most 30 bits are asked for.
    (u64::from(first) >> (32 - bits)) as usize
}

/// For each value of the first bits of an id, how many entries have that value
/// or a lower one.
struct Directory {
    bits: u32,
    numbers: Vec<u32>,
    entries: u32,
}

impl Directory {
    /// Of so many entries.
    fn new(entries: usize) -> Directory {
        let bits = directory_bits(entries);
        Directory { bits, numbers: Vec::with_capacity(1 << bits), entries: 0 }
    }

    /// Adds the entry of an id, which come by rising id.
    fn push(&mut self, id: &[u8]) {
        let value = first_bits(id, self.bits);
        self.numbers.resize(self.numbers.len().max(value), self.entries);
        self.entries += 1;
    }

    fn finish(mut self) -> Vec<u32> {
        self.numbers.resize(1 << self.bits, self.entries);
        self.numbers
    }
}

/// A segment in memory, or mapped into it.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    packs: &'a [[u8; PACK_LEN]],
    entries: &'a [[u8; ENTRY_LEN]],
    directory: &'a [[u8; DIRECTORY_LEN]],
}

impl<'a> Segment<'a> {
    /// Looks at the frame of a segment, not at its entries: costs the same for
    /// any length. [`verify`] looks at everything.
    pub fn open(bytes: &'a [u8]) -> Result<Segment<'a>, DecodeError> {
        let truncated = DecodeError::Truncated { what: WHAT };
        let mut reader = Reader::new(WHAT, bytes);
        reader.start(MAGIC, VERSION)?;
        reader.zeros::<4>()?;
        let packs = reader.count(PACKS_MAX, PACK_LEN)?;
        let entries = reader.count(ENTRIES_MAX, ENTRY_LEN)?;
        let body = bytes.get(HEAD..bytes.len().saturating_sub(SUM)).ok_or(truncated.clone())?;
        let (names, body) = body.split_at_checked(packs * PACK_LEN).ok_or(truncated.clone())?;
        let (places, directory) =
            body.split_at_checked(entries * ENTRY_LEN).ok_or(truncated.clone())?;
        if directory.len() < directory_bytes(entries) {
            return Err(truncated);
        }
        if directory.len() > directory_bytes(entries) {
            return Err(reader.invalid("bytes follow its end"));
        }
        Ok(Segment {
            packs: names.as_chunks().0,
            entries: places.as_chunks().0,
            directory: directory.as_chunks().0,
        })
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The packs whose chunks are listed.
    pub fn packs(&self) -> impl ExactSizeIterator<Item = PackName> + use<'a> {
        self.packs.iter().map(|name| PackName(*name))
    }

    /// Where a chunk is. An entry that cannot be right counts as absent.
    pub fn get(&self, id: &Digest) -> Option<Place> {
        self.find(id).map(|(_, place)| place)
    }

    /// As [`Segment::get`], with the number of the entry.
    pub fn find(&self, id: &Digest) -> Option<(usize, Place)> {
        let value = first_bits(&id.0, self.directory.len().trailing_zeros());
        let end_of = |value: usize| self.directory.get(value).map(|end| u32::from_le_bytes(*end));
        let start = value.checked_sub(1).map_or(Some(0), end_of)? as usize;
        let near = self.entries.get(start..end_of(value)? as usize)?;
        let at = near.binary_search_by(|entry| entry[..32].cmp(&id.0[..])).ok()?;
        Some((start + at, self.place(&near[at]).ok()?))
    }

    /// The entry of a number, where there is one that can be right.
    pub fn nth(&self, number: usize) -> Option<Place> {
        self.place(self.entries.get(number)?).ok()
    }

    /// All entries, by rising id.
    pub fn iter(&self) -> impl Iterator<Item = Result<Place, DecodeError>> + use<'a> {
        let segment = *self;
        self.entries.iter().map(move |entry| segment.place(entry))
    }

    /// The entries that can be right, as they stand there.
    fn right(&self) -> impl Iterator<Item = &'a [u8; ENTRY_LEN]> + use<'a> {
        let segment = *self;
        self.entries.iter().filter(move |entry| segment.place(entry).is_ok())
    }

    fn place(&self, bytes: &[u8; ENTRY_LEN]) -> Result<Place, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        let entry = Entry::decode(&mut reader)?;
        let pack = usize::try_from(reader.u32()?).ok().and_then(|index| self.packs.get(index));
        match pack {
            Some(name) => Ok(Place { pack: PackName(*name), entry }),
            None => Err(reader.invalid("an entry is of a pack that is not listed")),
        }
    }
}

/// Checks everything in a segment: its checksum, each entry, their order, the
/// directory.
pub fn verify(bytes: &[u8]) -> Result<(), DecodeError> {
    verify_with(bytes, || ())
}

/// [`verify`], with a `pause` now and then, in which the caller may let the
/// memory of a mapped segment go.
pub fn verify_with(bytes: &[u8], pause: impl Fn()) -> Result<(), DecodeError> {
    Reader::checked_with(WHAT, MAGIC, VERSION, bytes, &pause)?;
    let segment = Segment::open(bytes)?;
    let invalid = |why| DecodeError::Invalid { what: WHAT, why };
    let mut directory = Directory::new(segment.len());
    let mut last = None;
    for (number, place) in segment.iter().enumerate() {
        let id = place?.entry.id;
        if last.is_some_and(|last| last >= id) {
            return Err(invalid("its entries are not sorted"));
        }
        directory.push(&id.0);
        last = Some(id);
        if number % PAUSE == 0 {
            pause();
        }
    }
    match directory
        .finish()
        .iter()
        .map(|number| number.to_le_bytes())
        .eq(segment.directory.iter().copied())
    {
        true => Ok(()),
        false => Err(invalid("its directory is not of its entries")),
    }
}
