//! Putting the chunk table together, and new chunks into groups, in the order
//! of the disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::mem;
use std::sync::mpsc::SyncSender;

use store_format::table::TableWriter;
use store_format::{Extent, PackName};
use store_scan::{ImportedRegion, Item};
use wire::Digest;

use super::ImportError;
use super::pack::Numbering;
use super::seen::Seen;
use super::work::{Chunk, Worked};
use crate::group::Group;

/// What an import found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub digests: Vec<Digest>,
    pub known: Vec<ImportedRegion>,
    /// Packs that were there before, of which the image needs chunks.
    pub packs: BTreeSet<PackName>,
    pub data_bytes: u64,
    pub hole_bytes: u64,
    pub chunks: u64,
    /// Stored bytes of the chunks that were there before.
    pub stored_bytes: u64,
    pub new_chunks: u64,
}

pub(super) struct Collector<'a> {
    seen: Seen<'a>,
    table: TableWriter<File>,
    pub(super) result: Collected,
    group: Group,
    groups: Numbering,
}

impl<'a> Collector<'a> {
    /// Writes the table, and gives groups to whoever seals them.
    pub(super) fn new(
        seen: Seen<'a>,
        table: TableWriter<File>,
        groups: SyncSender<(u64, Group)>,
    ) -> Collector<'a> {
        Collector {
            seen,
            table,
            result: Collected::default(),
            group: Group::default(),
            groups: Numbering::new(groups),
        }
    }

    /// Goes on with the next batch.
    pub(super) fn take(&mut self, worked: &Worked) -> Result<(), ImportError> {
        let mut chunks = worked.chunks.iter();
        for item in &worked.batch.items {
            match item {
                Item::Hole(bytes) => {
                    self.table.push(Extent::Hole { bytes: *bytes })?;
                    self.result.hole_bytes += bytes;
                }
                Item::Chunk(_) => {
                    let chunk = chunks.next().ok_or(ImportError::Broken)?;
                    self.chunk(chunk, &worked.batch.data[chunk.plain.clone()])?;
                }
                Item::End(digest, known) => {
                    self.result.digests.push(*digest);
                    self.result.known.push(known.clone());
                    self.table.end_region()?;
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: &Chunk, plain: &[u8]) -> Result<(), ImportError> {
        let bytes = u32::try_from(plain.len()).map_err(|_| ImportError::Broken)?;
        self.table.push(Extent::Chunk { id: chunk.id, bytes })?;
        self.result.data_bytes += u64::from(bytes);
        if !self.seen.insert(chunk.id, chunk.stored.map(|(spot, _)| spot)) {
            return Ok(());
        }
        self.result.chunks += 1;
        if let Some((_, place)) = chunk.stored {
            self.result.packs.insert(place.pack);
            self.result.stored_bytes += u64::from(place.entry.stored_len);
            return Ok(());
        }
        self.result.new_chunks += 1;
        if !self.group.has_room(plain.len()) {
            self.groups.send(mem::take(&mut self.group))?;
        }
        self.group.push(chunk.id, plain);
        Ok(())
    }

    /// All groups are given then.
    pub(super) fn finish(mut self) -> Result<(Collected, TableWriter<File>), ImportError> {
        if !self.group.is_empty() {
            self.groups.send(self.group)?;
        }
        Ok((self.result, self.table))
    }
}
