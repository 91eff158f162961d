//! Where the chunks of images are: what every machine asks for first.
//!
//! Finding out takes a look-up per chunk, so it is done beside the runtime, a
//! few at a time, and the last answers are kept while the index stays as it is.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use store_format::pack::Entry;
use store_format::segment::Place;
use store_format::{Extent, Location, LocationsWriter, PackName};
use wire::Digest;

use crate::database::ImageRow;
use crate::images::BlobRead;
use crate::index::Frugal;
use crate::open::Repo;
use crate::read::{ReadError, scratch};
use crate::shelf::{Answer, Shelf};
use crate::sorted::scratch_file;
use crate::storage::{Content, StorageError, pack_key};
use crate::survey::Survey;
use crate::tables::OpenTable;

/// Most chunks of an answer that is in memory: 1 MiB.
const IN_MEMORY_MAX: u64 = 1 << 16;

/// Lists by the generation of the index, image and table; with the packs that
/// they name.
pub(crate) type Lists = Shelf<(u64, Digest, Digest), Arc<Vec<PackName>>>;

impl Repo {
    /// Where the chunks of an image are, as it is sent, a part of it in memory at a
    /// time. Nothing that it names is deleted within the hour that fetching it may
    /// take.
    pub async fn locations_read(&self, digest: &Digest) -> Result<BlobRead, ReadError> {
        self.lease_pulls().await?;
        let row = self.row(digest).await?;
        let find = async {
            let (generation, answer, packs) = self.look_up(&row).await?;
            Ok((Some((generation, row.digest, row.table)), answer, packs))
        };
        Ok(self.lists.answer(|| self.known_list(&row), find).await?.into())
    }

    /// A list that is kept, if it is still right.
    async fn known_list(&self, row: &ImageRow) -> Result<Option<Answer>, ReadError> {
        let generation = self.index.snapshot().generation;
        let known = self.lists.get(&(generation, row.digest, row.table));
        let Some((answer, packs)) = known else { return Ok(None) };
        let is_stale = self.is_stale(Ok(&packs)).await?;
        Ok((!is_stale).then_some(answer))
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
        let keys: Vec<_> = packs.iter().map(|pack| pack_key(pack).to_string()).collect();
        Ok(!self.storage.has(&keys).await?)
    }

    /// Looks up every chunk, on a thread that may take its time. Returns the
    /// generation of the index and the packs, too.
    async fn look_up(
        &self,
        row: &ImageRow,
    ) -> Result<(u64, Answer, Arc<Vec<PackName>>), ReadError> {
        let table = Arc::new(self.open_table(row).await?.table);
        let (index, survey) = self.survey(&table, &(0..table.outline.disk_bytes())).await?;
        let home = self.storage.home.clone();
        let work = tokio::task::spawn_blocking(move || {
            let (content, name) = list(&table, &index, &survey, &home)?;
            let len =
                content.len().map_err(|source| scratch(&home.display().to_string(), source))?;
            let key = "a list of locations".into();
            let answer = Answer { name, len, key, content: Arc::new(content) };
            Ok((index.look().generation, answer, Arc::new(survey.packs)))
        });
        work.await.map_err(|_| ReadError::Broken)?
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
