//! The last writes: what makes the disk boot, then the receipt.

use std::io;

use store_format::Envelope;

use super::Purpose;
use super::layout::{Layout, Withheld};
use super::table::{TableError, relocate};
use crate::receipt;
use crate::report::Tally;
use crate::target::{Aligned, Target};

/// Why a disk could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The partition table does not go onto this disk.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The disk does not do as told.
    #[error("writing the boot-critical parts of the disk failed at {offset}")]
    Disk {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It reads back differently.
    #[error("the disk reads back differently than it was written at {offset}: it is faulty")]
    Differs {
        /// Where.
        offset: u64,
    },
}

/// Writes head and tail. Everything else is on the disk and durable.
///
/// The first sector goes last and alone: without it neither firmware finds
/// the partition table or boot code, and a disk writes a sector whole or not.
pub fn seal(
    envelope: &Envelope,
    disk: &Withheld<'_>,
    layout: &Layout,
    purpose: Purpose,
    tally: &Tally,
) -> Result<(), SealError> {
    let target = disk.disk();
    let mut head = disk.head();
    let relocated = match layout.disk_is_larger() && purpose == Purpose::Start {
        true => relocate(envelope, &mut head, target.bytes())?,
        false => None,
    };
    let (tail_at, tail) = match relocated {
        Some(tail) => (target.bytes() - tail.len() as u64, tail),
        None => (layout.tail.start, disk.tail().clone()),
    };
    let sector = usize::try_from(target.sector_bytes()).unwrap_or(512);
    write_durably(target, tail_at, &tail, tally)?;
    write_durably(target, sector as u64, &head[sector..], tally)?;
    write_durably(target, 0, &head[..sector], tally)
}

/// Writes, flushes, reads back past the cache and compares.
pub fn write_durably(
    target: &dyn Target,
    offset: u64,
    bytes: &[u8],
    tally: &Tally,
) -> Result<(), SealError> {
    let failed = |source| SealError::Disk { offset, source };
    if bytes.is_empty() {
        return Ok(());
    }
    target.write_at(offset, bytes).map_err(failed)?;
    target.flush().map_err(failed)?;
    tally.wrote(bytes.len() as u64);
    let mut memory = Aligned::new(bytes.len());
    target.read_back(offset, memory.first(bytes.len())).map_err(failed)?;
    match memory.first(bytes.len()) == bytes {
        true => Ok(()),
        false => Err(SealError::Differs { offset }),
    }
}

/// Zeroes what makes a disk boot and notes that an installation is under way,
/// before anything else is written.
///
/// The first sector goes first and alone, as it comes last and alone: a disk
/// that has it still boots the old OS, of which nothing is gone then.
///
/// A disk that has a receipt gets the new one first, so that the old one never
/// speaks for a disk whose boot code is gone. A foreign disk is wiped first:
/// there the slot may lie inside a filesystem that still boots.
pub fn begin(
    target: &dyn Target,
    layout: &Layout,
    slot: &[u8],
    had_receipt: bool,
    tally: &Tally,
) -> Result<(), SealError> {
    if had_receipt {
        write_durably(target, receipt::START, slot, tally)?;
    }
    for range in &layout.wiped {
        let failed = |source| SealError::Disk { offset: range.start, source };
        let bytes = range.end.saturating_sub(range.start);
        if bytes > 0 {
            tally.wrote(target.zero(range.start, bytes).map_err(failed)?);
            target.flush().map_err(failed)?;
        }
    }
    if !had_receipt {
        write_durably(target, receipt::START, slot, tally)?;
    }
    Ok(())
}
