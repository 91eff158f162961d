//! What an image is written to, and how to change of it only what differs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};
use store_format::blocks::differing;

/// Bytes moved at a time.
pub const BUFFER: usize = 1 << 20;
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// A disk, or what stands for one.
pub trait Medium {
    /// Fills the buffer from `at` on; may be served from the kernel's cache.
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes; durable after [`Medium::settle`].
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Everything is on the medium, and the next read comes from there.
    fn settle(&self) -> io::Result<()>;
}

impl Medium for File {
    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn settle(&self) -> io::Result<()> {
        self.sync_all()?;
        Ok(fadvise(self, 0, None, Advice::DontNeed)?)
    }
}

/// What is written of given bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All of them.
    Whole,
    /// The blocks that differ from what is there, which is read first.
    Changed,
}

/// Writes and counts.
#[derive(Debug)]
pub struct Pen<M> {
    /// What is written to.
    pub medium: M,
    /// Bytes written.
    pub written_bytes: u64,
    old: Vec<u8>,
}

impl<M: Medium> Pen<M> {
    /// Has written nothing yet.
    pub fn new(medium: M) -> Pen<M> {
        Pen { medium, written_bytes: 0, old: Vec::new() }
    }

    /// Makes the medium have `bytes` at `at`.
    pub fn put(&mut self, bytes: &[u8], at: u64, how: How) -> io::Result<()> {
        let runs = match how {
            How::Whole => whole(bytes),
            How::Changed => self.differing(bytes, at),
        };
        for run in runs.into_iter().filter(|run| !run.is_empty()) {
            self.medium.write(&bytes[run.clone()], at + run.start as u64)?;
            self.written_bytes += run.len() as u64;
        }
        Ok(())
    }

    /// Makes a range of the medium zero.
    pub fn zeros(&mut self, range: Range<u64>, how: How) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = step(at..range.end);
            self.put(&ZEROS[..len], at, how)?;
            at += len as u64;
        }
        Ok(())
    }

    /// What cannot be read is written: that lets a disk replace bad sectors.
    fn differing(&mut self, bytes: &[u8], at: u64) -> Vec<Range<usize>> {
        self.old.resize(bytes.len(), 0);
        match self.medium.read(&mut self.old, at) {
            Ok(()) => differing(&self.old, bytes, at),
            Err(_) => whole(bytes),
        }
    }
}

fn whole(bytes: &[u8]) -> Vec<Range<usize>> {
    std::iter::once(0..bytes.len()).collect()
}

/// The parts of a range that are not zero, in whole blocks, or cannot be read.
pub fn not_zero(medium: &impl Medium, range: Range<u64>) -> Vec<Range<u64>> {
    let mut buffer = vec![0; BUFFER];
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let len = step(at..range.end);
        let runs = match medium.read(&mut buffer[..len], at) {
            Ok(()) => differing(&buffer[..len], &ZEROS[..len], at),
            Err(_) => whole(&buffer[..len]),
        };
        for run in runs {
            let part = at + run.start as u64..at + run.end as u64;
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => parts.push(part),
            }
        }
        at += len as u64;
    }
    parts
}

fn step(range: Range<u64>) -> usize {
    usize::try_from(range.end - range.start).map_or(BUFFER, |left| left.min(BUFFER))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written_and_counted() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 3 * BUFFER], 0).unwrap();
        let mut pen = Pen::new(file);
        let mut bytes = vec![7; 100_000];
        bytes[50_000] = 8;
        pen.put(&bytes, 10, How::Changed).unwrap();
        assert_eq!(pen.written_bytes, 4096);
        pen.put(&bytes, 10, How::Whole).unwrap();
        assert_eq!(pen.written_bytes, 104_096);
        assert_eq!(not_zero(&pen.medium, 5..3 << 20), [5..3 << 20]);
        pen.zeros(5..5000, How::Changed).unwrap();
        pen.zeros(1 << 20..2 << 20, How::Changed).unwrap();
        assert_eq!(not_zero(&pen.medium, 5..3 << 20), [4096..1 << 20, 2 << 20..3 << 20]);
        let before = pen.written_bytes;
        pen.zeros(1 << 20..2 << 20, How::Changed).unwrap();
        assert_eq!(pen.written_bytes, before);
        assert_eq!(not_zero(&pen.medium, 3 << 20..4 << 20), [3 << 20..4 << 20], "past its end");
    }
}
