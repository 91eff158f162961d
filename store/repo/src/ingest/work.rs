//! Naming chunks and recognising those that are stored.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use store_format::segment::Place;
use store_scan::{Batch, Item};
use wire::Digest;

use super::order::Numbered;
use crate::index::{Frugal, Spot};

/// A batch with the names of its chunks.
pub(super) struct Worked {
    pub batch: Batch,
    /// One for each chunk, in order.
    pub chunks: Vec<Chunk>,
}

pub(super) struct Chunk {
    pub id: Digest,
    /// Where its bytes are in the batch.
    pub plain: Range<usize>,
    /// Where it was when the import began.
    pub stored: Option<(Spot, Place)>,
}

impl Numbered for Worked {
    fn number(&self) -> u64 {
        self.batch.number
    }
}

/// Works until there is nothing more to do or nobody to do it for.
pub(super) fn run(index: &Frugal, batches: &Mutex<Receiver<Batch>>, out: &SyncSender<Worked>) {
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        if out.send(work(index, batch)).is_err() {
            return;
        }
    }
}

fn work(index: &Frugal, batch: Batch) -> Worked {
    let mut chunks = Vec::with_capacity(batch.items.len());
    let mut end = 0;
    for item in &batch.items {
        let Item::Chunk(len) = item else { continue };
        let plain = end..end + len;
        end = plain.end;
        let id = store_format::digest_of(&batch.data[plain.clone()]);
        chunks.push(Chunk { id, plain, stored: index.look().spot(&id) });
    }
    Worked { batch, chunks }
}
