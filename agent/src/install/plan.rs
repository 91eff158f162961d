//! What a disk lacks of an image.

use std::collections::HashMap;
use std::io;

use store_format::{Extent, PlanError, RangeRequest, digest_of};
use store_remote::Image;
use wire::Digest;

use super::layout::Withheld;
use crate::report::Gauge;

/// Chunks, spread over the image, by which a disk without a receipt that has
/// something of the image is told from an empty one or another's. Comparing
/// reads as much as reading back does; on such a disk it would be in vain.
const SAMPLES: usize = 256;

/// Chunks copied from one place of the disk to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where the bytes are.
    pub from: u64,
    /// Where else they belong.
    pub to: u64,
    /// How many.
    pub bytes: usize,
}

/// What is to be done to a disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ranges that must read as zero: offset, bytes.
    pub holes: Vec<(u64, u64)>,
    /// What the disk holds, but not everywhere that it belongs.
    pub copies: Vec<Copy>,
    /// Chunks to fetch (index into [`Image::chunks`]) and a place for each, sorted.
    places: Vec<(usize, u64)>,
    /// How to fetch them.
    pub requests: Vec<RangeRequest>,
    /// Bytes of the image that are not holes.
    pub image_bytes: u64,
    /// Of these, bytes that the disk holds, in place or to be copied.
    pub present_bytes: u64,
    /// Whether the disk was compared, so that what is lacking may be there in part.
    pub compared: bool,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum MakePlanError {
    /// The disk cannot be read.
    #[error("reading the disk at {offset} failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store's answers contradict each other.
    #[error("what the store says of the image's chunks does not go together")]
    Ranges(#[from] PlanError),
}

impl Plan {
    /// Compares the disk with the image, if it has a receipt or some chunk of
    /// the image where that belongs.
    pub fn make(
        image: &Image,
        disk: &Withheld<'_>,
        has_receipt: bool,
        gauge: &Gauge<'_>,
    ) -> Result<Plan, MakePlanError> {
        let old = has_receipt || has_a_sample(image, disk);
        let mut plan = Plan { compared: old, ..Plan::default() };
        let index: HashMap<Digest, usize> =
            image.chunks.iter().enumerate().map(|(index, (id, _))| (*id, index)).collect();
        let mut found: Vec<Option<u64>> = vec![None; if old { image.chunks.len() } else { 0 }];
        let mut buffer = Vec::new();
        for (region, extents) in image.envelope.regions.iter().zip(&image.table.regions) {
            let mut offset = region.start;
            for extent in extents {
                match *extent {
                    Extent::Hole { bytes } => plan.holes.push((offset, bytes)),
                    Extent::Chunk { id, bytes } => {
                        plan.image_bytes += u64::from(bytes);
                        // The index holds every id of the table.
                        let chunk = index.get(&id).copied().unwrap_or(usize::MAX);
                        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
                        if old && holds(disk, offset, length, &id, &mut buffer) {
                            found[chunk] = Some(offset);
                            plan.present_bytes += u64::from(bytes);
                        } else {
                            plan.places.push((chunk, offset));
                        }
                    }
                }
                offset += extent.bytes();
                gauge.add(extent.bytes());
            }
        }
        plan.copy_what_is_elsewhere(image, &found);
        plan.places.sort_unstable();
        let wanted = plan.places.iter().map(|(chunk, _)| *chunk);
        plan.requests = store_format::Plan::of(wanted, &image.locations)?.ranges;
        Ok(plan)
    }

    /// A chunk that the disk holds in one place need not be fetched for another.
    fn copy_what_is_elsewhere(&mut self, image: &Image, found: &[Option<u64>]) {
        let (copies, present) = (&mut self.copies, &mut self.present_bytes);
        self.places.retain(|&(chunk, to)| {
            let from = found.get(chunk).copied().flatten();
            if let (Some(from), Some((_, bytes))) = (from, image.chunks.get(chunk)) {
                let bytes = usize::try_from(*bytes).unwrap_or(0);
                copies.push(Copy { from, to, bytes });
                *present += bytes as u64;
            }
            from.is_none()
        });
    }

    /// Where a fetched chunk belongs.
    pub fn places(&self, chunk: usize) -> impl Iterator<Item = u64> + '_ {
        let first = self.places.partition_point(|(other, _)| *other < chunk);
        let same = self.places[first..].iter().take_while(move |(other, _)| *other == chunk);
        same.map(|(_, offset)| *offset)
    }

    /// Bytes of frames to fetch, with the gaps between them.
    pub fn fetch_bytes(&self) -> u64 {
        self.requests.iter().map(RangeRequest::bytes).sum()
    }
}

/// Whether the disk has one of some chunks in its place.
fn has_a_sample(image: &Image, disk: &Withheld<'_>) -> bool {
    let regions = image.envelope.regions.iter().zip(&image.table.regions);
    let chunks = regions.flat_map(|(region, extents)| {
        extents.iter().scan(region.start, |end, extent| {
            let offset = *end;
            *end += extent.bytes();
            Some((offset, *extent))
        })
    });
    let chunks = chunks.filter_map(|(offset, extent)| match extent {
        Extent::Chunk { id, bytes } => Some((offset, usize::try_from(bytes).ok()?, id)),
        Extent::Hole { .. } => None,
    });
    let step = chunks.clone().count().div_ceil(SAMPLES).max(1);
    let mut buffer = Vec::new();
    chunks.step_by(step).any(|(offset, length, id)| holds(disk, offset, length, &id, &mut buffer))
}

/// Whether the disk has a chunk in its place.
fn holds(
    disk: &Withheld<'_>,
    offset: u64,
    length: usize,
    id: &Digest,
    buffer: &mut Vec<u8>,
) -> bool {
    buffer.resize(length, 0);
    // What cannot be read is written anew; that lets the disk replace bad sectors, and what
    // is bad then still is found by reading back.
    let readable = disk.read_kept(offset, buffer).is_ok();
    // Hashing is the dear part; an empty stretch is never a stored chunk.
    readable && !crate::target::is_zero(buffer) && digest_of(buffer) == *id
}
