//! What of a region is worth reading, and where to cut it: asked of its file
//! system.

use std::io;
use std::ops::Range;

use serde::Serialize;
use store_filesystems::{Map, NoMap, ReadAt};

use crate::disk::{BLOCK, Disk};
use crate::layout::Span;

/// What was known of a region when it was cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportedRegion {
    /// As in the envelope.
    pub name: String,
    /// Its file system, if it was one that is known, and clean.
    pub filesystem: Option<String>,
    /// Bytes that it called free, which are zeros in the image.
    pub free_bytes: u64,
    /// Why it was cut without regard to its files, and kept with all that they
    /// do not need.
    pub plain: Option<String>,
}

/// A region of a disk.
pub(crate) struct Contents<'a> {
    disk: &'a Disk,
    span: &'a Span,
    map: Option<Map>,
    pub known: ImportedRegion,
}

/// The bytes of a region as they are.
struct Raw<'a>(&'a Disk, &'a Span);

impl ReadAt for Raw<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, self.1.start + offset)
    }
}

impl<'a> Contents<'a> {
    /// Asks the file system of a partition, or of a disk without partitions.
    pub(crate) fn look(disk: &'a Disk, span: &'a Span, exact: bool) -> io::Result<Contents<'a>> {
        let is_whole = span.bytes == disk.bytes;
        let known = ImportedRegion { name: span.name.clone(), ..ImportedRegion::default() };
        let mut contents = Contents { disk, span, map: None, known };
        if span.partition.is_none() && !is_whole {
            return Ok(contents);
        }
        match store_filesystems::map(&Raw(disk, span), span.bytes) {
            Ok(mut map) => {
                if exact {
                    map.free.clear();
                }
                contents.known.filesystem = Some(map.kind.to_string());
                contents.known.free_bytes = map.free_bytes();
                contents.map = Some(map);
            }
            Err(NoMap::Read(error)) => return Err(error),
            Err(error) => contents.known.plain = Some(error.to_string()),
        }
        Ok(contents)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.span.bytes
    }

    /// Where on the disk it begins.
    pub(crate) fn start(&self) -> u64 {
        self.span.start
    }

    /// Whether a byte of the disk is in it.
    pub(crate) fn contains(&self, offset: u64) -> bool {
        offset.checked_sub(self.span.start).is_some_and(|at| at < self.span.bytes)
    }

    /// Where to cut in any case: behind a range's start, and up to its end.
    pub(crate) fn edges_within(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        let edges: &[u64] = self.map.as_ref().map_or(&[], |map| &map.edges);
        let first = edges.partition_point(|edge| *edge <= range.start);
        edges[first..].iter().copied().take_while(move |edge| *edge <= range.end)
    }

    fn free(&self) -> &[Range<u64>] {
        self.map.as_ref().map_or(&[], |map| &map.free)
    }

    /// The first stretch from an offset on that is neither known to be zeros
    /// nor free; empty, and at the end, if there is none. Whole blocks from the
    /// start of the region on, whatever lies where on the disk: so a region
    /// that moves is cut as before.
    pub(crate) fn next_data(&self, mut at: u64) -> io::Result<Range<u64>> {
        let Span { start, bytes, .. } = *self.span;
        loop {
            let Some(data) = self.disk.next_data(start + at..start + bytes)? else {
                return Ok(bytes..bytes);
            };
            let from = down(data.start - start).max(at);
            let to = up(data.end - start).min(bytes);
            let next = self.free().partition_point(|free| free.end <= from);
            match self.free().get(next).map(|free| up(free.start)..down(free.end)) {
                Some(free) if free.start <= from && free.end > from => at = free.end,
                Some(free) if free.start < to && free.start > from && !free.is_empty() => {
                    return Ok(from..free.start);
                }
                _ => return Ok(from..to),
            }
        }
    }

    /// Bytes of the region, those that are free as zeros.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.disk.read_at(buffer, self.span.start + at)?;
        let end = at + buffer.len() as u64;
        let first = self.free().partition_point(|free| free.end <= at);
        for free in self.free()[first..].iter().take_while(|free| free.start < end) {
            let (from, to) = (free.start.max(at) - at, free.end.min(end) - at);
            // Both are at most the buffer's length.
            buffer[from as usize..to as usize].fill(0);
        }
        Ok(())
    }
}

fn down(offset: u64) -> u64 {
    offset - offset % BLOCK as u64
}

fn up(offset: u64) -> u64 {
    down(offset.saturating_add(BLOCK as u64 - 1))
}
