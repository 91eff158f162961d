//! Where chunks are: immutable sorted segments, memory-mapped.

mod agreement;
mod chunks;
mod merge;
mod snapshot;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use store_format::PackName;
use store_format::pack::Entry;
use store_format::segment;
use tokio::sync::Mutex;

use crate::map::map;
use crate::storage::{self, Storage, StorageError};

pub(crate) use agreement::Agreement;
pub(crate) use chunks::Chunks;
use snapshot::Mapped;
pub(crate) use snapshot::{Frugal, Marks, Snapshot, Spot};

const SUFFIX: &str = "idx";
/// The index of a store.
pub(crate) struct Index {
    storage: Storage,
    now: RwLock<Snapshot>,
    /// Held by whoever merges segments.
    merging: Mutex<()>,
}

impl Index {
    /// Maps the segments that are there. Damaged ones are removed: what they
    /// said is read from the packs again.
    pub(crate) async fn open(storage: Storage) -> Result<Index, StorageError> {
        let index = Index { storage, now: RwLock::default(), merging: Mutex::default() };
        index.drop_segments(&index.load()?).await?;
        Ok(index)
    }

    /// Removes segments whose checksum is wrong; what they said is read from the
    /// packs again.
    pub(crate) async fn drop_damaged(&self) -> Result<(), StorageError> {
        let snapshot = self.snapshot();
        let work = tokio::task::spawn_blocking(move || {
            let damaged = snapshot.segments.iter().filter(|mapped| mapped.is_damaged());
            damaged.map(|mapped| mapped.name.clone()).collect::<Vec<_>>()
        });
        let damaged = work.await.map_err(|e| StorageError::new(storage::INDEX, Box::new(e)))?;
        self.drop_segments(&damaged).await
    }

    /// Removes the segments of these files.
    pub(crate) async fn drop_files(&self, files: &[String]) -> Result<(), StorageError> {
        let names =
            self.snapshot().segments.iter().map(|mapped| mapped.name.clone()).collect::<Vec<_>>();
        let key = |name: &String| storage::index_key(name).to_string();
        let wrong: Vec<_> = names.into_iter().filter(|name| files.contains(&key(name))).collect();
        self.drop_segments(&wrong).await
    }

    async fn drop_segments(&self, damaged: &[String]) -> Result<(), StorageError> {
        for name in damaged {
            tracing::warn!(segment = name, "index segment is damaged; it is built again");
        }
        self.remove(damaged).await
    }

    /// Removes segments: from what counts first, then their files. Another
    /// process may have removed them too.
    async fn remove(&self, names: &[String]) -> Result<(), StorageError> {
        self.change(|now| {
            let left = now.segments.iter().filter(|mapped| !names.contains(&mapped.name));
            now.segments = Arc::new(left.cloned().collect());
        });
        for name in names {
            self.storage.delete_local(&storage::index_key(name)).await?;
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks which segments other processes have added.
    pub(crate) fn refresh(&self) -> Result<(), StorageError> {
        self.load().map(|_| ())
    }

    /// Maps all segments that are not mapped yet; returns the damaged ones.
    fn load(&self) -> Result<Vec<String>, StorageError> {
        let old = self.snapshot();
        let (mut segments, mut damaged) = (Vec::new(), Vec::new());
        for name in self.list()? {
            if let Some(known) = old.segments.iter().find(|mapped| mapped.name == name) {
                segments.push(Arc::clone(known));
                continue;
            }
            match map(&self.storage.home.join(storage::INDEX).join(&name)) {
                Ok(bytes) => match Mapped::new(name.clone(), bytes) {
                    Ok(mapped) => segments.push(Arc::new(mapped)),
                    Err(_) => damaged.push(name),
                },
                // Merged away by another process just now.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // An empty file cannot be mapped.
                Err(error) if error.kind() != ErrorKind::InvalidInput => {
                    let key = storage::index_key(&name);
                    return Err(StorageError::new(key.as_ref(), Box::new(error)));
                }
                _ => damaged.push(name),
            }
        }
        self.change(|now| {
            // What was added since the list was made.
            let added =
                now.segments.iter().filter(|new| !old.segments.iter().any(|m| m.name == new.name));
            let added: Vec<_> =
                added.filter(|new| !segments.iter().any(|m| m.name == new.name)).cloned().collect();
            now.segments = Arc::new(added.into_iter().chain(segments).collect());
        });
        Ok(damaged)
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        // What is known is likely to be in the largest.
        if !now.segments.is_sorted_by_key(|mapped| Reverse(mapped.len())) {
            Arc::make_mut(&mut now.segments).sort_by_key(|mapped| Reverse(mapped.len()));
        }
        now.generation += 1;
    }

    /// Names of the segments' files.
    fn list(&self) -> Result<Vec<String>, StorageError> {
        let mut names = self.files()?;
        names.retain(|name| name.strip_suffix(SUFFIX).is_some_and(|stem| stem.ends_with('.')));
        names.sort_unstable();
        Ok(names)
    }

    /// Names of all files in the folder.
    fn files(&self) -> Result<Vec<String>, StorageError> {
        let failed = |e| StorageError::new(storage::INDEX, Box::new(e));
        let entries = match fs::read_dir(self.storage.home.join(storage::INDEX)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| entry.map(name).map_err(failed)).collect()
    }

    /// Compares with the packs that exist: only these count from now on. Those
    /// that no segment lists are returned.
    pub(crate) fn compare(&self, exist: HashSet<PackName>) -> HashSet<PackName> {
        let listed = self.snapshot().packs();
        let missing = exist.difference(&listed).copied().collect();
        self.change(|now| {
            now.dead = Arc::new(listed.difference(&exist).copied().collect());
            now.alive = Arc::new(exist);
        });
        missing
    }

    /// Adds a segment of some packs, which are in the store; merges small ones.
    pub(crate) async fn add(&self, packs: &[(PackName, Vec<Entry>)]) -> Result<(), StorageError> {
        self.append(packs).await?;
        self.tidy().await;
        Ok(())
    }

    /// Adds a segment of some packs, which are in the store.
    pub(crate) async fn append(
        &self,
        packs: &[(PackName, Vec<Entry>)],
    ) -> Result<(), StorageError> {
        let bytes = Bytes::from(segment::encode(packs));
        let name = format!("{}.{SUFFIX}", &blake3::hash(&bytes).to_hex()[..32]);
        self.storage.put_local(&storage::index_key(&name), bytes).await?;
        self.adopt(name)
    }

    /// Lets a segment count whose file is there.
    fn adopt(&self, name: String) -> Result<(), StorageError> {
        let key = storage::index_key(&name);
        let failed = |e| StorageError::new(key.as_ref(), e);
        let bytes = map(&self.storage.home.join(storage::INDEX).join(&name))
            .map_err(|e| failed(Box::new(e)))?;
        let new = Arc::new(Mapped::new(name, bytes).map_err(|e| failed(Box::new(e)))?);
        self.change(|now| {
            let old = now.segments.iter().filter(|mapped| mapped.name != new.name).cloned();
            now.segments = Arc::new(old.chain([Arc::clone(&new)]).collect());
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wire::Digest;

    use super::*;

    fn entry(id: Digest) -> Entry {
        Entry { id, offset: 16, frame_len: 156, plain_offset: 0, plain_len: 100, stored_len: 156 }
    }

    #[tokio::test]
    async fn only_packs_that_were_seen_in_the_store_count() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let (id, pack) = (Digest([1; 32]), PackName([7; 32]));
        let entry = entry(id);
        let counts = || index.snapshot().get(&id).is_some();
        let exist = HashSet::from([pack]);
        assert_eq!(index.compare(exist.clone()), exist);
        index.add(&[(pack, vec![entry])]).await.unwrap();
        assert!(counts());
        assert!(index.compare(exist.clone()).is_empty());
        // Condemned, and told of once more by whoever wrote it.
        assert!(index.compare(HashSet::new()).is_empty());
        assert!(!counts());
        index.add(&[(pack, vec![entry])]).await.unwrap();
        assert!(!counts() && index.snapshot().get_any(&id).is_some());
        index.compare(exist);
        assert!(counts());
    }

    #[tokio::test]
    async fn a_chunk_of_two_packs_outlives_either_whoever_merged() {
        let folder = tempfile::tempdir().unwrap();
        let open = async || Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let (one, other) = (open().await, open().await);
        let id = Digest([1; 32]);
        let packs = |n| PackName([n; 32]);
        for n in 0..2 {
            one.append(&[(packs(n), vec![entry(id)])]).await.unwrap();
        }
        for n in 2..10 {
            one.append(&[(packs(n), vec![entry(Digest([n; 32]))])]).await.unwrap();
        }
        // One process merges, for which both packs are there.
        one.compare((0..10).map(packs).collect());
        one.tidy().await;
        assert_eq!(one.list().unwrap().len(), 1);
        // For another one either has gone.
        other.refresh().unwrap();
        for gone in 0..2 {
            let left = (0..10).filter(|n| *n != gone).map(packs).collect();
            assert!(other.compare(left).is_empty());
            assert_eq!(other.snapshot().get(&id).unwrap().pack, packs(1 - gone));
        }
    }

    #[tokio::test]
    async fn damage_is_not_merged_into_a_segment_that_looks_whole() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let entry = |id| entry(Digest([id; 32]));
        let packs = |n| [(PackName([n; 32]), vec![entry(n)]), (PackName([n + 100; 32]), vec![])];
        index.add(&packs(0)).await.unwrap();
        let names = || index.list().unwrap();
        let damaged = names().remove(0);
        let path = folder.path().join(storage::INDEX).join(&damaged);
        // The number of the pack, the last of the entry: it is in the other pack.
        let at = fs::metadata(&path).unwrap().len() - 32 - 4 - 4;
        let file = fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], at).unwrap();
        for n in 1..10 {
            index.add(&packs(n)).await.unwrap();
        }
        assert!(!names().contains(&damaged), "{:?}", names());
        let snapshot = index.snapshot();
        assert!(snapshot.get_any(&Digest([0; 32])).is_none());
        for n in 1..10 {
            assert_eq!(snapshot.get_any(&Digest([n; 32])).unwrap().pack, PackName([n; 32]));
        }
        assert!(names().len() < 10);
    }
}
