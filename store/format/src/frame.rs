//! Chunks that are kept and sent together (`docs/frame.md`).
//!
//! What compresses well compresses better in company: a frame is one piece of
//! compressed bytes, and each of its chunks proves itself.

use wire::Digest;

use crate::bytes::{DecodeError, Reader, SUM};
use crate::digest_of;

const WHAT: &str = "a frame";
/// What a frame starts with.
pub const MAGIC: [u8; 4] = *b"IFRM";

/// Most plain bytes in a chunk that a reader accepts. Writers stay far below:
/// they cut chunks of at most 256 KiB.
pub const CHUNK_MAX: u32 = 1 << 20;
/// Most plain bytes in a frame that a reader accepts; a bound for its memory.
pub const PLAIN_MAX: u32 = 4 << 20;
/// Most chunks in a frame.
pub const CHUNKS_MAX: u32 = 1 << 14;

/// Plain bytes of a frame as writers fill it: what compresses well needs company,
/// and who wants one chunk opens all of them. Frames this large at [`LEVEL`] take
/// as much room as half as large ones at the next level, and a third less time.
pub const FILL_BYTES: usize = 4 << 20;
/// Level of zstd that writers use.
pub const LEVEL: i32 = 5;

/// Bytes of a header without the lengths of the chunks.
const FIXED: u32 = 20 + SUM as u32;
/// Shortest frame: one chunk of one byte.
pub const FRAME_MIN: u32 = FIXED + 4 + 1;
/// Longest frame that a reader accepts.
pub const FRAME_MAX: u32 = FIXED + 4 * CHUNKS_MAX + PLAIN_MAX;

/// How the bytes of a frame are kept. Code 2 is set aside for frames that are
/// coded against others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Encoding {
    fn from_code(code: u8) -> Option<Encoding> {
        match code {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// What stands before the stored bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How the payload is coded.
    pub encoding: Encoding,
    /// Bytes of payload that follow the header.
    pub stored_len: u32,
    /// Plain bytes of each chunk, in their order: 1 to [`CHUNKS_MAX`] of them,
    /// each 1 to [`CHUNK_MAX`], together at most [`PLAIN_MAX`].
    pub chunks: Vec<u32>,
}

/// Why a frame does not give its chunks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] DecodeError),
    /// Coded in a way that this version does not know.
    #[error("a frame is coded in a way ({code}) that this program cannot read: use a newer ingot")]
    Encoding {
        /// The code found.
        code: u8,
    },
    /// Other payload than the header announces.
    #[error("a frame is cut short: {found} of {expected} bytes")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes announced.
        expected: u32,
    },
    /// The payload does not decompress to the length announced.
    #[error("a frame is damaged: its stored bytes do not decompress")]
    Decompress,
    /// The frame has other bytes where the chunk should be.
    #[error("chunk {id} is damaged: its bytes have another digest")]
    Digest {
        /// The chunk.
        id: Digest,
    },
}

impl Header {
    /// Plain bytes of all chunks.
    pub fn plain_len(&self) -> u32 {
        // Cannot overflow for a header that was decoded or sealed.
        self.chunks.iter().copied().fold(0, u32::saturating_add)
    }

    /// Bytes of the header.
    pub fn header_len(&self) -> u32 {
        FIXED + 4 * self.count()
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u32 {
        self.stored_len.saturating_add(self.header_len())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX).min(CHUNKS_MAX + 1)
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED as usize + 4 * self.chunks.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.encoding as u8, 0, 0, 0]);
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.plain_len().to_le_bytes());
        out.extend_from_slice(&self.count().to_le_bytes());
        self.chunks.iter().for_each(|len| out.extend_from_slice(&len.to_le_bytes()));
        let sum = digest_of(&out);
        out.extend_from_slice(&sum.0);
        out
    }

    /// Reads a header from the start of `bytes`; what follows it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Header, FrameError> {
        let mut reader = Reader::new(WHAT, bytes);
        if reader.array::<4>()? != MAGIC {
            return Err(DecodeError::Magic { what: WHAT }.into());
        }
        let code = reader.u8()?;
        let encoding = Encoding::from_code(code).ok_or(FrameError::Encoding { code })?;
        reader.zeros::<3>()?;
        let (stored_len, plain_len, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if !(1..=CHUNKS_MAX).contains(&count) {
            return Err(reader.invalid("it has no chunks, or too many").into());
        }
        // Not more than are there.
        let chunks = (0..count).map(|_| reader.u32()).collect::<Result<Vec<_>, _>>()?;
        let summed = bytes.get(..20 + 4 * chunks.len()).unwrap_or_default();
        if reader.digest()? != digest_of(summed) {
            return Err(DecodeError::Checksum { what: WHAT }.into());
        }
        let header = Header { encoding, stored_len, chunks };
        match header.is_possible() && header.plain_len() == plain_len {
            true => Ok(header),
            false => Err(reader.invalid("its lengths do not fit together").into()),
        }
    }

    /// Whether a writer may have written it: a frame that does not get smaller
    /// is kept raw.
    fn is_possible(&self) -> bool {
        let plain = self.chunks.iter().try_fold(0_u32, |sum, len| sum.checked_add(*len));
        let Some(plain) = plain.filter(|plain| (1..=PLAIN_MAX).contains(plain)) else {
            return false;
        };
        self.chunks.iter().all(|len| (1..=CHUNK_MAX).contains(len))
            && match self.encoding {
                Encoding::Raw => self.stored_len == plain,
                Encoding::Zstd => (1..plain).contains(&self.stored_len),
            }
    }
}

/// The plain bytes of a frame. They can only be had as chunks that are proven.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    plain: Vec<u8>,
    chunks: Vec<u32>,
}

impl Opened {
    /// The chunk of `len` bytes that starts at `offset` in the frame's plain
    /// bytes, if it is the one that is named.
    pub fn chunk(&self, id: &Digest, offset: u32, len: u32) -> Result<&[u8], FrameError> {
        let range = offset as usize..offset.saturating_add(len) as usize;
        let plain = self.plain.get(range).filter(|plain| digest_of(plain) == *id);
        plain.ok_or(FrameError::Digest { id: *id })
    }

    /// All chunks, each with the name that its bytes have.
    pub fn chunks(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.chunks.iter().scan(&self.plain[..], |rest, len| {
            let (plain, after) = rest.split_at_checked(*len as usize)?;
            *rest = after;
            Some((digest_of(plain), plain))
        })
    }

    /// Plain bytes of the frame.
    pub fn plain_len(&self) -> usize {
        self.plain.len()
    }
}

/// Opens frames. Reuse one: it holds the decompressor.
#[derive(Default)]
pub struct Opener {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Opener {
    /// Opens a frame, header and payload. After an error nothing is in `opened`.
    pub fn open(&mut self, frame: &[u8], opened: &mut Opened) -> Result<(), FrameError> {
        opened.plain.clear();
        opened.chunks.clear();
        let header = Header::decode(frame)?;
        let (len, expected) = (header.header_len() as usize, header.frame_len());
        let payload = frame.get(len..).filter(|_| frame.len() == expected as usize);
        let payload = payload.ok_or(FrameError::Length { found: frame.len(), expected })?;
        match header.encoding {
            Encoding::Raw => opened.plain.extend_from_slice(payload),
            Encoding::Zstd => {
                // A slice, not the Vec: its length is the bound of the output.
                opened.plain.resize(header.plain_len() as usize, 0);
                let found = self.zstd.decompress_to_buffer(payload, &mut opened.plain[..]);
                if !found.is_ok_and(|found| found == opened.plain.len()) {
                    opened.plain.clear();
                    return Err(FrameError::Decompress);
                }
            }
        }
        opened.chunks = header.chunks;
        Ok(())
    }
}

/// [`Opener::open`] for a single frame.
pub fn open(frame: &[u8]) -> Result<Opened, FrameError> {
    let mut opened = Opened::default();
    Opener::default().open(frame, &mut opened)?;
    Ok(opened)
}

/// Turns chunks into frames. Reuse one: it holds the compressor.
pub struct Sealer {
    zstd: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

/// Why chunks cannot become a frame.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not within the limits of a frame, or not the bytes of its chunks.
    #[error("a frame cannot have {chunks} chunks of {len} bytes together")]
    Length {
        /// How many chunks.
        chunks: usize,
        /// Their bytes.
        len: usize,
    },
    /// The compressor failed, which is for want of memory.
    #[error("compressing a frame failed")]
    Compress(#[source] std::io::Error),
}

impl Sealer {
    /// A sealer with a zstd level.
    pub fn new(level: i32) -> Result<Sealer, SealError> {
        let zstd = zstd::bulk::Compressor::new(level).map_err(SealError::Compress)?;
        Ok(Sealer { zstd, scratch: Vec::new() })
    }

    /// Appends the frame of some chunks to `out`: their lengths, and their
    /// bytes one after the other.
    pub fn seal(
        &mut self,
        chunks: &[u32],
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Header, SealError> {
        let wrong = SealError::Length { chunks: chunks.len(), len: plain.len() };
        if chunks.len() > CHUNKS_MAX as usize {
            return Err(wrong);
        }
        let Ok(plain_len) = u32::try_from(plain.len()) else { return Err(wrong) };
        let mut header =
            Header { encoding: Encoding::Raw, stored_len: plain_len, chunks: chunks.to_vec() };
        if !header.is_possible() {
            return Err(wrong);
        }
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.scratch).map_err(SealError::Compress)?;
        // Decompressing costs more than the last 3 % are worth.
        let gains = self.scratch.len() + plain.len() / 32 < plain.len();
        let payload = match u32::try_from(self.scratch.len()) {
            Ok(stored_len) if gains => {
                header = Header { encoding: Encoding::Zstd, stored_len, ..header };
                &self.scratch[..]
            }
            _ => plain,
        };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
        Ok(header)
    }
}

/// Chunks that become a frame together, as writers fill it.
#[derive(Debug, Default)]
pub struct Filling {
    lens: Vec<u32>,
    plain: Vec<u8>,
}

impl Filling {
    /// Whether there is no chunk in it.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// How many chunks are in it.
    pub fn chunks(&self) -> usize {
        self.lens.len()
    }

    /// Whether a chunk of so many bytes goes into the same frame.
    pub fn has_room(&self, bytes: usize) -> bool {
        let fits = self.plain.len() + bytes <= FILL_BYTES && self.chunks() < CHUNKS_MAX as usize;
        fits || self.is_empty()
    }

    /// Adds a chunk.
    pub fn push(&mut self, plain: &[u8]) {
        if self.is_empty() {
            self.plain.reserve(FILL_BYTES);
        }
        // A chunk that is too long for its length is refused when it is sealed.
        self.lens.push(u32::try_from(plain.len()).unwrap_or(u32::MAX));
        self.plain.extend_from_slice(plain);
    }

    /// Appends the frame to `out`, and begins the next.
    pub fn seal(&mut self, sealer: &mut Sealer, out: &mut Vec<u8>) -> Result<Header, SealError> {
        let header = sealer.seal(&self.lens, &self.plain, out)?;
        self.lens.clear();
        self.plain.clear();
        Ok(header)
    }
}
