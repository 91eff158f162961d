//! Writing a chunk table while its extents become known.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use wire::Digest;

use super::outline::{TableError, too_many};
use super::{EXTENTS_MAX, Extent, MAGIC, VERSION};
use crate::bytes;

/// Where the image is named.
const IMAGE_AT: u64 = 12;
/// Bytes that are summed at a time.
const BUFFER: usize = 256 << 10;

/// Writes a table into a file or the like, which must be empty. What it is not
/// told before the end, it writes at the end.
#[derive(Debug)]
pub struct TableWriter<W: Write + Seek> {
    out: BufWriter<W>,
    /// Where the number of extents of the current region stands.
    count_at: u64,
    /// Extents of it.
    count: u64,
    /// The last of these, which may go on.
    hole: u64,
    /// Extents of all regions.
    extents: u64,
    /// Bytes that are written.
    len: u64,
}

impl<W: Read + Write + Seek> TableWriter<W> {
    /// Begins the table of an image with so many regions.
    pub fn new(out: W, regions: usize) -> Result<TableWriter<W>, TableError> {
        let mut head = bytes::start(MAGIC, VERSION, 60);
        head.extend_from_slice(&[0; 32]);
        bytes::put_len(&mut head, regions);
        let mut writer = TableWriter {
            out: BufWriter::with_capacity(BUFFER, out),
            count_at: 0,
            count: 0,
            hole: 0,
            extents: 0,
            len: 0,
        };
        writer.put(&head)?;
        Ok(writer)
    }

    /// Adds an extent to the current region. A hole may follow a hole.
    pub fn push(&mut self, extent: Extent) -> Result<(), TableError> {
        match extent {
            Extent::Hole { bytes } => {
                self.hole += bytes;
                Ok(())
            }
            Extent::Chunk { .. } => {
                self.end_hole()?;
                self.write(extent)
            }
        }
    }

    /// Ends the current region.
    pub fn end_region(&mut self) -> Result<(), TableError> {
        self.end_hole()?;
        self.begin_region()?;
        let count = self.count.to_le_bytes();
        self.patch(self.count_at, &count)?;
        (self.count, self.count_at) = (0, 0);
        Ok(())
    }

    /// Ends the table, whose image is this.
    pub fn finish(mut self, image: &Digest) -> Result<W, TableError> {
        self.patch(IMAGE_AT, &image.0)?;
        let mut out = self.out.into_inner().map_err(|error| error.into_error())?;
        out.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            match out.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => drop(hasher.update(&buffer[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.write_all(hasher.finalize().as_bytes())?;
        Ok(out)
    }

    fn end_hole(&mut self) -> Result<(), TableError> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            bytes => self.write(Extent::Hole { bytes }),
        }
    }

    fn write(&mut self, extent: Extent) -> Result<(), TableError> {
        self.begin_region()?;
        self.count += 1;
        self.extents += 1;
        if self.extents > EXTENTS_MAX {
            return Err(too_many(self.extents).into());
        }
        let mut bytes = Vec::with_capacity(super::EXTENT_LEN);
        extent.encode(&mut bytes);
        self.put(&bytes)
    }

    /// Leaves room for the number of extents, unless that is done.
    fn begin_region(&mut self) -> Result<(), TableError> {
        if self.count_at > 0 {
            return Ok(());
        }
        self.count_at = self.len;
        self.put(&[0; 8])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.out.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes over what is there already.
    fn patch(&mut self, at: u64, bytes: &[u8]) -> Result<(), TableError> {
        self.out.seek(SeekFrom::Start(at))?;
        self.out.write_all(bytes)?;
        self.out.seek(SeekFrom::Start(self.len))?;
        Ok(())
    }
}
