//! Writing an image, or a range of it, to a file or a device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use rustix::fs::FallocateFlags;
use serde::Serialize;
use tokio::sync::mpsc;
use wire::Digest;

use crate::open::Repo;
use crate::qcow2;
use crate::read::{Piece, Pieces, ReadError};

/// Pieces between reading and writing.
const PIECES: usize = 64;
/// Zeros that are written at a time where a device cannot clear itself.
const ZEROS: usize = 1 << 20;

/// What of an image is written, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// What the file is.
    pub format: ExportFormat,
    /// Only these bytes of the disk: they become the whole of what is written.
    pub range: Option<Range<u64>>,
}

/// What an exported file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// The disk's bytes.
    #[default]
    Raw,
    /// What QEMU calls qcow2. Its disks are whole sectors of 512 bytes: zeros
    /// are added where the image ends within one.
    Qcow2,
}

/// How far an export is. Numbers only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExportProgress {
    /// Bytes of the disk that are written.
    pub disk_bytes: u64,
    /// Of these, bytes dealt with.
    pub done_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Bytes of the disk, or of the range of it.
    pub disk_bytes: u64,
    /// Of these, bytes that were written as data; the rest are zeros.
    pub data_bytes: u64,
    /// Zeros behind these, which the format of the file wants.
    pub added_bytes: u64,
}

/// Why an image was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It could not be read.
    #[error("the image cannot be read")]
    Read(#[from] ReadError),
    /// The target could not be written.
    #[error("cannot write {target}")]
    Write {
        /// The file or device.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device is too small.
    #[error("{target} has {found} bytes and the image needs {needed}: choose a larger disk")]
    TooSmall {
        /// The device.
        target: String,
        /// Its length.
        found: u64,
        /// The image's length.
        needed: u64,
    },
    /// The task ended early, which is a defect of this program.
    #[error("writing ended in the middle; please report this")]
    Broken,
}

/// Where an image goes.
struct Target {
    file: File,
    /// Offset on the image's disk of the first byte.
    start: u64,
    /// Where the file does not have the bytes as they are.
    qcow2: Option<qcow2::Writer>,
    /// The file that becomes the target once it is whole.
    temporary: Option<tempfile::TempPath>,
}

impl Repo {
    /// [`Repo::export_as`] of the whole disk.
    pub async fn export(
        self: &Arc<Self>,
        image: &Digest,
        path: &Path,
    ) -> Result<Exported, ExportError> {
        self.export_as(image, path, ExportOptions::default(), |_| {}).await
    }

    /// Writes an image to a file, which gets its name once it is whole and
    /// durable and replaces one that was there, or to a block device.
    pub async fn export_as(
        self: &Arc<Self>,
        image: &Digest,
        path: &Path,
        options: ExportOptions,
        mut progress: impl FnMut(ExportProgress) + Send + 'static,
    ) -> Result<Exported, ExportError> {
        let range = match options.range {
            Some(range) => range,
            None => 0..self.envelope(image).await?.disk_bytes,
        };
        let mut pieces = self.read_range(image, range.clone()).await?;
        let disk_bytes = range.end - range.start;
        let target = path.display().to_string();
        let failed = |source| ExportError::Write { target: target.clone(), source };
        let (send, receive) = mpsc::channel(PIECES);
        let opened = Target::open(path, &range, options.format).map_err(failed)?;
        if let Some(found) = opened.too_small(disk_bytes).map_err(failed)? {
            return Err(ExportError::TooSmall { target, found, needed: disk_bytes });
        }
        let to = path.to_owned();
        let writer = tokio::task::spawn_blocking(move || {
            let mut progress = |done_bytes| progress(ExportProgress { disk_bytes, done_bytes });
            opened.write(receive, &to, &mut progress)
        });
        let broken = hand_over(&mut pieces, send).await.err();
        let written = writer.await.map_err(|_| ExportError::Broken)?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        let added_bytes = match options.format {
            ExportFormat::Raw => 0,
            ExportFormat::Qcow2 => qcow2::rounded(disk_bytes) - disk_bytes,
        };
        Ok(Exported { disk_bytes, data_bytes: written.map_err(failed)?, added_bytes })
    }
}

/// Hands all pieces to the writer, and the end mark: without that the file is
/// not whole and is thrown away.
async fn hand_over(
    pieces: &mut Pieces,
    writer: mpsc::Sender<Option<Piece>>,
) -> Result<(), ReadError> {
    while let Some(piece) = pieces.try_next().await? {
        // A writer that ended early says why itself.
        if writer.send(Some(piece)).await.is_err() {
            return Ok(());
        }
    }
    let _ = writer.send(None).await;
    Ok(())
}

impl Target {
    fn open(path: &Path, range: &Range<u64>, format: ExportFormat) -> io::Result<Target> {
        let start = range.start;
        let kind = path.metadata().ok().map(|meta| meta.file_type());
        if kind.is_some_and(|kind| !kind.is_file() && !kind.is_block_device()) {
            // A pipe or a terminal would be replaced by a file.
            let why = "it is neither a file nor a block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if kind.is_some_and(|kind| kind.is_block_device()) {
            // Exclusively: the kernel refuses a device that is mounted or in use.
            let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
            if format != ExportFormat::Raw {
                let why = "a block device takes the bytes as they are, in the raw format";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let file = OpenOptions::new().write(true).custom_flags(exclusive).open(path)?;
            return Ok(Target { file, start, qcow2: None, temporary: None });
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let (file, temporary) =
            tempfile::Builder::new().prefix(".ingot-export-").tempfile_in(folder)?.into_parts();
        let bytes = range.end - start;
        let qcow2 = match format {
            ExportFormat::Raw => {
                file.set_len(bytes)?;
                None
            }
            ExportFormat::Qcow2 => Some(qcow2::Writer::create(&file, bytes)?),
        };
        Ok(Target { file, start, qcow2, temporary: Some(temporary) })
    }

    /// The length of a device that is shorter than the image.
    fn too_small(&self, needed: u64) -> io::Result<Option<u64>> {
        if self.temporary.is_some() {
            return Ok(None);
        }
        let found = (&self.file).seek(SeekFrom::End(0))?;
        Ok((found < needed).then_some(found))
    }

    /// Writes until the end mark; `done` is told how far it is. Returns the
    /// bytes of data.
    fn write(
        self,
        mut pieces: mpsc::Receiver<Option<Piece>>,
        path: &Path,
        done: &mut dyn FnMut(u64),
    ) -> io::Result<u64> {
        let mut data_bytes = 0;
        loop {
            let end = match pieces.blocking_recv() {
                Some(Some(Piece::Data { offset, bytes })) => {
                    self.put(&bytes, offset - self.start)?;
                    data_bytes += bytes.len() as u64;
                    offset + bytes.len() as u64
                }
                Some(Some(Piece::Hole { offset, bytes })) => {
                    // A new file has only zeros.
                    if self.temporary.is_none() {
                        self.clear(offset - self.start, bytes)?;
                    }
                    offset + bytes
                }
                Some(None) => break,
                None => return Err(io::ErrorKind::Interrupted.into()),
            };
            done(end - self.start);
        }
        if let Some(qcow2) = self.qcow2 {
            qcow2.finish()?;
        }
        self.file.sync_all()?;
        if let Some(temporary) = self.temporary {
            keep(temporary, path)?;
        }
        Ok(data_bytes)
    }

    fn put(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.qcow2 {
            Some(qcow2) => qcow2.write_all_at(bytes, offset),
            None => self.file.write_all_at(bytes, offset),
        }
    }

    /// Makes bytes of a device zero.
    fn clear(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, offset, bytes).is_ok() {
            return Ok(());
        }
        self.write_zeros(offset, bytes)
    }

    fn write_zeros(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; ZEROS];
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let len = usize::try_from(end - at).map_or(ZEROS, |left| left.min(ZEROS));
            self.file.write_all_at(&zeros[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Gives a whole file its name, for good.
fn keep(temporary: tempfile::TempPath, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Temporary files are private; what people export is theirs to share.
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&temporary, mode)?;
    temporary.persist(path).map_err(|error| error.error)?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of old bytes, written to as a device is.
    fn device(len: usize) -> (tempfile::NamedTempFile, Target) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xff; len]).unwrap();
        let file_again = file.reopen().unwrap();
        let target = Target { file: file_again, start: 0, qcow2: None, temporary: None };
        (file, target)
    }

    fn write(target: Target, pieces: Vec<Option<Piece>>) -> io::Result<u64> {
        let (send, receive) = mpsc::channel(pieces.len());
        pieces.into_iter().for_each(|piece| send.try_send(piece).unwrap());
        drop(send);
        target.write(receive, Path::new("unused"), &mut |_| {})
    }

    #[test]
    fn a_device_has_zeros_where_the_image_has_holes() {
        let (file, target) = device(3 << 20);
        let data = |offset, bytes: &'static [u8]| {
            Some(Piece::Data { offset, bytes: bytes::Bytes::from_static(bytes) })
        };
        let hole = |offset, bytes| Some(Piece::Hole { offset, bytes });
        let pieces = vec![data(0, b"abc"), hole(3, 2 << 20), data((2 << 20) + 3, b"d"), None];
        assert_eq!(write(target, pieces).unwrap(), 4);
        let mut expected = vec![0xff; 3 << 20];
        expected[..(2 << 20) + 3].fill(0);
        expected[..3].copy_from_slice(b"abc");
        expected[(2 << 20) + 3] = b'd';
        assert!(std::fs::read(file.path()).unwrap() == expected);
    }

    #[test]
    fn zeros_are_written_where_a_device_cannot_clear_itself() {
        let (file, target) = device(3 << 20);
        target.write_zeros(5, (1 << 20) + 7).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let end = (1 << 20) + 12;
        assert!(bytes[..5] == [0xff; 5] && bytes[end..].iter().all(|b| *b == 0xff));
        assert!(bytes[5..end].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_reader_that_ends_early_is_an_error_and_a_small_device_is_noticed() {
        let (_file, target) = device(10);
        assert_eq!(target.too_small(11).unwrap(), Some(10));
        assert_eq!(target.too_small(10).unwrap(), None);
        let piece = Piece::Data { offset: 0, bytes: bytes::Bytes::from_static(b"x") };
        assert!(write(target, vec![Some(piece)]).is_err());
    }
}
