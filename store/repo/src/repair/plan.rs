//! Deciding what a repair does. Nothing is changed here.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;
use store_format::table::{self, KeptTable};
use store_format::{ChunkTable, Extent, envelope};
use wire::{Digest, chain};

use super::RepairError;
use super::donor::{Donor, Wanted};
use super::salvage::{self, Salvage};
use crate::check::Examined;
use crate::database::ImageRow;
use crate::open::Repo;
use crate::packs;
use crate::read::ReadError;
use crate::storage::{StorageError, blob_key, pack_key};
use crate::tables::OpenTable;

/// What a repair would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairPlan {
    /// Files of the index that would be built again.
    pub segments: Vec<String>,
    /// Damaged packs of which the good part would be written anew.
    pub packs: Vec<SalvagePlan>,
    /// Damaged or missing blobs that another store has.
    pub blobs: Vec<String>,
    /// Damaged or missing blobs that nobody has.
    pub lost_blobs: Vec<String>,
    /// Chunks that images need and no pack has: they would be looked for where
    /// `from` says.
    pub missing_chunks: u64,
    /// Plain bytes of these.
    pub missing_bytes: u64,
}

/// A damaged pack, and what would be kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SalvagePlan {
    /// File in the store.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Chunks that would be written anew: those that no other pack has.
    pub kept_chunks: u64,
    /// Stored bytes of these.
    pub kept_bytes: u64,
}

/// The same in all detail.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub segments: Vec<String>,
    pub salvage: Vec<Salvage>,
    /// Blobs to write.
    pub blobs: Vec<(Digest, Bytes)>,
    pub lost_blobs: Vec<Digest>,
    pub wanted: Wanted,
    /// Tables of the images that want chunks.
    pub tables: Vec<OpenTable>,
}

impl Plan {
    pub(super) fn shown(&self) -> RepairPlan {
        let pack = |salvage: &Salvage| SalvagePlan {
            file: pack_key(&salvage.pack).to_string(),
            bytes: salvage.bytes,
            kept_chunks: salvage.chunks.len() as u64,
            kept_bytes: salvage.chunks.iter().map(|chunk| u64::from(chunk.stored_len)).sum(),
        };
        let keys = |blobs: &mut dyn Iterator<Item = &Digest>| {
            blobs.map(|blob| blob_key(blob).to_string()).collect()
        };
        RepairPlan {
            segments: self.segments.clone(),
            packs: self.salvage.iter().map(pack).collect(),
            blobs: keys(&mut self.blobs.iter().map(|(blob, _)| blob)),
            lost_blobs: keys(&mut self.lost_blobs.iter()),
            missing_chunks: self.wanted.len() as u64,
            missing_bytes: self.wanted.values().map(|len| u64::from(*len)).sum(),
        }
    }
}

impl Repo {
    /// Decides what to do about what a look at all data has found.
    pub(super) async fn decide(
        &self,
        examined: &Examined,
        donors: &[Donor],
    ) -> Result<Plan, RepairError> {
        let mut plan = Plan { segments: examined.segments.clone(), ..Plan::default() };
        let sound = &examined.packs.sound;
        let mut kept = HashSet::new();
        let index = self.index.snapshot();
        let listed = index.packs();
        for problem in &examined.packs.problems {
            let unread =
                |what| RepairError::Unread { key: pack_key(&problem.pack).to_string(), what };
            if problem.is_unread() {
                return Err(unread(problem.what.clone()));
            }
            let bytes = packs::bytes(&self.storage, &problem.pack).await;
            let bytes = bytes.map_err(|error| unread(chain(&error)))?;
            let (pack, len) = (problem.pack, bytes.len() as u64);
            let look = tokio::task::spawn_blocking(move || {
                // What has its name is as it was written: by a later version.
                (!packs::is_named(&bytes, &pack)).then(|| salvage::chunks(&bytes))
            });
            let Some(mut chunks) = look.await.map_err(|_| RepairError::Broken)? else { continue };
            // What nobody ever wrote is what damage made of a chunk.
            if listed.contains(&problem.pack) {
                chunks.retain(|chunk| index.get_any(&chunk.id).is_some());
            }
            // Once each, and not what is safe elsewhere.
            chunks.retain(|chunk| !sound.contains(&chunk.id) && kept.insert(chunk.id));
            plan.salvage.push(Salvage { pack, bytes: len, chunks });
        }
        for row in self.database.images().await? {
            let found = self.blobs_of(&row, donors, &mut plan).await?;
            let Some(table) = found else { continue };
            let has = |id: &Digest| sound.contains(id) || kept.contains(id);
            if add_wanted(&table, has, &mut plan.wanted)? {
                plan.tables.push(table);
            }
        }
        Ok(plan)
    }

    /// Looks at an image's blobs, and elsewhere for those that are not as they
    /// should be. Returns its table, if it has one.
    async fn blobs_of(
        &self,
        row: &ImageRow,
        donors: &[Donor],
        plan: &mut Plan,
    ) -> Result<Option<OpenTable>, RepairError> {
        self.blob_or_given(&row.digest, envelope::BYTES_MAX as u64, donors, plan).await?;
        if let Ok(found) = self.open_table(row).await {
            return Ok(Some(found.table));
        }
        let table = self.given_table(row, donors, plan).await?;
        let open = |table: ChunkTable| OpenTable::of_bytes(table.encode().into());
        Ok(table.map(open).transpose()?)
    }

    /// The table of an image, of which a part is not as it should be.
    async fn given_table(
        &self,
        row: &ImageRow,
        donors: &[Donor],
        plan: &mut Plan,
    ) -> Result<Option<ChunkTable>, RepairError> {
        let Some(bytes) = self.blob_or_given(&row.table, table::BYTES_MAX, donors, plan).await?
        else {
            return Ok(None);
        };
        // One of a later version is not lost: there is only nothing to be done.
        let derived = match KeptTable::decode(&bytes) {
            Ok(KeptTable::Derived(derived)) => derived,
            Ok(KeptTable::Whole(table)) => return Ok(Some(table)),
            Err(_) => return Ok(None),
        };
        let base = self.blob_or_given(&derived.base, table::BYTES_MAX, donors, plan).await?;
        let base = base.and_then(|bytes| ChunkTable::decode(&bytes).ok());
        Ok(base.and_then(|base| derived.resolve(&base).ok()))
    }

    async fn blob_or_given(
        &self,
        blob: &Digest,
        limit: u64,
        donors: &[Donor],
        plan: &mut Plan,
    ) -> Result<Option<Bytes>, RepairError> {
        // Several images may need it.
        if let Some((_, bytes)) = plan.blobs.iter().find(|(given, _)| given == blob) {
            return Ok(Some(bytes.clone()));
        }
        if plan.lost_blobs.contains(blob) {
            return Ok(None);
        }
        match self.blob(blob, limit).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(ReadError::Storage(error @ StorageError::Denied { .. })) => {
                return Err(error.into());
            }
            // To write what it should be does no harm, whatever it is.
            Err(_) => {}
        }
        for donor in donors {
            if let Some(bytes) = donor.blob(blob, limit).await {
                plan.blobs.push((*blob, bytes.clone()));
                return Ok(Some(bytes));
            }
        }
        plan.lost_blobs.push(*blob);
        Ok(None)
    }
}

/// Adds what an image needs and nobody has; true if there is any.
fn add_wanted(
    table: &OpenTable,
    has: impl Fn(&Digest) -> bool,
    wanted: &mut Wanted,
) -> Result<bool, ReadError> {
    let mut is_any = false;
    for placed in table.extents() {
        let (_, Extent::Chunk { id, bytes }) = placed? else { continue };
        if !has(&id) {
            wanted.insert(id, bytes);
            is_any = true;
        }
    }
    Ok(is_any)
}
