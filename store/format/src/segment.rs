//! An immutable sorted part of the index: where chunks are (`docs/index.md`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use wire::Digest;

use crate::bytes::{self, DecodeError, Reader, SUM};
use crate::pack::{Entry, PackName};

const WHAT: &str = "an index segment";
const MAGIC: &[u8; 8] = b"INGOTIDX";
const VERSION: u32 = 3;
/// Magic, version, four zero bytes, count of packs, count of entries.
const HEAD: usize = 32;
/// Where in it the count of entries is.
const COUNT: usize = 24;
const PACK_LEN: usize = 32;
const ENTRY_LEN: usize = 56;
const DIRECTORY_LEN: usize = 4;
/// Entries to a number of the directory, where it is at its smallest: such a
/// directory stays in the processor's cache, and what it leads to is a few
/// cache lines.
const ENTRIES_PER_NUMBER: usize = 4;

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

/// Writes a segment of the given packs and their tables. Of a chunk that is in
/// several packs, the place in the first one given is kept.
pub fn encode(packs: &[(PackName, Vec<Entry>)]) -> Vec<u8> {
    let mut entries: Vec<(u32, &Entry)> = (0_u32..)
        .zip(packs)
        .flat_map(|(index, (_, entries))| entries.iter().map(move |entry| (index, entry)))
        .collect();
    entries.sort_by_key(|(pack, entry)| (entry.id, *pack, entry.offset, entry.plain_offset));
    let names: Vec<PackName> = packs.iter().map(|(name, _)| *name).collect();
    let most = entries.len();
    write(&names, entries.into_iter().map(|(pack, entry)| (pack, *entry)), most)
}

/// Makes one segment of several, without the packs that are not to be kept and
/// without entries that cannot be right. Of a chunk that is in several segments,
/// the place in the first one given is kept. Needs memory for the result only.
pub fn merge(segments: &[Segment<'_>], keep: impl Fn(&PackName) -> bool) -> Vec<u8> {
    let (mut names, mut numbers) = (Vec::new(), HashMap::new());
    for name in segments.iter().flat_map(Segment::packs).filter(keep) {
        numbers.entry(name).or_insert_with(|| {
            names.push(name);
            names.len() as u32 - 1
        });
    }
    let mut sources: Vec<_> = segments
        .iter()
        .map(|segment| {
            let places = segment.iter().flatten();
            places.filter_map(|place| Some((*numbers.get(&place.pack)?, place.entry)))
        })
        .collect();
    let mut heads: Vec<_> = sources.iter_mut().map(Iterator::next).collect();
    // The ids of the heads, least first, of the same id the first segment's.
    let ids = heads.iter().zip(0_usize..).filter_map(|(head, at)| Some((head.as_ref()?.1.id, at)));
    let mut next: BinaryHeap<_> = ids.map(Reverse).collect();
    let entries = std::iter::from_fn(|| {
        let Reverse((_, at)) = next.pop()?;
        let entry = std::mem::replace(&mut heads[at], sources[at].next());
        next.extend(heads[at].as_ref().map(|(_, entry)| Reverse((entry.id, at))));
        entry
    });
    write(&names, entries, segments.iter().map(Segment::len).sum())
}

/// Writes at most so many entries, which come by rising id; of several with the
/// same id the first.
fn write(packs: &[PackName], entries: impl Iterator<Item = (u32, Entry)>, most: usize) -> Vec<u8> {
    let len = HEAD + packs.len() * PACK_LEN + most * ENTRY_LEN + directory_bytes(most) + SUM;
    let mut out = bytes::start(MAGIC, VERSION, len);
    out.extend_from_slice(&[0; 4]);
    bytes::put_len(&mut out, packs.len());
    bytes::put_len(&mut out, 0);
    packs.iter().for_each(|name| out.extend_from_slice(&name.0));
    let start = out.len();
    let mut last = None;
    for (pack, entry) in entries.filter(|(_, entry)| last.replace(entry.id) != Some(entry.id)) {
        entry.encode(&mut out);
        out.extend_from_slice(&pack.to_le_bytes());
    }
    let count = (out.len() - start) / ENTRY_LEN;
    out[COUNT..HEAD].copy_from_slice(&(count as u64).to_le_bytes());
    let numbers = directory(out[start..].as_chunks().0);
    numbers.iter().for_each(|number| out.extend_from_slice(number));
    bytes::finish(out)
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

/// For each value of the first bits of an id, how many of these entries, which
/// are sorted, have that value or a lower one.
fn directory(entries: &[[u8; ENTRY_LEN]]) -> Vec<[u8; DIRECTORY_LEN]> {
    let bits = directory_bits(entries.len());
    let mut numbers = Vec::with_capacity(1 << bits);
    let mut below = 0_u32;
    for value in 0..1_usize << bits {
        let rest = entries.get(below as usize..).unwrap_or_default();
        below +=
            rest.iter().take_while(|entry| first_bits(&entry[..], bits) <= value).count() as u32;
        numbers.push(below.to_le_bytes());
    }
    numbers
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
    Reader::checked(WHAT, MAGIC, VERSION, bytes)?;
    let segment = Segment::open(bytes)?;
    let mut last = None;
    for place in segment.iter() {
        let id = place?.entry.id;
        if last.is_some_and(|last| last >= id) {
            return Err(DecodeError::Invalid { what: WHAT, why: "its entries are not sorted" });
        }
        last = Some(id);
    }
    match directory(segment.entries) == segment.directory {
        true => Ok(()),
        false => {
            Err(DecodeError::Invalid { what: WHAT, why: "its directory is not of its entries" })
        }
    }
}
