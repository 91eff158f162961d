//! Bytes of packs that are far away: however many ask for the same ones at
//! once, the backend is asked once, and what was read last is kept.
//!
//! Packs are immutable and named by their content, so what is kept of a pack
//! that was deleted since is still right.

use std::collections::HashMap;
use std::fmt;
use std::future::{self, Future};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Shared};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::storage::StorageError;

/// Length of a block: a request that is worth its round trip.
const BLOCK_BYTES: u64 = 4 << 20;
/// All blocks that are kept, in bytes. Those that are being read, two for each
/// reader at most, come on top.
const KEPT_BYTES: u64 = 128 << 20;
/// Blocks of one reader that are read at once: one on its way while another
/// is handed on.
const AHEAD: usize = 2;

/// A pack, and the number of a block in it.
type Name = (Key, u64);
type Reading = Shared<BoxFuture<'static, Result<Block, StorageError>>>;
type Kept = Cache<Name, Block, ByBytes, std::hash::RandomState, DefaultLifecycle<Name, Block>>;

/// A stretch of a pack.
#[derive(Debug, Clone)]
struct Block {
    /// Bytes of the whole pack.
    pack_len: u64,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Name, Block> for ByBytes {
    fn weight(&self, (key, _): &Name, block: &Block) -> u64 {
        (key.as_ref().len() + block.bytes.len()) as u64
    }
}

/// The blocks that are kept or on their way.
pub(crate) struct Blocks {
    block_bytes: u64,
    kept: Kept,
    reading: Mutex<HashMap<Name, Reading>>,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("kept_bytes", &self.kept.weight()).finish_non_exhaustive()
    }
}

/// A stretch of a pack that is being read.
pub(crate) struct BlockRead {
    /// Bytes of the whole pack.
    pub pack_len: u64,
    /// Which of them come.
    pub range: Range<u64>,
    pub bytes: BoxStream<'static, Result<Bytes, StorageError>>,
}

impl Blocks {
    pub(crate) fn new() -> Arc<Blocks> {
        Blocks::with_sizes(BLOCK_BYTES, KEPT_BYTES)
    }

    fn with_sizes(block_bytes: u64, kept_bytes: u64) -> Arc<Blocks> {
        let blocks = usize::try_from(kept_bytes / block_bytes).unwrap_or(usize::MAX);
        let kept = Cache::with(
            blocks,
            kept_bytes,
            ByBytes,
            std::hash::RandomState::new(),
            DefaultLifecycle::default(),
        );
        Arc::new(Blocks { block_bytes, kept, reading: Mutex::default() })
    }

    /// Opens a range of a pack, which must lie in it; without one, all of it.
    pub(crate) async fn open(
        self: &Arc<Self>,
        objects: &Arc<dyn ObjectStore>,
        key: &Key,
        range: Option<Range<u64>>,
    ) -> Result<BlockRead, StorageError> {
        let start = range.as_ref().map_or(0, |range| range.start);
        let first = self.block(objects, key, start / self.block_bytes).await?;
        let pack_len = first.pack_len;
        let range = range.unwrap_or(0..pack_len);
        let rest = self.numbers(&range).skip(1);
        let (blocks, objects, name) = (Arc::clone(self), Arc::clone(objects), key.clone());
        let rest = stream::iter(rest)
            .map(move |number| {
                let block = blocks.block(&objects, &name, number);
                async move { Ok((number, block.await?)) }
            })
            .buffered(AHEAD);
        let (key, wanted, block_bytes) = (key.clone(), range.clone(), self.block_bytes);
        let bytes = stream::iter([Ok((start / block_bytes, first))])
            .chain(rest)
            .map(move |block| {
                let (number, block) = block?;
                block.part(number * block_bytes, &wanted).ok_or_else(|| ends_early(&key))
            })
            .boxed();
        Ok(BlockRead { pack_len, range, bytes })
    }

    /// A range of a pack at once.
    pub(crate) async fn read(
        self: &Arc<Self>,
        objects: &Arc<dyn ObjectStore>,
        key: &Key,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut parts: Vec<Bytes> =
            self.open(objects, key, Some(range)).await?.bytes.try_collect().await?;
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => Ok(Bytes::from(parts.concat())),
        }
    }

    /// What was kept of an object is not asked for again.
    pub(crate) fn forget(&self, key: &Key) {
        self.kept.retain(|(of, _), _| of != key);
    }

    /// The blocks in which a range lies.
    fn numbers(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.block_bytes..range.end.div_ceil(self.block_bytes)
    }

    /// A block: kept, or read along with all others who wait for it.
    fn block(
        self: &Arc<Self>,
        objects: &Arc<dyn ObjectStore>,
        key: &Key,
        number: u64,
    ) -> impl Future<Output = Result<Block, StorageError>> + use<> {
        let name = (key.clone(), number);
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: what is no longer on its way is kept already.
        if let Some(block) = self.kept.get(&name) {
            return Either::Left(future::ready(Ok(block)));
        }
        if let Some(waiting) = reading.get(&name) {
            return Either::Right(waiting.clone());
        }
        let read = fetch(Arc::clone(objects), key.clone(), number, self.block_bytes);
        let (blocks, done) = (Arc::clone(self), name.clone());
        // A task of its own: whoever asked first may go away.
        let task = tokio::spawn(async move {
            let read = read.await;
            if let Ok(block) = &read {
                blocks.kept.insert(done.clone(), block.clone());
            }
            blocks.reading.lock().unwrap_or_else(PoisonError::into_inner).remove(&done);
            read
        });
        let key = key.clone();
        let waiting = task.map(move |read| read.unwrap_or_else(|e| Err(failed(&key, e)))).boxed();
        let waiting = waiting.shared();
        reading.insert(name, waiting.clone());
        Either::Right(waiting)
    }
}

impl Block {
    /// The part of this block, which starts at `at`, that lies in a range of the pack.
    fn part(&self, at: u64, range: &Range<u64>) -> Option<Bytes> {
        let from = usize::try_from(range.start.saturating_sub(at)).ok()?;
        let all = usize::try_from(range.end.saturating_sub(at)).ok()?;
        let is_last = at + self.bytes.len() as u64 >= self.pack_len;
        let to = match all > self.bytes.len() {
            // The range goes on in the next block, and there is none.
            true if is_last => return None,
            true => self.bytes.len(),
            false => all,
        };
        (from <= to).then(|| self.bytes.slice(from..to))
    }
}

/// Reads a block, or what there is of the last one.
async fn fetch(
    objects: Arc<dyn ObjectStore>,
    key: Key,
    number: u64,
    block_bytes: u64,
) -> Result<Block, StorageError> {
    let start = number * block_bytes;
    let range = Some(GetRange::Bounded(start..start + block_bytes));
    let options = GetOptions { range, ..GetOptions::default() };
    let read = async {
        let found = objects.get_opts(&key, options).await?;
        let pack_len = found.meta.size;
        object_store::Result::Ok(Block { pack_len, bytes: found.bytes().await? })
    };
    let block = read.await.map_err(|e| StorageError::object(&key, e))?;
    match start + block.bytes.len() as u64 == block.pack_len.min(start + block_bytes) {
        true => Ok(block),
        false => Err(ends_early(&key)),
    }
}

fn ends_early(key: &Key) -> StorageError {
    StorageError::new(key.as_ref(), "it ends before what should be read from it".into())
}

fn failed(key: &Key, error: tokio::task::JoinError) -> StorageError {
    StorageError::new(key.as_ref(), Box::new(error))
}

#[cfg(test)]
mod tests;
