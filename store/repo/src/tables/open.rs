//! Chunk tables of which a page at a time is in memory.

use std::fs::File;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use store_format::table::{Outline, TableError};
use store_format::{ChunkTable, DecodeError, Envelope};

use crate::read::{Placed, ReadError};
use crate::storage::{Content, StorageError};

/// A whole table.
#[derive(Debug)]
pub(crate) struct OpenTable {
    /// What messages call it.
    pub(crate) key: String,
    pub(crate) content: Content,
    pub outline: Outline,
}

impl OpenTable {
    /// Reads what these bytes are. Blocks.
    pub(crate) fn new(key: &str, content: Content) -> Result<OpenTable, ReadError> {
        let outline = Outline::read(content.front()).map_err(|error| match error {
            TableError::Io(error) => failed(key, error),
            TableError::Decode(source) => wrong(key, source),
        })?;
        Ok(OpenTable { key: key.to_owned(), content, outline })
    }

    /// One that is in memory.
    pub(crate) fn of_bytes(bytes: Bytes) -> Result<OpenTable, ReadError> {
        OpenTable::new("a chunk table", Content::Memory(bytes))
    }

    /// One that was written into a file of its own.
    pub(crate) fn of_file(file: File) -> Result<OpenTable, ReadError> {
        OpenTable::new("a chunk table", Content::File(file))
    }

    /// All of it. Blocks.
    pub(crate) fn decode(&self) -> Result<ChunkTable, ReadError> {
        let bytes = self.content.all().map_err(|error| failed(&self.key, error))?;
        ChunkTable::decode(&bytes).map_err(|source| wrong(&self.key, source))
    }

    /// The extents of a page, each with its offset on the disk. Blocks.
    pub(crate) fn page(&self, number: usize) -> Result<Vec<Placed>, ReadError> {
        let page = self.outline.pages.get(number).ok_or(ReadError::Broken)?;
        let bytes = self.content.range(page.range.clone());
        let bytes = bytes.map_err(|error| failed(&self.key, error))?;
        page.decode(&bytes).map_err(|source| wrong(&self.key, source))
    }

    /// All extents, each with its offset on the disk. Blocks.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Result<Placed, ReadError>> + '_ {
        self.extents_of(0..self.outline.pages.len())
    }

    /// The same of a region, which has these bytes of the disk.
    pub(crate) fn region(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = Result<Placed, ReadError>> + '_ {
        // No page is of two regions.
        self.extents_of(self.pages_of(&range))
    }

    fn extents_of(
        &self,
        pages: Range<usize>,
    ) -> impl Iterator<Item = Result<Placed, ReadError>> + '_ {
        pages.flat_map(|number| match self.page(number) {
            Ok(page) => page.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Checks that it is of this image.
    pub(crate) fn check(&self, envelope: &Envelope) -> Result<(), ReadError> {
        self.outline.check(envelope).map_err(|source| wrong(&self.key, source))
    }

    /// The pages that have bytes of a range of the disk.
    pub(crate) fn pages_of(&self, range: &Range<u64>) -> Range<usize> {
        let pages = &self.outline.pages;
        let start = pages.partition_point(|page| page.disk.end <= range.start);
        let end = pages.partition_point(|page| page.disk.start < range.end);
        start..end.max(start)
    }
}

fn failed(key: &str, error: io::Error) -> ReadError {
    StorageError::new(key, Box::new(error)).into()
}

pub(super) fn wrong(key: &str, source: DecodeError) -> ReadError {
    ReadError::Table { key: key.to_owned(), source }
}
