//! Reading PC partition tables.
//!
//! Own code, for the crate that does this follows the chain of logical
//! partitions with arithmetic that a crafted disk makes overflow, and without
//! an end.

use std::io;

use store_format::MbrPartition;

use crate::disk::Disk;

const SECTOR: usize = 512;
/// Offset of the four entries.
const ENTRIES: usize = 446;
const ENTRY_LEN: usize = 16;
/// Offset of the disk's signature.
const SIGNATURE: usize = 440;
/// Most logical partitions; Linux stops far earlier.
const LOGICAL_MAX: u32 = 128;
/// Type byte of the entry that protects a GPT.
pub(crate) const PROTECTIVE: u8 = 0xee;

/// A PC partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mbr {
    /// Eight hex digits.
    pub signature: String,
    /// By rising number.
    pub partitions: Vec<MbrPartition>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    boot: u8,
    kind: u8,
    first: u32,
    sectors: u32,
}

type Sector = [u8; SECTOR];

fn sector_at(disk: &Disk, lba: u64, sector_bytes: u64) -> io::Result<Option<Sector>> {
    let mut sector = [0; SECTOR];
    let offset = lba.checked_mul(sector_bytes);
    match offset.filter(|at| at.checked_add(SECTOR as u64).is_some_and(|end| end <= disk.bytes)) {
        Some(offset) => disk.read_at(&mut sector, offset).map(|()| Some(sector)),
        None => Ok(None),
    }
}

fn entries(sector: &Sector) -> Option<[Entry; 4]> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let word = |at: usize| -> u32 {
        sector[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    Some([0, 1, 2, 3].map(|index| {
        let at = ENTRIES + index * ENTRY_LEN;
        let (boot, kind) = (sector[at], sector[at + 4]);
        Entry { boot, kind, first: word(at + 8), sectors: word(at + 12) }
    }))
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn partition(&self, number: u32, base: u64) -> MbrPartition {
        MbrPartition {
            number,
            kind: self.kind,
            active: self.boot == 0x80,
            first_lba: base + u64::from(self.first),
            sectors: u64::from(self.sectors),
        }
    }
}

/// Reads the table of a disk. `None` where there is none: no signature, no
/// entry in use, or a boot sector of a filesystem, which only looks like one.
pub(crate) fn read(disk: &Disk, sector_bytes: u64) -> io::Result<Option<Mbr>> {
    let Some(sector) = sector_at(disk, 0, sector_bytes)? else { return Ok(None) };
    let Some(entries) = entries(&sector) else { return Ok(None) };
    // A protective entry may say that it is longer than the disk.
    let protective = entries.iter().any(|entry| entry.kind == PROTECTIVE);
    let believable = protective
        || entries.iter().all(|entry| {
            let end = (u64::from(entry.first) + u64::from(entry.sectors)).checked_mul(sector_bytes);
            matches!(entry.boot, 0 | 0x80)
                && (!entry.is_used() || entry.first > 0 && end.is_some_and(|end| end <= disk.bytes))
        });
    if !believable || !entries.iter().any(Entry::is_used) {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(&entries).filter(|(_, entry)| entry.is_used()) {
        partitions.push(entry.partition(number, 0));
    }
    let extended = partitions.iter().find(|partition| partition.is_extended()).cloned();
    if let Some(extended) = extended {
        logical(disk, sector_bytes, &extended, &mut partitions)?;
    }
    let mut signature = sector[SIGNATURE..SIGNATURE + 4].to_vec();
    signature.reverse();
    let signature = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Mbr { signature, partitions }))
}

/// Adds the logical partitions: a chain of sectors, each with one partition
/// and the place of the next, relative to the extended partition.
fn logical(
    disk: &Disk,
    sector_bytes: u64,
    extended: &MbrPartition,
    partitions: &mut Vec<MbrPartition>,
) -> io::Result<()> {
    let mut next = 0_u64;
    for number in 5..5 + LOGICAL_MAX {
        let lba = extended.first_lba + next;
        let Some(sector) = sector_at(disk, lba, sector_bytes)? else { return Ok(()) };
        let Some([partition, link, ..]) = entries(&sector) else { return Ok(()) };
        if partition.is_used() {
            partitions.push(partition.partition(number, lba));
        }
        let forward = u64::from(link.first);
        if !link.is_used() || forward <= next || forward >= extended.sectors {
            return Ok(());
        }
        next = forward;
    }
    Ok(())
}
