//! Where chunks are: immutable sorted segments, memory-mapped.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use store_format::PackName;
use store_format::pack::Entry;
use store_format::segment::{self, Place, Segment};
use wire::Digest;

use crate::map::map;
use crate::storage::{self, Storage, StorageError};

const SUFFIX: &str = "idx";
/// As many small segments are merged into one.
const MERGE_COUNT: usize = 8;
/// Segments with more entries than this are left alone: merging needs memory
/// for all entries, 64 bytes each.
const MERGE_ENTRIES_MAX: usize = 1 << 20;

/// One segment's file.
struct Mapped {
    name: String,
    bytes: memmap2::Mmap,
}

/// The index at one moment; segments and packs that appear later are not seen.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    segments: Arc<Vec<Arc<Mapped>>>,
    /// Packs that were in the store, and were to stay, when somebody looked
    /// last. Only these count: segments also come from others, and tell of packs
    /// that may be gone by now.
    alive: Arc<HashSet<PackName>>,
    /// Packs of the segments that were not.
    dead: Arc<HashSet<PackName>>,
    /// Another number for every change.
    pub(crate) generation: u64,
}

/// The index of a store.
pub(crate) struct Index {
    storage: Storage,
    now: RwLock<Snapshot>,
}

impl Mapped {
    /// Was opened once, so opens again.
    fn segment(&self) -> Option<Segment<'_>> {
        Segment::open(&self.bytes).ok()
    }

    fn len(&self) -> usize {
        self.segment().map_or(0, |segment| segment.len())
    }
}

impl Snapshot {
    /// Where a chunk is.
    pub(crate) fn get(&self, id: &Digest) -> Option<Place> {
        let mut places = self.segments.iter().filter_map(|mapped| mapped.segment()?.get(id));
        places.find(|place| self.alive.contains(&place.pack))
    }

    /// Where a chunk is, in another than these packs.
    pub(crate) fn get_beside(&self, id: &Digest, not: &HashSet<PackName>) -> Option<Place> {
        let mut places = self.segments.iter().filter_map(|mapped| mapped.segment()?.get(id));
        places.find(|place| self.alive.contains(&place.pack) && !not.contains(&place.pack))
    }

    /// Where a chunk is or was.
    pub(crate) fn get_any(&self, id: &Digest) -> Option<Place> {
        self.segments.iter().find_map(|mapped| mapped.segment()?.get(id))
    }

    fn packs(&self) -> HashSet<PackName> {
        let segments = self.segments.iter().filter_map(|mapped| mapped.segment());
        segments.flat_map(|segment| segment.packs()).collect()
    }

    /// Files and bytes of the segments.
    pub(crate) fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.segments.iter().map(|m| (storage::index_key(&m.name).to_string(), &m.bytes[..]))
    }
}

impl Index {
    /// Maps the segments that are there. Damaged ones are removed: what they
    /// said is read from the packs again.
    pub(crate) async fn open(storage: Storage) -> Result<Index, StorageError> {
        let index = Index { storage, now: RwLock::default() };
        index.drop_segments(&index.load()?).await?;
        Ok(index)
    }

    /// Removes segments whose checksum is wrong; what they said is read from the
    /// packs again.
    pub(crate) async fn drop_damaged(&self) -> Result<(), StorageError> {
        let snapshot = self.snapshot();
        let work = tokio::task::spawn_blocking(move || {
            let damaged = snapshot.segments.iter().filter(|m| segment::verify(&m.bytes).is_err());
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
                Ok(bytes) if Segment::open(&bytes).is_ok() => {
                    segments.push(Arc::new(Mapped { name, bytes }));
                }
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
        now.generation += 1;
    }

    /// Names of the segments' files.
    fn list(&self) -> Result<Vec<String>, StorageError> {
        let failed = |e| StorageError::new(storage::INDEX, Box::new(e));
        let entries = match fs::read_dir(self.storage.home.join(storage::INDEX)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(SUFFIX).is_some_and(|stem| stem.ends_with('.')) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
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
        self.write(packs).await?;
        let small = self.mergeable();
        if small.len() < MERGE_COUNT {
            return Ok(());
        }
        self.write(&gather(&small, &self.snapshot().dead)).await?;
        let names: Vec<String> = small.iter().map(|mapped| mapped.name.clone()).collect();
        self.remove(&names).await
    }

    async fn write(&self, packs: &[(PackName, Vec<Entry>)]) -> Result<(), StorageError> {
        let bytes = Bytes::from(segment::encode(packs));
        let name = format!("{}.{SUFFIX}", &blake3::hash(&bytes).to_hex()[..32]);
        let key = storage::index_key(&name);
        self.storage.put_local(&key, bytes).await?;
        let bytes = map(&self.storage.home.join(storage::INDEX).join(&name))
            .map_err(|e| StorageError::new(key.as_ref(), Box::new(e)))?;
        self.change(|now| {
            let old = now.segments.iter().filter(|mapped| mapped.name != name).cloned();
            let new = Arc::new(Mapped { name: name.clone(), bytes });
            now.segments = Arc::new(std::iter::once(new).chain(old).collect());
        });
        Ok(())
    }

    /// The smallest segments, as far as they are of one size class.
    fn mergeable(&self) -> Vec<Arc<Mapped>> {
        let snapshot = self.snapshot();
        let mut lens: Vec<usize> = snapshot.segments.iter().map(|mapped| mapped.len()).collect();
        lens.sort_unstable();
        let mut sum = 0_usize;
        let mut largest = 0;
        for len in lens {
            // A size class: none is larger than all smaller ones together.
            if sum + len > MERGE_ENTRIES_MAX || (sum > 0 && len > sum.saturating_mul(2)) {
                break;
            }
            (sum, largest) = (sum + len, len);
        }
        snapshot.segments.iter().filter(|mapped| mapped.len() <= largest).cloned().collect()
    }
}

/// The tables of all packs in some segments, as far as they are listed there
/// and the packs exist.
fn gather(segments: &[Arc<Mapped>], dead: &HashSet<PackName>) -> Vec<(PackName, Vec<Entry>)> {
    let mut order = Vec::new();
    let mut packs: BTreeMap<PackName, Vec<Entry>> = BTreeMap::new();
    for segment in segments.iter().filter_map(|mapped| mapped.segment()) {
        for name in segment
            .packs()
            .filter(|name| !packs.contains_key(name) && !dead.contains(name))
            .collect::<Vec<_>>()
        {
            packs.insert(name, Vec::new());
            order.push(name);
        }
        for place in segment.iter().flatten() {
            if let Some(entries) = packs.get_mut(&place.pack) {
                entries.push(place.entry);
            }
        }
    }
    order.into_iter().filter_map(|name| Some((name, packs.remove(&name)?))).collect()
}

#[cfg(test)]
mod tests {
    use store_format::frame::Encoding;

    use super::*;

    #[tokio::test]
    async fn only_packs_that_were_seen_in_the_store_count() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(Storage::folder(folder.path()).unwrap()).await.unwrap();
        let (id, pack) = (Digest([1; 32]), PackName([7; 32]));
        let encoding = Encoding::Raw;
        let entry = Entry { id, offset: 16, frame_len: 148, plain_len: 100, encoding };
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
}
