//! How two images differ: what a reader of one needs for the other, region by
//! region, and what their envelopes say differently.

mod envelope;
mod ext4;
mod files;
mod walk;

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use store_format::{
    ChunkTable, Envelope, Extent, Locations, PartitionTable, Plan, PlanError, Region,
};
use wire::Digest;

use crate::open::Repo;
use crate::read::ReadError;

pub use envelope::ValueDiff;
pub use files::{Aspect, Change, File, FileDiff, FilesDiff, Kind};

/// What it takes to come from one image to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDiff {
    /// The image that is there.
    pub from: Digest,
    /// The image that is wanted.
    pub to: Digest,
    /// What is fetched for the whole image.
    pub transfer: Transfer,
    /// Per region of the wanted image, in order; then those that only the other
    /// one has.
    pub regions: Vec<RegionDiff>,
    /// What the envelopes say differently, their regions apart.
    pub values: Vec<ValueDiff>,
}

/// A region of two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionDiff {
    /// Its name in the wanted image, else in the other one.
    pub name: String,
    /// Number of the partition that it is, in the wanted image, else in the other
    /// one.
    pub partition: Option<u32>,
    /// Number of the partition that it is in the image that is there: another
    /// one where the name of the partition says that it moved.
    pub from_partition: Option<u32>,
    /// Its bytes in the image that is there; `None` where that has no such region.
    pub from_bytes: Option<u64>,
    /// Its bytes in the wanted image; `None` where that has no such region.
    pub to_bytes: Option<u64>,
    /// Whether every byte is the same.
    pub same: bool,
    /// Bytes of the wanted region that are not known to be the same at the same
    /// place of the other: exact to a chunk.
    pub changed_bytes: u64,
    /// What is fetched for it. A chunk that several regions need counts for the
    /// first of them.
    pub transfer: Transfer,
}

/// What a reader who has one image fetches for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// Chunks that are missing, each counted once.
    pub chunks: u64,
    /// Plain bytes of these.
    pub plain_bytes: u64,
    /// Bytes of the frames that they are in.
    pub stored_bytes: u64,
    /// Requests for ranges of packs.
    pub requests: u64,
    /// Bytes of these ranges, with what is read along between two frames.
    pub wire_bytes: u64,
}

/// The chunks of the wanted image that the other one lacks.
struct Missing {
    locations: Locations,
    /// Chunk to its index in `locations` and its plain bytes.
    chunks: HashMap<Digest, (usize, u32)>,
}

impl Repo {
    /// Compares two images by their chunks; no content is read.
    pub async fn diff(&self, from: &Digest, to: &Digest) -> Result<ImageDiff, ReadError> {
        let (old, new) = (self.envelope(from).await?, self.envelope(to).await?);
        let (old_table, new_table) = (self.table(from).await?, self.table(to).await?);
        let mut missing = Missing::new(&old_table, &new_table, self.locations(to).await?);
        let transfer = missing.transfer(missing.chunks.values().copied())?;
        let pairs = pairs(&old, &new);
        let mut regions = Vec::with_capacity(pairs.len());
        for (before, after) in pairs {
            let of = |table: &ChunkTable, index: usize| {
                table.regions.get(index).cloned().unwrap_or_default()
            };
            let extents = after.map(|index| of(&new_table, index)).unwrap_or_default();
            let old_extents = before.map(|index| of(&old_table, index)).unwrap_or_default();
            let before = before.and_then(|index| old.regions.get(index));
            let after = after.and_then(|index| new.regions.get(index));
            let Some(either) = after.or(before) else { continue };
            let is = |region: &Region| (region.bytes, region.digest);
            let same = before.map(is) == after.map(is);
            let fetched = missing.take(&extents);
            regions.push(RegionDiff {
                name: either.name.clone(),
                partition: either.partition,
                from_partition: before.and_then(|region| region.partition),
                from_bytes: before.map(|region| region.bytes),
                to_bytes: after.map(|region| region.bytes),
                same,
                changed_bytes: if same { 0 } else { changed_bytes(&old_extents, &extents) },
                transfer: missing.transfer(fetched.into_iter())?,
            });
        }
        let values = envelope::differences(&old, &new);
        Ok(ImageDiff { from: *from, to: *to, transfer, regions, values })
    }
}

impl Missing {
    fn new(old: &ChunkTable, new: &ChunkTable, locations: Locations) -> Missing {
        let known: HashSet<Digest> = old.distinct().map(|(id, _)| id).collect();
        let chunks = new.distinct().enumerate().filter(|(_, (id, _))| !known.contains(id));
        let chunks = chunks.map(|(index, (id, bytes))| (id, (index, bytes))).collect();
        Missing { locations, chunks }
    }

    /// Those among some extents, which are no longer missing afterwards.
    fn take(&mut self, extents: &[Extent]) -> Vec<(usize, u32)> {
        let taken = extents.iter().filter_map(|extent| match extent {
            Extent::Chunk { id, .. } => self.chunks.remove(id),
            Extent::Hole { .. } => None,
        });
        taken.collect()
    }

    /// What fetching some chunks takes, as machines do it.
    fn transfer(&self, chunks: impl Iterator<Item = (usize, u32)>) -> Result<Transfer, PlanError> {
        let mut transfer = Transfer::default();
        let mut wanted = Vec::new();
        for (index, plain_bytes) in chunks {
            transfer.chunks += 1;
            transfer.plain_bytes += u64::from(plain_bytes);
            wanted.push(index);
        }
        let plan = Plan::of(wanted.into_iter(), &self.locations)?;
        transfer.stored_bytes = plan.wanted_bytes;
        transfer.requests = plan.ranges.len() as u64;
        transfer.wire_bytes = plan.wire_bytes;
        Ok(transfer)
    }
}

/// Whether a region of one image stands for the same as one of another.
type Rule<'a> = &'a dyn Fn(&Region, &Region) -> bool;

/// The regions of two images that stand for the same, as indexes: those of the
/// wanted image in order, then those that only the other one has.
fn pairs(old: &Envelope, new: &Envelope) -> Vec<(Option<usize>, Option<usize>)> {
    let mut left: Vec<usize> = (0..old.regions.len()).collect();
    let mut pairs = vec![None; new.regions.len()];
    // A number says more than a name: it goes first, for all of them.
    let by_number = |a: &Region, b: &Region| a.partition.is_some() && a.partition == b.partition;
    let by_name = |a: &Region, b: &Region| match (gpt_name(old, a), gpt_name(new, b)) {
        (None, None) => (a.partition, b.partition) == (None, None) && a.name == b.name,
        (one, other) => one == other,
    };
    let rules: [Rule<'_>; 2] = [&by_number, &by_name];
    for rule in rules {
        for (pair, region) in pairs.iter_mut().zip(&new.regions).filter(|(pair, _)| pair.is_none())
        {
            let fits = |index: &usize| rule(&old.regions[*index], region);
            *pair = left.iter().position(fits).map(|at| left.remove(at));
        }
    }
    let matched = pairs.into_iter().zip(0..).map(|(before, after)| (before, Some(after)));
    matched.chain(left.into_iter().map(|before| (Some(before), None))).collect()
}

/// The name that a GPT gives a region, where it gives it one.
fn gpt_name<'a>(envelope: &'a Envelope, region: &Region) -> Option<&'a str> {
    let Some(PartitionTable::Gpt { partitions, .. }) = &envelope.table else { return None };
    let number = region.partition?;
    let partition = partitions.iter().find(|partition| partition.number == number)?;
    Some(partition.name.as_str()).filter(|name| !name.is_empty())
}

/// Bytes of a region that are not known to stand at the same place of another:
/// everything but holes in holes, and the same chunks at the same offsets.
fn changed_bytes(old: &[Extent], new: &[Extent]) -> u64 {
    let mut old = placed(old).peekable();
    let mut changed = 0;
    for (start, extent) in placed(new) {
        let end = start + extent.bytes();
        let mut same = 0;
        while let Some((from, other)) = old.peek().copied().filter(|(from, _)| *from < end) {
            let to = from + other.bytes();
            same += match (extent, other) {
                (Extent::Hole { .. }, Extent::Hole { .. }) => end.min(to) - start.max(from),
                (one, two) if one == two && start == from => extent.bytes(),
                _ => 0,
            };
            if to > end {
                // It reaches into the next one too.
                break;
            }
            old.next();
        }
        changed += extent.bytes() - same;
    }
    changed
}

/// Extents with their offsets.
fn placed(extents: &[Extent]) -> impl Iterator<Item = (u64, Extent)> {
    extents.iter().scan(0, |next, extent| {
        let offset = *next;
        *next += extent.bytes();
        Some((offset, *extent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u8, bytes: u32) -> Extent {
        Extent::Chunk { id: Digest([number; 32]), bytes }
    }

    fn hole(bytes: u64) -> Extent {
        Extent::Hole { bytes }
    }

    #[test]
    fn what_stands_elsewhere_counts_as_changed() {
        let old = [chunk(1, 10), hole(30), chunk(2, 10), chunk(3, 10)];
        assert_eq!(changed_bytes(&old, &old), 0);
        assert_eq!(changed_bytes(&[], &old), 60);
        assert_eq!(changed_bytes(&old, &[]), 0);
        // A hole that begins earlier, and one within another.
        assert_eq!(changed_bytes(&old, &[hole(40), chunk(2, 10), chunk(3, 10)]), 10);
        let within = [chunk(1, 10), hole(5), chunk(4, 20), hole(5), chunk(2, 10), chunk(3, 10)];
        assert_eq!(changed_bytes(&old, &within), 20);
        // Two chunks changed places; the last one moved.
        assert_eq!(changed_bytes(&old, &[chunk(1, 10), hole(30), chunk(3, 10), chunk(2, 10)]), 20);
        assert_eq!(changed_bytes(&old, &[chunk(1, 10), hole(40), chunk(3, 10)]), 10);
        // Longer than the other.
        assert_eq!(changed_bytes(&old[..2], &old), 20);
        assert_eq!(changed_bytes(&[hole(100)], &[hole(200)]), 100);
    }
}
