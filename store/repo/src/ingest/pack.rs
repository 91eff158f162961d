//! Putting packs and the chunk table together, in the order of the disk.

use std::collections::{BTreeSet, HashSet};
use std::mem;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use store_format::frame::{Header, Sealer};
use store_format::pack::{Builder, Entry};
use store_format::{Extent, PackName};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use wire::Digest;

use super::scan::Item;
use super::work::{Chunk, LEVEL, Worked};
use super::{ImportError, ImportProgress};
use crate::index::{Index, Snapshot};
use crate::storage::{Storage, StorageError, pack_key};

/// Bytes after which a pack is closed.
const PACK_BYTES: u64 = 64 << 20;
/// A pack with its last frame and its table.
const PACK_CAPACITY: usize = 66 << 20;
/// Packs that become one index segment: what a crash makes us read again.
const SEGMENT_PACKS: usize = 8;

/// What an import found and stored.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub regions: Vec<Vec<Extent>>,
    pub digests: Vec<Digest>,
    /// All packs that the image needs.
    pub packs: BTreeSet<PackName>,
    pub data_bytes: u64,
    pub hole_bytes: u64,
    pub chunks: u64,
    pub stored_bytes: u64,
    pub new_chunks: u64,
    pub new_bytes: u64,
}

/// A pack that is in the store, and its table.
type Written = (PackName, Vec<Entry>);

pub(super) struct Collector<'a> {
    storage: &'a Storage,
    index: &'a Index,
    known: Snapshot,
    runtime: &'a Handle,
    /// Every chunk of the image so far: each is stored or in the open pack.
    seen: &'a RwLock<HashSet<Digest>>,
    sealer: Option<Sealer>,
    region: Vec<Extent>,
    result: Collected,
    pack: Builder,
    bytes: Vec<u8>,
    /// The one pack that is being written.
    writing: Option<JoinHandle<Result<Written, StorageError>>>,
    /// Packs that are written, and not in the index yet.
    written: Vec<Written>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        storage: &'a Storage,
        index: &'a Index,
        runtime: &'a Handle,
        seen: &'a RwLock<HashSet<Digest>>,
    ) -> Collector<'a> {
        Collector {
            storage,
            index,
            known: index.snapshot(),
            runtime,
            seen,
            sealer: None,
            region: Vec::new(),
            result: Collected::default(),
            pack: Builder::default(),
            bytes: Vec::new(),
            writing: None,
            written: Vec::new(),
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
                    self.region.push(Extent::Hole { bytes: *bytes });
                    self.result.hole_bytes += bytes;
                }
                Item::Chunk(_) => {
                    let chunk = chunks.next().ok_or(ImportError::Broken)?;
                    self.chunk(chunk, worked)?;
                }
                Item::End(digest) => {
                    self.result.digests.push(*digest);
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
        if self.bytes.is_empty() {
            // Pages that are not reached are never touched.
            self.bytes.reserve(PACK_CAPACITY);
            self.bytes.extend_from_slice(&Builder::header());
        }
        self.pack.push(header);
        self.bytes.extend_from_slice(frame);
        self.result.stored_bytes += u64::from(header.frame_len());
        self.result.new_bytes += u64::from(header.frame_len());
        self.result.new_chunks += 1;
        match self.pack.frames_end() >= PACK_BYTES || !self.pack.has_room() {
            true => self.close_pack(),
            false => Ok(()),
        }
    }

    /// Starts to write the pack, once the one before is written.
    fn close_pack(&mut self) -> Result<(), ImportError> {
        let pack = mem::take(&mut self.pack);
        let mut bytes = mem::take(&mut self.bytes);
        bytes.extend_from_slice(&pack.finish());
        self.wait()?;
        if self.written.len() >= SEGMENT_PACKS {
            self.write_segment()?;
        }
        let storage = self.storage.clone();
        self.writing = Some(self.runtime.spawn(async move {
            let bytes = Bytes::from(bytes);
            let hashed = bytes.clone();
            let name = tokio::task::spawn_blocking(move || Sha256::digest(&hashed)).await;
            let name = name.map_err(|e| StorageError::new("packs", Box::new(e)))?;
            let name = PackName(name.into());
            storage.put(&pack_key(&name), bytes).await?;
            Ok((name, pack.entries().to_vec()))
        }));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), ImportError> {
        if let Some(writing) = self.writing.take() {
            let (name, entries) =
                self.runtime.block_on(writing).map_err(|_| ImportError::Broken)??;
            self.result.packs.insert(name);
            self.written.push((name, entries));
        }
        Ok(())
    }

    fn write_segment(&mut self) -> Result<(), ImportError> {
        let packs = mem::take(&mut self.written);
        Ok(self.runtime.block_on(self.index.add(&packs))?)
    }

    /// Everything is durable and in the index afterwards.
    pub(super) fn finish(mut self) -> Result<Collected, ImportError> {
        if !self.bytes.is_empty() {
            self.close_pack()?;
        }
        self.wait()?;
        if !self.written.is_empty() {
            self.write_segment()?;
        }
        Ok(self.result)
    }
}
