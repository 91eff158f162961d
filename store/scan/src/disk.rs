//! A disk that is read: a block device, or a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::io::Errno;

/// The unit in which zeros are looked for.
pub const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Whether a block, or part of one, is zero.
pub fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

/// A disk that was opened for reading.
#[derive(Debug)]
pub struct Disk {
    file: File,
    /// What reads as zeros, whatever is there.
    blank: Range<u64>,
    /// What to call it in messages.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The sector size that a device has.
    pub sector_bytes: Option<u32>,
}

impl Disk {
    /// A file or block device.
    pub fn of(mut file: File, name: String) -> io::Result<Disk> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file nor a block device",
            ));
        }
        let sector_bytes = match kind.is_block_device() {
            true => Some(rustix::fs::ioctl_blksszget(&file)?),
            false => None,
        };
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Disk { file, blank: 0..0, name, bytes, sector_bytes })
    }

    /// The same disk up to a byte, of which a stretch reads as zeros.
    pub fn part(self, bytes: u64, blank: Range<u64>) -> Disk {
        Disk { bytes: bytes.min(self.bytes), blank, ..self }
    }

    /// Fills the buffer from an offset on.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        let end = offset.saturating_add(buffer.len() as u64);
        let (from, to) = (self.blank.start.max(offset), self.blank.end.min(end));
        if from < to {
            // Both are at most the buffer's length.
            buffer[(from - offset) as usize..(to - offset) as usize].fill(0);
        }
        Ok(())
    }

    /// The first stretch in a range that is not known to be a hole.
    pub fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        use rustix::fs::{SeekFrom, seek};
        if range.is_empty() {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(range.start)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // Devices, and filesystems without an idea of holes.
            Err(_) => return Ok(Some(range)),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(range.end).min(range.end);
        Ok((start < end).then_some(start..end))
    }

    /// A reader of its first bytes that gives up after `limit` bytes: what
    /// reads partition tables believes the lengths that it finds there.
    pub(crate) fn limited(&self, limit: u64) -> Limited<'_> {
        Limited { disk: self, at: 0, left: limit }
    }
}

/// See [`Disk::limited`].
pub(crate) struct Limited<'a> {
    disk: &'a Disk,
    at: u64,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.disk.file.read_at(buffer, self.at)?;
        self.at += found as u64;
        match self.left.checked_sub(found as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("the partition table is too long")),
        }
        Ok(found)
    }
}

impl Seek for Limited<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.disk.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::other("seek before the start"))?;
        Ok(self.at)
    }
}
