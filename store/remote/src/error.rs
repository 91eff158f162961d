//! What can go wrong between a store and its reader.

use store_format::frame::{FrameError, SealError};
use store_format::upload::{DISK_BYTES_MAX, TABLE_BYTES_MAX};
use store_format::{DecodeError, EnvelopeError};
use wire::Digest;

/// Why something of a store could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address of the store is none.
    #[error("{base:?} is not the address of a store: expected http://ADDRESS[:PORT]")]
    Address {
        /// What was given.
        base: String,
    },
    /// No answer, or the connection broke.
    #[error("{url}: no answer or a broken one; is the server running and the network up?")]
    Transport {
        /// What was asked for.
        url: String,
        /// The cause.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server refused.
    #[error("{url}: the server answered {status}{}", said_suffix(.said))]
    Status {
        /// What was asked for.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the server said about it.
        said: String,
    },
    /// A body ended before its announced end.
    #[error("{url}: the answer ended after {found} of {expected} bytes")]
    Short {
        /// What was asked for.
        url: String,
        /// Bytes wanted.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A body is larger than such a thing can be.
    #[error("{url}: the answer has more than the {limit} bytes that it may have")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The envelope is that of another image.
    #[error("asked for image {asked}, the server sent {found}: the answer is not trusted")]
    OtherImage {
        /// Digest asked for.
        asked: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// The envelope is not sound.
    #[error("image {image} cannot be used: is the server a newer ingot than this one?")]
    Envelope {
        /// The image.
        image: Digest,
        /// The cause.
        #[source]
        source: EnvelopeError,
    },
    /// Chunk table or locations are not sound.
    #[error(
        "image {image}: what the server says of its chunks cannot be used: is it a newer ingot than \
         this one? Else run `ingot check` where its store is"
    )]
    Chunks {
        /// The image.
        image: Digest,
        /// The cause.
        #[source]
        source: DecodeError,
    },
    /// Locations that do not go with the chunk table.
    #[error(
        "image {image} has {chunks} chunks and the server gave places for {locations}: \
         run `ingot check` on the store"
    )]
    Locations {
        /// The image.
        image: Digest,
        /// Distinct chunks of its table.
        chunks: usize,
        /// Places given.
        locations: usize,
    },
    /// The server, or something between, does not know ranges.
    #[error("{url}: the server ignored the range and offers the whole pack; a proxy in between?")]
    RangeIgnored {
        /// What was asked for.
        url: String,
    },
    /// The range is outside the pack.
    #[error(
        "{url}: bytes {start} to {end} are not in the pack: the server's list of places is old or \
         wrong; run `ingot check` on the store"
    )]
    RangeOutside {
        /// What was asked for.
        url: String,
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
    /// Another range than asked for.
    #[error("{url}: asked for bytes {start} to {end}, the server sent {found:?}")]
    OtherRange {
        /// What was asked for.
        url: String,
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Its `Content-Range`.
        found: String,
    },
    /// A frame does not give the chunk that it should.
    #[error(
        "{url}: the frame at {offset} does not give chunk {id}: run `ingot check --data` where the store is"
    )]
    Chunk {
        /// What was asked for.
        url: String,
        /// Offset of the frame in the pack.
        offset: u64,
        /// The chunk expected.
        id: Digest,
        /// The cause; none where the frame holds another chunk.
        #[source]
        source: Option<FrameError>,
    },
    /// The server says something that is no answer to what was asked.
    #[error("{url}: the answer is not what was asked for; is the server of this version?")]
    Answer {
        /// What was asked for.
        url: String,
    },
    /// What was sent did not arrive as it was.
    #[error("{url}: the server found what was sent damaged{}", said_suffix(.said))]
    Damaged {
        /// Where it was sent to.
        url: String,
        /// What the server said about it.
        said: String,
    },
    /// The server does not know the upload any more, or lacks what was sent.
    #[error("the upload was lost: the server was restarted, or was not asked for long")]
    Lost {
        /// What it said.
        #[source]
        source: Box<FetchError>,
    },
    /// The server goes on saying that it is at work.
    #[error(
        "{url}: the server has read no more of the image for {minutes} minutes: look at its log"
    )]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long.
        minutes: u64,
    },
    /// Still failing after the last try.
    #[error(
        "gave up after {tries} tries without progress: see that the server runs, and try again"
    )]
    GaveUp {
        /// How many.
        tries: u32,
        /// The last failure.
        #[source]
        source: Box<FetchError>,
    },
}

fn said_suffix(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// How a failure may go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hope {
    /// By waiting: the server restarts, the network comes back.
    Wait,
    /// By asking once or twice again: bytes were damaged on the way.
    Again,
    /// Not at all.
    None,
}

impl FetchError {
    pub(crate) fn hope(&self) -> Hope {
        match self {
            FetchError::Transport { .. } | FetchError::Short { .. } => Hope::Wait,
            FetchError::Status { status: 408 | 429 | 500..=599, .. } => Hope::Wait,
            FetchError::Chunk { .. }
            | FetchError::Damaged { .. }
            | FetchError::Lost { .. }
            | FetchError::OtherImage { .. }
            | FetchError::Chunks { .. }
            | FetchError::OtherRange { .. } => Hope::Again,
            _ => Hope::None,
        }
    }
}

/// Why chunks could not be pulled: the store's fault, or that of the receiver.
#[derive(Debug, thiserror::Error)]
pub enum PullError<E: std::error::Error + 'static> {
    /// They did not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The receiver refused one.
    #[error(transparent)]
    Sink(E),
}

/// Why an image could not be pushed: the store's fault, or that of the source.
#[derive(Debug, thiserror::Error)]
pub enum PushError<E: std::error::Error + 'static> {
    /// The store did not take it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A chunk could not be read.
    #[error(transparent)]
    Source(E),
    /// The source gave other bytes than those of the chunk.
    #[error("what should be chunk {id} has other bytes now: make the image again from its disk")]
    Changed {
        /// The chunk.
        id: Digest,
    },
    /// More than one upload may bring.
    #[error(
        "the image is too large to be sent: its disk has {disk_bytes} bytes and its chunk table \
         {table_bytes}; {DISK_BYTES_MAX} and {TABLE_BYTES_MAX} are the limits: import it where the \
         store is"
    )]
    TooLarge {
        /// Bytes of its disk.
        disk_bytes: u64,
        /// Bytes of its chunk table.
        table_bytes: usize,
    },
    /// A frame could not be made.
    #[error("chunks could not be compressed")]
    Seal(#[from] SealError),
}
