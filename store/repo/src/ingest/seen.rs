//! Which chunks of an image came before, in memory that does not depend on how
//! many there are: what was stored is told apart by a bit in the index, and what
//! is new is left to the index once it is there.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::Receiver;

use store_format::PackName;
use wire::Digest;

use crate::index::{Frugal, Index, Marks, Snapshot, Spot};
use crate::packer::Indexed;

/// The chunks of an image so far.
pub(super) struct Seen<'a> {
    /// Those that were stored when the import began.
    stored: Marks,
    /// New ones that may not be in the index yet, in their order.
    order: VecDeque<Digest>,
    pending: HashSet<Digest>,
    index: &'a Index,
    /// The index that has all other new ones, in packs of this import.
    now: Frugal,
    own: HashSet<PackName>,
    /// What came into the index.
    indexed: Receiver<Indexed>,
}

impl<'a> Seen<'a> {
    /// No chunk yet. `known` is what counts as stored; whoever packs new chunks
    /// tells what of them came into the index, in the order in which they are new
    /// here.
    pub(super) fn new(known: &Snapshot, index: &'a Index, indexed: Receiver<Indexed>) -> Seen<'a> {
        Seen {
            stored: known.marks(),
            order: VecDeque::new(),
            pending: HashSet::new(),
            index,
            now: Frugal::new(Snapshot::default()),
            own: HashSet::new(),
            indexed,
        }
    }

    /// Adds a chunk, which may be stored there. True if it is the first like it.
    pub(super) fn insert(&mut self, id: Digest, stored: Option<Spot>) -> bool {
        if let Some(spot) = stored {
            return self.stored.insert(spot);
        }
        self.forget();
        // A segment that is lost meanwhile costs no more than room.
        if self.pending.contains(&id) || self.now.look().get_in(&id, &self.own).is_some() {
            return false;
        }
        self.order.push_back(id);
        self.pending.insert(id)
    }

    /// Leaves to the index what it has.
    fn forget(&mut self) {
        let mut chunks = 0;
        for indexed in self.indexed.try_iter() {
            self.own.extend(indexed.packs);
            chunks += indexed.chunks;
        }
        if chunks > 0 {
            self.now = Frugal::new(self.index.snapshot());
            for id in self.order.drain(..chunks.min(self.order.len())) {
                self.pending.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use store_format::pack::Entry;

    use super::*;
    use crate::storage::Storage;

    fn id(n: u32) -> Digest {
        store_format::digest_of(&n.to_le_bytes())
    }

    fn entry(id: Digest) -> Entry {
        Entry { id, offset: 16, frame_len: 156, plain_offset: 0, plain_len: 100, stored_len: 156 }
    }

    #[tokio::test]
    async fn a_chunk_is_the_first_like_it_once_whoever_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let [old, own, other] = [7, 8, 9].map(|n| PackName([n; 32]));
        index.add(&[(old, vec![entry(id(1)), entry(id(2))])]).await.unwrap();
        index.compare(HashSet::from([old]));
        let known = index.snapshot();
        let (tell, indexed) = channel();
        let mut seen = Seen::new(&known, &index, indexed);
        let mut insert = |n| seen.insert(id(n), known.spot(&id(n)).map(|(spot, _)| spot));
        assert_eq!([1, 3, 1, 3, 4, 2].map(&mut insert), [true, true, false, false, true, true]);
        // The first new one is in the index now, the second is not yet.
        index.add(&[(own, vec![entry(id(3))]), (other, vec![entry(id(5))])]).await.unwrap();
        tell.send(Indexed { packs: vec![own], chunks: 1 }).unwrap();
        assert_eq!([2, 3, 4].map(&mut insert), [false, false, false]);
        assert!(insert(5), "what somebody else stored meanwhile may be gone tomorrow");
        assert_eq!(seen.order, [id(4), id(5)]);
        assert_eq!(seen.pending, HashSet::from([id(4), id(5)]));
    }
}
