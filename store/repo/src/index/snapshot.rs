//! The index as it is at one moment.

use std::collections::HashSet;
use std::sync::Arc;

use store_format::PackName;
use store_format::segment::{self, Place, Segment};
use wire::Digest;

use crate::map::release;
use crate::storage;

/// Marks that are kept together.
const WORD: usize = u64::BITS as usize;

/// One segment's file.
pub(super) struct Mapped {
    pub(super) name: String,
    pub(super) bytes: memmap2::Mmap,
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
    /// Was opened once, so opens again.
    pub(super) fn segment(&self) -> Option<Segment<'_>> {
        Segment::open(&self.bytes).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.segment().map_or(0, |segment| segment.len())
    }

    /// Looks at every byte.
    pub(super) fn is_damaged(&self) -> bool {
        let damaged = segment::verify(&self.bytes).is_err();
        release(&self.bytes);
        damaged
    }
}

impl Snapshot {
    /// Where a chunk is.
    pub(crate) fn get(&self, id: &Digest) -> Option<Place> {
        let mut places = self.segments.iter().filter_map(|mapped| mapped.segment()?.get(id));
        places.find(|place| self.alive.contains(&place.pack))
    }

    /// A chunk's share of the bytes of its frame; 0 where it is nowhere.
    pub(crate) fn stored_bytes(&self, id: &Digest) -> u64 {
        self.get(id).map_or(0, |place| u64::from(place.entry.stored_len))
    }

    /// Where a chunk is, in another than these packs.
    pub(crate) fn get_beside(&self, id: &Digest, not: &HashSet<PackName>) -> Option<Place> {
        let mut places = self.segments.iter().filter_map(|mapped| mapped.segment()?.get(id));
        places.find(|place| self.alive.contains(&place.pack) && !not.contains(&place.pack))
    }

    /// Where a chunk is or was.
    pub(crate) fn get_any(&self, id: &Digest) -> Option<Place> {
        self.segments.iter().find_map(|mapped| mapped.segment()?.get(id))
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
        // Segment by segment, so that no more than one is in memory at a time.
        for (mapped, bits) in segments.iter().zip(&mut self.bits) {
            let Some(segment) = mapped.segment() else { continue };
            ids.retain(|id| match segment.find(id) {
                Some((number, place)) if alive.contains(&place.pack) => {
                    bits[number / WORD] |= 1 << (number % WORD);
                    false
                }
                _ => true,
            });
            release(&mapped.bytes);
        }
        ids
    }

    /// The places of all marked chunks, each once.
    pub(crate) fn each(&self, mut take: impl FnMut(Place)) {
        for (mapped, bits) in self.snapshot.segments.iter().zip(&self.bits) {
            let Some(segment) = mapped.segment() else { continue };
            let marked = |number: &usize| bits[number / WORD] >> (number % WORD) & 1 == 1;
            let numbers = (0..segment.len()).filter(marked);
            numbers.filter_map(|number| segment.nth(number)).for_each(&mut take);
            release(&mapped.bytes);
        }
    }
}
