//! Naming chunks, recognising known ones, compressing new ones.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError, RwLock};

use store_format::frame::{Header, SealError, Sealer};
use wire::Digest;

use super::scan::{Batch, Item};
use crate::index::Snapshot;

/// Level of zstd.
pub(crate) const LEVEL: i32 = 3;

/// A batch with the names of its chunks and the frames of those that seemed new.
pub(super) struct Worked {
    pub batch: Batch,
    /// One for each chunk, in order.
    pub chunks: Vec<Chunk>,
    pub frames: Vec<u8>,
}

pub(super) struct Chunk {
    pub id: Digest,
    /// Where its bytes are in the batch.
    pub plain: Range<usize>,
    /// Its frame's header, and where the frame is in [`Worked::frames`].
    pub frame: Option<(Header, Range<usize>)>,
}

pub(super) struct Worker<'a> {
    /// As it was when the import began. What the import itself stores is in `seen`.
    index: Snapshot,
    seen: &'a RwLock<HashSet<Digest>>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(index: Snapshot, seen: &'a RwLock<HashSet<Digest>>) -> Worker<'a> {
        Worker { index, seen }
    }

    /// Works until there is nothing more to do or nobody to do it for.
    pub(super) fn run(
        self,
        batches: &Mutex<Receiver<Batch>>,
        out: &SyncSender<Result<Worked, SealError>>,
    ) {
        let mut sealer = match Sealer::new(LEVEL) {
            Ok(sealer) => sealer,
            Err(error) => {
                let _ = out.send(Err(error));
                return;
            }
        };
        loop {
            let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = next else { return };
            if out.send(self.work(&mut sealer, batch)).is_err() {
                return;
            }
        }
    }

    fn work(&self, sealer: &mut Sealer, batch: Batch) -> Result<Worked, SealError> {
        let mut frames = Vec::new();
        let mut chunks = Vec::with_capacity(batch.items.len());
        let mut own = HashSet::new();
        let mut end = 0;
        for item in &batch.items {
            let Item::Chunk(len) = item else { continue };
            let range = end..end + len;
            end = range.end;
            let plain = &batch.data[range.clone()];
            let id = store_format::digest_of(plain);
            let frame = match own.insert(id) && !self.knows(&id) {
                true => {
                    let start = frames.len();
                    let header = sealer.seal(id, plain, &mut frames)?;
                    Some((header, start..frames.len()))
                }
                false => None,
            };
            chunks.push(Chunk { id, plain: range, frame });
        }
        Ok(Worked { batch, chunks, frames })
    }

    fn knows(&self, id: &Digest) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner).contains(id);
        seen || self.index.get(id).is_some()
    }
}
