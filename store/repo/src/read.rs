//! Reading an image, every chunk proven.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use store_format::frame::{FrameError, Header, Opener};
use store_format::{
    ChunkTable, DecodeError, EnvelopeError, Extent, Locations, PackName, PlanError, PlanLimits,
    RangeRequest, plan,
};
use wire::Digest;

use crate::open::Repo;
use crate::storage::{StorageError, pack_key};

/// Plain bytes that are read together.
const WINDOW_BYTES: u64 = 8 << 20;
/// Extents that are read together.
const WINDOW_EXTENTS: usize = 4096;
/// Unwanted bytes that are read along between two chunks: bounds the memory of
/// a window, and here no request is worth more.
const GAP_BYTES: u64 = 64 << 10;
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

/// Extents that are read together.
struct Window {
    /// Offset on the disk and extent.
    extents: Vec<(u64, Extent)>,
}

/// An image that is being read.
struct Reading {
    repo: Arc<Repo>,
    locations: Locations,
    /// Chunk to its index in `locations`.
    numbers: HashMap<Digest, usize>,
}

impl Repo {
    /// All pieces of an image, by rising offset, without gaps. Nothing of it is
    /// deleted before the stream ends or is dropped.
    pub async fn read(
        self: &Arc<Self>,
        image: &Digest,
    ) -> Result<BoxStream<'static, Result<Piece, ReadError>>, ReadError> {
        let lease = self.lease_to_read().await?;
        let table = self.table(image).await?;
        let locations = self.locations(image).await?;
        let numbers = table.distinct().map(|(id, _)| id).zip(0..).collect();
        let reading = Arc::new(Reading { repo: Arc::clone(self), locations, numbers });
        let windows = windows(table);
        let pieces = stream::iter(windows)
            .map(move |window| {
                let reading = Arc::clone(&reading);
                async move { reading.window(window).await }
            })
            .buffered(WINDOWS)
            .map_ok(|pieces| stream::iter(pieces).map(Ok))
            .try_flatten();
        let end = async move {
            if let Some(lease) = lease {
                lease.end().await;
            }
            None
        };
        Ok(pieces.chain(stream::once(end).filter_map(future::ready)).boxed())
    }
}

fn windows(table: ChunkTable) -> impl Iterator<Item = Window> {
    let mut extents = table.regions.into_iter().flatten().peekable();
    let mut offset = 0_u64;
    std::iter::from_fn(move || {
        let mut window = Window { extents: Vec::new() };
        let mut data = 0_u64;
        while data < WINDOW_BYTES && window.extents.len() < WINDOW_EXTENTS {
            let Some(extent) = extents.next() else { break };
            window.extents.push((offset, extent));
            offset += extent.bytes();
            if let Extent::Chunk { bytes, .. } = extent {
                data += u64::from(bytes);
            }
        }
        (!window.extents.is_empty()).then_some(window)
    })
}

impl Reading {
    async fn window(self: Arc<Self>, window: Window) -> Result<Vec<Piece>, ReadError> {
        let mut wanted = Vec::new();
        for (_, extent) in &window.extents {
            if let Extent::Chunk { id, .. } = extent {
                wanted.push(*self.numbers.get(id).ok_or(ReadError::Chunk { id: *id })?);
            }
        }
        let limits = PlanLimits { gap_bytes_max: GAP_BYTES, ..PlanLimits::default() };
        let requests = plan::ranges(wanted.into_iter(), &self.locations, limits)?;
        let mut fetched = Vec::with_capacity(requests.len());
        for request in requests {
            let key = pack_key(&request.pack);
            let bytes = self.repo.storage.read(&key, request.start..request.end).await?;
            fetched.push((request, bytes));
        }
        let decode = tokio::task::spawn_blocking(move || self.decode(window, fetched));
        decode.await.map_err(|_| ReadError::Broken)?
    }

    fn decode(
        &self,
        window: Window,
        fetched: Vec<(RangeRequest, Bytes)>,
    ) -> Result<Vec<Piece>, ReadError> {
        let mut frames = HashMap::new();
        for (request, bytes) in &fetched {
            frames.extend(request.chunks.iter().map(|chunk| (*chunk, (request, bytes))));
        }
        let mut opener = Opener::default();
        let mut opened: HashMap<Digest, Bytes> = HashMap::new();
        let mut pieces = Vec::with_capacity(window.extents.len());
        for (offset, extent) in window.extents {
            let (id, len) = match extent {
                Extent::Hole { bytes } => {
                    pieces.push(Piece::Hole { offset, bytes });
                    continue;
                }
                Extent::Chunk { id, bytes } => (id, bytes),
            };
            if let Some(bytes) = opened.get(&id) {
                pieces.push(Piece::Data { offset, bytes: bytes.clone() });
                continue;
            }
            let missing = ReadError::Chunk { id };
            let Some(number) = self.numbers.get(&id) else { return Err(missing) };
            let Some((request, bytes)) = frames.get(number) else { return Err(missing) };
            let Some(at) = self.locations.chunks.get(*number) else { return Err(missing) };
            let from =
                usize::try_from(at.offset.saturating_sub(request.start)).unwrap_or(usize::MAX);
            let frame_len = usize::try_from(at.frame_len).unwrap_or(usize::MAX);
            let frame = bytes.get(from..from.saturating_add(frame_len)).unwrap_or_default();
            let plain = open_frame(&mut opener, &id, len, frame)
                .map_err(|source| damaged(&request.pack, at.offset, source))?;
            opened.insert(id, plain.clone());
            pieces.push(Piece::Data { offset, bytes: plain });
        }
        Ok(pieces)
    }
}

pub(crate) fn damaged(pack: &PackName, offset: u64, source: FrameError) -> ReadError {
    ReadError::Pack { key: pack_key(pack).to_string(), offset, source }
}

/// The plain bytes of the chunk that a frame must be of.
fn open_frame(
    opener: &mut Opener,
    id: &Digest,
    plain_len: u32,
    frame: &[u8],
) -> Result<Bytes, FrameError> {
    let header = Header::decode(frame)?;
    if header.id != *id || header.plain_len != plain_len {
        return Err(FrameError::Digest { id: *id });
    }
    let mut plain = Vec::new();
    opener.open(&header, frame.get(Header::LEN..).unwrap_or_default(), &mut plain)?;
    Ok(Bytes::from(plain))
}
