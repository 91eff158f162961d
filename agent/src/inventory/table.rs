//! The partition table that is on a disk, whoever wrote it.
//!
//! Only looked at, so no sum is checked. The crate that writes tables for us panics on
//! a GPT whose entries are not of the usual length.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use wire::Partition;

/// A partition and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What the controller hears of it.
    pub partition: Partition,
    /// Its first byte.
    pub start: u64,
}

/// The word for a kind of table, and the partitions of it.
pub type Table = (&'static str, Vec<Placed>);

/// Most entries of a GPT that are looked at: as many as one has by default.
const ENTRIES_MAX: usize = 128;
/// A GPT's header and one entry of it (UEFI 2.10 section 5.3).
const GPT_SIGNATURE: &[u8] = b"EFI PART";
const ENTRY_BYTES: std::ops::RangeInclusive<usize> = 128..=4096;
/// A PC table's records (section 5.2).
const RECORDS: usize = 446;
const RECORD: usize = 16;

/// Reads the table of a disk of so many bytes, with sectors of this size.
pub fn read(disk: &File, bytes: u64, sector_bytes: u32) -> io::Result<Table> {
    let sector = u64::from(sector_bytes.max(512));
    let head = read_some(disk, 0, 2 * sector)?;
    let header = usize::try_from(sector).ok().and_then(|at| head.get(at..)).unwrap_or_default();
    if header.starts_with(GPT_SIGNATURE)
        && let Some((start, count, size)) = entries(header, sector)
    {
        let bytes = read_some(disk, start, (count * size) as u64)?;
        return Ok(("gpt", gpt(&bytes, size, sector)));
    }
    let records = head.get(RECORDS..510).filter(|_| head.get(510..512) == Some(&[0x55, 0xaa]));
    match records.and_then(|records| mbr(records, sector, bytes)) {
        Some(placed) => Ok(("mbr", placed)),
        None => Ok(("none", Vec::new())),
    }
}

/// At most so many bytes; fewer where the disk ends.
fn read_some(disk: &File, start: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let mut filled = 0;
    while filled < buffer.len() {
        match disk.read_at(&mut buffer[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Where a GPT's entries begin, how many are looked at, and how long each is.
fn entries(header: &[u8], sector: u64) -> Option<(u64, usize, usize)> {
    let start = number(header, 72, 8)?.checked_mul(sector)?;
    let count = usize::try_from(number(header, 80, 4)?).ok()?.min(ENTRIES_MAX);
    let size = usize::try_from(number(header, 84, 4)?).ok()?;
    // What begins so far out is on no disk.
    (ENTRY_BYTES.contains(&size) && start < 1 << 62).then_some((start, count, size))
}

fn gpt(entries: &[u8], size: usize, sector: u64) -> Vec<Placed> {
    let placed = |(index, entry): (usize, &[u8])| {
        let kind = entry.get(..16).filter(|kind| kind.iter().any(|&byte| byte != 0))?;
        let (first, last) = (number(entry, 32, 8)?, number(entry, 40, 8)?);
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        place(index, guid(kind), first, sectors, sector)
    };
    entries.chunks_exact(size).enumerate().filter_map(placed).collect()
}

/// None where it is no table: the boot sector of a file system, and any other with boot code,
/// ends in the same two bytes.
fn mbr(records: &[u8], sector: u64, disk_bytes: u64) -> Option<Vec<Placed>> {
    let mut found = Vec::new();
    for (index, record) in records.chunks_exact(RECORD).enumerate() {
        let (status, kind) = (*record.first()?, *record.get(4)?);
        if !matches!(status, 0x00 | 0x80) {
            return None;
        }
        let (first, sectors) = (number(record, 8, 4)?, number(record, 12, 4)?);
        if kind == 0 || sectors == 0 {
            continue;
        }
        let placed = place(index, format!("{kind:#04x}"), first, sectors, sector)?;
        // One may end behind the disk: a disk of an array has the array's table, and what
        // stands for a GPT says that it is as long as a record can tell.
        if placed.start >= disk_bytes {
            return None;
        }
        found.push(placed);
    }
    (!found.is_empty()).then_some(found)
}

fn place(index: usize, kind: String, first: u64, sectors: u64, sector: u64) -> Option<Placed> {
    let number = u32::try_from(index).ok()? + 1;
    let size_bytes = sectors.checked_mul(sector)?;
    let start = first.checked_mul(sector)?;
    start.checked_add(size_bytes)?;
    Some(Placed { partition: Partition { number, kind, size_bytes }, start })
}

/// A number, the least byte first.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The first three groups of a GUID stand with their least byte first.
fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (index, at) in order.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes.get(at).copied().unwrap_or(0)));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::process::Command;

    use gpt::disk::LogicalBlockSize;
    use gpt::partition_types::{EFI, LINUX_FS};
    use proptest::prelude::*;

    use super::*;

    /// What a disk with these bytes has.
    fn table(bytes: &[u8], sector_bytes: u32) -> Table {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        read(&file, bytes.len() as u64, sector_bytes).unwrap()
    }

    /// As the crate writes it that real disks are compared with elsewhere.
    fn disk(sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8 << 20];
        let size = LogicalBlockSize::try_from(sector).unwrap();
        let sectors = u32::try_from(bytes.len() as u64 / sector).unwrap();
        let mbr = gpt::mbr::ProtectiveMBR::with_lb_size(sectors - 1);
        mbr.overwrite_lba0(&mut Cursor::new(&mut bytes[..])).unwrap();
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(size)
            .create_from_device(Cursor::new(&mut bytes[..]), None)
            .unwrap();
        table.add_partition("esp", 1 << 20, EFI, 0, None).unwrap();
        table.add_partition("root", 2 << 20, LINUX_FS, 0, None).unwrap();
        table.write().unwrap();
        bytes
    }

    #[test]
    fn a_gpt_tells_types_sizes_and_places() {
        for sector in [512, 4096] {
            let (kind, found) = table(&disk(sector), u32::try_from(sector).unwrap());
            let rows: Vec<_> = found
                .iter()
                .map(|p| (p.partition.number, p.partition.kind.as_str(), p.partition.size_bytes))
                .collect();
            let expected = [
                (1, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", 1 << 20),
                (2, "0fc63daf-8483-4772-8e79-3d69d8477de4", 2 << 20),
            ];
            assert_eq!((kind, &rows[..]), ("gpt", &expected[..]));
            assert!(found[0].start >= 2 * sector && found[1].start >= found[0].start + (1 << 20));
        }
    }

    #[test]
    fn a_pc_table_an_empty_disk_and_a_short_one() {
        let mut bytes = vec![0; 4096];
        assert_eq!(table(&bytes, 512), ("none", vec![]));
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes[RECORDS + RECORD + 4] = 0x83;
        bytes[RECORDS + RECORD + 8] = 2;
        bytes[RECORDS + RECORD + 12] = 6;
        let partition = Partition { number: 2, kind: "0x83".into(), size_bytes: 6 * 512 };
        let expected = Placed { partition, start: 1024 };
        assert_eq!(table(&bytes, 512), ("mbr", vec![expected]));
        assert_eq!(table(&[1; 100], 512), ("none", vec![]));
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[RECORDS + at] = value;
            table(&bytes, 512)
        };
        assert_eq!(changed(RECORD, 0x80).0, "mbr", "one to boot");
        let none = ("none", vec![]);
        assert_eq!(changed(RECORD, 0x20), none, "a status that does not exist");
        assert_eq!(changed(3 * RECORD, 1), none, "also of a record that is empty");
        assert_eq!(changed(RECORD + 12, 7).0, "mbr", "as on a disk of an array");
        assert_eq!(changed(RECORD + 11, 1), none, "it begins behind the disk");
        assert_eq!(changed(RECORD + 4, 0), none, "no partition");
        assert_eq!(changed(RECORD + 12, 0), none, "one without a sector");
        // A GPT whose header is gone is not a blank disk, however long its cover says it is.
        let mut disk = disk(512);
        disk[512..1024].fill(0);
        disk[RECORDS + 12..RECORDS + RECORD].fill(0xff);
        let (kind, found) = table(&disk, 512);
        assert_eq!((kind, found[0].partition.kind.as_str()), ("mbr", "0xee"));
    }

    #[test]
    fn a_file_system_over_a_whole_disk_is_no_table() {
        for (bits, bytes) in [("12", 2 << 20), ("16", 20 << 20), ("32", 64 << 20)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(bytes).unwrap();
            let made = Command::new("mkfs.fat").args(["-F", bits]).arg(file.path()).output();
            assert!(made.unwrap().status.success());
            let mut end = [0; 2];
            file.as_file().read_exact_at(&mut end, 510).unwrap();
            assert_eq!(end, [0x55, 0xaa], "what a table ends in, too");
            assert_eq!(read(file.as_file(), bytes, 512).unwrap(), ("none", vec![]), "FAT{bits}");
            // Boot code that reaches to where the records would be.
            file.as_file()
                .write_all_at(b"Remove disks or other media.\xff\r\nPress any key", 440)
                .unwrap();
            assert_eq!(read(file.as_file(), bytes, 512).unwrap(), ("none", vec![]), "FAT{bits}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..700), at in 512usize..1100,
        ) {
            table(&bytes, 512);
            let mut disk = disk(512);
            disk.splice(at..at + bytes.len(), bytes);
            let (_, found) = table(&disk, 512);
            prop_assert!(found.len() <= ENTRIES_MAX);
        }
    }
}
