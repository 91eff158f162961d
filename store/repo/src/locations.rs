//! Where the chunks of images are: what every machine asks for first.
//!
//! Finding out takes a look-up per chunk, so it is done beside the runtime, a
//! few at a time, and the last answers are kept while the index stays as it is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use store_format::pack::Entry;
use store_format::{ChunkTable, Location, Locations, PackName};
use tokio::sync::Semaphore;
use wire::Digest;

use crate::database::ImageRow;
use crate::index::Snapshot;
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::{StorageError, pack_key};

/// Images that are looked up at a time: each needs memory for all its chunks.
const TURNS: usize = 2;
/// Bytes of answers that are kept.
const KEPT_BYTES: usize = 64 << 20;

/// The answers that are kept, and whose turn it is.
pub(crate) struct Placed {
    turns: Semaphore,
    kept: Mutex<Kept>,
}

/// Answers, the oldest first; all of one generation of the index.
#[derive(Default)]
struct Kept {
    generation: u64,
    answers: VecDeque<Answer>,
    bytes: usize,
}

#[derive(Clone)]
struct Answer {
    image: Digest,
    table: Digest,
    packs: Arc<Vec<PackName>>,
    bytes: Bytes,
}

impl Default for Placed {
    fn default() -> Placed {
        Placed { turns: Semaphore::new(TURNS), kept: Mutex::default() }
    }
}

impl Kept {
    fn get(&self, generation: u64, row: &ImageRow) -> Option<Answer> {
        let mut answers = self.answers.iter().filter(|_| self.generation == generation);
        answers.find(|known| known.image == row.digest && known.table == row.table).cloned()
    }

    fn put(&mut self, generation: u64, answer: Answer) {
        if self.generation != generation {
            *self = Kept { generation, ..Kept::default() };
        }
        self.bytes += answer.bytes.len();
        self.answers.push_back(answer);
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.answers.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }
}

impl Placed {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repo {
    /// Where the chunks of an image are.
    pub async fn locations(&self, digest: &Digest) -> Result<Locations, ReadError> {
        self.locations_of(&Arc::new(self.table(digest).await?)).await
    }

    /// Where the chunks of a table are, which may be of a part of an image.
    pub(crate) async fn locations_of(
        &self,
        table: &Arc<ChunkTable>,
    ) -> Result<Locations, ReadError> {
        let find = || {
            let (table, index) = (Arc::clone(table), self.index.snapshot());
            let work = tokio::task::spawn_blocking(move || locate(&table, &index));
            async { work.await.map_err(|_| ReadError::Broken)? }
        };
        let found = find().await;
        let packs = found.as_ref().map(|found| found.packs.as_slice());
        if !self.is_stale(packs).await? {
            return found;
        }
        self.catch_up().await?;
        find().await
    }

    /// Which of some chunks are stored, as far as the index knows now.
    pub fn holds(&self, ids: &[Digest]) -> Vec<bool> {
        let index = self.index.snapshot();
        ids.iter().map(|id| index.get(id).is_some()).collect()
    }

    /// [`Repo::locations`] as they are sent. Nothing that they name is deleted
    /// within the hour that fetching it may take.
    pub async fn locations_bytes(&self, digest: &Digest) -> Result<Bytes, ReadError> {
        self.lease_pulls().await?;
        let row = self.row(digest).await?;
        let found = self.answer(&row).await;
        let packs = found.as_ref().map(|found| found.packs.as_slice());
        if !self.is_stale(packs).await? {
            return found.map(|found| found.bytes);
        }
        self.catch_up().await?;
        self.answer(&row).await.map(|found| found.bytes)
    }

    /// From what is kept, or looked up when it is our turn.
    async fn answer(&self, row: &ImageRow) -> Result<Answer, ReadError> {
        let known = |generation| self.placed.kept().get(generation, row);
        if let Some(answer) = known(self.index.snapshot().generation) {
            return Ok(answer);
        }
        let _turn = self.placed.turns.acquire().await.map_err(|_| ReadError::Broken)?;
        let snapshot = self.index.snapshot();
        let generation = snapshot.generation;
        // Whoever was before us may have asked for the same.
        if let Some(answer) = known(generation) {
            return Ok(answer);
        }
        let (image, table) = (row.digest, row.table);
        let encode = move |found: Locations| {
            let bytes = Bytes::from(found.encode());
            Answer { image, table, packs: Arc::new(found.packs), bytes }
        };
        let answer = self.look_up(row, snapshot, encode).await?;
        self.placed.kept().put(generation, answer.clone());
        Ok(answer)
    }

    /// Whether the index may know less, or more, than there is: another process
    /// stored chunks a moment ago, or somebody removed a damaged pack.
    pub(crate) async fn is_stale(
        &self,
        found: Result<&[PackName], &ReadError>,
    ) -> Result<bool, StorageError> {
        let packs = match found {
            Ok(packs) => packs,
            Err(error) => return Ok(matches!(error, ReadError::Chunk { .. })),
        };
        for pack in packs {
            match self.storage.len(&pack_key(pack)).await {
                Ok(_) => {}
                Err(StorageError::Missing { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Looks up every chunk, on a thread that may take its time.
    async fn look_up<T: Send + 'static>(
        &self,
        row: &ImageRow,
        index: Snapshot,
        then: impl FnOnce(Locations) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let table = self.table_of(row).await?;
        let work = tokio::task::spawn_blocking(move || locate(&table, &index).map(then));
        work.await.map_err(|_| ReadError::Broken)?
    }
}

fn locate(table: &ChunkTable, index: &Snapshot) -> Result<Locations, ReadError> {
    let mut numbers: HashMap<PackName, u32> = HashMap::new();
    let mut locations = Locations::default();
    for (id, _) in table.distinct() {
        let place = index.get(&id).ok_or(ReadError::Chunk { id })?;
        let next = u32::try_from(locations.packs.len()).unwrap_or(u32::MAX);
        let pack = *numbers.entry(place.pack).or_insert(next);
        if pack == next {
            locations.packs.push(place.pack);
        }
        let Entry { offset, frame_len, plain_offset, .. } = place.entry;
        locations.chunks.push(Location { pack, offset, frame_len, plain_offset });
    }
    Ok(locations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u8) -> ImageRow {
        let digest = store_format::digest_of(&[number]);
        ImageRow {
            digest,
            table: digest,
            disk_bytes: 0,
            data_bytes: 0,
            stored_bytes: 0,
            new_bytes: 0,
            created_ms: 0,
        }
    }

    fn answer(number: u8, len: usize) -> Answer {
        let ImageRow { digest: image, table, .. } = row(number);
        Answer { image, table, packs: Arc::default(), bytes: Bytes::from(vec![0; len]) }
    }

    #[test]
    fn the_last_answers_are_kept_while_the_index_stays() {
        let mut kept = Kept::default();
        for number in 0..3 {
            kept.put(7, answer(number, KEPT_BYTES / 2));
        }
        let there: Vec<_> = (0..3).map(|number| kept.get(7, &row(number)).is_some()).collect();
        assert_eq!(there, [false, true, true]);
        assert!(kept.get(8, &row(2)).is_none());
        kept.put(8, answer(3, 1));
        assert_eq!((kept.answers.len(), kept.bytes), (1, 1));
        kept.put(8, answer(4, KEPT_BYTES + 1));
        assert_eq!((kept.answers.len(), kept.bytes), (0, 0));
    }
}
