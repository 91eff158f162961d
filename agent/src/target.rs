//! A disk to write to: a block device, or a plain file in tests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, OFlags};

use crate::sys;

/// What an installation does to a disk. Reads and writes may be at any byte
/// and of any length, from several threads, unless said otherwise.
pub trait Target: Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;
    /// Logical sector size in bytes.
    fn sector_bytes(&self) -> u32;
    /// Reads; may be served from the kernel's cache.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Reads from the medium, past the kernel's cache. Offset and length are
    /// whole sectors, the memory comes from [`Aligned`].
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes; durable after [`Target::flush`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range read as zero, by the cheapest way that surely does;
    /// gives the bytes that had to be written for it.
    fn zero(&self, offset: u64, bytes: u64) -> io::Result<u64>;
    /// Makes everything written so far survive a power cut.
    fn flush(&self) -> io::Result<()>;
    /// Forgets what is cached of the disk.
    fn drop_cache(&self) -> io::Result<()>;
    /// Makes the kernel see a new partition table.
    fn reread_table(&self) -> io::Result<()>;
}

/// Memory that the kernel can read a disk into without its cache.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

/// Enough for every disk's logical sectors.
const ALIGNMENT: usize = 4096;

impl Aligned {
    /// Zeroed memory of this length.
    pub fn new(bytes: usize) -> Aligned {
        let memory = vec![0; bytes + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Aligned { memory, start }
    }

    /// The first bytes of it.
    pub fn first(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..bytes]
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Comparing a slice with itself, shifted by one, is one fast memcmp.
    bytes.first().is_none_or(|&first| first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

/// Bytes looked at or written at once.
const STEP: usize = 1 << 20;
/// Bytes zeroed by one call, so that a long one can be seen to go on.
const ZERO_STEP: u64 = 256 << 20;

/// A block device or file.
#[derive(Debug)]
pub struct Disk {
    file: File,
    /// The same, past the cache, where that can be had.
    direct: Option<File>,
    bytes: u64,
    sector_bytes: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device { zeroes: bool },
    File,
}

impl Disk {
    /// Opens for writing, and a block device for nobody else: the kernel
    /// refuses where anything of it is mounted. `zeroes` says that the device
    /// zeroes ranges by itself; `sector_bytes` is what a file pretends to have.
    pub fn open(path: &Path, sector_bytes: u32, zeroes: bool) -> io::Result<Disk> {
        let is_device = std::fs::metadata(path)?.file_type().is_block_device();
        let flag = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or(0);
        let exclusive = if is_device { flag(OFlags::EXCL) } else { 0 };
        let file = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path)?;
        let direct =
            OpenOptions::new().read(true).custom_flags(flag(OFlags::DIRECT)).open(path).ok();
        if !is_device {
            let bytes = file.metadata()?.len();
            return Ok(Disk { file, direct, bytes, sector_bytes, kind: Kind::File });
        }
        let bytes = sys::block_bytes(file.as_fd())?;
        let sector_bytes = rustix::fs::ioctl_blksszget(&file)?;
        Ok(Disk { file, direct, bytes, sector_bytes, kind: Kind::Device { zeroes } })
    }

    /// Zeroes by looking first: reading is no slower than writing, wears
    /// nothing, and a new disk or one that was zeroed before needs no write.
    fn zero_by_hand(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let (mut buffer, zeros) = (vec![0; STEP], vec![0; STEP]);
        let (mut at, end, mut written) = (offset, offset + bytes, 0);
        while at < end {
            let length = STEP.min(usize::try_from(end - at).unwrap_or(STEP));
            let empty = match self.file.read_exact_at(&mut buffer[..length], at) {
                Ok(()) => is_zero(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
                // Writing lets the disk replace a bad sector.
                Err(_) => false,
            };
            if !empty {
                self.file.write_all_at(&zeros[..length], at)?;
                written += length as u64;
            }
            at += length as u64;
        }
        Ok(written)
    }

    /// The device zeroes whole pages; the edges are done by hand.
    fn zero_by_device(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let page = ALIGNMENT as u64;
        let (start, end) = (offset.next_multiple_of(page), (offset + bytes) / page * page);
        if start >= end {
            return self.zero_by_hand(offset, bytes);
        }
        let mut at = start;
        while at < end {
            let step = ZERO_STEP.min(end - at);
            sys::block_zero(self.file.as_fd(), at, step)?;
            at += step;
        }
        let before = self.zero_by_hand(offset, start - offset)?;
        Ok(before + self.zero_by_hand(end, offset + bytes - end)?)
    }
}

impl Target for Disk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let invalid = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        if let Some(direct) = &self.direct {
            match direct.read_exact_at(buffer, offset) {
                Err(error) if invalid(&error) => {}
                result => return result,
            }
        }
        // A filesystem without direct reads, or with larger blocks than the sectors that
        // the file stands for: drop the pages in question, then read.
        let length = std::num::NonZeroU64::new(buffer.len() as u64);
        rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn zero(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.kind {
            Kind::Device { zeroes: true } => self.zero_by_device(offset, bytes),
            Kind::File if rustix::fs::fallocate(&self.file, punch, offset, bytes).is_ok() => Ok(0),
            _ => self.zero_by_hand(offset, bytes),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.flush()?;
        match self.kind {
            Kind::Device { .. } => sys::block_drop_cache(self.file.as_fd()),
            Kind::File => Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?),
        }
    }

    fn reread_table(&self) -> io::Result<()> {
        match self.kind {
            Kind::Device { .. } => sys::block_reread_table(self.file.as_fd()),
            Kind::File => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_zeros() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 1000]));
        for at in [0, 1, 500, 999] {
            let mut bytes = [0; 1000];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
        }
        assert!(!is_zero(&[7; 9]));
    }

    #[test]
    fn zeroes_exactly_the_range_and_writes_only_where_needed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 3 * STEP]).unwrap();
        let disk = Disk::open(file.path(), 512, false).unwrap();
        assert_eq!(disk.zero_by_hand(100, 2 * STEP as u64).unwrap(), 2 * STEP as u64);
        assert_eq!(disk.zero_by_hand(100, 2 * STEP as u64).unwrap(), 0, "nothing left to zero");
        assert_eq!(disk.zero(3 * STEP as u64 - 700, 600).unwrap(), 0);
        let mut expected = vec![7; 3 * STEP];
        expected[100..100 + 2 * STEP].fill(0);
        expected[3 * STEP - 700..3 * STEP - 100].fill(0);
        assert_eq!(std::fs::read(file.path()).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_zeroed_by_writing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 2 * STEP]).unwrap();
        let mut disk = Disk::open(file.path(), 512, false).unwrap();
        disk.file = OpenOptions::new().write(true).open(file.path()).unwrap();
        assert_eq!(disk.zero_by_hand(0, STEP as u64).unwrap(), STEP as u64);
        let content = std::fs::read(file.path()).unwrap();
        assert!(is_zero(&content[..STEP]) && content[STEP..] == [7; STEP]);
    }

    #[test]
    fn reads_back_what_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = Disk::open(file.path(), 512, false).unwrap();
        disk.write_at(1000, &[9; 100]).unwrap();
        disk.flush().unwrap();
        let mut memory = Aligned::new(4096);
        disk.read_back(0, memory.first(4096)).unwrap();
        assert_eq!(memory.first(4096)[999..1101], [&[0][..], &[9; 100], &[0]].concat());
        assert!(disk.read_back(1 << 20, memory.first(512)).is_err(), "past the end");
    }
}
