//! Putting the chunk table together and new chunks into packs, in the order of
//! the disk.

use std::collections::{BTreeSet, HashSet};
use std::mem;
use std::sync::{PoisonError, RwLock};

use store_format::frame::{Header, Sealer};
use store_format::{Extent, PackName};
use wire::Digest;

use super::contents::ImportedRegion;
use super::scan::Item;
use super::work::{Chunk, LEVEL, Worked};
use super::{ImportError, ImportProgress};
use crate::index::Snapshot;
use crate::packer::Packer;

/// What an import found and stored.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub regions: Vec<Vec<Extent>>,
    pub digests: Vec<Digest>,
    pub known: Vec<ImportedRegion>,
    /// All packs that the image needs.
    pub packs: BTreeSet<PackName>,
    pub data_bytes: u64,
    pub hole_bytes: u64,
    pub chunks: u64,
    pub stored_bytes: u64,
    pub new_chunks: u64,
    pub new_bytes: u64,
}

pub(super) struct Collector<'a> {
    /// What counted as stored when the import began.
    known: Snapshot,
    /// Every chunk of the image so far: each is stored or with the packer.
    seen: &'a RwLock<HashSet<Digest>>,
    sealer: Option<Sealer>,
    region: Vec<Extent>,
    result: Collected,
    packer: Packer<'a>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        packer: Packer<'a>,
        known: Snapshot,
        seen: &'a RwLock<HashSet<Digest>>,
    ) -> Collector<'a> {
        Collector {
            known,
            seen,
            sealer: None,
            region: Vec::new(),
            result: Collected::default(),
            packer,
        }
    }

    pub(super) fn progress(&self, disk_bytes: u64) -> ImportProgress {
        ImportProgress {
            disk_bytes,
            done_bytes: self.result.data_bytes + self.result.hole_bytes,
            hole_bytes: self.result.hole_bytes,
            new_chunks: self.result.new_chunks,
            new_bytes: self.result.new_bytes,
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
                    self.chunk(chunk, worked)?;
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

    fn chunk(&mut self, chunk: &Chunk, worked: &Worked) -> Result<(), ImportError> {
        let bytes = u32::try_from(chunk.plain.len()).map_err(|_| ImportError::Broken)?;
        self.region.push(Extent::Chunk { id: chunk.id, bytes });
        self.result.data_bytes += u64::from(bytes);
        if !self.seen.write().unwrap_or_else(PoisonError::into_inner).insert(chunk.id) {
            return Ok(());
        }
        self.result.chunks += 1;
        if let Some(place) = self.known.get(&chunk.id) {
            self.result.packs.insert(place.pack);
            self.result.stored_bytes += u64::from(place.entry.frame_len);
            return Ok(());
        }
        match &chunk.frame {
            Some((header, range)) => self.store(header, &worked.frames[range.clone()]),
            // The worker took it for known.
            None => {
                let sealer = match &mut self.sealer {
                    Some(sealer) => sealer,
                    None => self.sealer.insert(Sealer::new(LEVEL)?),
                };
                let mut frame = Vec::new();
                let header =
                    sealer.seal(chunk.id, &worked.batch.data[chunk.plain.clone()], &mut frame)?;
                self.store(&header, &frame)
            }
        }
    }

    fn store(&mut self, header: &Header, frame: &[u8]) -> Result<(), ImportError> {
        self.result.stored_bytes += u64::from(header.frame_len());
        self.result.new_bytes += u64::from(header.frame_len());
        self.result.new_chunks += 1;
        Ok(self.packer.push(header, frame)?)
    }

    /// Everything is durable and in the index afterwards.
    pub(super) fn finish(mut self) -> Result<Collected, ImportError> {
        self.result.packs.append(&mut self.packer.finish()?);
        Ok(self.result)
    }
}
