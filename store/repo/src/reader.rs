//! Random access to a range of an image, for what reads file systems: ordinary
//! calls that wait, bytes that are proven, memory that is bounded.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashlink::LruCache;
use store_format::Extent;
use tokio::runtime::Handle;
use wire::Digest;

use crate::lease::Lease;
use crate::open::Repo;
use crate::read::{self, Part, Piece, Placed, ReadError, Reading};

/// Plain bytes of chunks that are kept, the last used ones.
const KEPT_BYTES: usize = 16 << 20;

/// Pages of the image's table that are kept, the last used ones: less than a
/// MiB each.
const KEPT_PAGES: usize = 16;

/// A range of an image's disk. Nothing of it is deleted before this is dropped.
///
/// Its calls wait for the store: use it on a thread that may, such as those of
/// [`tokio::task::spawn_blocking`].
pub struct Reader {
    reading: Reading,
    kept: Mutex<Kept>,
    parts: Mutex<LruCache<usize, Arc<Part>>>,
    runtime: Handle,
    lease: Option<Lease>,
}

/// Chunks, opened.
struct Kept {
    chunks: LruCache<Digest, Bytes>,
    bytes: usize,
}

impl Repo {
    /// Opens a range of an image's disk for random access.
    pub async fn reader(
        self: &Arc<Self>,
        image: &Digest,
        range: Range<u64>,
    ) -> Result<Reader, ReadError> {
        let (reading, lease) = self.begin_reading(image, Some(range)).await?;
        let kept = Mutex::new(Kept { chunks: LruCache::new_unbounded(), bytes: 0 });
        let parts = Mutex::new(LruCache::new(KEPT_PAGES));
        Ok(Reader { reading, kept, parts, runtime: Handle::current(), lease })
    }
}

impl Reader {
    /// Bytes of the range.
    pub fn bytes(&self) -> u64 {
        self.reading.range.end - self.reading.range.start
    }

    /// Fills `buffer` with what stands at `offset`, which counts from the start
    /// of the range. On an error its content is of no use.
    ///
    /// # Panics
    ///
    /// In asynchronous code, which must not wait.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let wanted = self.wanted(buffer.len(), offset)?;
        for page in self.reading.table.pages_of(&wanted) {
            let part = self.part(page)?;
            let ends_before = |(at, extent): &Placed| at + extent.bytes() <= wanted.start;
            let first = part.extents.partition_point(ends_before);
            let end = part.extents.partition_point(|(at, _)| *at < wanted.end).max(first);
            let extents = &part.extents[first..end];
            for window in part.windows(extents) {
                for piece in self.pieces(&part, &extents[window])? {
                    copy(read::cut(piece, &wanted), &wanted, buffer);
                }
            }
        }
        Ok(())
    }

    /// What is wanted of a page of the table.
    fn part(&self, page: usize) -> Result<Arc<Part>, ReadError> {
        let parts = || self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts().get(&page) {
            return Ok(Arc::clone(part));
        }
        let part = Arc::new(self.reading.part(page)?);
        parts().insert(page, Arc::clone(&part));
        Ok(part)
    }

    /// The pieces that some extents of a part are, whole, in any order.
    fn pieces(&self, part: &Part, extents: &[Placed]) -> Result<Vec<Piece>, ReadError> {
        let (mut pieces, mut missing) = (Vec::with_capacity(extents.len()), Vec::new());
        let mut kept = self.kept();
        for placed in extents {
            match kept.get(placed) {
                Some(piece) => pieces.push(piece),
                None => missing.push(*placed),
            }
        }
        // Others may read what is kept while this one waits.
        drop(kept);
        if missing.is_empty() {
            return Ok(pieces);
        }
        let fetched = self.runtime.block_on(self.reading.fetch(part, &missing))?;
        let opened = self.reading.decode(part, &missing, &fetched)?;
        let mut kept = self.kept();
        for ((_, extent), piece) in missing.iter().zip(&opened) {
            kept.put(extent, piece);
        }
        pieces.extend(opened);
        Ok(pieces)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stretch of the range as a range of the disk.
    fn wanted(&self, len: usize, offset: u64) -> Result<Range<u64>, ReadError> {
        let range = &self.reading.range;
        let start = range.start.saturating_add(offset);
        let end = start.saturating_add(len as u64);
        match start <= end && end <= range.end {
            true => Ok(start..end),
            false => Err(ReadError::Range { start, end, disk_bytes: range.end }),
        }
    }
}

/// Copies a piece of a stretch of the disk into a buffer of that.
fn copy(piece: Piece, wanted: &Range<u64>, buffer: &mut [u8]) {
    // Within the buffer, which is in memory.
    let place = |offset: u64| (offset - wanted.start) as usize;
    match piece {
        Piece::Data { offset, bytes } => {
            buffer[place(offset)..place(offset) + bytes.len()].copy_from_slice(&bytes);
        }
        Piece::Hole { offset, bytes } => buffer[place(offset)..place(offset + bytes)].fill(0),
    }
}

impl Kept {
    fn get(&mut self, (offset, extent): &Placed) -> Option<Piece> {
        let offset = *offset;
        match extent {
            Extent::Hole { bytes } => Some(Piece::Hole { offset, bytes: *bytes }),
            Extent::Chunk { id, .. } => {
                let bytes = self.chunks.get(id)?.clone();
                Some(Piece::Data { offset, bytes })
            }
        }
    }

    fn put(&mut self, extent: &Extent, piece: &Piece) {
        let (Extent::Chunk { id, .. }, Piece::Data { bytes, .. }) = (extent, piece) else { return };
        self.bytes += bytes.len();
        if let Some(same) = self.chunks.insert(*id, bytes.clone()) {
            self.bytes -= same.len();
        }
        while self.bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.chunks.remove_lru() else { break };
            self.bytes -= oldest.len();
        }
    }
}

impl Drop for Reader {
    /// The lease can be ended from any thread then.
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.lease.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chunks_used_last_are_kept() {
        let mut kept = Kept { chunks: LruCache::new_unbounded(), bytes: 0 };
        let chunk = |number: u8| {
            let id = store_format::digest_of(&[number]);
            (0, Extent::Chunk { id, bytes: 1 << 20 })
        };
        let piece = Piece::Data { offset: 0, bytes: Bytes::from(vec![0; 1 << 20]) };
        for number in 0..16 {
            kept.put(&chunk(number).1, &piece);
        }
        kept.put(&chunk(3).1, &piece);
        assert_eq!(kept.bytes, KEPT_BYTES, "the same chunk counts once");
        assert_eq!(kept.get(&chunk(0)), Some(piece.clone()));
        kept.put(&chunk(16).1, &piece);
        let there: Vec<_> = (0..3).map(|number| kept.get(&chunk(number)).is_some()).collect();
        assert_eq!((kept.bytes, there), (KEPT_BYTES, vec![true, false, true]));
    }
}
