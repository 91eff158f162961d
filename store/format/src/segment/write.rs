//! Writing segments: of packs, and of other segments.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};
use std::convert::Infallible;

use super::{Directory, ENTRY_LEN, HEAD, MAGIC, PACK_LEN, PAUSE, Places, Segment, VERSION};
use crate::bytes;
use crate::pack::{self, Entry, PackName};

/// Bytes that are given away together, or a few more.
const PIECE: usize = 4 << 20;

/// An entry as it stands in a segment, without its pack's number.
type Bare = [u8; pack::ENTRY_LEN];

/// Writes a segment of the given packs and their tables. A chunk that is in
/// several packs has an entry for each: any of them may be gone some day.
pub fn encode(packs: &[(PackName, Vec<Entry>)]) -> Vec<u8> {
    let mut entries: Vec<(u32, &Entry)> = (0_u32..)
        .zip(packs)
        .flat_map(|(index, (_, entries))| entries.iter().map(move |entry| (index, entry)))
        .collect();
    entries.sort_by_key(|(pack, entry)| (entry.id, *pack, entry.offset, entry.plain_offset));
    entries.dedup_by_key(|(pack, entry)| (entry.id, *pack));
    let names: Vec<PackName> = packs.iter().map(|(name, _)| *name).collect();
    let mut bare = Vec::with_capacity(entries.len() * pack::ENTRY_LEN);
    entries.iter().for_each(|(_, entry)| entry.encode(&mut bare));
    let numbered = entries.iter().map(|(pack, _)| *pack).zip(bare.as_chunks().0);
    let mut out = Vec::new();
    let Ok(()) = write(&names, entries.len(), numbered, |mut piece| {
        match out.is_empty() {
            true => out = piece,
            false => out.append(&mut piece),
        }
        Ok::<_, Infallible>(())
    });
    out
}

/// Makes one segment of several, without the packs that are not to be kept and
/// without entries that cannot be right. A chunk keeps a place in each of its
/// packs: other processes may know another one of them to be gone.
///
/// The bytes are given to `take` piece by piece, until it fails. Now and then
/// there is a `pause`, in which the caller may let the memory of mapped segments
/// go: what this needs of its own is the packs' names, a piece, and one to two
/// bytes for each entry. The entries are looked at twice, because their number
/// stands before them.
pub fn merge<E>(
    segments: &[Segment<'_>],
    keep: impl Fn(&PackName) -> bool,
    pause: impl Fn(),
    take: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let packs = Packs::of(segments, keep);
    let count = packs.entries(segments, &pause).count();
    write(&packs.names, count, packs.entries(segments, &pause), take)
}

/// Writes a segment of so many entries, which come by rising id.
fn write<'a, E>(
    packs: &[PackName],
    count: usize,
    entries: impl Iterator<Item = (u32, &'a Bare)>,
    mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = bytes::start(MAGIC, VERSION, HEAD + packs.len() * PACK_LEN);
    out.extend_from_slice(&[0; 4]);
    bytes::put_len(&mut out, packs.len());
    bytes::put_len(&mut out, count);
    packs.iter().for_each(|name| out.extend_from_slice(&name.0));
    let mut pieces = Pieces { out, sum: blake3::Hasher::new() };
    let mut directory = Directory::new(count);
    for (pack, entry) in entries {
        directory.push(entry);
        pieces.push(entry, &mut take)?;
        pieces.push(&pack.to_le_bytes(), &mut take)?;
    }
    for number in directory.finish() {
        pieces.push(&number.to_le_bytes(), &mut take)?;
    }
    take(pieces.finish())
}

/// The packs of several segments that are kept, each once.
struct Packs {
    names: Vec<PackName>,
    /// Per segment and number of a pack in it, which of the names it is.
    numbers: Vec<Vec<Option<u32>>>,
}

impl Packs {
    fn of(segments: &[Segment<'_>], keep: impl Fn(&PackName) -> bool) -> Packs {
        let (mut names, mut known) = (Vec::new(), HashMap::new());
        let mut number = |name: PackName| {
            keep(&name).then(|| {
                *known.entry(name).or_insert_with(|| {
                    names.push(name);
                    names.len() as u32 - 1
                })
            })
        };
        let numbers = segments.iter().map(|segment| segment.packs().map(&mut number).collect());
        let numbers = numbers.collect();
        Packs { names, numbers }
    }

    /// What is kept, each id once for a pack, with the number of that.
    fn entries<'a>(
        &self,
        segments: &[Segment<'a>],
        pause: &impl Fn(),
    ) -> impl Iterator<Item = (u32, &'a Bare)> {
        let kept = sorted(segments, pause).filter_map(|(at, entry)| {
            let (entry, pack) = entry.split_first_chunk()?;
            let pack = u32::from_le_bytes(*pack.first_chunk()?);
            let number = self.numbers.get(at)?.get(usize::try_from(pack).ok()?)?;
            Some(((*number)?, entry))
        });
        let mut places = Places::default();
        kept.filter(move |(pack, entry)| {
            entry.first_chunk().is_some_and(|id| places.is_new(id, *pack))
        })
    }
}

/// The entries of segments by rising id, with the number of the segment; of the
/// same id the first segment's first.
fn sorted<'a>(
    segments: &[Segment<'a>],
    pause: &impl Fn(),
) -> impl Iterator<Item = (usize, &'a [u8; ENTRY_LEN])> {
    let mut sources: Vec<_> = segments.iter().map(|segment| segment.right()).collect();
    let head =
        |entry: &'a [u8; ENTRY_LEN], at| Some(Reverse((entry.first_chunk::<32>()?, at, entry)));
    let firsts = sources.iter_mut().enumerate();
    let mut next: BinaryHeap<_> =
        firsts.filter_map(|(at, source)| head(source.next()?, at)).collect();
    let mut looked = 0_usize;
    std::iter::from_fn(move || {
        looked += 1;
        if looked.is_multiple_of(PAUSE) {
            pause();
        }
        let mut least = next.peek_mut()?;
        let Reverse((_, at, entry)) = *least;
        match sources[at].next().and_then(|entry| head(entry, at)) {
            Some(after) => *least = after,
            None => drop(PeekMut::pop(least)),
        }
        Some((at, entry))
    })
}

/// The bytes of a segment, as they come to be.
struct Pieces {
    /// What was not taken yet.
    out: Vec<u8>,
    sum: blake3::Hasher,
}

impl Pieces {
    fn push<E>(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.out.extend_from_slice(bytes);
        match self.out.len() < PIECE {
            true => Ok(()),
            false => {
                self.sum.update(&self.out);
                take(std::mem::take(&mut self.out))
            }
        }
    }

    /// The rest.
    fn finish(mut self) -> Vec<u8> {
        self.sum.update(&self.out);
        self.out.extend_from_slice(self.sum.finalize().as_bytes());
        self.out
    }
}
