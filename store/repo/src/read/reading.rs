//! An image that is being read: a page of its table at a time, and of that a
//! window at a time. So memory does not depend on how large it is.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use hashlink::LruCache;
use store_format::frame::{Opened, Opener};
use store_format::pack::Entry;
use store_format::segment::Place;
use store_format::{Extent, Location, Locations, PackName, PlanLimits, RangeRequest, plan};
use wire::Digest;

use super::{Piece, Pieces, Placed, ReadError, cut, damaged, meets};
use crate::open::Repo;
use crate::packs::{self, PackNumbers};
use crate::storage::pack_key;
use crate::tables::OpenTable;

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
/// Pages that are looked up ahead of the windows.
const PAGES: usize = 2;

/// Says where a chunk is.
pub(crate) type Find = Arc<dyn Fn(&Digest) -> Option<Place> + Send + Sync>;

/// An image that is being read, as far as it is wanted.
pub(crate) struct Reading {
    repo: Arc<Repo>,
    /// What is wanted of the disk.
    pub(crate) range: Range<u64>,
    pub(crate) table: Arc<OpenTable>,
    find: Find,
    /// Frames that were opened last: others may need more of them.
    opened: Mutex<Frames>,
}

/// Some extents, and where their chunks are.
pub(crate) struct Part {
    /// By rising offset.
    pub extents: Vec<Placed>,
    /// Each chunk once, in the order of the locations.
    chunks: Vec<(Digest, u32)>,
    locations: Locations,
    /// Chunk to its index in both.
    numbers: HashMap<Digest, usize>,
}

/// A frame: its pack, and its offset there.
type FrameAt = (PackName, u64);

/// Frames, opened.
struct Frames {
    kept: LruCache<FrameAt, Arc<Opened>>,
    bytes: usize,
}

/// What the chunks of some extents are in.
pub(crate) struct Fetched {
    /// Frames that were opened before.
    held: HashMap<FrameAt, Arc<Opened>>,
    /// Ranges of packs with their bytes.
    ranges: Vec<(RangeRequest, Bytes)>,
}

impl Part {
    fn new(extents: Vec<Placed>, find: &Find) -> Result<Part, ReadError> {
        let mut part = Part {
            chunks: Vec::with_capacity(extents.len()),
            numbers: HashMap::with_capacity(extents.len()),
            locations: Locations::default(),
            extents,
        };
        let mut packs = PackNumbers::default();
        for (_, extent) in &part.extents {
            let Extent::Chunk { id, bytes } = *extent else { continue };
            if part.numbers.contains_key(&id) {
                continue;
            }
            let Place { pack, entry } = find(&id).ok_or(ReadError::Chunk { id })?;
            let Entry { offset, frame_len, plain_offset, .. } = entry;
            let location = Location { pack: packs.of(pack), offset, frame_len, plain_offset };
            part.numbers.insert(id, part.chunks.len());
            part.locations.chunks.push(location);
            part.chunks.push((id, bytes));
        }
        part.locations.packs = packs.names;
        Ok(part)
    }

    /// The stretches of some of its extents that are read together. A frame is in
    /// one of them only, where that is possible.
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
        let at = self.locations.chunks.get(number)?;
        Some((self.locations.pack(at)?, at.offset))
    }

    /// A chunk of a frame.
    fn prove(&self, number: usize, opened: &Opened) -> Result<Bytes, ReadError> {
        let (chunk, at) = (self.chunks.get(number), self.locations.chunks.get(number));
        let (Some((id, len)), Some(at)) = (chunk, at) else { return Err(ReadError::Broken) };
        let pack = self.locations.pack(at).ok_or(ReadError::Broken)?;
        let plain = opened.chunk(id, at.plain_offset, *len);
        plain.map(Bytes::copy_from_slice).map_err(|source| damaged(&pack, at.offset, source))
    }
}

impl Reading {
    pub(super) fn new(
        repo: &Arc<Repo>,
        range: Range<u64>,
        table: Arc<OpenTable>,
        find: Find,
    ) -> Reading {
        let opened = Mutex::new(Frames { kept: LruCache::new_unbounded(), bytes: 0 });
        Reading { repo: Arc::clone(repo), range, table, find, opened }
    }

    /// All pieces.
    pub(super) fn stream(self) -> Pieces {
        let reading = Arc::new(self);
        let (looking, pages) = (Arc::clone(&reading), reading.table.pages_of(&reading.range));
        stream::iter(pages)
            .map(move |page| Arc::clone(&looking).windows(page))
            .buffered(PAGES)
            .map_ok(|windows| stream::iter(windows).map(Ok))
            .try_flatten()
            .map_ok(move |(part, window)| Arc::clone(&reading).window(part, window))
            .try_buffered(WINDOWS)
            .map_ok(|pieces| stream::iter(pieces).map(Ok))
            .try_flatten()
            .boxed()
    }

    /// The windows of a page.
    async fn windows(
        self: Arc<Self>,
        page: usize,
    ) -> Result<Vec<(Arc<Part>, Range<usize>)>, ReadError> {
        let look_up = tokio::task::spawn_blocking(move || {
            let part = Arc::new(self.part(page)?);
            let windows = part.windows(&part.extents);
            Ok(windows.into_iter().map(|window| (Arc::clone(&part), window)).collect())
        });
        look_up.await.map_err(|_| ReadError::Broken)?
    }

    /// What says where its chunks are.
    pub(crate) fn find(&self) -> Find {
        Arc::clone(&self.find)
    }

    /// What is wanted of a page. Blocks.
    pub(crate) fn part(&self, page: usize) -> Result<Part, ReadError> {
        let mut extents = self.table.page(page)?;
        extents.retain(|placed| meets(placed, &self.range));
        Part::new(extents, &self.find)
    }

    async fn window(
        self: Arc<Self>,
        part: Arc<Part>,
        window: Range<usize>,
    ) -> Result<Vec<Piece>, ReadError> {
        let fetched = self.fetch(&part, &part.extents[window.clone()]).await?;
        let decode = tokio::task::spawn_blocking(move || {
            let pieces = self.decode(&part, &part.extents[window], &fetched)?;
            Ok(pieces.into_iter().map(|piece| cut(piece, &self.range)).collect())
        });
        decode.await.map_err(|_| ReadError::Broken)?
    }

    /// Reads what the chunks among some extents of a part are in.
    pub(crate) async fn fetch(
        &self,
        part: &Part,
        extents: &[Placed],
    ) -> Result<Fetched, ReadError> {
        let (mut held, mut wanted) = (HashMap::new(), Vec::new());
        for (_, extent) in extents {
            let Extent::Chunk { id, .. } = extent else { continue };
            let number = *part.numbers.get(id).ok_or(ReadError::Chunk { id: *id })?;
            let frame = part.frame(number).ok_or(ReadError::Chunk { id: *id })?;
            match self.opened().kept.get(&frame) {
                Some(opened) => drop(held.insert(frame, Arc::clone(opened))),
                None => wanted.push(number),
            }
        }
        wanted.retain(|number| !part.frame(*number).is_some_and(|at| held.contains_key(&at)));
        let limits = PlanLimits { gap_bytes_max: GAP_BYTES, range_bytes_max: WINDOW_BYTES };
        let requests = plan::ranges(wanted.into_iter(), &part.locations, limits)?;
        let mut ranges = Vec::with_capacity(requests.len());
        for request in requests {
            let key = pack_key(&request.pack);
            let bytes = self.repo.storage.read(&key, request.start..request.end).await?;
            ranges.push((request, bytes));
        }
        Ok(Fetched { held, ranges })
    }

    /// The pieces that some extents of a part are, whole, each chunk proven.
    pub(crate) fn decode(
        &self,
        part: &Part,
        extents: &[Placed],
        fetched: &Fetched,
    ) -> Result<Vec<Piece>, ReadError> {
        let mut plain = self.open(part, fetched)?;
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
            let Some(number) = part.numbers.get(&id) else { return Err(missing) };
            let bytes = match plain.get(number) {
                Some(bytes) => bytes.clone(),
                None => {
                    let held = part.frame(*number).and_then(|at| fetched.held.get(&at));
                    let bytes = part.prove(*number, held.ok_or(missing)?)?;
                    plain.insert(*number, bytes.clone());
                    bytes
                }
            };
            pieces.push(Piece::Data { offset, bytes });
        }
        Ok(pieces)
    }

    /// The chunks that were asked for in the ranges that were read, proven.
    fn open(&self, part: &Part, fetched: &Fetched) -> Result<HashMap<usize, Bytes>, ReadError> {
        let mut plain = HashMap::new();
        let mut opener = Opener::default();
        for (request, bytes) in &fetched.ranges {
            let same_frame = |one: &usize, next: &usize| part.frame(*one) == part.frame(*next);
            for chunks in request.chunks.chunk_by(same_frame) {
                let Some(at) = part.locations.chunks.get(chunks[0]) else { continue };
                let frame = packs::part(bytes, request.start, at);
                let mut opened = Opened::default();
                opener
                    .open(frame, &mut opened)
                    .map_err(|source| damaged(&request.pack, at.offset, source))?;
                let opened = Arc::new(opened);
                for chunk in chunks {
                    plain.insert(*chunk, part.prove(*chunk, &opened)?);
                }
                self.opened().put((request.pack, at.offset), opened);
            }
        }
        Ok(plain)
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
