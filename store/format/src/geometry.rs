//! Checks that regions, partition table and disk of an envelope fit together.

use std::collections::{BTreeMap, BTreeSet};

use crate::envelope::{
    DISK_BYTES_MAX, Envelope, EnvelopeError, GptPartition, MbrPartition, PartitionTable,
    REGIONS_MAX, invalid,
};

/// Longest name of a region, in bytes.
const REGION_NAME_MAX: usize = 64;
/// Longest name of a GPT partition, in UTF-16 code units.
const GPT_NAME_MAX: usize = 36;
/// Highest partition number: far above what is in use, far below trouble.
const NUMBER_MAX: u32 = 1024;

/// Partition number to its bytes on the disk: start, length.
type Spans = BTreeMap<u32, (u64, u64)>;

pub(crate) fn check(envelope: &Envelope) -> Result<(), EnvelopeError> {
    if !matches!(envelope.sector_bytes, 512 | 4096) {
        return invalid("sector_bytes", "neither 512 nor 4096");
    }
    if envelope.disk_bytes > DISK_BYTES_MAX {
        return invalid("disk_bytes", "larger than a disk can be");
    }
    let spans = match &envelope.table {
        Some(table) => spans(envelope, table)?,
        None => Spans::new(),
    };
    check_regions(envelope, &spans)?;
    check_grow(envelope, &spans)
}

fn spans(envelope: &Envelope, table: &PartitionTable) -> Result<Spans, EnvelopeError> {
    let sector = u64::from(envelope.sector_bytes);
    if !envelope.disk_bytes.is_multiple_of(sector) {
        return invalid("disk_bytes", "a partitioned disk has whole sectors");
    }
    let mut rows = Vec::new();
    match table {
        PartitionTable::Gpt { disk_guid, partitions } => {
            check_guid("table.disk_guid", disk_guid)?;
            check_numbers(partitions.iter().map(|p| p.number))?;
            for partition in partitions {
                rows.push(gpt_row(partition)?);
            }
        }
        PartitionTable::Mbr { signature, partitions } => {
            if signature.len() != 8 || !is_lower_hex(signature) {
                return invalid("table.signature", "not eight lower-case hex digits");
            }
            check_numbers(partitions.iter().map(|p| p.number))?;
            rows.extend(partitions.iter().filter(|p| !p.is_extended()).map(mbr_row));
        }
    }
    let mut spans = Spans::new();
    for (number, first, sectors) in rows {
        let end = first.checked_add(sectors).and_then(|end| end.checked_mul(sector));
        if sectors == 0 || end.is_none_or(|end| end > envelope.disk_bytes) {
            return invalid(format!("partition {number}"), "empty, or not on the disk");
        }
        spans.insert(number, (first * sector, sectors * sector));
    }
    Ok(spans)
}

fn gpt_row(partition: &GptPartition) -> Result<(u32, u64, u64), EnvelopeError> {
    let at = format!("partition {}", partition.number);
    check_guid(&at, &partition.guid)?;
    check_guid(&at, &partition.type_guid)?;
    if partition.name.encode_utf16().count() > GPT_NAME_MAX || partition.name.contains('\0') {
        return invalid(at, "its name is too long or has a zero character");
    }
    let sectors = partition.last_lba.checked_sub(partition.first_lba);
    match sectors.and_then(|sectors| sectors.checked_add(1)) {
        Some(sectors) => Ok((partition.number, partition.first_lba, sectors)),
        None => invalid(at, "it ends before it starts"),
    }
}

fn mbr_row(partition: &MbrPartition) -> (u32, u64, u64) {
    (partition.number, partition.first_lba, partition.sectors)
}

fn check_numbers(numbers: impl Iterator<Item = u32>) -> Result<(), EnvelopeError> {
    let mut last = 0;
    for number in numbers {
        if number <= last || number > NUMBER_MAX {
            return invalid("table.partitions", "numbers do not rise from 1 to at most 1024");
        }
        last = number;
    }
    Ok(())
}

fn check_guid(at: &str, guid: &str) -> Result<(), EnvelopeError> {
    let lengths = guid.split('-').map(str::len);
    match lengths.eq([8, 4, 4, 4, 12]) && guid.split('-').all(is_lower_hex) {
        true => Ok(()),
        false => invalid(at, "a GUID is not in its lower-case text form"),
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_regions(envelope: &Envelope, spans: &Spans) -> Result<(), EnvelopeError> {
    if envelope.regions.len() > REGIONS_MAX {
        return invalid("regions", "more than 1024");
    }
    let mut end = 0_u64;
    let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for region in &envelope.regions {
        let at = || format!("region {:?}", region.name);
        if !is_region_name(&region.name) || !names.insert(&region.name) {
            return invalid(at(), "its name has other characters than a-z, 0-9, '-', or is taken");
        }
        if region.start != end || region.bytes == 0 {
            return invalid(at(), "it is empty or does not start where the one before ends");
        }
        end = match end.checked_add(region.bytes) {
            Some(end) if end <= envelope.disk_bytes => end,
            _ => return invalid(at(), "it reaches past the end of the disk"),
        };
        if let Some(number) = region.partition
            && (spans.get(&number) != Some(&(region.start, region.bytes)) || !seen.insert(number))
        {
            return invalid(at(), "it is not where its partition is, or is its second region");
        }
    }
    if end != envelope.disk_bytes {
        return invalid("regions", "they do not cover the disk");
    }
    if seen.len() != spans.len() {
        return invalid("regions", "a partition has no region");
    }
    Ok(())
}

fn is_region_name(name: &str) -> bool {
    (1..=REGION_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn check_grow(envelope: &Envelope, spans: &Spans) -> Result<(), EnvelopeError> {
    let Some(number) = envelope.grow else { return Ok(()) };
    let last = spans.iter().max_by_key(|(_, (start, _))| *start).map(|(number, _)| *number);
    match last == Some(number) {
        true => Ok(()),
        false => invalid("grow", "not the last partition on the disk"),
    }
}
