//! One chunk as it is kept and sent (`docs/chunk-frame.md`).

use wire::Digest;

use crate::bytes::{DecodeError, Reader};
use crate::digest_of;

const WHAT: &str = "a chunk frame";
/// What a frame starts with.
pub const MAGIC: [u8; 4] = *b"ICHK";

/// Most plain bytes in a chunk that a reader accepts; a bound for its memory.
/// Writers stay far below: they cut chunks of at most 256 KiB.
pub const PLAIN_MAX: u32 = 1 << 20;

/// How the bytes of a chunk are kept. Code 2 is set aside for chunks that are
/// coded against other chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Encoding {
    /// The code in frames, packs and index segments.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The encoding of a code, if this version knows it.
    pub fn from_code(code: u8) -> Option<Encoding> {
        match code {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// What stands before the stored bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How the payload is coded.
    pub encoding: Encoding,
    /// Bytes of payload that follow the header.
    pub stored_len: u32,
    /// Plain bytes of the chunk, 1 to [`PLAIN_MAX`].
    pub plain_len: u32,
    /// BLAKE3 of the plain bytes.
    pub id: Digest,
}

/// Why a frame does not give its chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] DecodeError),
    /// Coded in a way that this version does not know.
    #[error("a chunk is coded in a way ({code}) that this program cannot read: use a newer ingot")]
    Encoding {
        /// The code found.
        code: u8,
    },
    /// Other payload than the header announces.
    #[error("chunk {id} is cut short: {found} of {expected} stored bytes")]
    Length {
        /// The chunk.
        id: Digest,
        /// Bytes given.
        found: usize,
        /// Bytes announced.
        expected: u32,
    },
    /// The payload does not decompress to the length announced.
    #[error("chunk {id} is damaged: its stored bytes do not decompress")]
    Decompress {
        /// The chunk.
        id: Digest,
    },
    /// The plain bytes are others than those the chunk is named by.
    #[error("chunk {id} is damaged: its bytes have another digest")]
    Digest {
        /// The chunk.
        id: Digest,
    },
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 48;

    /// The header's bytes.
    pub fn encode(&self) -> [u8; Header::LEN] {
        let mut out = [0; Header::LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.encoding.code();
        out[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.plain_len.to_le_bytes());
        out[16..].copy_from_slice(&self.id.0);
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
        let header = Header {
            encoding,
            stored_len: reader.u32()?,
            plain_len: reader.u32()?,
            id: reader.digest()?,
        };
        if !lengths_fit(encoding, header.stored_len, header.plain_len) {
            return Err(reader.invalid("its lengths do not fit together").into());
        }
        Ok(header)
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u32 {
        // Cannot overflow for a header that was decoded or sealed: see PLAIN_MAX.
        self.stored_len.saturating_add(HEADER_LEN)
    }
}

/// [`Header::LEN`] in the type of the lengths.
pub const HEADER_LEN: u32 = 48;

/// Longest frame that a reader accepts.
pub const FRAME_MAX: u32 = HEADER_LEN + PLAIN_MAX;

/// Whether a writer may have written a chunk with these lengths: a chunk that
/// does not get smaller is kept raw.
pub(crate) fn lengths_fit(encoding: Encoding, stored_len: u32, plain_len: u32) -> bool {
    (1..=PLAIN_MAX).contains(&plain_len)
        && match encoding {
            Encoding::Raw => stored_len == plain_len,
            Encoding::Zstd => (1..plain_len).contains(&stored_len),
        }
}

/// Turns payloads back into chunks. Reuse one: it holds the decompressor.
#[derive(Default)]
pub struct Opener {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Opener {
    /// Puts the plain bytes of a chunk into `plain`, which is cleared first,
    /// and checks that they are those that the header names. On error `plain`
    /// is empty: unverified bytes never leave.
    pub fn open(
        &mut self,
        header: &Header,
        payload: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let result = self.decode(header, payload, plain);
        if result.is_err() {
            plain.clear();
        }
        result
    }

    fn decode(
        &mut self,
        header: &Header,
        payload: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let &Header { id, stored_len, plain_len, encoding } = header;
        plain.clear();
        let (Ok(stored), Ok(len)) = (usize::try_from(stored_len), usize::try_from(plain_len))
        else {
            return Err(FrameError::Decompress { id });
        };
        if payload.len() != stored {
            return Err(FrameError::Length { id, found: payload.len(), expected: stored_len });
        }
        if !lengths_fit(encoding, stored_len, plain_len) {
            return Err(FrameError::Decompress { id });
        }
        match encoding {
            Encoding::Raw => plain.extend_from_slice(payload),
            Encoding::Zstd => {
                // A slice, not the Vec: its length is the bound of the output.
                plain.resize(len, 0);
                match self.zstd.decompress_to_buffer(payload, &mut plain[..]) {
                    Ok(found) if found == len => {}
                    _ => return Err(FrameError::Decompress { id }),
                }
            }
        }
        match digest_of(plain) == id {
            true => Ok(()),
            false => Err(FrameError::Digest { id }),
        }
    }
}

/// [`Opener::open`] for a single chunk.
pub fn open(header: &Header, payload: &[u8], plain: &mut Vec<u8>) -> Result<(), FrameError> {
    Opener::default().open(header, payload, plain)
}

/// Turns chunks into frames. Reuse one: it holds the compressor.
pub struct Sealer {
    zstd: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

/// Why a chunk cannot become a frame.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not 1 to [`PLAIN_MAX`] bytes.
    #[error("a chunk cannot have {len} bytes: 1 to {PLAIN_MAX} are possible")]
    Length {
        /// Its length.
        len: usize,
    },
    /// The compressor failed, which is for want of memory.
    #[error("compressing a chunk failed")]
    Compress(#[source] std::io::Error),
}

impl Sealer {
    /// A sealer with a zstd level; the store writes with level 3.
    pub fn new(level: i32) -> Result<Sealer, SealError> {
        let zstd = zstd::bulk::Compressor::new(level).map_err(SealError::Compress)?;
        Ok(Sealer { zstd, scratch: Vec::new() })
    }

    /// Appends the frame of the chunk `plain`, whose digest is `id`, to `out`.
    pub fn seal(
        &mut self,
        id: Digest,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Header, SealError> {
        let plain_len = u32::try_from(plain.len())
            .ok()
            .filter(|len| (1..=PLAIN_MAX).contains(len))
            .ok_or(SealError::Length { len: plain.len() })?;
        let raw = Header { encoding: Encoding::Raw, stored_len: plain_len, plain_len, id };
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.scratch).map_err(SealError::Compress)?;
        // Decompressing costs more than the last 3 % are worth.
        let gains = self.scratch.len() + plain.len() / 32 < plain.len();
        let (header, payload) = match u32::try_from(self.scratch.len()) {
            Ok(stored_len) if gains => {
                (Header { encoding: Encoding::Zstd, stored_len, ..raw }, &self.scratch[..])
            }
            _ => (raw, plain),
        };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
        Ok(header)
    }
}
