//! The index as it is at one moment.

use std::collections::HashSet;
use std::sync::Arc;

use store_format::segment::{self, Frame, Place, Segment};
use store_format::{DecodeError, PackName};
use wire::Digest;

use crate::map::release;
use crate::storage;

/// Marks that are kept together.
const WORD: usize = u64::BITS as usize;

/// Segments whose directories are asked together: memory answers them in the
/// time of one.
const TOGETHER: usize = 8;
/// Entries of a segment that are in memory together while all are looked at:
/// 28 MiB.
const WALK: usize = 1 << 19;

/// One segment's file.
pub(super) struct Mapped {
    pub(super) name: String,
    pub(super) bytes: memmap2::Mmap,
    frame: Frame,
}

/// The index at one moment; segments and packs that appear later are not seen.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(super) segments: Arc<Vec<Arc<Mapped>>>,
    /// Packs that were in the store, and were to stay, when somebody looked
    /// last. Only these count: segments also come from others, and tell of packs
    /// that may be gone by now.
    pub(super) alive: Arc<HashSet<PackName>>,
    /// Packs of the segments that were not.
    pub(super) dead: Arc<HashSet<PackName>>,
    /// Another number for every change.
    pub(crate) generation: u64,
}

/// Some of the chunks of a snapshot: a bit for each entry of its segments.
pub(crate) struct Marks {
    snapshot: Snapshot,
    bits: Vec<Vec<u64>>,
}

impl Mapped {
    pub(super) fn new(name: String, bytes: memmap2::Mmap) -> Result<Mapped, DecodeError> {
        let frame = Frame::of(&bytes)?;
        Ok(Mapped { name, bytes, frame })
    }

    pub(super) fn segment(&self) -> Option<Segment<'_>> {
        self.frame.open(&self.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.segment().map_or(0, |segment| segment.len())
    }

    /// Looks at every byte.
    pub(super) fn is_damaged(&self) -> bool {
        let damaged = segment::verify_with(&self.bytes, || release(&self.bytes)).is_err();
        release(&self.bytes);
        damaged
    }
}

impl Snapshot {
    /// Where a chunk is.
    pub(crate) fn get(&self, id: &Digest) -> Option<Place> {
        self.find(id, |place| self.alive.contains(&place.pack))
    }

    /// A chunk's share of the bytes of its frame; 0 where it is nowhere.
    pub(crate) fn stored_bytes(&self, id: &Digest) -> u64 {
        self.get(id).map_or(0, |place| u64::from(place.entry.stored_len))
    }

    /// Where a chunk is, in another than these packs.
    pub(crate) fn get_beside(&self, id: &Digest, not: &HashSet<PackName>) -> Option<Place> {
        self.find(id, |place| self.alive.contains(&place.pack) && !not.contains(&place.pack))
    }

    /// Where a chunk is or was.
    pub(crate) fn get_any(&self, id: &Digest) -> Option<Place> {
        self.find(id, |_| true)
    }

    /// The first place of a chunk that counts.
    fn find(&self, id: &Digest, counts: impl Fn(&Place) -> bool) -> Option<Place> {
        self.segments.chunks(TOGETHER).find_map(|segments| {
            let mut all = [None; TOGETHER];
            for (near, mapped) in all.iter_mut().zip(segments) {
                *near = mapped.segment().and_then(|segment| segment.near(id));
            }
            let mut places = all.iter().flatten().filter_map(|near| near.find(id));
            places.find_map(|(_, place)| counts(&place).then_some(place))
        })
    }

    /// Packs of which chunks are listed.
    pub(crate) fn packs(&self) -> HashSet<PackName> {
        let segments = self.segments.iter().filter_map(|mapped| mapped.segment());
        segments.flat_map(|segment| segment.packs()).collect()
    }

    /// Files and bytes of the segments.
    pub(crate) fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.segments.iter().map(|m| (storage::index_key(&m.name).to_string(), &m.bytes[..]))
    }

    /// No chunk is marked.
    pub(crate) fn marks(&self) -> Marks {
        let words = |mapped: &Arc<Mapped>| mapped.len().div_ceil(WORD);
        let bits = self.segments.iter().map(|mapped| vec![0; words(mapped)]).collect();
        Marks { snapshot: self.clone(), bits }
    }
}

impl Marks {
    /// Marks chunks, each at the place that [`Snapshot::get`] finds. Returns
    /// those that are nowhere.
    pub(crate) fn mark(&mut self, mut ids: Vec<Digest>) -> Vec<Digest> {
        let Snapshot { segments, alive, .. } = &self.snapshot;
        // Segment by segment and from its start to its end, so that no more than
        // a part of one is in memory at a time.
        ids.sort_unstable();
        for (mapped, bits) in segments.iter().zip(&mut self.bits) {
            let Some(segment) = mapped.segment() else { continue };
            let mut walk = Walk::new(mapped);
            ids.retain(|id| match segment.find(id) {
                Some((number, place)) if alive.contains(&place.pack) => {
                    bits[number / WORD] |= 1 << (number % WORD);
                    walk.reach(number);
                    false
                }
                _ => true,
            });
        }
        ids
    }

    /// The places of all marked chunks, each once.
    pub(crate) fn each(&self, mut take: impl FnMut(Place)) {
        for (mapped, bits) in self.snapshot.segments.iter().zip(&self.bits) {
            let Some(segment) = mapped.segment() else { continue };
            let mut walk = Walk::new(mapped);
            let marked = |number: &usize| bits[number / WORD] >> (number % WORD) & 1 == 1;
            for number in (0..segment.len()).filter(marked) {
                segment.nth(number).into_iter().for_each(&mut take);
                walk.reach(number);
            }
        }
    }
}

/// A walk over a segment that lets go of what is behind.
struct Walk<'a> {
    mapped: &'a Mapped,
    from: usize,
}

impl<'a> Walk<'a> {
    fn new(mapped: &'a Mapped) -> Walk<'a> {
        Walk { mapped, from: 0 }
    }

    /// The walk is at an entry.
    fn reach(&mut self, number: usize) {
        if number.saturating_sub(self.from) >= WALK {
            release(&self.mapped.bytes);
            self.from = number;
        }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        release(&self.mapped.bytes);
    }
}
