//! Reading everything back, past the cache, and comparing.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use store_format::{Extent, Region, digest_of, region};
use store_remote::Image;
use wire::Digest;

use super::layout::Withheld;
use crate::report::Gauge;
use crate::target::{Aligned, is_zero};

/// Most threads that read and hash.
const THREADS: usize = 4;

/// Why a disk is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error("reading the disk back at {offset} failed")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds other bytes than were written to it.
    #[error(
        "region {region} reads back differently than it was written, first at {offset} ({what}): \
         the disk or its controller is faulty"
    )]
    Differs {
        /// Name of the region.
        region: String,
        /// First byte of the first extent that is wrong.
        offset: u64,
        /// What should be there.
        what: String,
    },
    /// Every chunk is right and the whole is not.
    #[error(
        "region {region} has digest {found} and should have {expected}: the image is not sound"
    )]
    Region {
        /// Name of the region.
        region: String,
        /// By the envelope.
        expected: Digest,
        /// On the disk.
        found: Digest,
    },
}

/// Blocks of all regions, hashed by several threads in any order.
struct Blocks<'a> {
    disk: &'a Withheld<'a>,
    gauge: &'a Gauge<'a>,
    /// Offset and length of each block on the disk.
    blocks: Vec<(u64, usize)>,
    next: AtomicUsize,
    zero: Digest,
}

/// Compares every region with the digest that the envelope has of it.
pub fn verify(image: &Image, disk: &Withheld<'_>, gauge: &Gauge<'_>) -> Result<(), VerifyError> {
    let regions = &image.envelope.regions;
    let mut blocks = Vec::new();
    let spans: Vec<Range<usize>> = regions
        .iter()
        .map(|region| {
            let first = blocks.len();
            blocks.extend(blocks_of(region));
            first..blocks.len()
        })
        .collect();
    let work = Blocks {
        disk,
        gauge,
        blocks,
        next: AtomicUsize::new(0),
        zero: digest_of(&vec![0; region::BLOCK]),
    };
    let digests = work.hash()?;
    for (index, (region, span)) in regions.iter().zip(spans).enumerate() {
        let mut hasher = region::Hasher::default();
        for digest in &digests[span] {
            // Always between two blocks here.
            hasher.whole_block(digest);
        }
        let found = hasher.finish();
        if found != region.digest {
            let extents = image.table.regions.get(index).map_or(&[][..], Vec::as_slice);
            return Err(first_difference(disk, region, extents)?.unwrap_or_else(|| {
                let (region, expected) = (region.name.clone(), region.digest);
                VerifyError::Region { region, expected, found }
            }));
        }
    }
    Ok(())
}

fn blocks_of(region: &Region) -> impl Iterator<Item = (u64, usize)> {
    let end = region.start + region.bytes;
    (region.start..end)
        .step_by(region::BLOCK)
        .map(move |at| (at, usize::try_from(end - at).unwrap_or(usize::MAX).min(region::BLOCK)))
}

impl Blocks<'_> {
    fn hash(&self) -> Result<Vec<Digest>, VerifyError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let threads = (0..THREADS.min(cores)).map(|_| scope.spawn(|| self.work()));
            let running: Vec<_> = threads.collect();
            running.into_iter().map(|thread| thread.join()).collect()
        });
        let mut digests = vec![self.zero; self.blocks.len()];
        for part in parts {
            match part {
                Ok(part) => part?.into_iter().for_each(|(at, digest)| digests[at] = digest),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(digests)
    }

    /// Index and digest of the blocks that one thread took.
    fn work(&self) -> Result<Vec<(usize, Digest)>, VerifyError> {
        let mut memory = Aligned::new(region::BLOCK);
        let mut digests = Vec::new();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&(offset, length)) = self.blocks.get(index) else { return Ok(digests) };
            let bytes = memory.first(length);
            let read = self.disk.read_back(offset, bytes);
            if let Err(source) = read {
                // Nobody else need go on.
                self.next.store(self.blocks.len(), Ordering::Relaxed);
                return Err(VerifyError::Read { offset, source });
            }
            let empty = length == region::BLOCK && is_zero(bytes);
            digests.push((index, if empty { self.zero } else { digest_of(bytes) }));
            self.gauge.add(length as u64);
        }
    }
}

/// Finds the first extent of a region that is wrong.
fn first_difference(
    disk: &Withheld<'_>,
    region: &Region,
    extents: &[Extent],
) -> Result<Option<VerifyError>, VerifyError> {
    let mut offset = region.start;
    let mut window = Window { disk, memory: Aligned::new(region::BLOCK), held: 0..0 };
    for extent in extents {
        let end = offset + extent.bytes();
        let (right, what) = match *extent {
            Extent::Hole { .. } => {
                let mut zero = true;
                window.walk(offset..end, region, |bytes| zero &= is_zero(bytes))?;
                (zero, "zeros".to_owned())
            }
            Extent::Chunk { id, bytes } => {
                let mut plain = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
                window.walk(offset..end, region, |bytes| plain.extend_from_slice(bytes))?;
                (digest_of(&plain) == id, format!("chunk {id}"))
            }
        };
        if !right {
            let region = region.name.clone();
            return Ok(Some(VerifyError::Differs { region, offset, what }));
        }
        offset = end;
    }
    Ok(None)
}

/// One block of a region at a time, for extents that start and end anywhere.
struct Window<'a> {
    disk: &'a Withheld<'a>,
    memory: Aligned,
    held: Range<u64>,
}

impl Window<'_> {
    fn walk(
        &mut self,
        range: Range<u64>,
        region: &Region,
        mut with: impl FnMut(&[u8]),
    ) -> Result<(), VerifyError> {
        let index = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let block = region::BLOCK as u64;
        let mut at = range.start;
        while at < range.end {
            if !self.held.contains(&at) {
                let offset = region.start + (at - region.start) / block * block;
                let end = (offset + block).min(region.start + region.bytes);
                let bytes = self.memory.first(index(end - offset));
                let read = self.disk.read_back(offset, bytes);
                read.map_err(|source| VerifyError::Read { offset, source })?;
                self.held = offset..end;
            }
            let (from, to) = (at - self.held.start, range.end.min(self.held.end) - self.held.start);
            with(&self.memory.first(index(to))[index(from)..]);
            at = self.held.start + to;
        }
        Ok(())
    }
}
