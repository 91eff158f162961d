//! Finding out what images need.

use std::collections::{HashMap, HashSet};
use std::mem;

use store_format::PackName;
use wire::Digest;

use super::GarbageError;
use crate::database::ImageRow;
use crate::database::garbage::Records;
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::blob_key;

/// A pack is written anew where less than one part in this many is needed.
const NEEDED_PARTS: u64 = 2;

/// What is needed, and what is not.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    pub records: Records,
    pub unnamed: Vec<Digest>,
    needed: Needed,
    /// Packs that nothing needs, and their bytes.
    pub unneeded: Vec<(PackName, u64)>,
    /// Packs of which little is needed, and their bytes.
    pub rewrites: Vec<(PackName, u64)>,
    /// Blobs that nothing needs, and their bytes.
    pub blobs: Vec<(Digest, u64)>,
}

/// Per pack the frames that images need.
type Needed = HashMap<PackName, Frames>;

#[derive(Debug, Default)]
struct Frames {
    /// Offsets of the frames: 8 bytes for a chunk, of which there may be
    /// millions.
    offsets: HashSet<u64>,
    bytes: u64,
    plain_bytes: u64,
}

impl Marked {
    /// Chunks that images need, their plain bytes and their stored ones.
    pub(crate) fn chunks(&self) -> (u64, u64, u64) {
        self.needed.values().fold((0, 0, 0), |(chunks, plain, stored), frames| {
            (
                chunks + frames.offsets.len() as u64,
                plain + frames.plain_bytes,
                stored + frames.bytes,
            )
        })
    }

    /// Bytes of a pack's frames that images need.
    pub(crate) fn needed_bytes(&self, pack: &PackName) -> u64 {
        self.needed.get(pack).map_or(0, |frames| frames.bytes)
    }

    /// Packs that images need as they are.
    pub(super) fn lasting(&self) -> impl Iterator<Item = PackName> {
        let rewritten: HashSet<_> = self.rewrites.iter().map(|(pack, _)| *pack).collect();
        self.needed.keys().copied().filter(move |pack| !rewritten.contains(pack))
    }

    /// How many frames of a pack are needed.
    pub(super) fn needed_frames(&self, pack: &PackName) -> usize {
        self.needed.get(pack).map_or(0, |frames| frames.offsets.len())
    }

    /// Whether the frame at an offset of a pack is needed.
    pub(super) fn needs(&self, pack: &PackName, offset: u64) -> bool {
        self.needed.get(pack).is_some_and(|frames| frames.offsets.contains(&offset))
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
        let mut blobs = HashSet::new();
        for row in &records.images {
            match named.contains(&row.digest) {
                true => {
                    blobs.extend([row.digest, row.table]);
                    self.add(row, &mut marked.needed).await?;
                }
                false => marked.unnamed.push(row.digest),
            }
        }
        for (pack, bytes) in packs {
            match marked.needed_bytes(&pack) {
                0 => marked.unneeded.push((pack, bytes)),
                needed if needed.saturating_mul(NEEDED_PARTS) < bytes => {
                    marked.rewrites.push((pack, bytes));
                }
                _ => {}
            }
        }
        let unneeded = |(blob, _): &(Digest, u64)| {
            !blobs.contains(blob) && !condemned.contains(blob_key(blob).as_ref())
        };
        marked.blobs = self.storage.blobs().await?.into_iter().filter(unneeded).collect();
        marked.records = records;
        Ok(marked)
    }

    /// Adds what an image needs.
    async fn add(&self, row: &ImageRow, needed: &mut Needed) -> Result<(), GarbageError> {
        let failed = |source| GarbageError::Image { image: row.digest, source };
        let table = self.table_of(row).await.map_err(failed)?;
        let (index, mut all) = (self.index.snapshot(), mem::take(needed));
        let work = tokio::task::spawn_blocking(move || {
            for (id, _) in table.distinct() {
                let place = index.get(&id).ok_or(ReadError::Chunk { id })?;
                let frames = all.entry(place.pack).or_default();
                if frames.offsets.insert(place.entry.offset) {
                    frames.bytes += u64::from(place.entry.frame_len);
                    frames.plain_bytes += u64::from(place.entry.plain_len);
                }
            }
            Ok(all)
        });
        *needed = work.await.map_err(|_| GarbageError::Broken)?.map_err(failed)?;
        Ok(())
    }
}
