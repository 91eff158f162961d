//! Reading an image, or a range of its disk, every chunk proven.

mod reading;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use futures::stream::{self, BoxStream, StreamExt};
use store_format::frame::FrameError;
use store_format::{DecodeError, EnvelopeError, Extent, PackName, PlanError};
use wire::Digest;

use crate::lease::Lease;
use crate::open::Repo;
use crate::storage::{StorageError, pack_key};
use crate::tables::OpenTable;

pub(crate) use reading::{Find, Part, Reading};

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
    #[error(
        "the envelope of {image} cannot be used: a newer ingot may have written it; else import the \
         image again"
    )]
    Envelope {
        /// The image.
        image: Digest,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// A chunk table that has its digest, and is wrong.
    #[error(
        "the chunk table {key} cannot be used: a newer ingot may have written it; else import the \
         image again"
    )]
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
    /// What is known of very many chunks cannot be kept.
    #[error("a list of chunks cannot be kept in {folder}: see that there is room, and try again")]
    Scratch {
        /// The folder of the store.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
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
        let row = self.row(image).await?;
        let table = self.open_table(&row).await?.table;
        let disk_bytes = table.outline.disk_bytes();
        let range = range.unwrap_or(0..disk_bytes);
        let Range { start, end } = range;
        if start > end || end > disk_bytes {
            return Err(ReadError::Range { start, end, disk_bytes });
        }
        let table = Arc::new(table);
        let (index, _) = self.survey(&table, &range).await?;
        Ok(Reading::new(self, range, table, Arc::new(move |id| index.look().get(id))))
    }

    /// All pieces of what a table describes, whose chunks are where they are
    /// found by `find`. The caller sees to it that they stay.
    pub(crate) fn pieces_at(self: &Arc<Self>, table: OpenTable, find: Find) -> Pieces {
        let range = 0..table.outline.disk_bytes();
        Reading::new(self, range, Arc::new(table), find).stream()
    }
}

/// Whether an extent has bytes of a range.
pub(crate) fn meets((offset, extent): &Placed, range: &Range<u64>) -> bool {
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

pub(crate) fn damaged(pack: &PackName, offset: u64, source: FrameError) -> ReadError {
    ReadError::Pack { key: pack_key(pack).to_string(), offset, source }
}

/// A list of chunks in a file could not be written or read.
pub(crate) fn scratch(folder: &str, source: io::Error) -> ReadError {
    ReadError::Scratch { folder: folder.to_owned(), source }
}
