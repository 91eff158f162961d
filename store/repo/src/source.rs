//! What an image is read from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use store_scan::{BLOCK, Disk, is_zero};

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

impl Source {
    /// What it is called in messages, and its disk.
    pub(crate) fn open(self, scratch: &Path) -> (String, io::Result<Disk>) {
        match self {
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
