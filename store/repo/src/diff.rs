//! How two images differ: what a reader of one needs for the other, region by
//! region, and what their envelopes say differently.

mod envelope;
mod ext4;
mod files;
mod transfer;
mod walk;

use std::sync::Arc;

use serde::Serialize;
use store_format::{Envelope, Extent, PartitionTable, Region};
use wire::Digest;

use crate::open::Repo;
use crate::read::{Placed, ReadError};
use crate::tables::OpenTable;

use transfer::Missing;

pub use envelope::ValueDiff;
pub use files::{Aspect, Change, File, FileDiff, FilesDiff, Kind};
pub use transfer::Transfer;

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

/// An image, a part of whose table is in memory at a time.
struct Side {
    envelope: Envelope,
    table: Arc<OpenTable>,
}

impl Repo {
    /// Compares two images by their chunks; no content is read.
    pub async fn diff(&self, from: &Digest, to: &Digest) -> Result<ImageDiff, ReadError> {
        let (old, new) = (self.side(from).await?, self.side(to).await?);
        let disk = 0..new.table.outline.disk_bytes();
        let (index, _) = self.survey(&new.table, &disk).await?;
        let (home, images) = (self.storage.home.clone(), (*from, *to));
        let work = tokio::task::spawn_blocking(move || {
            let mut missing = Missing::new(&index, &old.table, home)?;
            let regions = regions(&old, &new, &mut missing)?;
            let values = envelope::differences(&old.envelope, &new.envelope);
            let ((from, to), transfer) = (images, missing.transfer()?);
            Ok(ImageDiff { from, to, transfer, regions, values })
        });
        work.await.map_err(|_| ReadError::Broken)?
    }

    async fn side(&self, image: &Digest) -> Result<Side, ReadError> {
        let envelope = self.envelope(image).await?;
        let table = self.open_table(&self.row(image).await?).await?.table;
        table.check(&envelope)?;
        Ok(Side { envelope, table: Arc::new(table) })
    }
}

impl Side {
    fn region(&self, index: Option<usize>) -> Option<&Region> {
        self.envelope.regions.get(index?)
    }

    /// The extents of a region, by their offsets in it.
    fn extents(
        &self,
        region: Option<&Region>,
    ) -> impl Iterator<Item = Result<Placed, ReadError>> + use<'_> {
        let start = region.map_or(0, |region| region.start);
        let range = start..start + region.map_or(0, |region| region.bytes);
        self.table.region(range).map(move |placed| placed.map(|(at, extent)| (at - start, extent)))
    }
}

/// Compares region by region.
fn regions(
    old: &Side,
    new: &Side,
    missing: &mut Missing<'_>,
) -> Result<Vec<RegionDiff>, ReadError> {
    let mut regions = Vec::new();
    for (before, after) in pairs(&old.envelope, &new.envelope) {
        let (before, after) = (old.region(before), new.region(after));
        let Some(either) = after.or(before) else { continue };
        let is = |region: &Region| (region.bytes, region.digest);
        let same = before.map(is) == after.map(is);
        regions.push(RegionDiff {
            name: either.name.clone(),
            partition: either.partition,
            from_partition: before.and_then(|region| region.partition),
            from_bytes: before.map(|region| region.bytes),
            to_bytes: after.map(|region| region.bytes),
            same,
            changed_bytes: match same {
                true => 0,
                false => changed_bytes(old.extents(before), new.extents(after))?,
            },
            transfer: missing.take(new.extents(after))?,
        });
    }
    Ok(regions)
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
fn changed_bytes(
    mut old: impl Iterator<Item = Result<Placed, ReadError>>,
    new: impl Iterator<Item = Result<Placed, ReadError>>,
) -> Result<u64, ReadError> {
    let mut next = old.next().transpose()?;
    let mut changed = 0;
    for placed in new {
        let (start, extent) = placed?;
        let end = start + extent.bytes();
        let mut same = 0;
        while let Some((from, other)) = next.filter(|(from, _)| *from < end) {
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
            next = old.next().transpose()?;
        }
        changed += extent.bytes() - same;
    }
    Ok(changed)
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

    fn changed_bytes(old: &[Extent], new: &[Extent]) -> u64 {
        super::changed_bytes(placed(old), placed(new)).unwrap()
    }

    /// Extents with their offsets.
    fn placed(extents: &[Extent]) -> impl Iterator<Item = Result<Placed, ReadError>> {
        extents.iter().scan(0, |next, extent| {
            let offset = *next;
            *next += extent.bytes();
            Some(Ok((offset, *extent)))
        })
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
