//! Where everything is on the disk, in sectors of 512 bytes.
//!
//! ```text
//! 0          protective MBR with GRUB's boot code, GPT
//! 512 KiB    64 KiB of zeros: the agent writes its receipt here
//! 1 MiB      BIOS boot partition, 1 MiB: GRUB's core image
//! 2 MiB      EFI system partition, 64 MiB
//! 66 MiB     root partition, last so that it can grow
//! end        1 MiB for the backup GPT
//! ```

use crate::recipe::RootSize;

/// Size of a sector in bytes.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Partition number of the root filesystem.
pub(crate) const ROOT_PARTITION: u32 = 3;
/// First sector of the BIOS boot partition; its number is written into GRUB's boot code.
pub(crate) const BIOS_START: u64 = 2048;
/// Sectors of the BIOS boot partition.
pub(crate) const BIOS_SECTORS: u64 = 2048;
/// First sector of the EFI system partition.
pub(crate) const ESP_START: u64 = BIOS_START + BIOS_SECTORS;
/// Sectors of the EFI system partition: FAT32 needs 65 525 clusters, and a
/// firmware update or a second kernel should find room.
pub(crate) const ESP_SECTORS: u64 = 131_072;
/// First sector of the root partition.
pub(crate) const ROOT_START: u64 = ESP_START + ESP_SECTORS;
/// Sectors behind the last partition, for the backup GPT.
const END_SECTORS: u64 = 2048;

/// Steps in which a root filesystem grows to fit, in bytes. Coarse, because
/// another size moves nearly every block of an ext4, and empty space costs nothing.
const FIT_STEP: u64 = 512 << 20;
/// Bytes per inode, as in the mke2fs configuration.
pub(crate) const INODE_RATIO: u64 = 16_384;

/// What a root tree needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes of its files and folders, each rounded up to blocks.
    pub bytes: u64,
    /// Number of its files and folders.
    pub inodes: u64,
}

/// Sizes of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Of the root partition.
    pub root_sectors: u64,
}

impl Geometry {
    /// For a tree and the size that the recipe asks for.
    pub fn new(size: RootSize, usage: Usage) -> Geometry {
        let root_bytes = match size {
            RootSize::Bytes(bytes) => bytes,
            RootSize::Fit => fit(usage),
        };
        Geometry { root_sectors: root_bytes / SECTOR_BYTES }
    }

    /// Size of the root filesystem in bytes.
    pub fn root_bytes(&self) -> u64 {
        self.root_sectors * SECTOR_BYTES
    }

    /// Size of the disk in bytes.
    pub fn disk_bytes(&self) -> u64 {
        (ROOT_START + self.root_sectors + END_SECTORS) * SECTOR_BYTES
    }
}

/// A quarter more than the tree, and room for the journal, logs and an upgrade.
fn fit(usage: Usage) -> u64 {
    let bytes = usage.bytes + usage.bytes / 4 + (128 << 20);
    let inodes = (usage.inodes + usage.inodes / 4) * INODE_RATIO;
    bytes.max(inodes).next_multiple_of(FIT_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn nothing_is_in_the_place_of_the_receipt() {
        let receipt = 524_288..589_824;
        assert!((34 * SECTOR_BYTES) <= receipt.start && receipt.end <= BIOS_START * SECTOR_BYTES);
    }

    #[test]
    fn partitions_start_at_mebibytes_and_the_esp_can_be_fat32() {
        for start in [BIOS_START, ESP_START, ROOT_START] {
            assert_eq!(start * SECTOR_BYTES % MIB, 0);
        }
        // One sector to a cluster; two FATs of four bytes a cluster, and 32 reserved sectors.
        let fats = 2 * (ESP_SECTORS * 4).div_ceil(SECTOR_BYTES);
        assert!(ESP_SECTORS - fats - 32 >= 65_525);
    }

    #[test]
    fn the_root_fits_in_coarse_steps() {
        let cases = [
            (0, 0, 512),
            (300, 10_000, 512),
            (307, 10_000, 512),
            (308, 10_000, 1024),
            (700, 20_000, 1024),
            (720, 20_000, 1536),
            (100, 60_000, 1536),
        ];
        for (mib, inodes, expected) in cases {
            let usage = Usage { bytes: mib * MIB, inodes };
            let geometry = Geometry::new(RootSize::Fit, usage);
            assert_eq!(geometry.root_bytes(), expected * MIB, "{mib} MiB, {inodes} inodes");
        }
    }

    #[test]
    fn a_given_size_is_kept_and_the_backup_table_has_room() {
        let geometry = Geometry::new(RootSize::Bytes(700 * MIB), Usage::default());
        assert_eq!(geometry.root_bytes(), 700 * MIB);
        assert_eq!(geometry.disk_bytes(), (66 + 700 + 1) * MIB);
    }
}
