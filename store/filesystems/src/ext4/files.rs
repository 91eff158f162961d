//! Inodes and where their contents are: "Index Nodes", "The Contents of
//! inode.i_block".

use super::groups::Group;
use super::{Blocks, Files, Volume, unreliable};
use crate::FREE_MAX;
use crate::fields::{array, u16_at, u32_at};
use crate::{NoMap, ReadAt};

/// Inodes read at a time.
const WINDOW: u64 = 4096;
/// The inode that holds the blocks set aside for more descriptors.
const RESIZE_INODE: u64 = 7;
const BAD_BLOCKS_INODE: u64 = 1;

const TYPE: u16 = 0xf000;
const REGULAR: u16 = 0x8000;
const DIRECTORY: u16 = 0x4000;
const SYMLINK: u16 = 0xa000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;

const EXTENT_MAGIC: u16 = 0xf30a;
/// Deepest tree that Linux makes.
const DEPTH_MAX: u16 = 5;
/// Longest extent of written blocks; longer ones stand for unwritten ones.
const EXTENT_LEN_MAX: u16 = 1 << 15;
/// Symbolic links that are shorter stand in the inode.
const FAST_SYMLINK: u32 = 60;

/// A stretch of a file, on the disk.
pub(super) struct Extent {
    pub blocks: Blocks,
    pub written: bool,
}

impl<R: ReadAt + ?Sized> Volume<'_, R> {
    /// Adds the files whose inodes are in a group.
    pub(super) fn files(&self, group: &Group, files: &mut Files) -> Result<(), NoMap> {
        if group.inodes == 0 {
            return Ok(());
        }
        let superblock = &self.superblock;
        let bitmap = self.block(group.inode_bitmap)?;
        let table = group.inode_table * superblock.block_bytes;
        for first in (0..group.inodes).step_by(WINDOW as usize) {
            let count = WINDOW.min(group.inodes - first);
            let mut window = vec![0; (count * superblock.inode_bytes) as usize];
            self.partition.read_at(&mut window, table + first * superblock.inode_bytes)?;
            let inodes = window.chunks_exact(superblock.inode_bytes as usize);
            for (index, inode) in (first..).zip(inodes) {
                let number = group.number * superblock.inodes_per_group + index + 1;
                let byte = bitmap.get((index / 8) as usize).copied().unwrap_or_default();
                if byte >> (index % 8) & 1 == 1 {
                    self.file(number, inode, files)?;
                }
            }
        }
        Ok(())
    }

    fn file(&self, number: u64, inode: &[u8], files: &mut Files) -> Result<(), NoMap> {
        if matches!(number, BAD_BLOCKS_INODE | RESIZE_INODE) {
            return Ok(());
        }
        let attributes = u64::from(u32_at(inode, 0x68)) | u64::from(u16_at(inode, 0x76)) << 32;
        if attributes != 0 {
            files.used(self.checked(attributes, 1)?)?;
        }
        let extents = self.extents(inode, files)?;
        if number == self.superblock.journal && number != 0 {
            return self.journal(&extents, files);
        }
        for Extent { blocks, written } in extents {
            files.edges.add(&blocks);
            match written {
                true => files.used(blocks)?,
                false => files.unwritten(blocks)?,
            }
        }
        Ok(())
    }

    /// The stretches of a file, those put together that follow each other on
    /// the disk. Blocks that only say where others are count as used.
    fn extents(&self, inode: &[u8], files: &mut Files) -> Result<Vec<Extent>, NoMap> {
        let (mode, flags) = (u16_at(inode, 0), u32_at(inode, 0x20));
        let has_blocks = match mode & TYPE {
            REGULAR | DIRECTORY => true,
            SYMLINK => flags & FLAG_EXTENTS != 0 || u32_at(inode, 4) >= FAST_SYMLINK,
            _ => false,
        };
        let mut found = Vec::new();
        if !has_blocks || flags & FLAG_INLINE != 0 {
            return Ok(found);
        }
        let root: [u8; 60] = array(inode, 0x28);
        match flags & FLAG_EXTENTS {
            0 => self.block_map(&root, files, &mut found)?,
            _ => self.tree(&root, DEPTH_MAX + 1, files, &mut found)?,
        }
        Ok(found)
    }

    fn tree(
        &self,
        node: &[u8],
        below: u16,
        files: &mut Files,
        found: &mut Vec<Extent>,
    ) -> Result<(), NoMap> {
        const DAMAGED: &str = "the extents of a file are damaged";
        let (count, depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        // Depth falls with every step down, so that there is an end.
        let fits =
            u16_at(node, 0) == EXTENT_MAGIC && depth < below && 12 + count * 12 <= node.len();
        if !fits {
            return Err(unreliable(DAMAGED));
        }
        for entry in node[12..].chunks_exact(12).take(count) {
            if depth > 0 {
                let child = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
                files.used(self.checked(child, 1)?)?;
                self.tree(&self.block(child)?, depth, files, found)?;
                continue;
            }
            let len = u16_at(entry, 4);
            let start = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
            let written = len <= EXTENT_LEN_MAX;
            let len = if written { len } else { len - EXTENT_LEN_MAX };
            push(found, Extent { blocks: self.checked(start, u64::from(len))?, written })?;
        }
        Ok(())
    }

    /// "Direct/Indirect Block Addressing".
    fn block_map(
        &self,
        root: &[u8; 60],
        files: &mut Files,
        found: &mut Vec<Extent>,
    ) -> Result<(), NoMap> {
        for index in 0..15_usize {
            let levels = index.saturating_sub(11);
            self.mapped(u32_at(root, index * 4), levels, files, found)?;
        }
        Ok(())
    }

    fn mapped(
        &self,
        block: u32,
        levels: usize,
        files: &mut Files,
        found: &mut Vec<Extent>,
    ) -> Result<(), NoMap> {
        if block == 0 {
            return Ok(());
        }
        let blocks = self.checked(u64::from(block), 1)?;
        if levels == 0 {
            return push(found, Extent { blocks, written: true });
        }
        files.used(blocks)?;
        let list = self.block(u64::from(block))?;
        for entry in list.chunks_exact(4) {
            self.mapped(u32_at(entry, 0), levels - 1, files, found)?;
        }
        Ok(())
    }

    /// Blocks that lie in the file system.
    fn checked(&self, start: u64, len: u64) -> Result<Blocks, NoMap> {
        let superblock = &self.superblock;
        match start.checked_add(len) {
            Some(end) if start >= superblock.first_block && end <= superblock.blocks => {
                Ok(start..end)
            }
            _ => Err(unreliable("a file lies outside of it")),
        }
    }
}

fn push(found: &mut Vec<Extent>, next: Extent) -> Result<(), NoMap> {
    let full = found.len() >= FREE_MAX;
    match found.last_mut() {
        Some(last) if last.blocks.end == next.blocks.start && last.written == next.written => {
            last.blocks.end = next.blocks.end;
        }
        _ if full => return Err(unreliable("a file has too many pieces")),
        _ => found.push(next),
    }
    Ok(())
}
