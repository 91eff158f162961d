//! Putting the chunk table together, and new chunks into groups, in the order
//! of the disk.

use std::collections::{BTreeSet, HashSet};
use std::mem;
use std::sync::mpsc::SyncSender;

use store_format::{Extent, PackName};
use store_scan::{ImportedRegion, Item};
use wire::Digest;

use super::ImportError;
use super::pack::Numbering;
use super::work::{Chunk, Worked};
use crate::group::Group;

/// What an import found.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub regions: Vec<Vec<Extent>>,
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

pub(super) struct Collector {
    /// Every chunk of the image so far.
    seen: HashSet<Digest>,
    region: Vec<Extent>,
    pub(super) result: Collected,
    group: Group,
    groups: Numbering,
}

impl Collector {
    /// Gives groups to whoever seals them.
    pub(super) fn new(groups: SyncSender<(u64, Group)>) -> Collector {
        Collector {
            seen: HashSet::new(),
            region: Vec::new(),
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
                    match self.region.last_mut() {
                        Some(Extent::Hole { bytes: before }) => *before += bytes,
                        _ => self.region.push(Extent::Hole { bytes: *bytes }),
                    }
                    self.result.hole_bytes += bytes;
                }
                Item::Chunk(_) => {
                    let chunk = chunks.next().ok_or(ImportError::Broken)?;
                    self.chunk(chunk, &worked.batch.data[chunk.plain.clone()])?;
                }
                Item::End(digest, known) => {
                    self.result.digests.push(*digest);
                    self.result.known.push(known.clone());
                    self.result.regions.push(mem::take(&mut self.region));
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: &Chunk, plain: &[u8]) -> Result<(), ImportError> {
        let bytes = u32::try_from(plain.len()).map_err(|_| ImportError::Broken)?;
        self.region.push(Extent::Chunk { id: chunk.id, bytes });
        self.result.data_bytes += u64::from(bytes);
        if !self.seen.insert(chunk.id) {
            return Ok(());
        }
        self.result.chunks += 1;
        if let Some(place) = chunk.stored {
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
    pub(super) fn finish(mut self) -> Result<Collected, ImportError> {
        if !self.group.is_empty() {
            self.groups.send(self.group)?;
        }
        Ok(self.result)
    }
}
