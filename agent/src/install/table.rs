//! Moving a partition table to a larger disk: the backup to the new end, the
//! last partition grown up to it.

use std::io::{self, Cursor};

use gpt::disk::LogicalBlockSize;
use gpt::header::{HeaderBuilder, HeaderError, read_header_from_arbitrary_device};
use store_format::{Envelope, PartitionTable};

/// Why a table cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The image's GPT is not sound.
    #[error("the partition table inside the image is not sound: build the image anew")]
    Gpt(#[from] HeaderError),
    /// The image's partition table is not where one is expected.
    #[error("the partition table of the image cannot be moved to a larger disk: {0}")]
    Odd(&'static str),
}

/// Offset of the partition records in the first sector, their length, and of
/// the fields in them (UEFI 2.10 section 5.2.1).
const MBR_RECORDS: usize = 446;
const MBR_RECORD: usize = 16;
const MBR_TYPE: usize = 4;
const MBR_SECTORS: usize = 12;
const MBR_PROTECTIVE: u8 = 0xee;
/// Offset of the last sector in a GPT entry (UEFI 2.10 section 5.3.3).
const GPT_LAST_LBA: usize = 40;

/// Rewrites `head`, the first bytes of the disk, for a disk of `disk_bytes`,
/// and gives the bytes that its end is to hold; `None` where a table keeps
/// nothing there, so that what an image ends with stays in its place.
pub fn relocate(
    envelope: &Envelope,
    head: &mut [u8],
    disk_bytes: u64,
) -> Result<Option<Vec<u8>>, TableError> {
    let sectors = disk_bytes / u64::from(envelope.sector_bytes);
    match &envelope.table {
        Some(PartitionTable::Gpt { .. }) => relocate_gpt(envelope, head, sectors).map(Some),
        Some(PartitionTable::Mbr { partitions, .. }) => {
            if let Some(number) = envelope.grow {
                let grown = partitions.iter().find(|partition| partition.number == number);
                let first =
                    grown.ok_or(TableError::Odd("it does not have the partition to grow"))?;
                grow_mbr(head, number, sectors.saturating_sub(first.first_lba))?;
            }
            Ok(None)
        }
        None => Ok(None),
    }
}

/// A logical partition would need its extended one grown too; that is left alone.
fn grow_mbr(head: &mut [u8], number: u32, sectors: u64) -> Result<(), TableError> {
    let odd = TableError::Odd("only primary partitions can be grown");
    let index =
        usize::try_from(number).ok().filter(|number| (1..=4).contains(number)).ok_or(odd)?;
    let at = MBR_RECORDS + (index - 1) * MBR_RECORD + MBR_SECTORS;
    let field = head.get_mut(at..at + 4).ok_or(TableError::Odd("it is cut short"))?;
    // What the field cannot say stays unused: 2 TiB with sectors of 512 bytes.
    let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
    field.copy_from_slice(&sectors.to_le_bytes());
    Ok(())
}

fn relocate_gpt(envelope: &Envelope, head: &mut [u8], sectors: u64) -> Result<Vec<u8>, TableError> {
    let sector = usize::try_from(envelope.sector_bytes).unwrap_or(0);
    let size = LogicalBlockSize::try_from(u64::from(envelope.sector_bytes));
    let size = size.map_err(|_| TableError::Odd("its sector size is unknown"))?;
    let old = read_header_from_arbitrary_device(&mut Cursor::new(&head[..]), size)?;
    let short = || TableError::Odd("its entries are not behind its header");
    let start = usize::try_from(old.part_start).ok().and_then(|lba| lba.checked_mul(sector));
    let start = start.filter(|_| old.part_start == 2).ok_or_else(short)?;
    let length = old.part_size.checked_mul(old.num_parts);
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(short)?;
    let length = length.next_multiple_of(sector);
    let entries = head.get_mut(start..start.saturating_add(length)).ok_or_else(short)?;

    let mut builder = HeaderBuilder::from_header(&old);
    builder.backup_lba(sectors - 1);
    let mut primary = builder.primary(true).build(size)?;
    let mut backup = builder.primary(false).build(size)?;
    if let Some(number) = envelope.grow {
        let entry_bytes = usize::try_from(old.part_size).unwrap_or(0);
        grow_gpt(entries, entry_bytes, number, primary.last_usable)?;
    }
    // The crate sums the entries up from a device: here, one where they are at the
    // start of the backup's part, whose first sector is number 0.
    let mut tail = entries.to_vec();
    tail.resize(length + sector, 0);
    let mut device = Shifted { first: backup.part_start * sector as u64, at: 0, bytes: &mut tail };
    backup.write_backup(&mut device, size)?;
    primary.write_primary(&mut Cursor::new(&mut head[..]), size)?;
    extend_protective(head, sectors);
    Ok(tail)
}

fn grow_gpt(entries: &mut [u8], size: usize, number: u32, last: u64) -> Result<(), TableError> {
    let missing = TableError::Odd("it does not have the partition to grow");
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let at = index.and_then(|index| index.checked_mul(size)).map(|at| at + GPT_LAST_LBA);
    let field = at.and_then(|at| entries.get_mut(at..at + 8)).ok_or(missing)?;
    field.copy_from_slice(&last.to_le_bytes());
    Ok(())
}

/// The record that shields a GPT covers the disk, or as much as it can say.
fn extend_protective(head: &mut [u8], sectors: u64) {
    for index in 0..4 {
        let at = MBR_RECORDS + index * MBR_RECORD;
        if let Some(record) = head.get_mut(at..at + MBR_RECORD)
            && record[MBR_TYPE] == MBR_PROTECTIVE
        {
            let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
            record[MBR_SECTORS..].copy_from_slice(&covered.to_le_bytes());
        }
    }
}

/// Some bytes as the part of a device that begins at `first`.
#[derive(Debug)]
struct Shifted<'a> {
    first: u64,
    at: u64,
    bytes: &'a mut [u8],
}

impl Shifted<'_> {
    fn here(&mut self) -> io::Result<&mut [u8]> {
        let at = self.at.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let part = at.and_then(|at| self.bytes.get_mut(at..));
        part.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl io::Read for Shifted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = self.here()?;
        let length = part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&part[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl io::Write for Shifted<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let part = self.here()?;
        let length = part.len().min(buffer.len());
        part[..length].copy_from_slice(&buffer[..length]);
        self.at += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Shifted<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.at = match to {
            io::SeekFrom::Start(at) => at,
            io::SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            io::SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.at)
    }
}
