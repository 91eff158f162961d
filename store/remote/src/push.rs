//! Sending an image to a store, of which only what the store lacks travels
//! (`docs/upload.md`).

mod frames;
mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use store_format::upload::{DISK_BYTES_MAX, IDS_MAX, TABLE_BYTES_MAX, encode_commit};
use store_format::{ChunkTable, Envelope, digest_of};
use wire::upload::Stored;
use wire::{Digest, Reference};

use crate::client::{Client, Failures};
use crate::error::{FetchError, PushError};
use frames::Frames;
use session::Session;

/// Frames that wait to be sent while others are made.
const WAITING: usize = 1;

/// How far a push is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushProgress {
    /// Chunks are asked for and sent.
    Sending {
        /// Plain bytes of the chunks dealt with.
        done_bytes: u64,
        /// Plain bytes of all chunks, each counted once.
        total_bytes: u64,
    },
    /// The server reads the image back.
    Verifying {
        /// Bytes of its disk that were.
        done_bytes: u64,
        /// Bytes of its disk.
        total_bytes: u64,
    },
}

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// What the server says of the image.
    pub stored: Stored,
    /// Chunks that were sent.
    pub sent_chunks: u64,
    /// Bytes of the frames that they were in.
    pub sent_bytes: u64,
}

/// What is pushed.
struct Image {
    /// Id and length of each chunk, by number.
    chunks: Vec<(Digest, u32)>,
    /// Envelope and chunk table.
    commit: Vec<u8>,
}

/// What was sent, in all tries.
#[derive(Default)]
struct Sent {
    chunks: AtomicU64,
    bytes: AtomicU64,
}

impl Client {
    /// Stores an image that the table fits, and gives it a name, if one is wanted.
    /// `source` gives the plain bytes of a chunk by its number, which counts the
    /// ids of the table by first occurrence; it is asked for what the store lacks
    /// only, by rising number, and from the start again where the server has lost
    /// what it had. What fails is tried again for as long as [`crate::Options`]
    /// allow.
    pub fn push<E: std::error::Error, B: AsRef<[u8]>>(
        &self,
        envelope: &Envelope,
        table: &ChunkTable,
        reference: Option<&Reference>,
        mut source: impl FnMut(usize) -> Result<B, E>,
        mut progress: impl FnMut(PushProgress),
    ) -> Result<Pushed, PushError<E>> {
        let image = Image::new(envelope, table)?;
        let sent = Sent::default();
        let mut failures = Failures::default();
        loop {
            let before = sent.chunks.load(Ordering::Relaxed);
            let session = Session::begin(self)?;
            let tried = session
                .send(&image, &sent, &mut source, &mut progress)
                .and_then(|()| Ok(session.commit(&image.commit, reference, &mut progress)?));
            let error = match tried {
                Ok(stored) => return Ok(sent.pushed(stored)),
                Err(error) => error,
            };
            session.end();
            let PushError::Fetch(error @ FetchError::Lost { .. }) = error else {
                return Err(error);
            };
            if sent.chunks.load(Ordering::Relaxed) > before {
                failures = Failures::default();
            }
            failures.wait(error, self)?;
        }
    }
}

impl Image {
    fn new<E: std::error::Error>(
        envelope: &Envelope,
        table: &ChunkTable,
    ) -> Result<Image, PushError<E>> {
        let encoded = table.encode();
        let (disk_bytes, table_bytes) = (envelope.disk_bytes, encoded.len());
        if disk_bytes > DISK_BYTES_MAX || table_bytes > TABLE_BYTES_MAX {
            return Err(PushError::TooLarge { disk_bytes, table_bytes });
        }
        let commit = encode_commit(&envelope.to_bytes(), &encoded);
        Ok(Image { chunks: table.distinct().collect(), commit })
    }
}

impl Sent {
    fn add(&self, chunks: usize, bytes: usize) {
        self.chunks.fetch_add(chunks as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn pushed(&self, stored: Stored) -> Pushed {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Pushed { stored, sent_chunks: read(&self.chunks), sent_bytes: read(&self.bytes) }
    }
}

impl Session<'_> {
    /// Sends what is missing: frames are made here, and sent by another thread.
    fn send<E: std::error::Error, B: AsRef<[u8]>>(
        &self,
        image: &Image,
        sent: &Sent,
        source: &mut impl FnMut(usize) -> Result<B, E>,
        progress: &mut impl FnMut(PushProgress),
    ) -> Result<(), PushError<E>> {
        thread::scope(|scope| {
            let (frames, made) = sync_channel(WAITING);
            let sending = scope.spawn(move || {
                for frame in made {
                    self.frame(&frame)?;
                    sent.add(frame.chunks, frame.bytes.len());
                }
                Ok::<_, FetchError>(())
            });
            let made = self.make(image, Frames::new(frames)?, source, progress);
            let ended = match sending.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // Where sending ended, nobody took what was made.
            ended.map_err(PushError::Fetch).and(made)
        })
    }

    /// Makes frames of what is missing, for as long as they are taken.
    fn make<E: std::error::Error, B: AsRef<[u8]>>(
        &self,
        image: &Image,
        mut frames: Frames,
        source: &mut impl FnMut(usize) -> Result<B, E>,
        progress: &mut impl FnMut(PushProgress),
    ) -> Result<(), PushError<E>> {
        let total_bytes = image.chunks.iter().map(|(_, len)| u64::from(*len)).sum();
        let (mut done_bytes, mut number) = (0, 0);
        for chunks in image.chunks.chunks(IDS_MAX) {
            let missing = self.missing(chunks)?;
            for ((id, len), missing) in chunks.iter().zip(missing) {
                if missing {
                    let plain = source(number).map_err(PushError::Source)?;
                    let plain = plain.as_ref();
                    if plain.len() != *len as usize || digest_of(plain) != *id {
                        return Err(PushError::Changed { id: *id });
                    }
                    if !frames.push(plain)? {
                        return Ok(());
                    }
                }
                number += 1;
                done_bytes += u64::from(*len);
                progress(PushProgress::Sending { done_bytes, total_bytes });
            }
        }
        Ok(frames.finish()?)
    }
}
