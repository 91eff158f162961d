//! The superblock: "Super Block" in the kernel's documentation.

use super::unreliable;
use crate::fields::{split_u64, u16_at, u32_at};
use crate::{NoMap, ReadAt};

const OFFSET: u64 = 1024;
const LEN: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Unmounted cleanly, and no errors found.
const STATE_CLEAN: u16 = 1;
/// Most groups: 128 TiB in groups of 128 MiB.
const GROUPS_MAX: u64 = 1 << 20;

const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// filetype, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed,
/// largedir, inline_data, encrypt, casefold.
const INCOMPAT_KNOWN: u32 = 0x2
    | 0x10
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
/// gdt_csum or metadata_csum: only then the flags of groups mean something.
const RO_COMPAT_GROUP_FLAGS: u32 = 0x10 | 0x400;
/// sparse_super, large_file, btree_dir, huge_file, gdt_csum, dir_nlink,
/// extra_isize, quota, bigalloc, metadata_csum, read-only, project, verity,
/// orphan_present.
const RO_COMPAT_KNOWN: u32 = 0x7f | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x8000 | 0x1_0000;

/// What the superblock says, checked.
#[derive(Debug)]
pub(super) struct Superblock {
    pub block_bytes: u64,
    /// Blocks for which one bit of a bitmap stands.
    pub blocks_per_cluster: u64,
    pub blocks: u64,
    /// The first block that belongs to a group: 1 with blocks of 1 KiB.
    pub first_block: u64,
    pub blocks_per_group: u64,
    pub inodes_per_group: u64,
    pub inode_bytes: u64,
    pub descriptor_bytes: u64,
    /// Whether groups say what of them was never used.
    pub has_group_flags: bool,
    pub journal: u64,
    /// From which group of descriptor blocks on they stand in the groups that
    /// they describe.
    pub first_meta_group: u64,
    reserved_descriptor_blocks: u64,
    backups: Backups,
}

/// Which groups have a copy of the superblock and of the descriptors.
#[derive(Debug)]
enum Backups {
    All,
    Powers,
    Two([u64; 2]),
}

pub(super) fn read(partition: &(impl ReadAt + ?Sized), bytes: u64) -> Result<Superblock, NoMap> {
    let mut raw = [0; LEN];
    if bytes < OFFSET + LEN as u64 {
        return Err(NoMap::Unknown);
    }
    partition.read_at(&mut raw, OFFSET)?;
    if u16_at(&raw, 0x38) != MAGIC {
        return Err(NoMap::Unknown);
    }
    check_features(&raw)?;
    let superblock = decode(&raw).ok_or(unreliable("its superblock is damaged"))?;
    match superblock.blocks.checked_mul(superblock.block_bytes) {
        Some(end) if end <= bytes => Ok(superblock),
        _ => Err(unreliable("it does not fit its partition")),
    }
}

fn check_features(raw: &[u8]) -> Result<(), NoMap> {
    let (incompat, ro_compat) = (u32_at(raw, 0x60), u32_at(raw, 0x64));
    if incompat & INCOMPAT_RECOVER != 0 {
        return Err(unreliable("its journal is to be replayed: mount it once, or run e2fsck"));
    }
    if u16_at(raw, 0x3a) & 3 != STATE_CLEAN {
        return Err(unreliable("it was not unmounted, or has errors: run e2fsck"));
    }
    if incompat & !INCOMPAT_KNOWN != 0 || ro_compat & !RO_COMPAT_KNOWN != 0 {
        return Err(unreliable("it has features that are not known"));
    }
    Ok(())
}

fn decode(raw: &[u8]) -> Option<Superblock> {
    let (compat, incompat) = (u32_at(raw, 0x5c), u32_at(raw, 0x60));
    let ro_compat = u32_at(raw, 0x64);
    let is_64bit = incompat & INCOMPAT_64BIT != 0;
    let size = |shift: u32| (shift <= 6).then(|| 1024_u64 << shift);
    let block_bytes = size(u32_at(raw, 0x18))?;
    let blocks_per_cluster = match ro_compat & RO_COMPAT_BIGALLOC {
        0 => 1,
        _ => 1_u64.checked_shl(u32_at(raw, 0x1c).checked_sub(u32_at(raw, 0x18))?)?,
    };
    let blocks = match is_64bit {
        true => split_u64(raw, 0x4, 0x150),
        false => u64::from(u32_at(raw, 0x4)),
    };
    let (inode_bytes, first_meta_group) = match u32_at(raw, 0x4c) {
        0 => (128, u64::MAX),
        _ => (u64::from(u16_at(raw, 0x58)), u64::from(u32_at(raw, 0x104))),
    };
    let superblock = Superblock {
        block_bytes,
        blocks_per_cluster,
        blocks,
        first_block: u64::from(u32_at(raw, 0x14)),
        blocks_per_group: u64::from(u32_at(raw, 0x20)),
        inodes_per_group: u64::from(u32_at(raw, 0x28)),
        inode_bytes,
        descriptor_bytes: if is_64bit { u64::from(u16_at(raw, 0xfe)) } else { 32 },
        has_group_flags: ro_compat & RO_COMPAT_GROUP_FLAGS != 0,
        journal: u64::from(u32_at(raw, 0xe0)),
        first_meta_group: match incompat & INCOMPAT_META_BG {
            0 => u64::MAX,
            _ => first_meta_group,
        },
        reserved_descriptor_blocks: u64::from(u16_at(raw, 0xce)),
        backups: match (compat & COMPAT_SPARSE_SUPER2, ro_compat & RO_COMPAT_SPARSE_SUPER) {
            (0, 0) => Backups::All,
            (0, _) => Backups::Powers,
            _ => Backups::Two([u32_at(raw, 0x24c), u32_at(raw, 0x250)].map(u64::from)),
        },
    };
    superblock.is_possible().then_some(superblock)
}

impl Superblock {
    fn is_possible(&self) -> bool {
        let bits = self.block_bytes * 8;
        let inodes_fit = self.inodes_per_group.checked_mul(self.inode_bytes).is_some();
        let blocks_max = bits.checked_mul(self.blocks_per_cluster);
        self.blocks > self.first_block
            && self.first_block <= 1
            && blocks_max.is_some_and(|max| (1..=max).contains(&self.blocks_per_group))
            && self.blocks_per_group.is_multiple_of(self.blocks_per_cluster)
            && (1..=bits).contains(&self.inodes_per_group)
            && inodes_fit
            && (128..=self.block_bytes).contains(&self.inode_bytes)
            && self.inode_bytes.is_power_of_two()
            && (32..=self.block_bytes).contains(&self.descriptor_bytes)
            && self.descriptor_bytes.is_power_of_two()
            && self.blocks <= 1 << 48
            && self.groups() <= GROUPS_MAX
    }

    pub(super) fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    /// The blocks of a group, the last one of which may be shorter.
    pub(super) fn group(&self, number: u64) -> super::Blocks {
        let start = self.first_block + number * self.blocks_per_group;
        start..self.blocks.min(start + self.blocks_per_group)
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    /// Blocks of descriptors.
    fn descriptor_blocks(&self) -> u64 {
        self.groups().div_ceil(self.descriptors_per_block())
    }

    /// Where a block of descriptors is: "Meta Block Groups".
    pub(super) fn descriptor_block(&self, number: u64) -> u64 {
        if number < self.first_meta_group {
            return self.head_start(0) + 1 + number;
        }
        let group = number * self.descriptors_per_block();
        self.head_start(group) + u64::from(self.has_backup(group))
    }

    /// The first superblock stands behind 1 KiB of boot code, which is a block of
    /// its own where blocks are that small.
    fn head_start(&self, group: u64) -> u64 {
        match (self.group(group).start, self.block_bytes) {
            (0, 1024) => 1,
            (start, _) => start,
        }
    }

    /// The superblock and the descriptors that begin a group.
    pub(super) fn head(&self, group: u64) -> super::Blocks {
        let start = self.head_start(group);
        let has_backup = self.has_backup(group);
        let meta_group = group / self.descriptors_per_block();
        let descriptors = match meta_group < self.first_meta_group {
            true if has_backup => {
                let old = self.descriptor_blocks().min(self.first_meta_group);
                old + self.reserved_descriptor_blocks
            }
            true => 0,
            // In the first, second and last group of a meta group.
            false => {
                let place = group % self.descriptors_per_block();
                let last = self.descriptors_per_block() - 1;
                u64::from(place <= 1 || place == last)
            }
        };
        start..start + u64::from(has_backup) + descriptors
    }

    fn has_backup(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group == 0
            || match &self.backups {
                Backups::All => true,
                Backups::Powers => group == 1 || [3, 5, 7].into_iter().any(is_power),
                Backups::Two(groups) => groups.contains(&group),
            }
    }
}
