//! Where the chunks of images are: what every machine asks for first.
//!
//! Finding out takes a look-up per chunk, so it is done beside the runtime, a
//! few at a time, and the last answers are kept while the index stays as it is.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store_format::pack::Entry;
use store_format::segment::Place;
use store_format::{Extent, Location, Locations, LocationsWriter, PackName};
use tokio::sync::Semaphore;
use wire::Digest;

use crate::database::ImageRow;
use crate::images::BlobRead;
use crate::index::Frugal;
use crate::open::Repo;
use crate::packs;
use crate::read::{ReadError, scratch};
use crate::sorted::scratch_file;
use crate::storage::{Content, StorageError, pack_key};
use crate::survey::Survey;
use crate::tables::OpenTable;

/// Images that are looked up at a time: others have work to do, too.
const TURNS: usize = 2;
/// Bytes of answers that are kept.
const KEPT_BYTES: u64 = 64 << 20;
/// Most chunks of an answer that is in memory: 1 MiB.
const IN_MEMORY_MAX: u64 = 1 << 16;

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
    bytes: u64,
}

#[derive(Clone)]
struct Answer {
    image: Digest,
    table: Digest,
    packs: Arc<Vec<PackName>>,
    /// BLAKE3 of the content.
    name: Digest,
    len: u64,
    content: Arc<Content>,
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
        self.bytes += answer.len;
        self.answers.push_back(answer);
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.answers.pop_front() else { break };
            self.bytes -= oldest.len;
        }
    }
}

impl Placed {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Repo {
    /// Where the chunks of an image are, all in memory.
    pub async fn locations(&self, digest: &Digest) -> Result<Locations, ReadError> {
        let bytes = self.look_up(&self.row(digest).await?).await?.1.content.all();
        let bytes = bytes.map_err(|source| self.no_room(source))?;
        Locations::decode(&bytes).map_err(|_| ReadError::Broken)
    }

    /// Which of some chunks are stored, as far as the index knows now.
    pub fn holds(&self, ids: &[Digest]) -> Vec<bool> {
        let index = self.index.snapshot();
        ids.iter().map(|id| index.get(id).is_some()).collect()
    }

    /// [`Repo::locations`] as they are sent, a part of them in memory at a time.
    /// Nothing that they name is deleted within the hour that fetching it may take.
    pub async fn locations_read(&self, digest: &Digest) -> Result<BlobRead, ReadError> {
        self.lease_pulls().await?;
        let row = self.row(digest).await?;
        let Answer { name, len, content, .. } = self.answer(&row).await?;
        let key = "a list of locations".to_owned();
        Ok(BlobRead { name, len, bytes: packs::content_stream(content, len, key) })
    }

    /// From what is kept, or looked up when it is our turn.
    async fn answer(&self, row: &ImageRow) -> Result<Answer, ReadError> {
        let known = || self.placed.kept().get(self.index.snapshot().generation, row);
        if let Some(answer) = known()
            && !self.is_stale(Ok(&answer.packs)).await?
        {
            return Ok(answer);
        }
        let _turn = self.placed.turns.acquire().await.map_err(|_| ReadError::Broken)?;
        // Whoever was before us may have asked for the same.
        if let Some(answer) = known()
            && !self.is_stale(Ok(&answer.packs)).await?
        {
            return Ok(answer);
        }
        let (generation, answer) = self.look_up(row).await?;
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

    /// Looks up every chunk, on a thread that may take its time. Returns the
    /// generation of the index, too.
    async fn look_up(&self, row: &ImageRow) -> Result<(u64, Answer), ReadError> {
        let table = Arc::new(self.open_table(row).await?.table);
        let (index, survey) = self.survey(&table, &(0..table.outline.disk_bytes())).await?;
        let home = self.storage.home.clone();
        let (image, table_name) = (row.digest, row.table);
        let work = tokio::task::spawn_blocking(move || {
            let (content, name) = list(&table, &index, &survey, &home)?;
            let len =
                content.len().map_err(|source| scratch(&home.display().to_string(), source))?;
            let (content, packs) = (Arc::new(content), Arc::new(survey.packs));
            let answer = Answer { image, table: table_name, packs, name, len, content };
            Ok((index.look().generation, answer))
        });
        work.await.map_err(|_| ReadError::Broken)?
    }

    fn no_room(&self, source: io::Error) -> ReadError {
        scratch(&self.storage.home.display().to_string(), source)
    }
}

/// Writes down where all chunks are, in memory or, where that is much, in a file.
/// Blocks.
fn list(
    table: &OpenTable,
    index: &Frugal,
    survey: &Survey,
    home: &Path,
) -> Result<(Content, Digest), ReadError> {
    let no_room = |source| scratch(&home.display().to_string(), source);
    if survey.chunks <= IN_MEMORY_MAX {
        let (bytes, name) = write_list(Vec::new(), table, index, survey, &no_room)?;
        return Ok((Content::Memory(bytes.into()), name));
    }
    let out = BufWriter::new(scratch_file(home).map_err(no_room)?);
    let (out, name) = write_list(out, table, index, survey, &no_room)?;
    let file = out.into_inner().map_err(|error| no_room(error.into_error()))?;
    Ok((Content::File(file), name))
}

fn write_list<W: Write>(
    out: W,
    table: &OpenTable,
    index: &Frugal,
    survey: &Survey,
    no_room: &impl Fn(io::Error) -> ReadError,
) -> Result<(W, Digest), ReadError> {
    let numbers: HashMap<PackName, u32> = survey.packs.iter().copied().zip(0..).collect();
    let chunks = usize::try_from(survey.chunks).map_err(|_| ReadError::Broken)?;
    let mut writer = LocationsWriter::new(out, &survey.packs, chunks).map_err(no_room)?;
    let snapshot = index.look_often();
    let mut seen = snapshot.marks();
    for placed in table.extents() {
        let (_, Extent::Chunk { id, .. }) = placed? else { continue };
        let (spot, Place { pack, entry }) = snapshot.spot(&id).ok_or(ReadError::Chunk { id })?;
        if seen.insert(spot) {
            let pack = *numbers.get(&pack).ok_or(ReadError::Broken)?;
            let Entry { offset, frame_len, plain_offset, .. } = entry;
            let location = Location { pack, offset, frame_len, plain_offset };
            writer.push(&location).map_err(no_room)?;
        }
    }
    index.let_go();
    writer.finish().map_err(no_room)
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

    fn answer(number: u8, len: u64) -> Answer {
        let ImageRow { digest: image, table, .. } = row(number);
        let content = Arc::new(Content::Memory(vec![0; 5].into()));
        Answer { image, table, packs: Arc::default(), name: image, len, content }
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
