//! An image that comes from elsewhere, chunk by chunk (`docs/upload.md`).
//!
//! Nothing that the sender says is believed: a chunk gets the name that its
//! bytes have, and an image is recorded once all of it was read back and has the
//! digests that its envelope says.

mod locate;
mod packing;
mod verify;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use store_format::frame::{self, FrameError};
use store_format::{ChunkTable, Envelope, PackName, digest_of};
use tokio::runtime::Handle;
use wire::upload::{Received, Stored};
use wire::{Digest, Reference};

use crate::database::ImageRow;
use crate::database::garbage::Purpose;
use crate::index::Snapshot;
use crate::lease::Lease;
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::StorageError;
use crate::tables::OpenTable;
use locate::Located;
use packing::{Packing, Parcel};

/// Chunks that are remembered before it is looked which of them the index knows
/// by now.
const PENDING: usize = 1 << 16;

/// An image on its way into the store. What it was told to have, or was sent,
/// stays until it is dropped.
pub struct Upload {
    id: String,
    repo: Arc<Repo>,
    runtime: Handle,
    /// None once the image is recorded.
    lease: tokio::sync::Mutex<Option<Lease>>,
    /// What counted as stored when it began.
    known: Snapshot,
    taking: Mutex<Taking>,
    /// It takes nothing more. Not under that lock: who has it may wait for the
    /// store, and so for the thread that closes.
    closed: AtomicBool,
}

/// What was sent.
#[derive(Default)]
struct Taking {
    /// Chunks that were taken and that the index may not know yet.
    pending: HashSet<Digest>,
    /// How many of them there may be before the index is asked.
    pending_max: usize,
    packing: Option<Packing>,
    /// Packs that were written.
    own: BTreeSet<PackName>,
}

/// Why an upload is refused, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It does not open.
    #[error("the frame cannot be opened: {0}; send it again")]
    Frame(FrameError),
    /// Chunks of the image were not sent.
    #[error(
        "{chunks} chunks of the image are not in the store, {first} is the first: ask which are \
         missing, and send them"
    )]
    Missing {
        /// How many.
        chunks: u64,
        /// The first of them.
        first: Digest,
    },
    /// The table says another length of a chunk than it has.
    #[error("the chunk table says that chunk {id} has {said} bytes, and it has {found}")]
    Length {
        /// The chunk.
        id: Digest,
        /// As the table says.
        said: u32,
        /// What is true.
        found: u32,
    },
    /// The content is not what the envelope says.
    #[error(
        "region {name:?} of the image has digest {found}, and its envelope says {said}: make the \
         image again from its disk"
    )]
    Region {
        /// The region.
        name: String,
        /// As the envelope says.
        said: Digest,
        /// What is true.
        found: Digest,
    },
    /// A reference with a digest cannot be given to an image.
    #[error("{reference} has a digest: an image is named by name and tag")]
    Reference {
        /// The reference.
        reference: Reference,
    },
    /// It is over.
    #[error("the upload has ended: begin another")]
    Ended,
    /// It was taken for dead.
    #[error(
        "something that the upload relies on may have been removed from the store meanwhile, as \
         garbage or as damaged: begin another"
    )]
    Lapsed,
    /// What was stored cannot be read back.
    #[error("the image cannot be read back: run `ingot check --data` where the store is")]
    Read(#[from] ReadError),
    /// The store could not be written.
    #[error("the image was not stored")]
    Storage(#[from] StorageError),
    /// A thread ended early, which is a defect of this program.
    #[error("taking the image ended in the middle; please report this")]
    Broken,
}

impl Repo {
    /// Begins to take an image. What is stored now, and what is sent, stays as
    /// long as the upload is held.
    pub async fn receive(self: &Arc<Self>) -> Result<Arc<Upload>, StorageError> {
        let lease = self.lease(Purpose::Import).await?;
        // Chunks in packs that are gone, or soon will be, must not count as
        // stored; those of an upload that was broken off shall.
        if let Err(error) = self.catch_up().await {
            lease.end().await;
            return Err(error);
        }
        Ok(Arc::new(Upload {
            id: lease.id().to_owned(),
            repo: Arc::clone(self),
            runtime: Handle::current(),
            lease: tokio::sync::Mutex::new(Some(lease)),
            known: self.index.snapshot(),
            taking: Mutex::new(Taking { pending_max: PENDING, ..Taking::default() }),
            closed: AtomicBool::new(false),
        }))
    }
}

impl Upload {
    /// Its name: 32 hex digits, of no other upload.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Which of some chunks the store lacks. What was sent counts as there.
    /// `turn` is held until the work ends, which dropping this call does not do.
    pub async fn missing(
        self: &Arc<Self>,
        ids: Vec<Digest>,
        turn: impl Send + 'static,
    ) -> Result<Vec<Digest>, ReceiveError> {
        self.blocking(move |this| {
            let _turn = turn;
            let now = this.repo.index.snapshot();
            let mut ids = ids;
            ids.retain(|id| !this.is_stored(&now, id));
            let taking = this.taking();
            ids.retain(|id| !taking.pending.contains(id));
            drop(taking);
            this.check_open()?;
            Ok(ids)
        })
        .await
    }

    /// Takes the chunks of a frame. They are durable when the image is recorded,
    /// or when the upload has ended. `turn` is held until the work ends, which
    /// dropping this call does not do.
    pub async fn frame(
        self: &Arc<Self>,
        bytes: Bytes,
        turn: impl Send + 'static,
    ) -> Result<Received, ReceiveError> {
        self.blocking(move |this| {
            let _turn = turn;
            this.take(&bytes)
        })
        .await
    }

    /// Reads the image back, and records and names it when it is what its
    /// envelope says; `progress` hears how many bytes of its disk were read. The
    /// table must fit the envelope.
    pub async fn commit(
        self: &Arc<Self>,
        envelope: Envelope,
        table: ChunkTable,
        reference: Option<&Reference>,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Stored, ReceiveError> {
        if let Some(reference) = reference.filter(|reference| reference.digest.is_some()) {
            return Err(ReceiveError::Reference { reference: reference.clone() });
        }
        let mut lease = self.lease.lock().await;
        if lease.is_none() {
            return Err(ReceiveError::Ended);
        }
        let own = self.blocking(|this| this.flush()).await?;
        let blobs = [envelope.to_bytes(), table.encode()];
        if let Some(stored) = self.before(&blobs[0], &own, &table, reference).await? {
            self.close();
            if let Some(lease) = lease.take() {
                lease.end().await;
            }
            return Ok(stored);
        }
        let recorded = self.record((envelope, table), blobs, own, reference, progress).await;
        let stored = match recorded {
            // What is missing then, or damaged, may be so because of that.
            Err(_) if !self.repo.database.has_lease(&self.id).await? => {
                return Err(ReceiveError::Lapsed);
            }
            other => other?,
        };
        self.close();
        if let Some(lease) = lease.take() {
            lease.redeemed();
        }
        Ok(stored)
    }

    /// Ends it. What was sent is in packs then, until it is removed as garbage.
    pub async fn end(self: &Arc<Self>) -> Result<(), ReceiveError> {
        self.close();
        let flushed = self.blocking(|this| this.flush()).await;
        if let Some(lease) = self.lease.lock().await.take() {
            lease.end().await;
        }
        flushed.map(drop)
    }

    /// An image that is recorded with this very table has been read back already.
    /// Where something was missing all the same, it is read back again.
    async fn before(
        &self,
        envelope: &[u8],
        own: &BTreeSet<PackName>,
        table: &ChunkTable,
        reference: Option<&Reference>,
    ) -> Result<Option<Stored>, StorageError> {
        let database = &self.repo.database;
        let row = database.image(&digest_of(envelope)).await?;
        let Some(row) = row.filter(|_| own.is_empty()) else { return Ok(None) };
        let kept = self.repo.table_of(&row).await;
        if !kept.is_ok_and(|kept| kept == *table) {
            return Ok(None);
        }
        if let Some(reference) = reference {
            let tag = reference.tag_or_latest();
            if !database.set_name(&reference.name, tag, &row.digest).await? {
                return Ok(None);
            }
        }
        Ok(Some(stored(&row, table.distinct().count() as u64)))
    }

    async fn record(
        self: &Arc<Self>,
        (envelope, table): (Envelope, ChunkTable),
        [envelope_bytes, whole]: [Vec<u8>; 2],
        own: BTreeSet<PackName>,
        reference: Option<&Reference>,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Stored, ReceiveError> {
        let (located, find) = self.locate(table, own).await?;
        let Located { data_bytes, stored_bytes, new_bytes, chunks, packs } = located;
        let disk_bytes = envelope.disk_bytes;
        let packs: Vec<PackName> = packs.into_iter().collect();
        let whole = Bytes::from(whole);
        let open = || OpenTable::of_bytes(whole.clone());
        let pieces = self.repo.pieces_at(open()?, find);
        self.blocking(move |this| verify::verify(&this.runtime, pieces, &envelope, progress))
            .await?;
        let kept = self.repo.put_table(open()?).await?;
        let row = ImageRow {
            digest: digest_of(&envelope_bytes),
            table: kept.name,
            disk_bytes,
            data_bytes,
            stored_bytes,
            new_bytes,
            created_ms: self.repo.database.now_ms(),
        };
        let recorded =
            self.repo.record(&self.id, &row, envelope_bytes, kept.base, &packs, reference);
        match recorded.await? {
            true => Ok(stored(&row, chunks)),
            false => Err(ReceiveError::Lapsed),
        }
    }

    fn is_stored(&self, now: &Snapshot, id: &Digest) -> bool {
        now.get(id).is_some() || self.known.get(id).is_some()
    }

    fn take(&self, bytes: &[u8]) -> Result<Received, ReceiveError> {
        let opened = frame::open(bytes).map_err(ReceiveError::Frame)?;
        let ids: Vec<Digest> = opened.chunks().map(|(id, _)| id).collect();
        let now = self.repo.index.snapshot();
        let mut new: Vec<bool> = ids.iter().map(|id| !self.is_stored(&now, id)).collect();
        let mut taking = self.taking();
        self.check_open()?;
        for (new, id) in new.iter_mut().zip(&ids) {
            *new = *new && taking.pending.insert(*id);
        }
        let count = |new: usize| Received { chunks: ids.len() as u64, new_chunks: new as u64 };
        let received = count(new.iter().filter(|new| **new).count());
        if received.new_chunks > 0 {
            let parcel = Parcel::new(bytes, opened, ids, new)?;
            self.pack(&mut taking, parcel)?;
        }
        if taking.pending.len() > taking.pending_max {
            self.forget(&mut taking);
        }
        Ok(received)
    }

    /// Waits while the store is slower than the sender.
    fn pack(&self, taking: &mut Taking, parcel: Parcel) -> Result<(), ReceiveError> {
        let packing = match taking.packing.take() {
            Some(packing) => packing,
            None => Packing::start(&self.repo, &self.runtime)?,
        };
        if packing.send(parcel) {
            taking.packing = Some(packing);
            return Ok(());
        }
        // Chunks that counted as taken are lost with it.
        self.close();
        packing.finish().and(Err(ReceiveError::Broken))
    }

    /// Everything that was taken is durable, and in the index, afterwards. Returns
    /// all packs that were written.
    fn flush(&self) -> Result<BTreeSet<PackName>, ReceiveError> {
        let mut taking = self.taking();
        if let Some(packing) = taking.packing.take() {
            match packing.finish() {
                Ok(packs) => taking.own.extend(packs),
                Err(error) => {
                    self.close();
                    return Err(error);
                }
            }
            self.forget(&mut taking);
        }
        Ok(taking.own.clone())
    }

    /// Leaves to the index what it knows.
    fn forget(&self, taking: &mut Taking) {
        let now = self.repo.index.snapshot();
        taking.pending.retain(|id| now.get(id).is_none());
        taking.pending_max = PENDING + taking.pending.len();
    }

    /// Nothing more is taken by who gets the lock from now on.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn check_open(&self) -> Result<(), ReceiveError> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(ReceiveError::Ended),
            false => Ok(()),
        }
    }

    fn taking(&self) -> MutexGuard<'_, Taking> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Upload) -> Result<T, ReceiveError> + Send + 'static,
    ) -> Result<T, ReceiveError> {
        let this = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || work(&this));
        work.await.map_err(|_| ReceiveError::Broken)?
    }
}

fn stored(row: &ImageRow, chunks: u64) -> Stored {
    Stored {
        digest: row.digest,
        disk_bytes: row.disk_bytes,
        data_bytes: row.data_bytes,
        chunks,
        stored_bytes: row.stored_bytes,
        new_bytes: row.new_bytes,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn closing_does_not_wait_for_what_is_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Arc::new(Repo::open_or_create(folder.path().to_str().unwrap()).await.unwrap());
        let upload = repo.receive().await.unwrap();
        // As a frame has it that waits for the store.
        let taking = upload.taking();
        upload.close();
        drop(taking);
        let error = upload.missing(Vec::new(), ()).await.unwrap_err();
        assert!(matches!(error, ReceiveError::Ended), "{error}");
    }

    #[tokio::test]
    async fn a_turn_ends_with_the_work_and_not_with_the_call() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Arc::new(Repo::open_or_create(folder.path().to_str().unwrap()).await.unwrap());
        let upload = repo.receive().await.unwrap();
        let turn = Arc::new(());
        let taking = upload.taking();
        let mut call = Box::pin(upload.missing(Vec::new(), Arc::clone(&turn)));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        assert_eq!(Arc::strong_count(&turn), 2);
        drop(taking);
        while Arc::strong_count(&turn) > 1 {
            tokio::task::yield_now().await;
        }
        upload.end().await.unwrap();
    }
}
