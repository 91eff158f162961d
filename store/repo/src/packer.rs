//! Putting frames together into packs, and packs into the store and its index.

use std::collections::BTreeSet;
use std::mem;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use object_store::path::Path as Key;
use sha2::{Digest as _, Sha256};
use store_format::PackName;
use store_format::frame::Sealer;
use store_format::pack::{Builder, Entry};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use wire::Digest;

use crate::database::Database;
use crate::group::{self, Group, Sealed};
use crate::open::Repo;
use crate::storage::{Content, Storage, StorageError, pack_key};

/// Bytes after which a pack is closed.
const PACK_BYTES: u64 = 64 << 20;
/// A pack with its last frame and its table.
const PACK_CAPACITY: usize = 66 << 20;
/// Packs that become one index segment: what a crash makes us read again.
const SEGMENT_PACKS: usize = 8;
/// Chunks of these, where they are small: they are in memory until then.
const SEGMENT_ENTRIES: usize = 1 << 16;

/// A pack that is in the store, and its table.
type Written = (PackName, Vec<Entry>);

/// What came into the index.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub packs: Vec<PackName>,
    /// Chunks of these.
    pub chunks: usize,
}

/// Takes frames, on a thread that may block; the holder of a lease makes it.
pub(crate) struct Packer<'a> {
    repo: &'a Repo,
    runtime: &'a Handle,
    pack: Builder,
    bytes: Vec<u8>,
    /// The one pack that is being written.
    writing: Option<JoinHandle<Result<Written, StorageError>>>,
    /// Packs that are written, and not in the index yet.
    written: Vec<Written>,
    /// Who wants to know what came into the index.
    told: Option<Sender<Indexed>>,
    packs: BTreeSet<PackName>,
}

/// Takes single chunks, which it puts together into frames.
pub(crate) struct ChunkPacker<'a> {
    packer: Packer<'a>,
    sealer: Option<Sealer>,
    group: Group,
}

/// Writes an object under the name of its content. A lease that was taken
/// before keeps it, even where it had been condemned.
pub(crate) async fn put(
    storage: &Storage,
    database: &Database,
    key: &Key,
    bytes: Bytes,
) -> Result<(), StorageError> {
    database.revive(key.as_ref()).await?;
    storage.put(key, bytes).await
}

/// As [`put`], what may be too long for memory.
pub(crate) async fn put_content(
    storage: &Storage,
    database: &Database,
    key: &Key,
    content: &Content,
) -> Result<(), StorageError> {
    database.revive(key.as_ref()).await?;
    storage.put_content(key, content).await
}

impl<'a> Packer<'a> {
    pub(crate) fn new(repo: &'a Repo, runtime: &'a Handle) -> Packer<'a> {
        Packer {
            repo,
            runtime,
            pack: Builder::default(),
            bytes: Vec::new(),
            writing: None,
            written: Vec::new(),
            told: None,
            packs: BTreeSet::new(),
        }
    }

    /// Tells somebody what came into the index, in the order of the frames.
    pub(crate) fn telling(self, told: Sender<Indexed>) -> Packer<'a> {
        Packer { told: Some(told), ..self }
    }

    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: &Sealed) -> Result<(), StorageError> {
        if self.bytes.is_empty() {
            // Pages that are not reached are never touched.
            self.bytes.reserve(PACK_CAPACITY);
            self.bytes.extend_from_slice(&Builder::header());
        }
        self.pack.push(&frame.header, &frame.ids);
        self.bytes.extend_from_slice(&frame.bytes);
        match self.pack.frames_end() >= PACK_BYTES || !self.pack.has_room() {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Everything is durable and in the index afterwards. Returns the packs.
    pub(crate) fn finish(mut self) -> Result<BTreeSet<PackName>, StorageError> {
        if !self.bytes.is_empty() {
            self.close()?;
        }
        self.wait()?;
        if !self.written.is_empty() {
            self.write_segment()?;
        }
        Ok(self.packs)
    }

    /// Starts to write the pack, once the one before is written.
    fn close(&mut self) -> Result<(), StorageError> {
        let pack = mem::take(&mut self.pack);
        let mut bytes = mem::take(&mut self.bytes);
        bytes.extend_from_slice(&pack.finish());
        self.wait()?;
        let entries: usize = self.written.iter().map(|(_, entries)| entries.len()).sum();
        if self.written.len() >= SEGMENT_PACKS || entries >= SEGMENT_ENTRIES {
            self.write_segment()?;
        }
        let (storage, database) = (self.repo.storage.clone(), self.repo.database.clone());
        self.writing = Some(self.runtime.spawn(async move {
            let bytes = Bytes::from(bytes);
            let hashed = bytes.clone();
            let name = tokio::task::spawn_blocking(move || Sha256::digest(&hashed)).await;
            let name = name.map_err(|e| StorageError::new("packs", Box::new(e)))?;
            let name = PackName(name.into());
            put(&storage, &database, &pack_key(&name), bytes).await?;
            Ok((name, pack.entries().to_vec()))
        }));
        Ok(())
    }

    fn wait(&mut self) -> Result<(), StorageError> {
        if let Some(writing) = self.writing.take() {
            let ended = self.runtime.block_on(writing);
            let (name, entries) = ended.map_err(|e| StorageError::new("packs", Box::new(e)))??;
            self.packs.insert(name);
            self.written.push((name, entries));
        }
        Ok(())
    }

    fn write_segment(&mut self) -> Result<(), StorageError> {
        let packs = mem::take(&mut self.written);
        self.runtime.block_on(self.repo.index.add(&packs))?;
        if let Some(told) = &self.told {
            let chunks = packs.iter().map(|(_, entries)| entries.len()).sum();
            // Whoever is not there any more has no need to know.
            let _ = told.send(Indexed { packs: packs.iter().map(|(n, _)| *n).collect(), chunks });
        }
        Ok(())
    }
}

impl<'a> ChunkPacker<'a> {
    pub(crate) fn new(packer: Packer<'a>) -> ChunkPacker<'a> {
        ChunkPacker { packer, sealer: None, group: Group::default() }
    }

    /// Adds a chunk, which must be the one that is named.
    pub(crate) fn push(&mut self, id: Digest, plain: &[u8]) -> Result<(), StorageError> {
        if !self.group.has_room(plain.len()) {
            self.seal()?;
        }
        self.group.push(id, plain);
        Ok(())
    }

    /// Adds a frame as it is.
    pub(crate) fn push_frame(&mut self, frame: &Sealed) -> Result<(), StorageError> {
        self.packer.push(frame)
    }

    /// Everything is durable and in the index afterwards. Returns the packs.
    pub(crate) fn finish(mut self) -> Result<BTreeSet<PackName>, StorageError> {
        if !self.group.is_empty() {
            self.seal()?;
        }
        self.packer.finish()
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        let failed = |e| StorageError::new("packs", Box::new(e));
        let sealer = match &mut self.sealer {
            Some(sealer) => sealer,
            None => self.sealer.insert(group::sealer().map_err(failed)?),
        };
        let frame = mem::take(&mut self.group).seal(sealer).map_err(failed)?;
        self.packer.push(&frame)
    }
}
