//! Block groups: "Block Group Descriptors" and "Block and Inode Bitmaps".

use super::{Blocks, Volume, unreliable};
use crate::fields::{split_u64, u16_at, u32_at};
use crate::map::{Ranges, without};
use crate::{NoMap, ReadAt};

const INODES_NEVER_USED: u16 = 1;
const BLOCKS_NEVER_USED: u16 = 2;

/// One descriptor.
#[derive(Debug)]
pub(super) struct Group {
    pub number: u64,
    block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    /// No block of it was ever used, but for metadata: its bitmap is not there.
    has_no_blocks: bool,
    /// Inodes of the table that may be used.
    pub inodes: u64,
}

impl<R: ReadAt + ?Sized> Volume<'_, R> {
    /// All descriptors.
    pub(super) fn groups(&self) -> Result<Vec<Group>, NoMap> {
        let superblock = &self.superblock;
        let per_block = superblock.descriptors_per_block();
        let mut groups = Vec::new();
        for first in (0..superblock.groups()).step_by(per_block as usize) {
            let block = self.block(superblock.descriptor_block(first / per_block))?;
            let raw = block.chunks_exact(superblock.descriptor_bytes as usize);
            let numbers = first..superblock.groups();
            groups.extend(numbers.zip(raw).map(|(number, raw)| self.group(number, raw)));
        }
        Ok(groups)
    }

    fn group(&self, number: u64, raw: &[u8]) -> Group {
        let superblock = &self.superblock;
        let wide = superblock.descriptor_bytes >= 64;
        let place = |low: usize, high: usize| match wide {
            true => split_u64(raw, low, high),
            false => u64::from(u32_at(raw, low)),
        };
        let flags = if superblock.has_group_flags { u16_at(raw, 0x12) } else { 0 };
        let unused = match (superblock.has_group_flags, wide) {
            (false, _) => 0,
            (true, false) => u64::from(u16_at(raw, 0x1c)),
            (true, true) => u64::from(u16_at(raw, 0x1c)) | u64::from(u16_at(raw, 0x32)) << 16,
        };
        Group {
            number,
            block_bitmap: place(0x0, 0x20),
            inode_bitmap: place(0x4, 0x24),
            inode_table: place(0x8, 0x28),
            has_no_blocks: flags & BLOCKS_NEVER_USED != 0,
            inodes: match flags & INODES_NEVER_USED {
                0 => superblock.inodes_per_group.saturating_sub(unused),
                _ => 0,
            },
        }
    }

    /// All blocks of the file system's own structures, merged.
    pub(super) fn metadata(&self, groups: &[Group]) -> Result<Vec<Blocks>, NoMap> {
        let superblock = &self.superblock;
        let table =
            (superblock.inodes_per_group * superblock.inode_bytes).div_ceil(superblock.block_bytes);
        let mut metadata = Ranges::default();
        for group in groups {
            let places =
                [(group.block_bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, table)];
            let head = superblock.head(group.number);
            let parts = places.map(|(start, len)| start..start.saturating_add(len));
            for blocks in parts.into_iter().chain([head]) {
                if blocks.end > superblock.blocks {
                    return Err(unreliable("its structures lie outside of it"));
                }
                metadata.add(blocks).ok_or(unreliable("it has too many groups"))?;
            }
        }
        // Boot code.
        metadata.add(0..1).ok_or(unreliable("it has too many groups"))?;
        Ok(metadata.merged())
    }

    /// What the bitmaps call free, merged.
    pub(super) fn free(&self, groups: &[Group], metadata: &[Blocks]) -> Result<Vec<Blocks>, NoMap> {
        let mut free = Ranges::default();
        for group in groups {
            let blocks = self.superblock.group(group.number);
            let found = match group.has_no_blocks {
                true => without(blocks, metadata),
                false => self.clear_bits(&self.block(group.block_bitmap)?, blocks),
            };
            for blocks in found {
                free.add(blocks).ok_or(unreliable("it has too many gaps"))?;
            }
        }
        Ok(free.merged())
    }

    /// The blocks of a group whose bits are 0.
    fn clear_bits(&self, bitmap: &[u8], group: Blocks) -> Vec<Blocks> {
        let per_bit = self.superblock.blocks_per_cluster;
        let mut free: Vec<Blocks> = Vec::new();
        let mut at = group.start;
        for byte in bitmap {
            for bit in 0..8 {
                if at >= group.end {
                    return free;
                }
                let end = group.end.min(at + per_bit);
                if byte >> bit & 1 == 0 {
                    match free.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => free.push(at..end),
                    }
                }
                at = end;
            }
        }
        free
    }

    /// A whole block.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>, NoMap> {
        let superblock = &self.superblock;
        if number >= superblock.blocks {
            return Err(unreliable("its structures lie outside of it"));
        }
        let mut block = vec![0; superblock.block_bytes as usize];
        self.partition.read_at(&mut block, number * superblock.block_bytes)?;
        Ok(block)
    }
}
