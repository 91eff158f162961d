//! An immutable sorted part of the index: where chunks are (`docs/index.md`).

mod write;

use std::cmp::Ordering;

use wire::Digest;

use crate::bytes::{DecodeError, Reader, SUM};
use crate::pack::{Entry, PackName};

pub use write::{encode, merge};

const WHAT: &str = "an index segment";
const MAGIC: &[u8; 8] = b"INGOTIDX";
const VERSION: u32 = 4;
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

/// What the frame of a segment says, for whoever opens the same one often.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    packs: usize,
    entries: usize,
    directory: usize,
}

impl Frame {
    /// Of the segment that these bytes are.
    pub fn of(bytes: &[u8]) -> Result<Frame, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.start(MAGIC, VERSION)?;
        reader.zeros::<4>()?;
        let packs = reader.count(PACKS_MAX, PACK_LEN)?;
        let entries = reader.count(ENTRIES_MAX, ENTRY_LEN)?;
        let directory = 1 << directory_bits(entries);
        let frame = Frame { packs, entries, directory };
        match frame.bytes().map(|frame| bytes.len().cmp(&frame)) {
            Some(Ordering::Equal) => Ok(frame),
            Some(Ordering::Greater) => Err(reader.invalid("bytes follow its end")),
            _ => Err(DecodeError::Truncated { what: WHAT }),
        }
    }

    /// Bytes of the whole segment.
    fn bytes(&self) -> Option<usize> {
        let packs = self.packs.checked_mul(PACK_LEN)?;
        let entries = self.entries.checked_mul(ENTRY_LEN)?;
        let directory = self.directory.checked_mul(DIRECTORY_LEN)?;
        [packs, entries, directory, SUM].into_iter().try_fold(HEAD, usize::checked_add)
    }

    /// The segment that these bytes are, which are those that this is of.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Option<Segment<'a>> {
        let (_, body) = bytes.split_at_checked(HEAD)?;
        let (packs, body) = body.split_at_checked(self.packs * PACK_LEN)?;
        let (entries, body) = body.split_at_checked(self.entries * ENTRY_LEN)?;
        let (directory, _) = body.split_at_checked(self.directory * DIRECTORY_LEN)?;
        Some(Segment {
            packs: packs.as_chunks().0,
            entries: entries.as_chunks().0,
            directory: directory.as_chunks().0,
        })
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
        let frame = Frame::of(bytes)?;
        frame.open(bytes).ok_or(DecodeError::Truncated { what: WHAT })
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

    /// Where a chunk is, first. An entry that cannot be right counts as absent.
    pub fn get(&self, id: &Digest) -> Option<Place> {
        self.all(id).next().map(|(_, place)| place)
    }

    /// All places of a chunk, with the numbers of their entries.
    pub fn all(&self, id: &Digest) -> impl Iterator<Item = (usize, Place)> + use<'a> {
        let (near, id) = (self.near(id), *id);
        near.into_iter().flat_map(move |near| near.all(&id))
    }

    /// Where an entry is if it is here, by what the directory says. Whoever asks
    /// several segments asks all directories first: memory answers them together.
    pub fn near(&self, id: &Digest) -> Option<Near<'a>> {
        let value = first_bits(&id.0, self.directory.len().trailing_zeros());
        let end_of = |value: usize| self.directory.get(value).map(|end| u32::from_le_bytes(*end));
        let start = value.checked_sub(1).map_or(Some(0), end_of)? as usize;
        let end = end_of(value)? as usize;
        Some(Near { segment: *self, start, end })
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

/// A few entries of a segment, among which one is if it is there.
#[derive(Debug, Clone, Copy)]
pub struct Near<'a> {
    segment: Segment<'a>,
    start: usize,
    end: usize,
}

impl<'a> Near<'a> {
    /// The entries of the id that this was asked for, with their numbers.
    pub fn all(&self, id: &Digest) -> impl Iterator<Item = (usize, Place)> + use<'a> {
        let Near { segment, start, end } = *self;
        let id = *id;
        let near = segment.entries.get(start..end).unwrap_or_default();
        let first = near.partition_point(|entry| entry[..32] < id.0[..]);
        let same = near[first..].iter().take_while(move |entry| entry[..32] == id.0[..]);
        let numbered = (start + first..).zip(same);
        numbered.filter_map(move |(number, entry)| Some((number, segment.place(entry).ok()?)))
    }
}

/// The places of one chunk, as entries of a segment come: each pack has it once.
#[derive(Default)]
struct Places {
    id: Option<[u8; 32]>,
    packs: Vec<u32>,
}

impl Places {
    /// Whether no entry has said so yet.
    fn is_new(&mut self, id: &[u8; 32], pack: u32) -> bool {
        if self.id.replace(*id) != Some(*id) {
            self.packs.clear();
        }
        let is_new = !self.packs.contains(&pack);
        self.packs.extend(is_new.then_some(pack));
        is_new
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
    let mut places = Places::default();
    for (number, place) in segment.iter().enumerate() {
        let id = place?.entry.id;
        if last.is_some_and(|last| last > id) {
            return Err(invalid("its entries are not sorted"));
        }
        let pack = segment.entries[number].last_chunk().map_or(0, |pack| u32::from_le_bytes(*pack));
        if !places.is_new(&id.0, pack) {
            return Err(invalid("it has a chunk of a pack twice"));
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
