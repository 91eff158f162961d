//! Making a damaged store as whole as it can be (`docs/check.md`).
//!
//! All data is read first. What is good in damaged packs, and what others have
//! of the rest, is written into new packs; blobs are written over. Only then
//! damaged packs are condemned, as garbage is: whoever reads what is good in
//! them reads on. A process that ends anywhere in between has taken nothing
//! away that could be read.

mod donor;
mod plan;
mod salvage;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde::Serialize;
use store_format::{Extent, PackName};
use tokio::runtime::Handle;

use crate::check::{CheckReport, Examined, Problem};
use crate::database::garbage::Removal;
use crate::index::Frugal;
use crate::lease::Lease;
use crate::open::Repo;
use crate::packer::{self, ChunkPacker, Packer};
use crate::packs;
use crate::read::ReadError;
use crate::storage::{StorageError, blob_key, pack_key};
use crate::tables::OpenTable;

pub use donor::{Donor, DonorError};
pub use plan::{RepairPlan, SalvagePlan};

use donor::Wanted;
use plan::Plan;

/// What a repair found, did, and left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// What the store was like.
    pub found: CheckReport,
    /// What was done about it.
    pub done: Repaired,
    /// What is still wrong, and the images that it costs. Empty: the store is
    /// whole.
    pub left: Vec<Problem>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// What it was to do.
    pub plan: RepairPlan,
    /// Missing chunks and blobs, and who gave them.
    pub taken: Vec<Taken>,
    /// Damaged packs that were deleted.
    pub deleted_packs: u64,
    /// Damaged packs that no longer count, and are kept for who may still read
    /// what is good in them; `gc` deletes them.
    pub kept_packs: u64,
}

/// What somebody gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The store or file; nothing: packs of this store that were to be deleted.
    pub from: Option<String>,
    /// Chunks.
    pub chunks: u64,
}

/// Why a store was not repaired. What could be read before can be read.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// One at a time.
    #[error(
        "a gc or another repair is at work in this store: wait for it; one that was killed counts \
         for ten minutes"
    )]
    Busy,
    /// The disk does not give a file, which may be whole.
    #[error(
        "{key} cannot be read ({what}), and may be whole: nothing was changed; try again, and if \
         the disk never gives the file, copy what it does give to its place, with ddrescue for \
         example, or remove it, then repair again"
    )]
    Unread {
        /// File in the store.
        key: String,
        /// What was said.
        what: String,
    },
    /// It was taken for dead.
    #[error("this repair stood still for minutes and was taken for dead: repair again")]
    Lapsed,
    /// A damaged pack is not what it was a moment ago.
    #[error("a pack changed while it was repaired: repair again")]
    Changed(#[from] ReadError),
    /// The store could not be read or written.
    #[error("the store could not be repaired")]
    Storage(#[from] StorageError),
    /// A task ended early, which is a defect of this program.
    #[error("the repair ended in the middle; please report this")]
    Broken,
}

impl Repo {
    /// What [`Repo::repair`] would do now: what was found, and what would be
    /// done. Changes nothing.
    pub async fn repair_plan(
        &self,
        donors: Vec<Donor>,
    ) -> Result<(CheckReport, RepairPlan), RepairError> {
        let lease = self.lease_to_read().await?;
        self.look_again().await?;
        let examined = self.examine(true).await?;
        let plan = self.decide(&examined, &donors).await?;
        close(donors).await;
        if let Some(lease) = lease {
            lease.end().await;
        }
        Ok((examined.report, plan.shown()))
    }

    /// Reads everything, keeps what is good, takes what is missing from donors,
    /// and lets go of what is damaged. Works beside readers and imports; an
    /// import that may rely on a damaged pack fails and is to be begun again.
    pub async fn repair(self: &Arc<Self>, donors: Vec<Donor>) -> Result<RepairReport, RepairError> {
        let lease = self.lease_to_collect().await?.ok_or(RepairError::Busy)?;
        let donors = Arc::new(donors);
        let report = self.repair_under(&lease, &donors).await;
        if let Some(donors) = Arc::into_inner(donors) {
            close(donors).await;
        }
        lease.end().await;
        report
    }

    async fn repair_under(
        self: &Arc<Self>,
        lease: &Lease,
        donors: &Arc<Vec<Donor>>,
    ) -> Result<RepairReport, RepairError> {
        self.catch_up().await?;
        let examined = self.examine(true).await?;
        if examined.report.problems.is_empty() {
            return Ok(RepairReport { found: examined.report, ..RepairReport::default() });
        }
        let plan = Arc::new(self.decide(&examined, donors).await?);
        let done = self.perform(lease, &plan, donors).await?;
        let left = self.left(&examined, &plan).await?;
        Ok(RepairReport { found: examined.report, done, left })
    }

    async fn perform(
        self: &Arc<Self>,
        lease: &Lease,
        plan: &Arc<Plan>,
        donors: &Arc<Vec<Donor>>,
    ) -> Result<Repaired, RepairError> {
        let mut done = Repaired { plan: plan.shown(), ..Repaired::default() };
        self.index.drop_files(&plan.segments).await?;
        self.catch_up().await?;
        let written;
        (written, done.taken) = self.write_anew(plan, donors).await?;
        for (blob, bytes) in &plan.blobs {
            let key = blob_key(blob);
            packer::put(&self.storage, &self.database, &key, bytes.clone()).await?;
        }
        self.catch_up().await?;
        // What was wrong beside its chunks makes a pack come out as it was.
        let damaged = plan.salvage.iter().filter(|salvage| !written.contains(&salvage.pack));
        let damaged: Vec<_> = damaged.map(|salvage| (salvage.pack, salvage.bytes)).collect();
        let (needed, is_whole) = self.needed(&damaged).await?;
        let removal = Removal {
            damaged,
            missing: match is_whole {
                true => self.missing_packs().await?,
                // They say what is to be brought back.
                false => Vec::new(),
            },
            needed: written.into_iter().chain(needed).collect(),
        };
        let removed = self.database.condemn_damaged(
            lease.id(),
            &self.storage,
            &removal,
            self.database.now_ms(),
        );
        let condemned = removed.await?.ok_or(RepairError::Lapsed)?;
        // Who else has it open looks past them from now on; so do we.
        self.catch_up().await?;
        if !condemned.is_empty() && self.delete_condemned(lease).await?.lapsed {
            return Err(RepairError::Lapsed);
        }
        let waiting = self.database.condemned().await?;
        let waits = |pack: &&PackName| waiting.contains(pack_key(pack).as_ref());
        done.kept_packs = condemned.iter().filter(waits).count() as u64;
        done.deleted_packs = condemned.len() as u64 - done.kept_packs;
        Ok(done)
    }

    /// Writes new packs: what is good in damaged ones, and what others have of
    /// the chunks that are missing.
    async fn write_anew(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        donors: &Arc<Vec<Donor>>,
    ) -> Result<(BTreeSet<PackName>, Vec<Taken>), RepairError> {
        let condemned = self.database.condemned().await?;
        let mut leaving: Vec<PackName> = Vec::new();
        if !plan.wanted.is_empty() {
            let packs = self.storage.packs().await?.into_iter().map(|(name, _)| name);
            leaving.extend(packs.filter(|name| condemned.contains(pack_key(name).as_ref())));
        }
        let (repo, plan, donors) = (Arc::clone(self), Arc::clone(plan), Arc::clone(donors));
        let runtime = Handle::current();
        let work = tokio::task::spawn_blocking(move || {
            let mut packer = ChunkPacker::new(Packer::new(&repo, &runtime));
            let mut wanted = plan.wanted.clone();
            let mut taken = Vec::new();
            let mut note = |from: Option<&str>, before: usize, wanted: &Wanted| {
                if let chunks @ 1.. = (before - wanted.len()) as u64 {
                    taken.push(Taken { from: from.map(str::to_owned), chunks });
                }
            };
            repo.keep_good(&plan, &runtime, &mut packer)?;
            let before = wanted.len();
            repo.keep_leaving(&leaving, &mut wanted, &runtime, &mut packer)?;
            note(None, before, &wanted);
            for donor in donors.iter() {
                let before = wanted.len();
                donor.give(&mut wanted, &plan.tables, &runtime, &mut packer)?;
                note(Some(&donor.name), before, &wanted);
            }
            Ok((packer.finish()?, taken))
        });
        work.await.map_err(|_| RepairError::Broken)?
    }

    /// Writes what is good in damaged packs, proven once more.
    fn keep_good(
        &self,
        plan: &Plan,
        runtime: &Handle,
        packer: &mut ChunkPacker<'_>,
    ) -> Result<(), RepairError> {
        for salvage in &plan.salvage {
            if salvage.chunks.is_empty() {
                continue;
            }
            let bytes = runtime.block_on(packs::bytes(&self.storage, &salvage.pack))?;
            packs::each_chunk::<RepairError>(
                &salvage.pack,
                &bytes,
                &salvage.chunks,
                |entry, plain| Ok(packer.push(entry.id, plain)?),
            )?;
        }
        Ok(())
    }

    /// Takes wanted chunks from packs that are to be deleted as garbage.
    fn keep_leaving(
        &self,
        packs: &[PackName],
        wanted: &mut Wanted,
        runtime: &Handle,
        packer: &mut ChunkPacker<'_>,
    ) -> Result<(), RepairError> {
        for pack in packs {
            let Ok(bytes) = runtime.block_on(packs::bytes(&self.storage, pack)) else { continue };
            let mut chunks = salvage::chunks(&bytes);
            chunks.retain(|entry| wanted.remove(&entry.id).is_some());
            packs::each_chunk::<RepairError>(pack, &bytes, &chunks, |entry, plain| {
                Ok(packer.push(entry.id, plain)?)
            })?;
        }
        Ok(())
    }

    /// Packs beside the damaged ones that images need, and whether these have
    /// all chunks.
    async fn needed(
        &self,
        damaged: &[(PackName, u64)],
    ) -> Result<(Vec<PackName>, bool), RepairError> {
        let damaged: HashSet<PackName> = damaged.iter().map(|(pack, _)| *pack).collect();
        let mut needed = Needed {
            index: Frugal::new(self.index.snapshot()),
            damaged,
            packs: BTreeSet::new(),
            is_whole: true,
        };
        for row in self.database.images().await? {
            let Ok(found) = self.open_table(&row).await else {
                needed.is_whole = false;
                continue;
            };
            let work = tokio::task::spawn_blocking(move || {
                needed.add(&found.table);
                needed
            });
            needed = work.await.map_err(|_| RepairError::Broken)?;
        }
        Ok((needed.packs.into_iter().collect(), needed.is_whole))
    }

    /// Packs that images needed once, and that are not there.
    async fn missing_packs(&self) -> Result<Vec<PackName>, RepairError> {
        // First: what an import records in between is then in neither list.
        let rows = self.database.packs().await?;
        let there = self.storage.packs().await?;
        let there: HashSet<PackName> = there.into_iter().map(|(pack, _)| pack).collect();
        let rows = rows.iter().filter_map(|row| row.parse().ok());
        Ok(rows.filter(|pack| !there.contains(pack)).collect())
    }

    /// What is still wrong: what a look at the structure finds, and packs that
    /// were left alone.
    async fn left(&self, examined: &Examined, plan: &Plan) -> Result<Vec<Problem>, RepairError> {
        let mut left = self.examine(false).await?.report.problems;
        let known: HashSet<String> = left.iter().map(|problem| problem.file.clone()).collect();
        let repaired: HashSet<PackName> = plan.salvage.iter().map(|s| s.pack).collect();
        for pack in examined.packs.problems.iter().filter(|p| !repaired.contains(&p.pack)) {
            let file = pack_key(&pack.pack).to_string();
            let problems = examined.report.problems.iter();
            left.extend(problems.filter(|p| p.file == file && !known.contains(&file)).cloned());
        }
        Ok(left)
    }
}

/// What images need beside damaged packs.
struct Needed {
    index: Frugal,
    damaged: HashSet<PackName>,
    packs: BTreeSet<PackName>,
    /// Whether that is all that they need.
    is_whole: bool,
}

impl Needed {
    /// Adds what an image needs. Blocks.
    fn add(&mut self, table: &OpenTable) {
        for placed in table.extents() {
            let id = match placed {
                Ok((_, Extent::Chunk { id, .. })) => id,
                Ok((_, Extent::Hole { .. })) => continue,
                Err(_) => {
                    self.is_whole = false;
                    continue;
                }
            };
            match self.index.look().get_beside(&id, &self.damaged) {
                Some(place) => drop(self.packs.insert(place.pack)),
                None => self.is_whole = false,
            }
        }
    }
}

async fn close(donors: Vec<Donor>) {
    for donor in donors {
        donor.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{ImportOptions, Source};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pack_that_somebody_wrote_anew_meanwhile_is_not_condemned() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, store) = (folder.path().join("disk"), folder.path().join("store"));
        fs::write(&disk, [7; 1 << 16]).unwrap();
        let repo = Arc::new(Repo::open_or_create(store.to_str().unwrap()).await.unwrap());
        repo.import(Source::Path(disk), ImportOptions::default(), |_| {}).await.unwrap();
        let [(pack, bytes)] = repo.storage.packs().await.unwrap()[..] else { panic!("packs") };
        let lease = repo.lease_to_collect().await.unwrap().unwrap();
        let removal = Removal { damaged: vec![(pack, bytes)], ..Removal::default() };
        let condemn = async || {
            let done = repo
                .database
                .condemn_damaged(lease.id(), &repo.storage, &removal, repo.database.now_ms())
                .await;
            (done.unwrap().unwrap(), repo.database.condemned().await.unwrap().len())
        };
        assert_eq!(condemn().await, (vec![], 0));
        fs::write(store.join(pack_key(&pack).as_ref()), "damaged").unwrap();
        assert_eq!(condemn().await, (vec![pack], 1));
    }
}
