//! Reading an image, or a range of its disk, every chunk proven.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use hashlink::LruCache;
use store_format::frame::{FrameError, Opened, Opener};
use store_format::{
    ChunkTable, DecodeError, EnvelopeError, Extent, Locations, PackName, PlanError, PlanLimits,
    RangeRequest, plan,
};
use wire::Digest;

use crate::lease::Lease;
use crate::open::Repo;
use crate::packs;
use crate::storage::{StorageError, pack_key};

/// Plain bytes that are read together.
const WINDOW_BYTES: u64 = 8 << 20;
/// Extents that are read together.
const WINDOW_EXTENTS: usize = 4096;
/// Unwanted bytes that are read along between two chunks: bounds the memory of
/// a window, and here no request is worth more.
const GAP_BYTES: u64 = 64 << 10;
/// Plain bytes of frames that are kept, the last used ones.
const KEPT_BYTES: usize = 32 << 20;
/// Windows in flight: one waits for the disk while others decompress.
const WINDOWS: usize = 3;

/// Why an image could not be read. What was read before is right.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store has no such image.
    #[error("there is no image {image} in the store")]
    Unknown {
        /// The image.
        image: Digest,
    },
    /// A file of the store could not be read.
    #[error("a part of the image cannot be read: run `ingot check` to see what is affected")]
    Storage(#[from] StorageError),
    /// A blob has other bytes than its name says.
    #[error("{key} in the store is damaged: run `ingot check`, then import the image again")]
    Blob {
        /// File in the store.
        key: String,
    },
    /// An envelope that has its digest, and is wrong.
    #[error("the envelope of {image} cannot be used")]
    Envelope {
        /// The image.
        image: Digest,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// A chunk table that has its digest, and is wrong.
    #[error("the chunk table {key} cannot be used")]
    Table {
        /// File in the store.
        key: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// No pack has the chunk.
    #[error("chunk {id} is missing from the store: run `ingot check` to see what is affected")]
    Chunk {
        /// The chunk.
        id: Digest,
    },
    /// A pack has something else where the chunk should be.
    #[error("{key} in the store is damaged at byte {offset}: run `ingot check --data`")]
    Pack {
        /// File in the store.
        key: String,
        /// Offset of the frame.
        offset: u64,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The image is shorter than what should be read of it.
    #[error("the image has {disk_bytes} bytes, and {start} to {end} are not all in it")]
    Range {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// The image's length.
        disk_bytes: u64,
    },
    /// Table and locations do not fit together.
    #[error("the chunks of the image cannot be found")]
    Plan(#[from] PlanError),
    /// A task ended early, which is a defect of this program.
    #[error("reading ended in the middle; please report this")]
    Broken,
}

/// A stretch of an image's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Zeros.
    Hole {
        /// Offset on the disk.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// The plain bytes of a chunk, proven.
    Data {
        /// Offset on the disk.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
}

/// Offset on the disk and extent.
pub(crate) type Placed = (u64, Extent);

/// An image that is being read, as far as it is wanted.
pub(crate) struct Reading {
    repo: Arc<Repo>,
    /// What is wanted of the disk.
    pub(crate) range: Range<u64>,
    /// The extents that it lies in, by rising offset, without gaps.
    pub(crate) extents: Vec<Placed>,
    locations: Locations,
    /// The chunks that are at these locations, and their plain bytes.
    chunks: Vec<(Digest, u32)>,
    /// Chunk to its index in both.
    numbers: HashMap<Digest, usize>,
    /// Frames that were opened last: others may need more of them.
    opened: Mutex<Frames>,
}

/// A frame: number of the pack, and offset.
type FrameAt = (u32, u64);

/// Frames, opened.
struct Frames {
    kept: LruCache<FrameAt, Arc<Opened>>,
    bytes: usize,
}

/// Pieces of an image, by rising offset, without gaps.
pub type Pieces = BoxStream<'static, Result<Piece, ReadError>>;

impl Repo {
    /// All pieces of an image. Nothing of it is deleted before the stream ends
    /// or is dropped.
    pub async fn read(self: &Arc<Self>, image: &Digest) -> Result<Pieces, ReadError> {
        self.pieces(image, None).await
    }

    /// As [`Repo::read`], but pieces that cover just this range of the disk:
    /// no chunk outside of it is looked up or read.
    pub async fn read_range(
        self: &Arc<Self>,
        image: &Digest,
        range: Range<u64>,
    ) -> Result<Pieces, ReadError> {
        self.pieces(image, Some(range)).await
    }

    async fn pieces(
        self: &Arc<Self>,
        image: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<Pieces, ReadError> {
        let (reading, lease) = self.begin_reading(image, range).await?;
        let pieces = reading.stream();
        let end = async move {
            if let Some(lease) = lease {
                lease.end().await;
            }
            None
        };
        Ok(pieces.chain(stream::once(end).filter_map(future::ready)).boxed())
    }

    /// Finds what is needed for a range, else for the whole disk, and keeps it.
    pub(crate) async fn begin_reading(
        self: &Arc<Self>,
        image: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<(Reading, Option<Lease>), ReadError> {
        let lease = self.lease_to_read().await?;
        match (self.find(image, range).await, lease) {
            (Ok(reading), lease) => Ok((reading, lease)),
            (Err(error), None) => Err(error),
            (Err(error), Some(lease)) => {
                lease.end().await;
                Err(error)
            }
        }
    }

    /// Finds the chunks of a range, else of the whole disk.
    async fn find(
        self: &Arc<Self>,
        image: &Digest,
        range: Option<Range<u64>>,
    ) -> Result<Reading, ReadError> {
        let table = self.table(image).await?;
        let disk_bytes = table.regions.iter().flatten().map(Extent::bytes).sum();
        let range = range.unwrap_or(0..disk_bytes);
        let Range { start, end } = range;
        if start > end || end > disk_bytes {
            return Err(ReadError::Range { start, end, disk_bytes });
        }
        let extents: Vec<Placed> = placed(&table).filter(|extent| meets(extent, &range)).collect();
        let wanted = extents.iter().map(|(_, extent)| *extent).collect();
        let wanted = Arc::new(ChunkTable { image: *image, regions: vec![wanted] });
        let locations = self.locations_of(&wanted).await?;
        let chunks = wanted.distinct().collect();
        Ok(Reading::new(self, range, extents, chunks, locations))
    }

    /// All pieces of what a table describes, whose chunks are at these places.
    /// The caller sees to it that they stay.
    pub(crate) fn pieces_at(
        self: &Arc<Self>,
        table: &ChunkTable,
        chunks: Vec<(Digest, u32)>,
        locations: Locations,
    ) -> Pieces {
        let extents: Vec<Placed> = placed(table).collect();
        let end = extents.last().map_or(0, |(offset, extent)| offset + extent.bytes());
        Reading::new(self, 0..end, extents, chunks, locations).stream()
    }
}

/// The extents of a table, each with its offset on the disk.
fn placed(table: &ChunkTable) -> impl Iterator<Item = Placed> + '_ {
    table.regions.iter().flatten().scan(0_u64, |next, extent| {
        let offset = *next;
        *next += extent.bytes();
        Some((offset, *extent))
    })
}

/// Whether an extent has bytes of a range.
fn meets((offset, extent): &Placed, range: &Range<u64>) -> bool {
    let from = range.start.max(*offset);
    from < range.end.min(offset + extent.bytes())
}

/// The part of a piece that is in a range, of which it has bytes.
pub(crate) fn cut(piece: Piece, range: &Range<u64>) -> Piece {
    let part = |offset: u64, len: u64| {
        let from = range.start.max(offset);
        (from, range.end.min(offset + len) - from)
    };
    match piece {
        Piece::Hole { offset, bytes } => {
            let (offset, bytes) = part(offset, bytes);
            Piece::Hole { offset, bytes }
        }
        Piece::Data { offset, bytes } => {
            let (from, len) = part(offset, bytes.len() as u64);
            // Chunks are far shorter than memory.
            let (skip, len) = ((from - offset) as usize, len as usize);
            Piece::Data { offset: from, bytes: bytes.slice(skip..skip + len) }
        }
    }
}

/// What the chunks of some extents are in.
pub(crate) struct Fetched {
    /// Frames that were opened before.
    held: HashMap<FrameAt, Arc<Opened>>,
    /// Ranges of packs with their bytes.
    ranges: Vec<(RangeRequest, Bytes)>,
}

impl Reading {
    fn new(
        repo: &Arc<Repo>,
        range: Range<u64>,
        extents: Vec<Placed>,
        chunks: Vec<(Digest, u32)>,
        locations: Locations,
    ) -> Reading {
        let numbers = chunks.iter().map(|(id, _)| *id).zip(0..).collect();
        let opened = Mutex::new(Frames { kept: LruCache::new_unbounded(), bytes: 0 });
        Reading { repo: Arc::clone(repo), range, extents, locations, chunks, numbers, opened }
    }

    /// All pieces.
    fn stream(self) -> Pieces {
        let reading = Arc::new(self);
        stream::iter(reading.windows(&reading.extents))
            .map(move |window| {
                let reading = Arc::clone(&reading);
                async move { reading.window(window).await }
            })
            .buffered(WINDOWS)
            .map_ok(|pieces| stream::iter(pieces).map(Ok))
            .try_flatten()
            .boxed()
    }

    async fn window(self: Arc<Self>, window: Range<usize>) -> Result<Vec<Piece>, ReadError> {
        let fetched = self.fetch(&self.extents[window.clone()]).await?;
        let decode = tokio::task::spawn_blocking(move || {
            let pieces = self.decode(&self.extents[window], &fetched)?;
            Ok(pieces.into_iter().map(|piece| cut(piece, &self.range)).collect())
        });
        decode.await.map_err(|_| ReadError::Broken)?
    }

    /// The stretches of some extents that are read together. A frame is in one of
    /// them only, where that is possible.
    pub(crate) fn windows(&self, extents: &[Placed]) -> Vec<Range<usize>> {
        let mut windows = Vec::new();
        let (mut start, mut data, mut last) = (0, 0_u64, None);
        for (index, (_, extent)) in extents.iter().enumerate() {
            let Extent::Chunk { id, bytes } = extent else { continue };
            let frame = self.numbers.get(id).and_then(|number| self.frame(*number));
            let is_enough = data >= WINDOW_BYTES || index - start >= WINDOW_EXTENTS;
            let is_much = data >= 2 * WINDOW_BYTES || index - start >= 2 * WINDOW_EXTENTS;
            if is_much || (is_enough && frame != last) {
                windows.push(start..index);
                (start, data) = (index, 0);
            }
            data += u64::from(*bytes);
            last = frame;
        }
        if start < extents.len() {
            windows.push(start..extents.len());
        }
        windows
    }

    /// The frame of a chunk.
    fn frame(&self, number: usize) -> Option<FrameAt> {
        self.locations.chunks.get(number).map(|at| (at.pack, at.offset))
    }

    /// Reads what the chunks among some extents are in.
    pub(crate) async fn fetch(&self, extents: &[Placed]) -> Result<Fetched, ReadError> {
        let (mut held, mut wanted) = (HashMap::new(), Vec::new());
        for (_, extent) in extents {
            let Extent::Chunk { id, .. } = extent else { continue };
            let number = *self.numbers.get(id).ok_or(ReadError::Chunk { id: *id })?;
            let frame = self.frame(number).ok_or(ReadError::Chunk { id: *id })?;
            match self.opened().kept.get(&frame) {
                Some(opened) => drop(held.insert(frame, Arc::clone(opened))),
                None => wanted.push(number),
            }
        }
        wanted.retain(|number| !self.frame(*number).is_some_and(|at| held.contains_key(&at)));
        let limits = PlanLimits { gap_bytes_max: GAP_BYTES, range_bytes_max: WINDOW_BYTES };
        let requests = plan::ranges(wanted.into_iter(), &self.locations, limits)?;
        let mut ranges = Vec::with_capacity(requests.len());
        for request in requests {
            let key = pack_key(&request.pack);
            let bytes = self.repo.storage.read(&key, request.start..request.end).await?;
            ranges.push((request, bytes));
        }
        Ok(Fetched { held, ranges })
    }

    /// The pieces that some extents are, whole, each chunk proven.
    pub(crate) fn decode(
        &self,
        extents: &[Placed],
        fetched: &Fetched,
    ) -> Result<Vec<Piece>, ReadError> {
        let mut plain = self.open(fetched)?;
        let mut pieces = Vec::with_capacity(extents.len());
        for (offset, extent) in extents.iter().copied() {
            let id = match extent {
                Extent::Hole { bytes } => {
                    pieces.push(Piece::Hole { offset, bytes });
                    continue;
                }
                Extent::Chunk { id, .. } => id,
            };
            let missing = ReadError::Chunk { id };
            let Some(number) = self.numbers.get(&id) else { return Err(missing) };
            let bytes = match plain.get(number) {
                Some(bytes) => bytes.clone(),
                None => {
                    let held = self.frame(*number).and_then(|at| fetched.held.get(&at));
                    let bytes = self.prove(*number, held.ok_or(missing)?)?;
                    plain.insert(*number, bytes.clone());
                    bytes
                }
            };
            pieces.push(Piece::Data { offset, bytes });
        }
        Ok(pieces)
    }

    /// The chunks that were asked for in the ranges that were read, proven.
    fn open(&self, fetched: &Fetched) -> Result<HashMap<usize, Bytes>, ReadError> {
        let mut plain = HashMap::new();
        let mut opener = Opener::default();
        for (request, bytes) in &fetched.ranges {
            for chunks in request.chunks.chunk_by(|one, next| self.frame(*one) == self.frame(*next))
            {
                let Some(at) = self.locations.chunks.get(chunks[0]) else { continue };
                let frame = packs::part(bytes, request.start, at);
                let mut opened = Opened::default();
                opener
                    .open(frame, &mut opened)
                    .map_err(|source| damaged(&request.pack, at.offset, source))?;
                let opened = Arc::new(opened);
                for chunk in chunks {
                    plain.insert(*chunk, self.prove(*chunk, &opened)?);
                }
                self.opened().put((at.pack, at.offset), opened);
            }
        }
        Ok(plain)
    }

    /// A chunk of a frame.
    fn prove(&self, number: usize, opened: &Opened) -> Result<Bytes, ReadError> {
        let (chunk, at) = (self.chunks.get(number), self.locations.chunks.get(number));
        let (Some((id, len)), Some(at)) = (chunk, at) else { return Err(ReadError::Broken) };
        let pack = self.locations.pack(at).ok_or(ReadError::Broken)?;
        let plain = opened.chunk(id, at.plain_offset, *len);
        plain.map(Bytes::copy_from_slice).map_err(|source| damaged(&pack, at.offset, source))
    }

    fn opened(&self) -> MutexGuard<'_, Frames> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frames {
    fn put(&mut self, at: FrameAt, opened: Arc<Opened>) {
        self.bytes += opened.plain_len();
        if let Some(same) = self.kept.insert(at, opened) {
            self.bytes -= same.plain_len();
        }
        while self.bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.kept.remove_lru() else { break };
            self.bytes -= oldest.plain_len();
        }
    }
}

pub(crate) fn damaged(pack: &PackName, offset: u64, source: FrameError) -> ReadError {
    ReadError::Pack { key: pack_key(pack).to_string(), offset, source }
}
