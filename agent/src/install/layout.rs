//! Which bytes of a disk are withheld until the end, and which are wiped first.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use store_format::Envelope;

use crate::receipt;
use crate::target::{Target, is_zero};

/// Room for a backup partition table at the end of a disk; it takes 33 sectors
/// of 512 bytes or 5 of 4096 with the usual 128 entries.
pub const TAIL_BYTES: u64 = 1 << 20;

/// Why an image cannot go onto a disk. Found before the first write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Too small a disk.
    #[error(
        "the image needs a disk of {image} bytes and this one has {disk}: \
         {} bytes are missing; choose a larger disk or a smaller image", image - disk
    )]
    TooSmall {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the disk.
        disk: u64,
    },
    /// Other sectors.
    #[error(
        "the image is made for sectors of {image} bytes and this disk has sectors of {disk} \
         bytes: build the image for this sector size"
    )]
    Sectors {
        /// Sector size that the image is made for.
        image: u32,
        /// Sector size of the disk.
        disk: u32,
    },
    /// Nowhere to leave the receipt.
    #[error(
        "the image has {what} where the receipt goes (bytes {} to {}): build it with its first \
         partition at 1 MiB or later",
        receipt::START,
        receipt::END
    )]
    ReceiptSlot {
        /// What is there.
        what: String,
    },
}

/// The parts of a disk that decide whether it boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// From the first byte on: boot code, partition table, what a boot loader
    /// keeps behind it.
    pub head: Range<u64>,
    /// Behind the last partition: the backup of the partition table, in an
    /// image's place.
    pub tail: Range<u64>,
    /// Zeroed before anything is written, in this order: the first sector, the
    /// rest of the head, the end of the disk, the tail.
    pub wiped: [Range<u64>; 4],
    disk_bytes: u64,
}

impl Layout {
    /// Checks that an image fits a disk, and where its boot-critical parts are.
    pub fn new(envelope: &Envelope, target: &dyn Target) -> Result<Layout, FitError> {
        let (image, disk) = (envelope.disk_bytes, target.bytes());
        if envelope.sector_bytes != target.sector_bytes() {
            let (image, disk) = (envelope.sector_bytes, target.sector_bytes());
            return Err(FitError::Sectors { image, disk });
        }
        if image > disk {
            return Err(FitError::TooSmall { image, disk });
        }
        let occupied = |what: &str| FitError::ReceiptSlot { what: what.to_owned() };
        if envelope.table.is_none() {
            return Err(occupied("no partition table but a filesystem"));
        }
        let partitions = || envelope.regions.iter().filter(|region| region.partition.is_some());
        let first = partitions().map(|region| region.start).min().unwrap_or(image);
        if first < receipt::END || image < receipt::END {
            return Err(occupied("a partition"));
        }
        let last = partitions().map(|region| region.start + region.bytes).max().unwrap_or(first);
        let head = 0..receipt::START;
        let tail = last.max(image.saturating_sub(TAIL_BYTES))..image;
        let end = disk.saturating_sub(TAIL_BYTES).max(receipt::END)..disk;
        let sector = u64::from(envelope.sector_bytes);
        let wiped = [0..sector, sector..head.end, end, tail.clone()];
        Ok(Layout { wiped, head, tail, disk_bytes: disk })
    }

    /// Whether an image leaves room at the end of its disk.
    pub fn disk_is_larger(&self) -> bool {
        self.disk_bytes > self.tail.end
    }
}

/// A disk whose boot-critical parts stay in memory until they are sealed, and
/// whose receipt slot cannot be written to.
pub struct Withheld<'a> {
    disk: &'a dyn Target,
    layout: &'a Layout,
    head: Mutex<Vec<u8>>,
    tail: Mutex<Vec<u8>>,
}

/// Where a stretch of the disk really is.
enum Place {
    Head,
    Tail,
    Slot,
    Disk,
}

impl<'a> Withheld<'a> {
    /// Head and tail are zero at first.
    pub fn new(disk: &'a dyn Target, layout: &'a Layout) -> Withheld<'a> {
        // Both are at most a mebibyte by construction.
        let zeros = |range: &Range<u64>| {
            Mutex::new(vec![0; usize::try_from(range.end - range.start).unwrap_or(0)])
        };
        Withheld { disk, layout, head: zeros(&layout.head), tail: zeros(&layout.tail) }
    }

    /// The bytes that the disk is to start with.
    pub fn head(&self) -> MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The bytes that the image ends with.
    pub fn tail(&self) -> MutexGuard<'_, Vec<u8>> {
        self.tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The disk itself.
    pub fn disk(&self) -> &'a dyn Target {
        self.disk
    }

    /// The place of the byte at `offset`, and the first byte that is elsewhere.
    fn place(&self, offset: u64) -> (Place, u64) {
        let Layout { head, tail, .. } = self.layout;
        if head.contains(&offset) {
            (Place::Head, head.end)
        } else if (receipt::START..receipt::END).contains(&offset) {
            (Place::Slot, receipt::END)
        } else if tail.contains(&offset) {
            (Place::Tail, tail.end)
        } else {
            (Place::Disk, if offset < tail.start { tail.start } else { u64::MAX })
        }
    }

    /// Calls `with` for each stretch that is in one place: place, offset, and
    /// which of the bytes.
    fn each(
        &self,
        offset: u64,
        bytes: usize,
        mut with: impl FnMut(Place, u64, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < bytes {
            let at = offset + done as u64;
            let (place, end) = self.place(at);
            let room = usize::try_from(end - at).unwrap_or(usize::MAX);
            let length = room.min(bytes - done);
            with(place, at, done..done + length)?;
            done += length;
        }
        Ok(())
    }

    fn read_with(
        &self,
        offset: u64,
        buffer: &mut [u8],
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.each(offset, buffer.len(), |place, at, part| {
            let buffer = &mut buffer[part];
            match place {
                Place::Head => buffer.copy_from_slice(within(&self.head(), at, buffer.len())?),
                Place::Tail => {
                    let at = at - self.layout.tail.start;
                    buffer.copy_from_slice(within(&self.tail(), at, buffer.len())?);
                }
                Place::Slot => buffer.fill(0),
                Place::Disk => read(at, buffer)?,
            }
            Ok(())
        })
    }

    /// Reads the image as it is to be; may be served from the kernel's cache.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_with(offset, buffer, |at, buffer| self.disk.read_at(at, buffer))
    }

    /// As [`Target::read_back`].
    pub fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_with(offset, buffer, |at, buffer| self.disk.read_back(at, buffer))
    }

    /// Reads what will still be there after the wipe.
    pub fn read_kept(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        for wiped in &self.layout.wiped {
            let (from, to) = (wiped.start.max(offset), wiped.end.min(end));
            if from < to {
                let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
                buffer[index(from)..index(to)].fill(0);
            }
        }
        Ok(())
    }

    /// Writes, some of it perhaps into memory.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.each(offset, bytes.len(), |place, at, part| {
            let bytes = &bytes[part];
            match place {
                Place::Head => put(&mut self.head(), at, bytes),
                Place::Tail => put(&mut self.tail(), at - self.layout.tail.start, bytes),
                Place::Slot if is_zero(bytes) => Ok(()),
                Place::Slot => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the image keeps data where the receipt goes (bytes 524288 to 589824)",
                )),
                Place::Disk => self.disk.write_at(at, bytes),
            }
        })
    }

    /// As [`Target::zero`]; head and tail are zero anyway.
    pub fn zero(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let (mut at, end, mut written) = (offset, offset + bytes, 0);
        while at < end {
            let (place, next) = self.place(at);
            let next = next.min(end);
            if matches!(place, Place::Disk) {
                written += self.disk.zero(at, next - at)?;
            }
            at = next;
        }
        Ok(written)
    }
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "past the end of a withheld part")
}

fn within(memory: &[u8], at: u64, length: usize) -> io::Result<&[u8]> {
    let at = usize::try_from(at).map_err(|_| outside())?;
    memory.get(at..).and_then(|rest| rest.get(..length)).ok_or_else(outside)
}

fn put(memory: &mut [u8], at: u64, bytes: &[u8]) -> io::Result<()> {
    let at = usize::try_from(at).map_err(|_| outside())?;
    let place = memory.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
    place.ok_or_else(outside)?.copy_from_slice(bytes);
    Ok(())
}
