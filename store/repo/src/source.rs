//! What an image is read from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Raw bytes of a disk.
pub enum Source {
    /// A file, whose holes are not read, or a block device.
    Path(PathBuf),
    /// Anything that gives bytes in order. It is put into a temporary file
    /// beside the store first, without its zeros: the backup of a partition
    /// table stands at the end.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(path) => write!(f, "Source({})", path.display()),
            Source::Stream(_) => f.write_str("Source(stream)"),
        }
    }
}

/// The unit in which zeros are looked for.
pub(crate) const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Whether a block, or part of one, is zero.
pub(crate) fn is_zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()).is_some_and(|zeros| zeros == block)
}

/// An opened source.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    /// What to call it in messages.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The sector size that a device has.
    pub sector_bytes: Option<u32>,
}

impl Disk {
    pub(crate) fn open(source: Source, scratch: &Path) -> (String, io::Result<Disk>) {
        match source {
            Source::Path(path) => {
                let name = path.display().to_string();
                (name.clone(), File::open(path).and_then(|file| Disk::of(file, name)))
            }
            Source::Stream(stream) => {
                let name = "the stream".to_owned();
                (name.clone(), spool(stream, scratch).and_then(|file| Disk::of(file, name)))
            }
        }
    }

    fn of(mut file: File, name: String) -> io::Result<Disk> {
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
        Ok(Disk { file, name, bytes, sector_bytes })
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// The first stretch in a range that is not known to be a hole.
    pub(crate) fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
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

/// Copies a stream into an unnamed sparse file.
fn spool(mut stream: Box<dyn Read + Send>, scratch: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(scratch)?;
    let mut buffer = vec![0; 64 * BLOCK];
    let mut end = 0_u64;
    loop {
        let filled = fill(&mut stream, &mut buffer)?;
        for block in buffer[..filled].chunks(BLOCK) {
            if !is_zero(block) {
                file.write_all_at(block, end)?;
            }
            end += block.len() as u64;
        }
        if filled < buffer.len() {
            file.set_len(end)?;
            return Ok(file);
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(found) => filled += found,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
