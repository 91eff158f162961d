//! From a disk to an image in the store.
//!
//! One thread reads and cuts, as many as there are cores name chunks and look
//! them up, one finds those that are new in the order of the disk, as many as
//! there are cores compress them in groups, one puts packs together. Buffers go
//! round between them, so memory is bounded by their number. The result does
//! not depend on the number of threads.

mod collect;
mod order;
mod pack;
mod seen;
mod work;

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use serde::Serialize;
use store_format::frame::SealError;
use store_format::table::{TableError, TableWriter};
use store_format::{BootSpec, DecodeError, Envelope, EnvelopeError, PackName};
use store_scan::{About, Batch, Disk, ImportedRegion, Layout, LayoutError};
use tokio::runtime::Handle;
use wire::{Digest, Reference};

use crate::database::ImageRow;
use crate::database::garbage::Purpose;
use crate::group::Group;
use crate::index::{Frugal, Snapshot};
use crate::open::Repo;
use crate::packer::Packer;
use crate::read::ReadError;
use crate::source::Source;
use crate::storage::StorageError;
use crate::tables::OpenTable;

use collect::{Collected, Collector};
use order::in_order;
use pack::{Frame, Packed};
use seen::Seen;
use work::Worked;

/// Batches that may be between reading and packing, beside one per worker.
const SPARE_BATCHES: usize = 3;

/// What the image is, beside its bytes.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What the image was built for.
    pub configuration: BTreeMap<String, String>,
    /// Where it comes from. Goes into the digest: no times, no places.
    pub provenance: BTreeMap<String, String>,
    /// How to start the OS.
    pub boot: Option<BootSpec>,
    /// Partition to extend on larger disks.
    pub grow: Option<u32>,
    /// Logical sector size; found out if not given.
    pub sector_bytes: Option<u32>,
    /// Keep bytes that a file system calls free, too.
    pub exact: bool,
    /// What to call the image.
    pub reference: Option<Reference>,
}

/// How far an import is. Numbers only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ImportProgress {
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Of these, bytes dealt with.
    pub done_bytes: u64,
    /// Of these, holes.
    pub hole_bytes: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Stored bytes of these.
    pub new_bytes: u64,
}

/// An image that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The image.
    pub digest: Digest,
    /// Bytes of its disk.
    pub disk_bytes: u64,
    /// Of these, bytes that are not in holes.
    pub data_bytes: u64,
    /// Chunks of the image, each counted once.
    pub chunks: u64,
    /// Stored bytes of these.
    pub stored_bytes: u64,
    /// Chunks that the store did not have before.
    pub new_chunks: u64,
    /// Stored bytes of these.
    pub new_bytes: u64,
    /// What was found in each region of the envelope.
    pub regions: Vec<ImportedRegion>,
}

/// Why an image was not stored. Nothing that was stored before is touched.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source could not be read.
    #[error("cannot read {name}")]
    Source {
        /// The file or device.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The source's partitions are not understood.
    #[error("cannot import {name}")]
    Layout {
        /// The file or device.
        name: String,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// The options do not fit the disk.
    #[error("what is said about the image does not fit its disk")]
    Envelope(#[from] EnvelopeError),
    /// A reference with a digest cannot be given to an image.
    #[error("{reference} has a digest: a new image is named by name and tag")]
    Reference {
        /// The reference.
        reference: Reference,
    },
    /// More chunks than an image can have.
    #[error("the image is too large for one chunk table")]
    TooLarge(#[source] DecodeError),
    /// The store could not be written.
    #[error("the image was not stored")]
    Storage(#[from] StorageError),
    /// A chunk could not be compressed.
    #[error("a chunk could not be compressed")]
    Seal(#[from] SealError),
    /// It was taken for dead.
    #[error(
        "something that the import relies on may have been removed from the store meanwhile: as \
         garbage, because it stood still for minutes, or as damaged: import again"
    )]
    Lapsed,
    /// A thread of the import ended early, which is a defect of this program.
    #[error("the import ended in the middle; please report this")]
    Broken,
}

impl From<TableError> for ImportError {
    fn from(error: TableError) -> ImportError {
        match error {
            TableError::Io(error) => StorageError::new("blobs", Box::new(error)).into(),
            TableError::Decode(error) => ImportError::TooLarge(error),
        }
    }
}

/// What is found on a disk, and the table of its chunks, which does not name its
/// image yet.
type Found = (Collected, TableWriter<File>);

/// Everything that an import works with, on a thread that may block.
struct Job {
    disk: Disk,
    layout: Layout,
    exact: bool,
    repo: std::sync::Arc<Repo>,
    /// What counts as stored.
    known: Snapshot,
    runtime: Handle,
    /// Threads that hash and compress.
    workers: usize,
}

impl Repo {
    /// Stores the image of a disk. Returns once it is durable and, if a
    /// reference was given, named.
    pub async fn import(
        self: &std::sync::Arc<Self>,
        source: Source,
        options: ImportOptions,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<Imported, ImportError> {
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        self.import_with(source, options, workers, progress).await
    }

    /// [`Repo::import`] with so many threads that hash and compress.
    pub(crate) async fn import_with(
        self: &std::sync::Arc<Self>,
        source: Source,
        options: ImportOptions,
        workers: usize,
        progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<Imported, ImportError> {
        if let Some(reference) = options.reference.as_ref().filter(|r| r.digest.is_some()) {
            return Err(ImportError::Reference { reference: reference.clone() });
        }
        let lease = self.lease(Purpose::Import).await?;
        let stored = self.import_under(lease.id(), source, options, workers, progress).await;
        match stored {
            Ok(_) => lease.redeemed(),
            Err(_) => lease.end().await,
        }
        stored
    }

    async fn import_under(
        self: &std::sync::Arc<Self>,
        lease: &str,
        source: Source,
        options: ImportOptions,
        workers: usize,
        mut progress: impl FnMut(ImportProgress) + Send + 'static,
    ) -> Result<Imported, ImportError> {
        // Chunks in packs that are gone, or soon will be, must not count as stored.
        self.catch_up().await?;
        let known = self.index.snapshot();
        let repo = std::sync::Arc::clone(self);
        let runtime = Handle::current();
        let (sector, exact) = (options.sector_bytes, options.exact);
        let ingest = tokio::task::spawn_blocking(move || {
            let (name, disk) = source.open(&repo.storage.home);
            let disk = disk.map_err(|source| ImportError::Source { name: name.clone(), source })?;
            let layout = Layout::read(&disk, sector)
                .map_err(|source| ImportError::Layout { name, source })?;
            let job = Job { disk, layout, exact, repo, known, runtime, workers };
            let (found, packed) = job.run(&mut progress)?;
            Ok::<_, ImportError>((job.layout, found, packed))
        });
        let (layout, found, packed) = ingest.await.map_err(|_| ImportError::Broken)??;
        let ImportOptions { configuration, provenance, boot, grow, reference, .. } = options;
        let about = About { configuration, provenance, boot, grow };
        let envelope = layout.envelope(&found.0.digests, about)?;
        self.commit(lease, envelope, found, packed, reference).await
    }

    /// Writes the blobs, then the records.
    async fn commit(
        &self,
        lease: &str,
        envelope: Envelope,
        (collected, table): Found,
        packed: Packed,
        reference: Option<Reference>,
    ) -> Result<Imported, ImportError> {
        let envelope_bytes = envelope.to_bytes();
        let digest = store_format::digest_of(&envelope_bytes);
        let finish = tokio::task::spawn_blocking(move || finish(table, envelope));
        let (table, envelope) = finish.await.map_err(|_| ImportError::Broken)??;
        let table = self.put_table(table).await?;
        let row = ImageRow {
            digest,
            table: table.name,
            disk_bytes: envelope.disk_bytes,
            data_bytes: collected.data_bytes,
            stored_bytes: collected.stored_bytes + packed.bytes,
            new_bytes: packed.bytes,
            created_ms: self.database.now_ms(),
        };
        let packs: Vec<PackName> = packed.packs.union(&collected.packs).copied().collect();
        let name = reference.as_ref();
        if !self.record(lease, &row, envelope_bytes, table.base, &packs, name).await? {
            return Err(ImportError::Lapsed);
        }
        Ok(Imported {
            digest,
            disk_bytes: row.disk_bytes,
            data_bytes: row.data_bytes,
            chunks: collected.chunks,
            stored_bytes: row.stored_bytes,
            new_chunks: collected.new_chunks,
            new_bytes: row.new_bytes,
            regions: collected.known,
        })
    }
}

/// Reading the table back now costs little and finds what no reader would take.
fn finish(
    table: TableWriter<File>,
    envelope: Envelope,
) -> Result<(OpenTable, Envelope), ImportError> {
    let file = table.finish(&envelope.digest())?;
    let table = OpenTable::of_file(file).map_err(|error| match error {
        ReadError::Storage(error) => ImportError::Storage(error),
        ReadError::Table { source, .. } => ImportError::TooLarge(source),
        _ => ImportError::Broken,
    })?;
    table.outline.check(&envelope).map_err(ImportError::TooLarge)?;
    Ok((table, envelope))
}

impl Job {
    fn run(
        &self,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<(Found, Packed), ImportError> {
        let failed = |error: std::io::Error| StorageError::new("blobs", Box::new(error));
        let table = tempfile::tempfile_in(&self.repo.storage.home).map_err(failed)?;
        let table = TableWriter::new(table, self.layout.spans.len())?;
        let (tell, indexed) = channel();
        let seen = Seen::new(&self.known, &self.repo.index, indexed);
        let batches = self.workers + SPARE_BATCHES;
        let (free_in, free) = sync_channel::<Batch>(batches);
        for _ in 0..batches {
            free_in.send(Batch::default()).map_err(|_| ImportError::Broken)?;
        }
        let (cut_in, cut) = sync_channel::<Batch>(batches);
        let (worked_in, worked) = sync_channel::<Worked>(batches);
        let (groups_in, groups) = sync_channel::<(u64, Group)>(self.workers);
        let (frames_in, frames) = sync_channel::<Frame>(self.workers);
        let (cut, groups, written) = (Mutex::new(cut), Mutex::new(groups), AtomicU64::new(0));
        let known = Frugal::new(self.known.clone());
        thread::scope(|scope| {
            let known = &known;
            let (cut, groups, written) = (&cut, groups, &written);
            let groups = std::sync::Arc::new(groups);
            let scanner = scope.spawn(move || {
                store_scan::scan(&self.disk, &self.layout, self.exact, &free, &cut_in)
            });
            for _ in 0..self.workers {
                let worked_in = worked_in.clone();
                scope.spawn(move || work::run(known, cut, &worked_in));
                let (groups, frames_in) = (std::sync::Arc::clone(&groups), frames_in.clone());
                scope.spawn(move || pack::seal(&groups, &frames_in));
            }
            // Only they hold them from now on: an end is passed on.
            drop((worked_in, frames_in, groups));
            let packer = Packer::new(&self.repo, &self.runtime).telling(tell);
            let packing = scope.spawn(move || pack::pack(packer, frames, written));
            let mut collector = Collector::new(seen, table, groups_in);
            let mut collect = || {
                for worked in in_order(&worked) {
                    collector.take(&worked)?;
                    progress(self.progress(&collector.result, written));
                    // Nobody needs buffers once the disk is read.
                    let _ = free_in.send(worked.batch);
                }
                Ok(())
            };
            let found = collect().and_then(|()| collector.finish());
            // Whoever still waits for a buffer or for room shall end.
            drop((worked, free_in));
            let scanned = scanner.join().map_err(|_| ImportError::Broken)?;
            // Whose failure ends the others.
            let packed = packing.join().map_err(|_| ImportError::Broken)??;
            let found = found?;
            scanned.map_err(|source| {
                let name = self.disk.name.clone();
                ImportError::Source { name, source }
            })?;
            progress(self.progress(&found.0, written));
            match found.0.digests.len() == self.layout.spans.len() {
                true => Ok((found, packed)),
                false => Err(ImportError::Broken),
            }
        })
    }

    fn progress(&self, so_far: &Collected, written: &AtomicU64) -> ImportProgress {
        ImportProgress {
            disk_bytes: self.disk.bytes,
            done_bytes: so_far.data_bytes + so_far.hole_bytes,
            hole_bytes: so_far.hole_bytes,
            new_chunks: so_far.new_chunks,
            new_bytes: written.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Names and bytes of all files below a folder.
    fn files(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, found),
                false => {
                    found.insert(
                        path.file_name().unwrap().display().to_string(),
                        fs::read(&path).unwrap(),
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn an_image_is_stored_alike_by_any_number_of_threads() {
        let mut noise = vec![0; 70 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        // More than a pack; content that comes twice, near and far; holes; text.
        let text: Vec<u8> = (0..300_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
        let hole = vec![0; 100_000];
        let parts = [&noise[..], &hole, &text, &text, &hole, &noise[..5 << 20], &noise[..3 << 20]];
        let disk = tempfile::NamedTempFile::new().unwrap();
        fs::write(disk.path(), parts.concat()).unwrap();
        let mut all = Vec::new();
        for workers in [1, 2, 3, 8] {
            let store = tempfile::tempdir().unwrap();
            let repo = Repo::open_or_create(store.path().to_str().unwrap()).await.unwrap();
            let source = Source::Path(disk.path().to_owned());
            let imported = std::sync::Arc::new(repo)
                .import_with(source, ImportOptions::default(), workers, |_| {})
                .await
                .unwrap();
            let mut stored = BTreeMap::new();
            for folder in ["packs", "blobs", "index"] {
                files(&store.path().join(folder), &mut stored);
            }
            assert!(stored.len() == 2 + 2 + 1, "{:?}", stored.keys());
            all.push((workers, imported, stored));
        }
        let (_, first, stored) = &all[0];
        for (workers, imported, same) in &all {
            assert_eq!(imported, first, "{workers} threads");
            assert!(same == stored, "{workers} threads: {:?} {:?}", same.keys(), stored.keys());
        }
    }
}
