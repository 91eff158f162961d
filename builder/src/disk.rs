//! The disk: filesystems, GRUB and partition table in one raw image file, made
//! without a mount and without a loop device.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{self, Type};
use uuid::Uuid;

use crate::EPOCH;
use crate::cache::{CacheError, at};
use crate::ext4::{self, Ext4Error};
use crate::geometry::{
    BIOS_SECTORS, BIOS_START, ESP_SECTORS, ESP_START, Geometry, ROOT_PARTITION, ROOT_START,
    SECTOR_BYTES,
};
use crate::grub::{self, Bios, GrubError};
use crate::identity::Identities;
use crate::recipe::RootSize;
use crate::tool::{self, Log, ToolError};

/// Unit in which zeros stay holes, in bytes: a block of most filesystems.
const HOLE_BYTES: usize = 4096;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] CacheError),
    /// The root filesystem.
    #[error("cannot make the root partition")]
    Root(#[from] Ext4Error),
    /// The boot loader.
    #[error("cannot make the boot loader")]
    Grub(#[from] GrubError),
    /// The EFI system partition.
    #[error("cannot make the EFI system partition")]
    Esp(#[source] ToolError),
    /// The partition table.
    #[error("cannot write the partition table")]
    Table(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes the disk of the tree at `root` as the new file `image`.
pub(crate) fn make(
    work: &Path,
    root: &Path,
    image: &Path,
    size: RootSize,
    identities: &Identities,
    log: Log<'_>,
) -> Result<Geometry, DiskError> {
    let geometry = Geometry::new(size, ext4::usage(root)?);
    let (root_image, esp_image) = (work.join("root.img"), work.join("esp.img"));
    ext4::make(work, root, &root_image, geometry, identities, log)?;
    let bios = grub::bios(work, identities, log)?;
    let efi = grub::efi(work, identities, log)?;
    esp(&efi, &esp_image, identities, log)?;

    let mut disk = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(image)
        .map_err(at("create", image))?;
    disk.set_len(geometry.disk_bytes()).map_err(at("create", image))?;
    write_table(&mut disk, geometry, &bios, identities)?;
    write_at(&mut disk, BIOS_START, &mut bios.core.as_slice()).map_err(at("write", image))?;
    for (start, path) in [(ESP_START, &esp_image), (ROOT_START, &root_image)] {
        let mut part = File::open(path).map_err(at("read", path))?;
        write_at(&mut disk, start, &mut part).map_err(at("write", image))?;
        fs::remove_file(path).map_err(at("remove", path))?;
    }
    Ok(geometry)
}

/// The EFI system partition, with GRUB where every UEFI looks first (UEFI
/// Specification 3.5.1.1).
fn esp(efi: &Path, image: &Path, identities: &Identities, log: Log<'_>) -> Result<(), DiskError> {
    let epoch = UNIX_EPOCH + Duration::from_secs(EPOCH);
    let dated = File::options().write(true).open(efi).and_then(|file| file.set_modified(epoch));
    dated.map_err(at("write", efi))?;
    let file = File::create(image).map_err(at("create", image))?;
    file.set_len(ESP_SECTORS * SECTOR_BYTES).map_err(at("create", image))?;
    let volume = format!("{:08X}", identities.esp_volume);
    let mut mkfs = tool::command("mkfs.vfat", EPOCH);
    mkfs.args(["-F", "32", "-s", "1", "-n", "ESP", "--invariant", "-i", &volume]).arg(image);
    let mut mmd = tool::command("mmd", EPOCH);
    mmd.arg("-i").arg(image).args(["::EFI", "::EFI/BOOT"]);
    let mut mcopy = tool::command("mcopy", EPOCH);
    mcopy.arg("-m").arg("-i").arg(image).arg(efi).arg("::EFI/BOOT/BOOTX64.EFI");
    for command in [&mut mkfs, &mut mmd, &mut mcopy] {
        tool::run(command.env("MTOOLSRC", "/dev/null"), log).map_err(DiskError::Esp)?;
    }
    Ok(())
}

fn write_table(
    disk: &mut File,
    geometry: Geometry,
    bios: &Bios,
    identities: &Identities,
) -> Result<(), DiskError> {
    let table = |error: gpt::GptError| DiskError::Table(error.into());
    let sectors = u32::try_from(geometry.disk_bytes() / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    let mut mbr = ProtectiveMBR::with_lb_size(sectors);
    mbr.set_bootcode(bios.boot_code);
    mbr.overwrite_lba0(disk).map_err(|error| DiskError::Table(error.into()))?;
    let mut gpt = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(&mut *disk, Some(identities.disk))
        .map_err(table)?;
    gpt.update_partitions(partitions(geometry, identities)).map_err(table)?;
    gpt.write().map_err(table)?;
    Ok(())
}

fn partitions(geometry: Geometry, identities: &Identities) -> BTreeMap<u32, Partition> {
    let partition = |kind: Type, guid: Uuid, name: &str, start: u64, sectors: u64| Partition {
        part_type_guid: kind,
        part_guid: guid,
        first_lba: start,
        last_lba: start + sectors - 1,
        flags: 0,
        name: name.to_owned(),
    };
    use partition_types::{BIOS, EFI, LINUX_ROOT_X64};
    BTreeMap::from([
        (1, partition(BIOS, identities.bios, "bios", BIOS_START, BIOS_SECTORS)),
        (2, partition(EFI, identities.esp, "esp", ESP_START, ESP_SECTORS)),
        (
            ROOT_PARTITION,
            partition(LINUX_ROOT_X64, identities.root, "root", ROOT_START, geometry.root_sectors),
        ),
    ])
}

/// Writes all of `part` from a sector on; its zeros stay holes.
fn write_at(disk: &mut File, start: u64, part: &mut dyn Read) -> io::Result<()> {
    let mut at = start * SECTOR_BYTES;
    let mut buffer = vec![0; 256 * HOLE_BYTES];
    loop {
        let filled = fill(part, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        for block in buffer[..filled].chunks(HOLE_BYTES) {
            if block.iter().any(|&byte| byte != 0) {
                disk.seek(SeekFrom::Start(at))?;
                disk.write_all(block)?;
            }
            at += block.len() as u64;
        }
    }
}

/// Reads until the buffer is full or the end is reached.
fn fill(part: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match part.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (File, Geometry, Identities) {
        let mut disk = tempfile::tempfile().unwrap();
        let geometry = Geometry { root_sectors: 2048 * 100 };
        disk.set_len(geometry.disk_bytes()).unwrap();
        let identities = Identities::of("test");
        let bios = Bios { boot_code: [7; 440], core: Vec::new() };
        write_table(&mut disk, geometry, &bios, &identities).unwrap();
        (disk, geometry, identities)
    }

    #[test]
    fn the_table_reads_back_and_both_copies_agree() {
        let (mut disk, geometry, identities) = table();
        let read = gpt::GptConfig::new().open_from_device(&mut disk).unwrap();
        assert_eq!(read.guid(), &identities.disk);
        assert_eq!(read.partitions(), &partitions(geometry, &identities));
        assert!(read.primary_header().is_ok() && read.backup_header().is_ok());
        let last = geometry.disk_bytes() / SECTOR_BYTES - 1;
        assert_eq!(read.primary_header().unwrap().backup_lba, last);
    }

    #[test]
    fn the_boot_code_and_the_protective_entry_are_there_and_the_receipt_slot_is_free() {
        let (mut disk, ..) = table();
        let mut start = vec![0; 1 << 20];
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.read_exact(&mut start).unwrap();
        assert_eq!(start[..440], [7; 440]);
        assert_eq!(start[450], 0xee);
        assert_eq!(start[510..512], [0x55, 0xaa]);
        assert!(start[34 * 512..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn parts_are_written_whole_and_their_zeros_are_left_out() {
        let mut disk = tempfile::tempfile().unwrap();
        disk.set_len(4 << 20).unwrap();
        let mut part = vec![0; 3 << 20];
        part[0] = 1;
        part[(2 << 20) + 5000] = 2;
        part[(3 << 20) - 1] = 3;
        write_at(&mut disk, 2048, &mut part.as_slice()).unwrap();
        let mut all = Vec::new();
        disk.seek(SeekFrom::Start(0)).unwrap();
        disk.read_to_end(&mut all).unwrap();
        assert!(all[1 << 20..] == part[..], "the bytes differ");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&disk.metadata().unwrap());
        assert!(blocks * 512 <= 64 << 10, "{blocks} blocks are allocated");
    }
}
