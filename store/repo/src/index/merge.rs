//! Merging small segments into large ones, so that a look-up asks few.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt};
use store_format::segment::{self, Segment};
use tokio::sync::mpsc;

use super::snapshot::Snapshot;
use super::{Index, SUFFIX};
use crate::map::release;
use crate::storage::{self, StorageError};

/// Fewer segments than this are left as they are.
const SEGMENTS: usize = 8;
/// A segment that is much larger than all smaller ones together is left alone:
/// what is merged has half as many entries again as its largest part, at least,
/// so that an entry is written anew a number of times that grows with the
/// logarithm of the store.
const GROWTH: usize = 2;
/// Most entries of what is merged: 1.9 GB.
const ENTRIES_MAX: usize = 1 << 25;
/// Pieces that wait to be written.
const PIECES: usize = 2;
/// How the names of merged segments begin.
const MERGED: &str = "merged-";

impl Index {
    /// Merges small segments where there are many. They serve as they are, too:
    /// where that fails, for want of room say, it is tried again another time.
    pub(crate) async fn tidy(&self) {
        // Whoever merges now may leave more to merge, to the next.
        let Ok(_turn) = self.merging.try_lock() else { return };
        let snapshot = self.snapshot();
        let lens: Vec<usize> = snapshot.segments.iter().map(|mapped| mapped.len()).collect();
        let small = mergeable(&lens);
        if small.is_empty() {
            return;
        }
        let small = small.iter().map(|at| Arc::clone(&snapshot.segments[*at])).collect();
        let done = match self.merge(Snapshot { segments: Arc::new(small), ..snapshot }).await {
            Ok(true) => Ok(()),
            Ok(false) => self.drop_damaged().await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(error = wire::chain(&error), "index segments were not merged");
        }
    }

    /// Puts one segment in the place of several: it is durable, and counts,
    /// before they go. False where one of them is damaged: its damage would get
    /// a right checksum.
    async fn merge(&self, old: Snapshot) -> Result<bool, StorageError> {
        let name = name_of(&old);
        let names: Vec<String> = old.segments.iter().map(|mapped| mapped.name.clone()).collect();
        let key = storage::index_key(&name);
        let failed = |e| StorageError::write(&key, e);
        let (give, pieces) = mpsc::channel(PIECES);
        let work = tokio::task::spawn_blocking(move || join(&old, &give));
        let upload = self.write_pieces(&key, pieces).await.map_err(failed)?;
        let joined = work.await.map_err(|e| StorageError::new(key.as_ref(), Box::new(e)))?;
        let Some(mut upload) = upload.filter(|_| joined) else { return Ok(false) };
        upload.complete().await.map_err(failed)?;
        self.adopt(name)?;
        self.remove(&names).await?;
        Ok(true)
    }

    /// Writes pieces into a file that is not there yet. Nothing, if none come.
    async fn write_pieces(
        &self,
        key: &Key,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> object_store::Result<Option<Box<dyn MultipartUpload>>> {
        let Some(first) = pieces.recv().await else { return Ok(None) };
        let mut upload = self.storage.local.put_multipart(key).await?;
        upload.put_part(first.into()).await?;
        while let Some(piece) = pieces.recv().await {
            upload.put_part(piece.into()).await?;
        }
        Ok(Some(upload))
    }

    /// Removes what merges that were killed have left. One that another process
    /// is at fails by that, and is begun again some time.
    pub(crate) fn remove_leftovers(&self) -> Result<(), StorageError> {
        let Ok(_turn) = self.merging.try_lock() else { return Ok(()) };
        for name in self.files()? {
            let Some((file, _)) = name.split_once('#') else { continue };
            if !file.starts_with(MERGED) {
                continue;
            }
            match fs::remove_file(self.storage.home.join(storage::INDEX).join(&name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let key = storage::index_key(&name);
                    return Err(StorageError::new(key.as_ref(), Box::new(error)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name of what these segments become: the same for the same bytes only.
fn name_of(old: &Snapshot) -> String {
    let mut hasher = blake3::Hasher::new();
    for mapped in old.segments.iter() {
        hasher.update(mapped.name.as_bytes());
        let packs = mapped.segment().into_iter().flat_map(|segment| segment.packs());
        for pack in packs.filter(|pack| old.dead.contains(pack)) {
            hasher.update(&pack.0);
        }
    }
    format!("{MERGED}{}.{SUFFIX}", &hasher.finalize().to_hex()[..32])
}

/// Gives away one segment of several. False where one is damaged, or nobody
/// takes it.
fn join(old: &Snapshot, give: &mpsc::Sender<Bytes>) -> bool {
    if old.segments.iter().any(|mapped| mapped.is_damaged()) {
        return false;
    }
    let segments: Vec<Segment<'_>> =
        old.segments.iter().filter_map(|mapped| mapped.segment()).collect();
    let pause = || old.segments.iter().for_each(|mapped| release(&mapped.bytes));
    let keep = |pack: &_| !old.dead.contains(pack);
    let joined = segment::merge(&segments, keep, pause, |piece| give.blocking_send(piece.into()));
    pause();
    joined.is_ok()
}

/// Which segments are to be merged, by their numbers of entries.
fn mergeable(lens: &[usize]) -> Vec<usize> {
    if lens.len() < SEGMENTS {
        return Vec::new();
    }
    let mut small: Vec<usize> = (0..lens.len()).collect();
    small.sort_by_key(|at| lens[*at]);
    let (mut sum, mut count) = (0_usize, 0);
    for (before, at) in small.iter().enumerate() {
        let growth = sum.saturating_mul(GROWTH);
        sum += lens[*at];
        if sum > ENTRIES_MAX {
            break;
        }
        if before > 0 && lens[*at] <= growth {
            count = before + 1;
        }
    }
    small.truncate(count);
    // In the order that they are looked at.
    small.sort_unstable();
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds segments of these lengths; returns how many there were at most, and
    /// how often an entry was written.
    fn grow(lens: impl Iterator<Item = usize>) -> (usize, f64) {
        let (mut segments, mut most) = (Vec::new(), 0);
        let (mut added, mut written) = (0_usize, 0_usize);
        for len in lens {
            segments.insert(0, len);
            added += len;
            let small = mergeable(&segments);
            let merged: usize = small.iter().map(|at| segments[*at]).sum();
            assert!(small.len() != 1 && merged <= ENTRIES_MAX);
            written += len + merged;
            for at in small.iter().rev() {
                segments.remove(*at);
            }
            segments.extend((merged > 0).then_some(merged));
            most = most.max(segments.len());
        }
        assert_eq!(segments.iter().sum::<usize>(), added);
        (most, written as f64 / added as f64)
    }

    #[test]
    fn a_store_that_grows_has_few_segments_and_writes_each_entry_few_times() {
        for (what, lens, segments, times) in [
            ("packs one by one", vec![1000; 10_000], 8, 11.0),
            ("packs by the eight", vec![8000; 1250], 7, 7.0),
            ("from small to large", (1..3000).collect(), 7, 9.0),
            ("from large to small", (1..3000).rev().collect(), 9, 9.0),
            ("small ones in a large store", [vec![10_000_000], vec![1; 10_000]].concat(), 9, 1.1),
            ("beyond what is merged", vec![1 << 20; 320], 14, 5.0),
        ] {
            let found = grow(lens.into_iter());
            assert!(found.0 <= segments && found.1 <= times, "{what}: {found:?}");
        }
    }

    #[test]
    fn few_segments_and_large_ones_are_left_alone() {
        assert!(mergeable(&[1; SEGMENTS - 1]).is_empty());
        assert_eq!(mergeable(&[1; SEGMENTS]), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(mergeable(&[ENTRIES_MAX; 100]).is_empty());
        assert_eq!(mergeable(&[1, 100, 1000, 10_000, 1 << 17, 1 << 20, 1 << 23, 1]), [0, 7]);
        assert_eq!(mergeable(&[0; SEGMENTS]).len(), SEGMENTS);
        let built_again = [vec![32_000; 313], vec![4000]].concat();
        assert_eq!(mergeable(&built_again).len(), 314);
    }
}
