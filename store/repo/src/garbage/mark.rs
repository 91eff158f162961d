//! Finding out what images need.

use std::collections::{HashMap, HashSet};

use store_format::segment::Place;
use store_format::table::PAGE_EXTENTS;
use store_format::{Extent, PackName};
use wire::Digest;

use super::GarbageError;
use crate::database::garbage::Records;
use crate::index::Marks;
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::blob_key;
use crate::tables::{FoundTable, OpenTable};

/// A pack is written anew where less than one part in this many is needed.
const NEEDED_PARTS: u64 = 2;

/// Chunks that are looked up together, segment by segment: 32 bytes each.
const MARKED_TOGETHER: usize = 1 << 20;

/// What is needed, and what is not.
#[derive(Default)]
pub(crate) struct Marked {
    pub records: Records,
    pub unnamed: Vec<Digest>,
    /// Per pack what images need of it.
    needed: HashMap<PackName, Needed>,
    /// What images need of all packs.
    marks: Marks,
    /// Packs that nothing needs, and their bytes.
    pub unneeded: Vec<(PackName, u64)>,
    /// Packs of which little is needed, and their bytes.
    pub rewrites: Vec<(PackName, u64)>,
    /// Blobs that nothing needs, and their bytes.
    pub blobs: Vec<(Digest, u64)>,
}

/// What images need, of a pack or of all.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Needed {
    pub chunks: u64,
    pub plain_bytes: u64,
    /// Their share of the bytes of their frames.
    pub stored_bytes: u64,
}

impl Needed {
    fn add(&mut self, more: Needed) {
        self.chunks += more.chunks;
        self.plain_bytes += more.plain_bytes;
        self.stored_bytes += more.stored_bytes;
    }
}

impl Marked {
    /// What images need in all.
    pub(crate) fn needed(&self) -> Needed {
        let mut all = Needed::default();
        self.needed.values().for_each(|needed| all.add(*needed));
        all
    }

    /// Bytes of a pack's frames that images need, each chunk's share.
    pub(crate) fn needed_bytes(&self, pack: &PackName) -> u64 {
        self.needed.get(pack).map_or(0, |needed| needed.stored_bytes)
    }

    /// Packs that images need as they are.
    pub(super) fn lasting(&self) -> impl Iterator<Item = PackName> {
        let rewritten: HashSet<_> = self.rewrites.iter().map(|(pack, _)| *pack).collect();
        self.needed.keys().copied().filter(move |pack| !rewritten.contains(pack))
    }

    /// Finds out which packs images need, of those that exist.
    fn sort_out(&mut self, packs: Vec<(PackName, u64)>) {
        self.marks.each(|place| {
            let chunk = Needed {
                chunks: 1,
                plain_bytes: u64::from(place.entry.plain_len),
                stored_bytes: u64::from(place.entry.stored_len),
            };
            self.needed.entry(place.pack).or_default().add(chunk);
        });
        for (pack, bytes) in packs {
            match self.needed_bytes(&pack) {
                0 => self.unneeded.push((pack, bytes)),
                needed if needed.saturating_mul(NEEDED_PARTS) < bytes => {
                    self.rewrites.push((pack, bytes));
                }
                _ => {}
            }
        }
    }

    /// Whether images need a chunk at this place.
    pub(super) fn is_needed(&self, place: &Place) -> bool {
        self.marks.has(place)
    }

    /// Chunks of a pack that images need.
    pub(super) fn needed_chunks(&self, pack: &PackName) -> u64 {
        self.needed.get(pack).map_or(0, |needed| needed.chunks)
    }
}

impl Repo {
    /// Looks at every named image. Packs that are condemned already count as
    /// gone.
    pub(crate) async fn mark(&self) -> Result<Marked, GarbageError> {
        let records = self.database.records().await?;
        // Elsewhere a wrong place is found out by what is there; here it would
        // cost a pack that is needed.
        self.index.drop_damaged().await?;
        // Afterwards, for the packs of the newest image to be in the index.
        let packs = self.catch_up().await?;
        let condemned = self.database.condemned().await?;
        let named: HashSet<Digest> = records.names.iter().map(|name| name.image).collect();
        let mut marked = Marked::default();
        let mut marks = self.index.snapshot().marks();
        let mut blobs = HashSet::new();
        for row in &records.images {
            match named.contains(&row.digest) {
                true => {
                    blobs.extend([row.digest, row.table]);
                    let failed = |source| GarbageError::Image { image: row.digest, source };
                    let FoundTable { table, base } = self.open_table(row).await.map_err(failed)?;
                    blobs.extend(base);
                    marks = mark_chunks(table, marks).await?.map_err(failed)?;
                }
                false => marked.unnamed.push(row.digest),
            }
        }
        let sort = tokio::task::spawn_blocking(move || {
            marked.marks = marks;
            marked.sort_out(packs);
            marked
        });
        let mut marked = sort.await.map_err(|_| GarbageError::Broken)?;
        let unneeded = |(blob, _): &(Digest, u64)| {
            !blobs.contains(blob) && !condemned.contains(blob_key(blob).as_ref())
        };
        marked.blobs = self.storage.blobs().await?.into_iter().filter(unneeded).collect();
        marked.records = records;
        Ok(marked)
    }
}

/// Marks what an image needs.
async fn mark_chunks(
    table: OpenTable,
    mut marks: Marks,
) -> Result<Result<Marks, ReadError>, GarbageError> {
    let work = tokio::task::spawn_blocking(move || {
        let pages = table.outline.pages.len();
        let mut ids = Vec::with_capacity(MARKED_TOGETHER);
        for page in 0..pages {
            ids.extend(table.page(page)?.into_iter().filter_map(|(_, extent)| match extent {
                Extent::Chunk { id, .. } => Some(id),
                Extent::Hole { .. } => None,
            }));
            if ids.len() + PAGE_EXTENTS > MARKED_TOGETHER || page + 1 == pages {
                if let Some(id) = marks.mark(&mut ids) {
                    return Err(ReadError::Chunk { id });
                }
                ids.clear();
            }
        }
        Ok(marks)
    });
    work.await.map_err(|_| GarbageError::Broken)
}
