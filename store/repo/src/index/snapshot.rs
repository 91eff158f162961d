//! The index as it is at one moment.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use store_format::segment::{self, Frame, Place, Segment};
use store_format::{DecodeError, PackName};
use wire::Digest;

use crate::map::release;

/// Marks that are kept together.
const WORD: usize = u64::BITS as usize;

/// Segments whose directories are asked together: memory answers them in the
/// time of one.
const TOGETHER: usize = 8;
/// Entries of a segment that are in memory together while all are looked at:
/// 28 MiB.
const WALK: usize = 1 << 19;

/// Bytes of an index that may be mapped for those who look up very many chunks.
const MAPPED: usize = 24 << 20;
/// What a look at one place maps: the kernel takes along what is around it.
const AROUND: usize = 64 << 10;

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

/// An entry of a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub(super) segment: usize,
    pub(super) number: usize,
}

/// An index for those who look up very many chunks in no order: lets go now and
/// then of what that maps.
pub(crate) struct Frugal {
    snapshot: Snapshot,
    looks: AtomicUsize,
    /// Look-ups until all is let go. None: all may stay.
    at_once: Option<NonZero<usize>>,
}

/// Some of the chunks of a snapshot: a bit for each entry of its segments.
#[derive(Default)]
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
        self.verify().is_err()
    }

    /// What is wrong with its bytes.
    pub(super) fn verify(&self) -> Result<(), DecodeError> {
        let verified = segment::verify_with(&self.bytes, || release(&self.bytes));
        release(&self.bytes);
        verified
    }
}

impl Snapshot {
    /// Where a chunk is.
    pub(crate) fn get(&self, id: &Digest) -> Option<Place> {
        self.find(id, |place| self.alive.contains(&place.pack))
    }

    /// Where a chunk is, in another than these packs.
    pub(crate) fn get_beside(&self, id: &Digest, not: &HashSet<PackName>) -> Option<Place> {
        self.find(id, |place| self.alive.contains(&place.pack) && !not.contains(&place.pack))
    }

    /// Where a chunk is or was.
    pub(crate) fn get_any(&self, id: &Digest) -> Option<Place> {
        self.find(id, |_| true)
    }

    /// Where a chunk is, as [`Snapshot::get`], and which entry says so.
    pub(crate) fn spot(&self, id: &Digest) -> Option<(Spot, Place)> {
        self.find_spot(id, |place| self.alive.contains(&place.pack))
    }

    /// Where a chunk is or was, in one of these packs.
    pub(crate) fn get_in(&self, id: &Digest, packs: &HashSet<PackName>) -> Option<Place> {
        self.find(id, |place| packs.contains(&place.pack))
    }

    /// The first place of a chunk that counts.
    fn find(&self, id: &Digest, counts: impl Fn(&Place) -> bool) -> Option<Place> {
        self.find_spot(id, counts).map(|(_, place)| place)
    }

    fn find_spot(&self, id: &Digest, counts: impl Fn(&Place) -> bool) -> Option<(Spot, Place)> {
        self.segments.chunks(TOGETHER).enumerate().find_map(|(group, segments)| {
            let mut all = [None; TOGETHER];
            for (near, mapped) in all.iter_mut().zip(segments) {
                *near = mapped.segment().and_then(|segment| segment.near(id));
            }
            all.iter().enumerate().find_map(|(at, near)| {
                let (number, place) = near.as_ref()?.all(id).find(|(_, place)| counts(place))?;
                Some((Spot { segment: group * TOGETHER + at, number }, place))
            })
        })
    }

    /// Lets the memory go that look-ups have mapped.
    fn let_go(&self) {
        self.segments.iter().for_each(|mapped| release(&mapped.bytes));
    }

    /// Packs of which chunks are listed.
    pub(crate) fn packs(&self) -> HashSet<PackName> {
        let segments = self.segments.iter().filter_map(|mapped| mapped.segment());
        segments.flat_map(|segment| segment.packs()).collect()
    }

    /// No chunk is marked.
    pub(crate) fn marks(&self) -> Marks {
        let words = |mapped: &Arc<Mapped>| mapped.len().div_ceil(WORD);
        let bits = self.segments.iter().map(|mapped| vec![0; words(mapped)]).collect();
        Marks { snapshot: self.clone(), bits }
    }
}

impl Frugal {
    pub(crate) fn new(snapshot: Snapshot) -> Frugal {
        let mapped: usize = snapshot.segments.iter().map(|mapped| mapped.bytes.len()).sum();
        // The directory of each, and the entries of one.
        let places = snapshot.segments.len() + 1;
        let at_once = NonZero::new(MAPPED / AROUND / places).or(Some(NonZero::<usize>::MIN));
        let at_once = at_once.filter(|_| mapped > MAPPED);
        Frugal { snapshot, looks: AtomicUsize::new(0), at_once }
    }

    /// For many look-ups in a row: what they map stays mapped until
    /// [`Frugal::let_go`], so that none pays for pages that the one before gave
    /// back. The kernel may take them at any time.
    pub(crate) fn look_often(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Gives back what look-ups have mapped, where that may be much.
    pub(crate) fn let_go(&self) {
        if self.at_once.is_some() {
            self.snapshot.let_go();
        }
    }

    /// For one look-up.
    pub(crate) fn look(&self) -> &Snapshot {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if self.at_once.is_some_and(|at_once| looks % at_once == 0) {
            self.snapshot.let_go();
        }
        &self.snapshot
    }
}

impl Marks {
    /// Marks an entry. False if it is marked already.
    pub(crate) fn insert(&mut self, Spot { segment, number }: Spot) -> bool {
        let word = self.bits.get_mut(segment).and_then(|bits| bits.get_mut(number / WORD));
        let Some(word) = word else { return false };
        let bit = 1 << (number % WORD);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Marks what is marked there, of the same index, too.
    pub(crate) fn union(&mut self, other: &Marks) {
        let words = self.bits.iter_mut().flatten();
        words.zip(other.bits.iter().flatten()).for_each(|(word, more)| *word |= more);
    }

    /// Whether an entry is marked.
    pub(crate) fn contains(&self, Spot { segment, number }: Spot) -> bool {
        let word = self.bits.get(segment).and_then(|bits| bits.get(number / WORD));
        word.is_some_and(|word| word >> (number % WORD) & 1 == 1)
    }

    /// Whether the entry is marked that says that a chunk is at this place.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.snapshot.segments.iter().zip(&self.bits).any(|(mapped, bits)| {
            let all = mapped.segment().into_iter().flat_map(|segment| segment.all(&place.entry.id));
            all.filter(|(_, found)| found == place)
                .any(|(number, _)| bits[number / WORD] >> (number % WORD) & 1 == 1)
        })
    }

    /// Marks chunks, each at the place that [`Snapshot::get`] finds. Leaves, and
    /// returns one of, those that are nowhere, if there are any.
    pub(crate) fn mark(&mut self, ids: &mut Vec<Digest>) -> Option<Digest> {
        let Snapshot { segments, alive, .. } = &self.snapshot;
        // Segment by segment and from its start to its end, so that no more than
        // a part of one is in memory at a time.
        ids.sort_unstable();
        for (mapped, bits) in segments.iter().zip(&mut self.bits) {
            let Some(segment) = mapped.segment() else { continue };
            let mut walk = Walk::new(mapped);
            ids.retain(|id| {
                let mut all = segment.all(id);
                let Some((number, _)) = all.find(|(_, place)| alive.contains(&place.pack)) else {
                    return true;
                };
                bits[number / WORD] |= 1 << (number % WORD);
                walk.reach(number);
                false
            });
        }
        ids.first().copied()
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
pub(super) struct Walk<'a> {
    mapped: &'a Mapped,
    from: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(mapped: &'a Mapped) -> Walk<'a> {
        Walk { mapped, from: 0 }
    }

    /// The walk is at an entry.
    pub(super) fn reach(&mut self, number: usize) {
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
