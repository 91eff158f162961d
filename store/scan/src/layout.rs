//! From a disk's partition table to the regions of its image.

use std::collections::BTreeMap;
use std::io;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::file_read_partitions;
use store_format::{
    BootSpec, Envelope, EnvelopeError, GptPartition, PartitionTable, Region, envelope,
};
use wire::Digest;

use crate::disk::Disk;
use crate::mbr;

/// Most bytes read for a partition table.
const TABLE_READ_MAX: u64 = 1 << 20;
/// Most entries of a GPT; 128 are usual.
const GPT_ENTRIES_MAX: u32 = 1024;
/// Where the usual tools put them.
const GPT_ENTRIES_LBA: u64 = 2;
/// The one length of GPT entries in use.
const GPT_ENTRY_LEN: u32 = 128;
const GPT_MAGIC: &[u8; 8] = b"EFI PART";

/// How a disk is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Logical sector size.
    pub sector_bytes: u32,
    /// The partition table, where there is one.
    pub table: Option<PartitionTable>,
    /// The whole disk, in order, without gaps.
    pub spans: Vec<Span>,
}

/// A region whose bytes are not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// For people; unique on the disk.
    pub name: String,
    /// Offset of its first byte.
    pub start: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Number of the partition that it is.
    pub partition: Option<u32>,
}

/// What an image is, beside its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// What the image was built for.
    pub configuration: BTreeMap<String, String>,
    /// Where it comes from.
    pub provenance: BTreeMap<String, String>,
    /// How to start the OS.
    pub boot: Option<BootSpec>,
    /// Partition to extend on larger disks.
    pub grow: Option<u32>,
}

impl Layout {
    /// Reads the partition table. The sector size is that of the device; for a
    /// file it is `given`, else the one at which a GPT is found, else 512.
    pub fn read(disk: &Disk, given: Option<u32>) -> Result<Layout, LayoutError> {
        let known = disk.sector_bytes.or(given);
        if let Some(other) = known.filter(|size| !matches!(size, 512 | 4096)) {
            return Err(LayoutError::Sector(other));
        }
        let candidates = known.map_or_else(|| vec![512, 4096], |size| vec![size]);
        for sector_bytes in candidates {
            if has_gpt(disk, sector_bytes).map_err(LayoutError::Read)? {
                return gpt_layout(disk, sector_bytes);
            }
        }
        let sector_bytes = known.unwrap_or(512);
        match mbr::read(disk, u64::from(sector_bytes)).map_err(LayoutError::Read)? {
            Some(mbr) if mbr.partitions.iter().any(|p| p.kind == mbr::PROTECTIVE) => {
                Err(LayoutError::NoGpt)
            }
            Some(mbr) => mbr_layout(disk, sector_bytes, mbr),
            None => Ok(Layout { sector_bytes, table: None, spans: whole(disk) }),
        }
    }

    /// The envelope of an image whose regions have these digests.
    pub fn envelope(self, digests: &[Digest], about: About) -> Result<Envelope, EnvelopeError> {
        let disk_bytes = self.spans.iter().map(|span| span.bytes).sum();
        let regions = self.spans.into_iter().zip(digests).map(|(span, digest)| Region {
            name: span.name,
            start: span.start,
            bytes: span.bytes,
            partition: span.partition,
            digest: *digest,
        });
        let envelope = Envelope {
            format: envelope::FORMAT.to_owned(),
            disk_bytes,
            sector_bytes: self.sector_bytes,
            table: self.table,
            regions: regions.collect(),
            grow: about.grow,
            boot: about.boot,
            configuration: about.configuration,
            provenance: about.provenance,
        };
        envelope.validate()?;
        Ok(envelope)
    }
}

/// Why a disk's partitions are not understood.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The disk could not be read.
    #[error("cannot read the partition table")]
    Read(#[source] io::Error),
    /// There is a GPT, and it is damaged.
    #[error("the disk's GPT is damaged: repair it, with sgdisk for example, and import again")]
    Gpt(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is a GPT of a kind that nobody writes.
    #[error("the disk's GPT has {entries} entries of {entry_len} bytes, and this is not supported")]
    GptShape {
        /// Entries.
        entries: u32,
        /// Bytes of each.
        entry_len: u32,
    },
    /// There is a GPT whose entries an agent could not move to a larger disk.
    #[error(
        "the disk's GPT keeps its entries at sector {lba}, and only sector 2, right behind its \
         header, is supported: move them there, with sgdisk --move-main-table=2 for example, and \
         import again"
    )]
    GptPlace {
        /// First sector of the entries.
        lba: u64,
    },
    /// The first sector announces a GPT that is not there.
    #[error("the disk should have a GPT, and it is missing: check that the file is complete")]
    NoGpt,
    /// A partition ends before it starts, or after the disk.
    #[error("partition {number} is not wholly on the disk: check that the file is complete")]
    Outside {
        /// The partition.
        number: u32,
    },
    /// Two partitions share sectors.
    #[error("partition {number} overlaps the one before it")]
    Overlap {
        /// The second of the two.
        number: u32,
    },
    /// More partitions than an image can have.
    #[error("the disk has more partitions than an image can have")]
    TooMany,
    /// A sector size that disks do not have.
    #[error("sectors of {0} bytes are not supported, only 512 and 4096")]
    Sector(u32),
}

/// Number, first byte, length.
type Row = (u32, u64, u64);

fn whole(disk: &Disk) -> Vec<Span> {
    let span = Span { name: "disk".to_owned(), start: 0, bytes: disk.bytes, partition: None };
    // A disk without bytes has no regions.
    Vec::from_iter((disk.bytes > 0).then_some(span))
}

fn has_gpt(disk: &Disk, sector_bytes: u32) -> io::Result<bool> {
    let mut magic = [0; 8];
    let offset = u64::from(sector_bytes);
    if disk.bytes < offset * 2 {
        return Ok(false);
    }
    disk.read_at(&mut magic, offset)?;
    Ok(magic == *GPT_MAGIC)
}

fn gpt_layout(disk: &Disk, sector_bytes: u32) -> Result<Layout, LayoutError> {
    let size = match sector_bytes {
        4096 => LogicalBlockSize::Lb4096,
        _ => LogicalBlockSize::Lb512,
    };
    let mut reader = disk.limited(TABLE_READ_MAX);
    let header = read_header_from_arbitrary_device(&mut reader, size)
        .map_err(|e| LayoutError::Gpt(Box::new(e)))?;
    // Agents take the first for granted, and the crate the other two.
    let Header { num_parts: entries, part_size: entry_len, part_start: lba, .. } = header;
    if lba != GPT_ENTRIES_LBA {
        return Err(LayoutError::GptPlace { lba });
    }
    if entries > GPT_ENTRIES_MAX || entry_len != GPT_ENTRY_LEN {
        return Err(LayoutError::GptShape { entries, entry_len });
    }
    let found = file_read_partitions(&mut reader, &header, size)
        .map_err(|e| LayoutError::Gpt(Box::new(e)))?;
    let mut partitions = Vec::new();
    let mut rows = Vec::new();
    for (number, partition) in found {
        let (first, last) = (partition.first_lba, partition.last_lba);
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1));
        rows.push(row(disk, sector_bytes, number, first, sectors)?);
        partitions.push(GptPartition {
            number,
            type_guid: partition.part_type_guid.guid.as_hyphenated().to_string(),
            guid: partition.part_guid.as_hyphenated().to_string(),
            name: partition.name,
            flags: partition.flags,
            first_lba: first,
            last_lba: last,
        });
    }
    let disk_guid = header.disk_guid.as_hyphenated().to_string();
    let table = PartitionTable::Gpt { disk_guid, partitions };
    Ok(Layout { sector_bytes, table: Some(table), spans: spans(disk, rows)? })
}

fn mbr_layout(disk: &Disk, sector_bytes: u32, mbr: mbr::Mbr) -> Result<Layout, LayoutError> {
    let mbr::Mbr { signature, partitions } = mbr;
    let mut rows = Vec::new();
    for partition in partitions.iter().filter(|partition| !partition.is_extended()) {
        let (number, first) = (partition.number, partition.first_lba);
        rows.push(row(disk, sector_bytes, number, first, Some(partition.sectors))?);
    }
    let table = PartitionTable::Mbr { signature, partitions };
    Ok(Layout { sector_bytes, table: Some(table), spans: spans(disk, rows)? })
}

fn row(
    disk: &Disk,
    sector_bytes: u32,
    number: u32,
    first: u64,
    sectors: Option<u64>,
) -> Result<Row, LayoutError> {
    let sector = u64::from(sector_bytes);
    let place = || {
        let (start, bytes) = (first.checked_mul(sector)?, sectors?.checked_mul(sector)?);
        let end = start.checked_add(bytes)?;
        (bytes > 0 && end <= disk.bytes).then_some((number, start, bytes))
    };
    place().ok_or(LayoutError::Outside { number })
}

/// The partitions and what is between them.
fn spans(disk: &Disk, mut rows: Vec<Row>) -> Result<Vec<Span>, LayoutError> {
    rows.sort_unstable_by_key(|(_, start, _)| *start);
    let mut spans: Vec<Span> = Vec::new();
    let (mut end, mut gaps) = (0_u64, 0_u32);
    let mut gap = |start: u64, to: u64| {
        gaps += 1;
        let name = match (start, to == disk.bytes) {
            (0, _) => "head".to_owned(),
            (_, true) => "tail".to_owned(),
            _ => format!("gap-{gaps}"),
        };
        Span { name, start, bytes: to - start, partition: None }
    };
    for (number, start, bytes) in rows {
        if start < end {
            return Err(LayoutError::Overlap { number });
        }
        if start > end {
            spans.push(gap(end, start));
        }
        let name = format!("partition-{number}");
        spans.push(Span { name, start, bytes, partition: Some(number) });
        end = start + bytes;
    }
    if end < disk.bytes {
        spans.push(gap(end, disk.bytes));
    }
    match spans.len() <= store_format::envelope::REGIONS_MAX {
        true => Ok(spans),
        false => Err(LayoutError::TooMany),
    }
}
