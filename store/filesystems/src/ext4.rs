//! ext2, ext3, ext4 (Linux, `Documentation/filesystems/ext4/`).

mod files;
mod groups;
mod journal;
mod superblock;

use std::ops::Range;

use crate::map::{Edges, Ranges, overlaps};
use crate::{Kind, Map, NoMap, ReadAt};

use superblock::Superblock;

/// A stretch of blocks.
type Blocks = Range<u64>;

/// A file system that is being read.
struct Volume<'a, R: ?Sized> {
    partition: &'a R,
    superblock: Superblock,
}

fn unreliable(why: &'static str) -> NoMap {
    NoMap::Unreliable { kind: Kind::Ext4, why }
}

/// What the inodes say.
#[derive(Default)]
struct Files {
    /// Blocks that somebody reads.
    used: Ranges,
    /// Blocks that are set aside, and read as zeros.
    unwritten: Ranges,
    edges: Edges,
}

impl Files {
    fn used(&mut self, blocks: Blocks) -> Result<(), NoMap> {
        self.used.add(blocks).ok_or(unreliable("it has too many files"))
    }

    fn unwritten(&mut self, blocks: Blocks) -> Result<(), NoMap> {
        self.unwritten.add(blocks).ok_or(unreliable("it has too many files"))
    }
}

pub(crate) fn map(partition: &(impl ReadAt + ?Sized), bytes: u64) -> Result<Map, NoMap> {
    let superblock = superblock::read(partition, bytes)?;
    let volume = Volume { partition, superblock };
    let groups = volume.groups()?;
    let metadata = volume.metadata(&groups)?;
    let free = volume.free(&groups, &metadata)?;
    let mut files = Files::default();
    metadata.iter().for_each(|blocks| files.edges.add(blocks));
    for group in &groups {
        volume.files(group, &mut files)?;
    }
    let used = files.used.merged();
    // What nobody reads is thrown away: all that is known must agree.
    for (blocks, why) in [(&metadata, METADATA_IS_FREE), (&used, FILE_IS_FREE)] {
        if blocks.iter().any(|blocks| overlaps(&free, blocks)) {
            return Err(unreliable(why));
        }
    }
    let unwritten = files.unwritten.merged();
    if unwritten.iter().any(|blocks| overlaps(&used, blocks) || overlaps(&metadata, blocks)) {
        return Err(unreliable("blocks that are not written yet are in use"));
    }
    let mut all = Ranges::default();
    for blocks in free.into_iter().chain(unwritten) {
        all.add(blocks).ok_or(unreliable("it has too many gaps"))?;
    }
    let block = volume.superblock.block_bytes;
    let free: Vec<_> = all.merged().into_iter().map(|b| b.start * block..b.end * block).collect();
    let mut edges = files.edges.sorted();
    edges.iter_mut().for_each(|edge| *edge *= block);
    let edges = with_gaps(edges, &free);
    Ok(Map { kind: Kind::Ext4, free, edges })
}

const METADATA_IS_FREE: &str = "its bitmaps call its own structures free";
const FILE_IS_FREE: &str = "its bitmaps call blocks of files free";

/// The edges, and those of free space, unless there were too many of the first.
fn with_gaps(edges: Vec<u64>, free: &[Range<u64>]) -> Vec<u64> {
    let mut all = Edges::default();
    edges.iter().for_each(|edge| all.add(&(*edge..*edge)));
    free.iter().for_each(|range| all.add(range));
    match edges.is_empty() {
        true => edges,
        false => all.sorted(),
    }
}
