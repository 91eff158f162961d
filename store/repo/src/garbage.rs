//! Removing what nothing needs (`docs/garbage.md`).
//!
//! Images without a name lose their record. Packs and blobs that no image needs
//! are condemned; packs that are needed to less than half are written anew
//! without the rest, and condemned too. What is condemned is deleted as soon as
//! no lease is left that began before.

mod mark;
mod rewrite;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use store_format::PackName;
use wire::Digest;

use crate::database::garbage::{Change, Deleted, Sentence, Waiting};
use crate::lease::Lease;
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::{StorageError, blob_key, pack_key};

pub(crate) use mark::{Marked, Needed};

/// How often a collection looks again when the records change under it.
const LOOKS: usize = 10;
/// Between two transactions of deletions: long enough for those who wait for
/// the database to get it.
const BREATH: Duration = Duration::from_millis(200);

/// What a collection would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GarbagePlan {
    /// Images without a name, whose records would go.
    pub images: Vec<Digest>,
    /// Packs that nothing needs.
    pub packs: Vec<PackPlan>,
    /// Packs whose needed part would be written anew.
    pub rewrites: Vec<PackPlan>,
    /// Blobs that nothing needs.
    pub blobs: u64,
    /// Bytes of these.
    pub blob_bytes: u64,
    /// Bytes that the store would shrink by.
    pub freed_bytes: u64,
    /// Objects that an earlier collection condemned and leases kept.
    pub waiting: u64,
    /// Bytes of these.
    pub waiting_bytes: u64,
}

/// A pack, and how much of it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackPlan {
    /// Its name.
    pub pack: String,
    /// Its bytes.
    pub bytes: u64,
    /// Of these, bytes of frames that images need.
    pub needed_bytes: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GarbageReport {
    /// Images without a name, whose records are gone.
    pub images: Vec<Digest>,
    /// Packs whose needed part was written anew.
    pub rewritten: u64,
    /// Packs and blobs that were deleted.
    pub deleted: u64,
    /// Bytes that the store shrank by: those deleted, less those written anew.
    pub freed_bytes: u64,
    /// Packs and blobs that are condemned, and kept for who reads or imports;
    /// the next collection deletes them.
    pub kept: u64,
    /// Bytes of these.
    pub kept_bytes: u64,
}

/// Why garbage was not removed. What images need is untouched.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// One at a time.
    #[error(
        "another gc or repair is at work in this store: wait for it; one that was killed counts for \
         ten minutes"
    )]
    Busy,
    /// It is not known what an image needs.
    #[error("{image} cannot be read, so it is not known what it needs: run `ingot check`")]
    Image {
        /// The image.
        image: Digest,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// A pack that was to be written anew is damaged.
    #[error("what is needed of a pack cannot be written anew")]
    Pack(#[from] ReadError),
    /// Images and names changed all the time.
    #[error("images were added or renamed all the while: try again")]
    Restless,
    /// It was taken for dead.
    #[error("this gc stood still for minutes and another one took over: nothing is lost")]
    Lapsed,
    /// The store could not be read or written.
    #[error("the store could not be cleaned up")]
    Storage(#[from] StorageError),
    /// A task ended early, which is a defect of this program.
    #[error("the gc ended in the middle; please report this")]
    Broken,
}

impl Repo {
    /// What [`Repo::collect_garbage`] would do now. Changes nothing.
    pub async fn garbage(&self) -> Result<GarbagePlan, GarbageError> {
        let marked = self.mark().await?;
        let waiting = self.database.waiting().await?;
        Ok(marked.plan(&waiting))
    }

    /// Removes what nothing needs, beside imports and readers; one collection
    /// at a time.
    pub async fn collect_garbage(self: &Arc<Self>) -> Result<GarbageReport, GarbageError> {
        let lease = self.lease_to_collect().await?.ok_or(GarbageError::Busy)?;
        let done = self.collect(&lease).await;
        lease.end().await;
        done
    }

    async fn collect(self: &Arc<Self>, lease: &Lease) -> Result<GarbageReport, GarbageError> {
        let mut report = GarbageReport::default();
        let mut written = BTreeSet::new();
        let mut looks = 0..LOOKS;
        loop {
            looks.next().ok_or(GarbageError::Restless)?;
            let marked = Arc::new(self.mark().await?);
            written.append(&mut self.rewrite(&marked).await?);
            report.rewritten += marked.rewrites.len() as u64;
            let sentence = marked.sentence(&written);
            let now = self.database.now_ms();
            let condemned = self.database.condemn(lease.id(), &marked.records, &sentence, now);
            match condemned.await? {
                Change::Done => {
                    report.images = sentence.images;
                    break;
                }
                Change::Outdated => {}
                Change::Lapsed => return Err(GarbageError::Lapsed),
            }
        }
        self.delete(lease, &written, &mut report).await?;
        Ok(report)
    }

    /// Deletes what no lease keeps.
    async fn delete(
        &self,
        lease: &Lease,
        written: &BTreeSet<PackName>,
        report: &mut GarbageReport,
    ) -> Result<(), GarbageError> {
        let deleted = self.delete_condemned(lease).await?;
        if deleted.lapsed {
            return Err(GarbageError::Lapsed);
        }
        (report.deleted, report.freed_bytes) = (deleted.objects, deleted.bytes);
        let Waiting { objects, bytes } = self.database.waiting().await?;
        (report.kept, report.kept_bytes) = (objects, bytes);
        for pack in written {
            let len = self.storage.len(&pack_key(pack)).await?;
            report.freed_bytes = report.freed_bytes.saturating_sub(len);
        }
        // The index forgets the packs that are gone.
        self.catch_up().await?;
        self.index.remove_leftovers()?;
        Ok(())
    }
}

impl Repo {
    /// Deletes what is condemned and no lease keeps, a part at a time.
    pub(crate) async fn delete_condemned(&self, lease: &Lease) -> Result<Deleted, StorageError> {
        self.database.drop_expired_leases().await?;
        let mut all = Deleted::default();
        loop {
            let part = self.database.delete_condemned(lease.id(), &self.storage).await?;
            all.objects += part.objects;
            all.bytes += part.bytes;
            all.lapsed = part.lapsed;
            match part {
                Deleted { more: true, .. } => tokio::time::sleep(BREATH).await,
                Deleted { failed: Some(error), .. } => return Err(error),
                _ => return Ok(all),
            }
        }
    }
}

impl Marked {
    fn plan(&self, waiting: &Waiting) -> GarbagePlan {
        let plan = |(name, bytes): &(PackName, u64)| PackPlan {
            pack: name.to_string(),
            bytes: *bytes,
            needed_bytes: self.needed_bytes(name),
        };
        let packs: Vec<_> = self.unneeded.iter().map(plan).collect();
        let rewrites: Vec<_> = self.rewrites.iter().map(plan).collect();
        let blob_bytes = self.blobs.iter().map(|(_, bytes)| bytes).sum();
        let shrink = packs.iter().chain(&rewrites).map(|pack| pack.bytes - pack.needed_bytes);
        GarbagePlan {
            images: self.unnamed.clone(),
            freed_bytes: shrink.sum::<u64>() + blob_bytes + waiting.bytes,
            packs,
            rewrites,
            blobs: self.blobs.len() as u64,
            blob_bytes,
            waiting: waiting.objects,
            waiting_bytes: waiting.bytes,
        }
    }

    /// What is to be written down, once these packs have the needed part of
    /// those that are rewritten.
    fn sentence(&self, written: &BTreeSet<PackName>) -> Sentence {
        let gone = || self.unneeded.iter().chain(&self.rewrites);
        // A pack of which little is needed may come out as it was.
        let gone: Vec<_> = gone().filter(|(pack, _)| !written.contains(pack)).collect();
        let packs = gone.iter().map(|(pack, bytes)| (pack_key(pack).to_string(), *bytes));
        let blobs = self.blobs.iter().map(|(blob, bytes)| (blob_key(blob).to_string(), *bytes));
        Sentence {
            images: self.unnamed.clone(),
            objects: packs.chain(blobs).collect(),
            packs: gone.iter().map(|(pack, _)| *pack).collect(),
            needed_packs: written.iter().copied().chain(self.lasting()).collect(),
        }
    }
}
