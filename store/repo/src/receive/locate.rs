//! Finding the chunks of an image that is to be recorded.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use store_format::pack::Entry;
use store_format::segment::Place;
use store_format::{ChunkTable, Extent, PackName};
use wire::Digest;

use super::{ReceiveError, Upload};
use crate::packs::{self, PackError};
use crate::read::{Find, damaged};
use crate::storage::pack_key;

/// What the chunks of an image take.
#[derive(Debug, Default)]
pub(super) struct Located {
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Packs that they are in.
    pub packs: BTreeSet<PackName>,
    /// Bytes of the disk that are not in holes.
    pub data_bytes: u64,
    /// Stored bytes of the chunks.
    pub stored_bytes: u64,
    /// Of these, bytes in packs that this upload wrote.
    pub new_bytes: u64,
}

impl Upload {
    /// Finds all chunks, of which some may be in these packs of the upload's own,
    /// and says how. None of them is deleted before the lease ends.
    pub(super) async fn locate(
        self: &Arc<Self>,
        table: ChunkTable,
        own: BTreeSet<PackName>,
    ) -> Result<(Located, Find), ReceiveError> {
        let (table, own) = (Arc::new(table), Arc::new(own));
        let find = |beside: HashMap<Digest, Place>| {
            let (table, own) = (Arc::clone(&table), Arc::clone(&own));
            self.blocking(move |this| {
                let (now, known) = (this.repo.index.snapshot(), this.known.clone());
                let find: Find = Arc::new(move |id| {
                    let found = now.get(id).or_else(|| known.get(id));
                    found.or_else(|| beside.get(id).copied())
                });
                locate(&table, &own, &find).map(|located| (located, find))
            })
        };
        match find(HashMap::new()).await {
            // A gc condemned our packs, and the index forgot them; they are there.
            Err(ReceiveError::Missing { .. }) if !own.is_empty() => {
                find(self.places(&own).await?).await
            }
            other => other,
        }
    }

    /// Where everything in some packs is.
    async fn places(
        &self,
        packs: &BTreeSet<PackName>,
    ) -> Result<HashMap<Digest, Place>, ReceiveError> {
        let storage = &self.repo.storage;
        let mut places = HashMap::new();
        for pack in packs {
            let len = storage.len(&pack_key(pack)).await?;
            let entries = packs::table(storage, pack, len).await.map_err(|error| match error {
                PackError::Storage(error) => ReceiveError::Storage(error),
                PackError::Decode(error) => ReceiveError::Read(damaged(pack, 0, error.into())),
            })?;
            let place = |entry: Entry| (entry.id, Place { pack: *pack, entry });
            places.extend(entries.into_iter().map(place));
        }
        Ok(places)
    }
}

fn locate(
    table: &ChunkTable,
    own: &BTreeSet<PackName>,
    find: &Find,
) -> Result<Located, ReceiveError> {
    let mut found = Located::default();
    let mut lens: HashMap<Digest, u32> = HashMap::new();
    let mut missing: Option<(u64, Digest)> = None;
    for extent in table.regions.iter().flatten() {
        let Extent::Chunk { id, bytes } = *extent else { continue };
        found.data_bytes += u64::from(bytes);
        if let Some(len) = lens.insert(id, bytes) {
            same_len(id, bytes, len)?;
            continue;
        }
        let Some(Place { pack, entry }) = find(&id) else {
            missing = Some(missing.map_or((1, id), |(chunks, first)| (chunks + 1, first)));
            continue;
        };
        same_len(id, bytes, entry.plain_len)?;
        found.stored_bytes += u64::from(entry.stored_len);
        if own.contains(&pack) {
            found.new_bytes += u64::from(entry.stored_len);
        }
        found.packs.insert(pack);
        found.chunks += 1;
    }
    match missing {
        Some((chunks, first)) => Err(ReceiveError::Missing { chunks, first }),
        None => Ok(found),
    }
}

fn same_len(id: Digest, said: u32, found: u32) -> Result<(), ReceiveError> {
    match said == found {
        true => Ok(()),
        false => Err(ReceiveError::Length { id, said, found }),
    }
}
