//! What a store takes on disk, and for what. Every byte is counted once:
//! chunks, what holds them, what waits beside them, and garbage.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde::Serialize;
use store_format::PackName;
use store_format::pack::{self, Trailer};
use wire::Digest;

use crate::database;
use crate::garbage::{GarbageError, Marked, Needed};
use crate::open::Repo;
use crate::read::ReadError;
use crate::storage::{self, StorageError, blob_key, pack_key};

/// What is in a store, and what it takes. The images are those that have a
/// name: what the others alone need is garbage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Images with a name.
    pub images: u64,
    /// Images without.
    pub unnamed: u64,
    /// Bytes of the images' disks.
    pub disk_bytes: u64,
    /// Of these, bytes that are not in holes.
    pub data_bytes: u64,
    /// Chunks, each counted once.
    pub chunks: u64,
    /// Plain bytes of these.
    pub plain_bytes: u64,
    /// Stored bytes of these.
    pub stored_bytes: u64,
    /// What is stored beside the chunks.
    pub overhead: Overhead,
    /// Chunks that no image needs, in packs that are kept as most of them is
    /// needed, and packs that an import is about to need.
    pub spare_bytes: u64,
    /// What a collection of garbage would free.
    pub garbage_bytes: u64,
    /// All bytes on disk: those of chunks, overhead, spare and garbage.
    pub total_bytes: u64,
}

/// Bytes that are no chunks, and needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// Headers and tables of packs.
    pub pack_bytes: u64,
    /// Envelopes and chunk tables.
    pub blob_bytes: u64,
    /// The index.
    pub index_bytes: u64,
    /// The records, with what the database keeps beside them while it is open.
    pub database_bytes: u64,
    /// Everything else in the store's folder.
    pub other_bytes: u64,
}

impl Overhead {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        let Overhead { pack_bytes, blob_bytes, index_bytes, database_bytes, other_bytes } = self;
        pack_bytes + blob_bytes + index_bytes + database_bytes + other_bytes
    }
}

/// Why it is not known what a store takes.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// It is not known what an image needs.
    #[error("{image} cannot be read, so it is not known what it needs: run `ingot check`")]
    Image {
        /// The image.
        image: Digest,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The store could not be read.
    #[error("the store could not be measured")]
    Storage(#[from] StorageError),
    /// A task ended early, which is a defect of this program.
    #[error("measuring ended in the middle; please report this")]
    Broken,
}

impl From<GarbageError> for UsageError {
    fn from(error: GarbageError) -> UsageError {
        match error {
            GarbageError::Image { image, source } => UsageError::Image { image, source },
            GarbageError::Storage(error) => UsageError::Storage(error),
            // Collecting fails in more ways than looking.
            _ => UsageError::Broken,
        }
    }
}

impl Repo {
    /// What the store takes.
    pub async fn usage(&self) -> Result<Usage, UsageError> {
        let lease = self.lease_to_read().await?;
        let objects = self.objects().await;
        if let Some(lease) = lease {
            lease.end().await;
        }
        let (mut usage, listed) = objects?;
        // At the end: the records of a lease take room too.
        let home = self.storage.home.clone();
        let walk = tokio::task::spawn_blocking(move || {
            let mut files = Vec::new();
            files_below(&home, "", &mut files).map(|()| files)
        });
        let files = walk.await.map_err(|_| UsageError::Broken)?;
        let failed = |e| StorageError::new(&self.storage.home.to_string_lossy(), Box::new(e));
        for (name, bytes) in files.map_err(failed)? {
            if !listed.contains(&name) {
                *usage.overhead.of_file(&name) += bytes;
            }
        }
        let Usage { stored_bytes, spare_bytes, garbage_bytes, .. } = usage;
        usage.total_bytes = stored_bytes + usage.overhead.bytes() + spare_bytes + garbage_bytes;
        Ok(usage)
    }

    /// Packs and blobs, and the keys of those that were counted.
    async fn objects(&self) -> Result<(Usage, HashSet<String>), UsageError> {
        let marked = self.mark().await?;
        let condemned = self.database.condemned().await?;
        let mut usage = of_records(&marked);
        let mut listed = HashSet::new();
        let unneeded: HashMap<_, _> = marked.unneeded.iter().copied().collect();
        let rewrites: HashMap<_, _> = marked.rewrites.iter().copied().collect();
        for (pack, bytes) in self.storage.packs().await? {
            let key = pack_key(&pack).to_string();
            let rest = bytes.saturating_sub(marked.needed_bytes(&pack));
            if condemned.contains(&key) || unneeded.contains_key(&pack) {
                usage.garbage_bytes += bytes;
            } else if rewrites.contains_key(&pack) {
                usage.garbage_bytes += rest;
            } else {
                let framing = self.framing_bytes(&pack, bytes).await?.min(rest);
                usage.overhead.pack_bytes += framing;
                usage.spare_bytes += rest - framing;
            }
            listed.insert(key);
        }
        let unneeded: HashSet<_> = marked.blobs.iter().map(|(blob, _)| *blob).collect();
        for (blob, bytes) in self.storage.blobs().await? {
            let key = blob_key(&blob).to_string();
            match condemned.contains(&key) || unneeded.contains(&blob) {
                true => usage.garbage_bytes += bytes,
                false => usage.overhead.blob_bytes += bytes,
            }
            listed.insert(key);
        }
        Ok((usage, listed))
    }

    /// Bytes of a pack that are not of frames; those of a damaged one are not
    /// known, and named by `check`.
    async fn framing_bytes(&self, pack: &PackName, len: u64) -> Result<u64, StorageError> {
        const TRAILER: u64 = Trailer::LEN as u64;
        let Some(at) = len.checked_sub(TRAILER) else { return Ok(0) };
        let bytes = self.storage.get_range(&pack_key(pack), at..len).await?;
        let trailer = bytes.first_chunk().and_then(|bytes| Trailer::decode(bytes).ok());
        Ok(trailer.map_or(0, |t| pack::HEADER_LEN as u64 + t.table_len() + TRAILER))
    }
}

fn of_records(marked: &Marked) -> Usage {
    let unnamed: HashSet<_> = marked.unnamed.iter().collect();
    let named = || marked.records.images.iter().filter(|row| !unnamed.contains(&row.digest));
    let Needed { chunks, plain_bytes, stored_bytes } = marked.needed();
    Usage {
        images: named().count() as u64,
        unnamed: unnamed.len() as u64,
        disk_bytes: named().map(|row| row.disk_bytes).fold(0, u64::saturating_add),
        data_bytes: named().map(|row| row.data_bytes).fold(0, u64::saturating_add),
        chunks,
        plain_bytes,
        stored_bytes,
        ..Usage::default()
    }
}

impl Overhead {
    /// Where a file in the store's folder belongs.
    fn of_file(&mut self, name: &str) -> &mut u64 {
        match name.split_once('/') {
            Some((storage::INDEX, _)) => &mut self.index_bytes,
            None if name.starts_with(database::FILE) => &mut self.database_bytes,
            _ => &mut self.other_bytes,
        }
    }
}

/// All files below a folder, named from `above` on, and their lengths. What goes
/// away meanwhile is left out.
fn files_below(folder: &Path, above: &str, files: &mut Vec<(String, u64)>) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    let entries = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => files_below(&entry.path(), &format!("{name}/"), files)?,
            Ok(meta) => files.push((name, meta.len())),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
