//! An immutable sorted part of the index: where chunks are (`docs/index.md`).

use wire::Digest;

use crate::bytes::{self, DecodeError, Reader, SUM};
use crate::pack::{Entry, PackName};

const WHAT: &str = "an index segment";
const MAGIC: &[u8; 8] = b"INGOTIDX";
const VERSION: u32 = 1;
/// Magic, version, four zero bytes, count of packs, count of entries.
const HEAD: usize = 32;
const PACK_LEN: usize = 32;
const ENTRY_LEN: usize = 56;

/// Most packs in a segment.
pub const PACKS_MAX: u64 = 1 << 24;
/// Most entries in a segment.
pub const ENTRIES_MAX: u64 = 1 << 32;

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
    entries.sort_by_key(|(pack, entry)| (entry.id, *pack, entry.offset));
    entries.dedup_by_key(|(_, entry)| entry.id);
    let len = HEAD + packs.len() * PACK_LEN + entries.len() * ENTRY_LEN + SUM;
    let mut out = bytes::start(MAGIC, VERSION, len);
    out.extend_from_slice(&[0; 4]);
    bytes::put_len(&mut out, packs.len());
    bytes::put_len(&mut out, entries.len());
    packs.iter().for_each(|(name, _)| out.extend_from_slice(&name.0));
    for (pack, entry) in entries {
        entry.encode(&mut out);
        out.extend_from_slice(&pack.to_le_bytes());
    }
    bytes::finish(out)
}

/// A segment in memory, or mapped into it.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    packs: &'a [[u8; PACK_LEN]],
    entries: &'a [[u8; ENTRY_LEN]],
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
        if body.len() < entries * ENTRY_LEN {
            return Err(truncated);
        }
        if body.len() > entries * ENTRY_LEN {
            return Err(reader.invalid("bytes follow its end"));
        }
        Ok(Segment { packs: names.as_chunks().0, entries: body.as_chunks().0 })
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
        let at = self.entries.binary_search_by(|entry| entry[..32].cmp(&id.0[..])).ok()?;
        self.place(&self.entries[at]).ok()
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

/// Checks everything in a segment: its checksum, each entry, their order.
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
    Ok(())
}
