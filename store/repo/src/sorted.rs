//! Very many rows in order, of which a part at a time is in memory: runs of them
//! are sorted and kept in an unnamed file, and merged when they are read.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of rows that are sorted in memory.
const RUN_BYTES: usize = 4 << 20;
/// Bytes that are read at a time of each run: of the chunks of the largest image
/// there are some 270 runs.
const BUFFER: usize = 32 << 10;

/// Rows that come in any order.
#[derive(Debug)]
pub(crate) struct Sorter<const N: usize> {
    /// Where the file is made.
    home: PathBuf,
    rows: Vec<[u8; N]>,
    runs: Option<Runs>,
}

/// Rows in the order of their bytes; they can be read repeatedly.
#[derive(Debug)]
pub(crate) struct Sorted<const N: usize> {
    /// The last run.
    rows: Vec<[u8; N]>,
    runs: Option<Runs>,
}

/// Sorted rows in a file.
#[derive(Debug)]
struct Runs {
    file: File,
    /// Where each run is.
    ranges: Vec<Range<u64>>,
}

/// A file without a name in this folder or, where it cannot be made there, where
/// temporary files are: a store may be there to be read only.
pub(crate) fn scratch_file(home: &Path) -> io::Result<File> {
    tempfile::tempfile_in(home).or_else(|first| {
        tempfile::tempfile().map_err(|second| {
            let text = format!("{first}; nor in the folder for temporary files: {second}");
            io::Error::new(second.kind(), text)
        })
    })
}

/// A row of so many parts, one behind the other.
pub(crate) fn row<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; N] {
    let (mut row, mut at) = ([0; N], 0);
    for part in parts {
        row[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    row
}

/// Takes the next part of a row.
pub(crate) fn take<const N: usize>(row: &mut &[u8]) -> [u8; N] {
    let (part, rest) = row.split_first_chunk().unwrap_or((&[0; N], &[]));
    *row = rest;
    *part
}

impl<const N: usize> Sorter<N> {
    /// Has no row. A file, if one is needed, is made in `home`, or where
    /// temporary files are if that cannot be written to.
    pub(crate) fn new(home: PathBuf) -> Sorter<N> {
        Sorter { home, rows: Vec::with_capacity(RUN_BYTES / N), runs: None }
    }

    pub(crate) fn push(&mut self, row: [u8; N]) -> io::Result<()> {
        if (self.rows.len() + 1) * N > RUN_BYTES {
            self.spill()?;
        }
        self.rows.push(row);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Sorted<N> {
        self.rows.sort_unstable();
        Sorted { rows: self.rows, runs: self.runs }
    }

    /// Puts what is in memory into the file.
    fn spill(&mut self) -> io::Result<()> {
        self.rows.sort_unstable();
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => {
                let file = scratch_file(&self.home)?;
                none.insert(Runs { file, ranges: Vec::new() })
            }
        };
        runs.append(self.rows.as_flattened())?;
        self.rows.clear();
        Ok(())
    }
}

impl Runs {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let start = self.ranges.last().map_or(0, |range| range.end);
        self.file.write_all_at(bytes, start)?;
        self.ranges.push(start..start + bytes.len() as u64);
        Ok(())
    }
}

impl<const N: usize> Sorted<N> {
    /// All rows.
    pub(crate) fn iter(&self) -> io::Result<Merge<'_, N>> {
        let runs = self.runs.iter().flat_map(|runs| {
            let run = |range: &Range<u64>| Run { file: &runs.file, range: range.clone() };
            runs.ranges.iter().map(run)
        });
        let mut sources: Vec<Box<dyn Read + '_>> = Vec::new();
        for run in runs {
            sources.push(Box::new(BufReader::with_capacity(BUFFER, run)));
        }
        sources.push(Box::new(self.rows.as_flattened()));
        Merge::new(sources)
    }
}

/// A part of a file.
struct Run<'a> {
    file: &'a File,
    range: Range<u64>,
}

impl Read for Run<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..len], self.range.start)?;
        self.range.start += read as u64;
        match read == 0 && len > 0 {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(read),
        }
    }
}

/// Rows of sorted sources, in order.
pub(crate) struct Merge<'a, const N: usize> {
    sources: Vec<Box<dyn Read + 'a>>,
    /// The next row of each source that has one, and its number.
    next: BinaryHeap<Reverse<([u8; N], usize)>>,
}

impl<'a, const N: usize> Merge<'a, N> {
    fn new(sources: Vec<Box<dyn Read + 'a>>) -> io::Result<Merge<'a, N>> {
        let next = BinaryHeap::with_capacity(sources.len());
        let mut merge = Merge { sources, next };
        (0..merge.sources.len()).try_for_each(|source| merge.read(source))?;
        Ok(merge)
    }

    /// Takes the next row of a source.
    fn read(&mut self, source: usize) -> io::Result<()> {
        let mut row = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.sources[source].read(&mut row[filled..]) {
                Ok(0) if filled == 0 => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.next.push(Reverse((row, source)));
        Ok(())
    }
}

impl<const N: usize> Iterator for Merge<'_, N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<io::Result<[u8; N]>> {
        let Reverse((row, source)) = self.next.pop()?;
        Some(self.read(source).map(|()| row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a kibibyte, so that a run has few.
    fn row(number: u64) -> [u8; 1024] {
        let mut row = [0; 1024];
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        row[..8].copy_from_slice(&mixed.to_be_bytes());
        row[1016..].copy_from_slice(&number.to_be_bytes());
        row
    }

    #[test]
    fn rows_come_in_order_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let run = (RUN_BYTES / 1024) as u64;
        for rows in [0, 1, run, run + 1, 3 * run + 5] {
            let mut sorter = Sorter::new(folder.path().to_owned());
            // The last one twice.
            let numbers = || (0..rows).chain(rows.checked_sub(1));
            numbers().for_each(|number| sorter.push(row(number)).unwrap());
            let sorted = sorter.finish();
            let mut expected: Vec<_> = numbers().map(row).collect();
            expected.sort_unstable();
            for _ in 0..2 {
                let mut found = sorted.iter().unwrap();
                let is_same = expected.iter().all(|row| found.next().unwrap().unwrap() == *row);
                assert!(is_same && found.next().is_none(), "{rows}");
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_done_without() {
        let mut sorter = Sorter::<1024>::new("/nowhere/at/all".into());
        (0..20_000).for_each(|number| sorter.push(row(number)).unwrap());
        assert_eq!(sorter.finish().iter().unwrap().count(), 20_000);
    }

    #[test]
    fn a_file_that_lost_its_end_is_an_error() {
        let mut sorter = Sorter::<1024>::new(std::env::temp_dir());
        (0..20_000).for_each(|number| sorter.push(row(number)).unwrap());
        let sorted = sorter.finish();
        sorted.runs.as_ref().unwrap().file.set_len(1 << 20).unwrap();
        let is_whole = |rows: Merge<'_, 1024>| rows.into_iter().all(|row| row.is_ok());
        assert!(!sorted.iter().is_ok_and(is_whole));
    }
}
