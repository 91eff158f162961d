//! A set of very many chunks.

use std::collections::HashSet;

use wire::Digest;

use super::snapshot::{Frugal, Marks, Snapshot};

/// Chunks that are looked up together, segment by segment: 32 bytes each.
const TOGETHER: usize = 1 << 18;

/// Some chunks: a bit for each entry of the index, and by name only those that
/// it does not list.
pub(crate) struct Chunks {
    index: Frugal,
    marks: Marks,
    strays: HashSet<Digest>,
    waiting: Vec<Digest>,
}

impl Chunks {
    /// No chunk. The index is as it was at this moment.
    pub(crate) fn new(snapshot: &Snapshot) -> Chunks {
        Chunks {
            index: Frugal::new(snapshot.clone()),
            marks: snapshot.marks(),
            strays: HashSet::new(),
            waiting: Vec::with_capacity(TOGETHER),
        }
    }

    /// Adds chunks; they count from [`Chunks::settle`] on.
    pub(crate) fn extend(&mut self, ids: impl IntoIterator<Item = Digest>) {
        for id in ids {
            self.waiting.push(id);
            if self.waiting.len() == TOGETHER {
                self.settle();
            }
        }
    }

    /// Lets everything count that was added.
    pub(crate) fn settle(&mut self) {
        self.marks.mark(&mut self.waiting);
        self.strays.extend(self.waiting.drain(..));
    }

    /// Whether a chunk was added.
    pub(crate) fn contains(&self, id: &Digest) -> bool {
        match self.index.look().spot(id) {
            Some((spot, _)) => self.marks.contains(spot),
            None => self.strays.contains(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use store_format::PackName;
    use store_format::pack::Entry;

    use super::*;
    use crate::index::Index;
    use crate::storage::Storage;

    #[tokio::test]
    async fn a_chunk_is_in_it_once_it_was_added_whether_the_index_lists_it_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let [one, other, gone] = [1, 2, 3].map(|n| PackName([n; 32]));
        let id = |n: u8| store_format::digest_of(&[n]);
        let entry = |n: u8| Entry {
            id: id(n),
            offset: 16,
            frame_len: 156,
            plain_offset: 0,
            plain_len: 100,
            stored_len: 156,
        };
        // Some are in several packs, and some in one that does not count.
        index.append(&[(one, (0..20).map(entry).collect())]).await.unwrap();
        index.append(&[(other, (10..30).map(entry).collect())]).await.unwrap();
        index.append(&[(gone, (25..40).map(entry).collect())]).await.unwrap();
        index.compare(HashSet::from([one, other]));
        let mut chunks = Chunks::new(&index.snapshot());
        let added: HashSet<u8> = (0..60).filter(|n| n % 3 == 0).collect();
        chunks.extend(added.iter().map(|n| id(*n)));
        chunks.settle();
        for n in 0..60 {
            assert_eq!(chunks.contains(&id(n)), added.contains(&n), "{n}");
        }
        let listed = added.iter().filter(|n| **n < 30).count();
        assert_eq!(chunks.strays.len(), added.len() - listed, "what is listed takes a bit");
    }
}
