//! Many chunk frames in one immutable object (`docs/pack.md`).
//!
//! Header, frames, table of the frames, trailer. A pack is written front to
//! back with [`Builder`] and read back to front: [`Trailer`], [`decode_table`].

use std::fmt;
use std::str::FromStr;

use wire::Digest;

use crate::bytes::{DecodeError, Reader};
use crate::frame::{self, Encoding};

const WHAT: &str = "a pack";
const MAGIC: &[u8; 8] = b"INGOTPCK";

/// The version this code writes and reads.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 16;
/// Bytes of one entry of the table.
pub const ENTRY_LEN: usize = 52;
/// Most frames in a pack.
pub const ENTRIES_MAX: u64 = 1 << 16;
/// Most bytes in a pack.
pub const BYTES_MAX: u64 = 256 << 20;

/// Offset of the first frame.
const FIRST_OFFSET: u64 = 16;

/// SHA-256 of a pack's bytes; text form 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName(pub [u8; 32]);

/// Why a text is not a [`PackName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a pack: expected 64 lower-case hex digits")]
pub struct PackNameError {
    text: String,
}

impl FromStr for PackName {
    type Err = PackNameError;

    fn from_str(text: &str) -> Result<PackName, PackNameError> {
        let mut name = [0; 32];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut name) {
            Ok(()) if lower => Ok(PackName(name)),
            _ => Err(PackNameError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackName({})", hex::encode(&self.0[..6]))
    }
}

/// Where a chunk is in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The chunk.
    pub id: Digest,
    /// Offset of its frame's header.
    pub offset: u64,
    /// Bytes of its frame, header included.
    pub frame_len: u32,
    /// Plain bytes of the chunk.
    pub plain_len: u32,
    /// How the frame's payload is coded.
    pub encoding: Encoding,
}

impl Entry {
    /// The header that the frame must have.
    pub fn header(&self) -> frame::Header {
        frame::Header {
            encoding: self.encoding,
            stored_len: self.frame_len.saturating_sub(frame::HEADER_LEN),
            plain_len: self.plain_len,
            id: self.id,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.frame_len.to_le_bytes());
        out.extend_from_slice(&self.plain_len.to_le_bytes());
        out.extend_from_slice(&[self.encoding.code(), 0, 0, 0]);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        let (id, offset) = (reader.digest()?, reader.u64()?);
        let (frame_len, plain_len) = (reader.u32()?, reader.u32()?);
        let encoding = Encoding::from_code(reader.u8()?)
            .ok_or_else(|| reader.invalid("an entry has an unknown encoding"))?;
        reader.zeros::<3>()?;
        let entry = Entry { id, offset, frame_len, plain_len, encoding };
        let stored_len = frame_len.checked_sub(frame::HEADER_LEN);
        match stored_len {
            Some(len)
                if frame::lengths_fit(encoding, len, plain_len) && fits(offset, frame_len) =>
            {
                Ok(entry)
            }
            _ => Err(reader.invalid("the place or length of an entry is impossible")),
        }
    }
}

/// Whether a frame may stand there in a pack.
pub(crate) fn fits(offset: u64, frame_len: u32) -> bool {
    offset >= FIRST_OFFSET
        && offset.checked_add(u64::from(frame_len)).is_some_and(|end| end <= BYTES_MAX)
}

/// Keeps the table while a pack is written: header, frames in the order of
/// [`Builder::push`], [`Builder::finish`].
#[derive(Debug)]
pub struct Builder {
    entries: Vec<Entry>,
    end: u64,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { entries: Vec::new(), end: FIRST_OFFSET }
    }
}

impl Builder {
    /// The bytes that a pack starts with.
    pub fn header() -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out
    }

    /// Bytes of header and frames so far.
    pub fn frames_end(&self) -> u64 {
        self.end
    }

    /// The frames so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether another frame has its place in a pack that a reader accepts.
    pub fn has_room(&self) -> bool {
        // ENTRIES_MAX entries and the trailer are below 4 MiB.
        const TAIL: u64 = 4 << 20;
        (self.entries.len() as u64) < ENTRIES_MAX
            && self.end + u64::from(frame::FRAME_MAX) + TAIL <= BYTES_MAX
    }

    /// Notes the frame that is written next.
    pub fn push(&mut self, header: &frame::Header) {
        let frame_len = header.frame_len();
        self.entries.push(Entry {
            id: header.id,
            offset: self.end,
            frame_len,
            plain_len: header.plain_len,
            encoding: header.encoding,
        });
        self.end += u64::from(frame_len);
    }

    /// The table and the trailer: the bytes after the last frame.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * ENTRY_LEN + Trailer::LEN);
        self.entries.iter().for_each(|entry| entry.encode(&mut out));
        let trailer =
            Trailer { entries: self.entries.len() as u64, table_sum: crate::digest_of(&out) };
        out.extend_from_slice(&trailer.encode());
        out
    }
}

/// Checks the bytes that a pack starts with.
pub fn check_header(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(WHAT, bytes);
    reader.start(MAGIC, VERSION)?;
    reader.zeros::<4>()
}

/// The last bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Entries of the table.
    pub entries: u64,
    /// BLAKE3 of the table.
    pub table_sum: Digest,
}

impl Trailer {
    /// Bytes of a trailer.
    pub const LEN: usize = 60;

    fn encode(&self) -> [u8; Trailer::LEN] {
        let mut out = [0; Trailer::LEN];
        out[..8].copy_from_slice(&self.entries.to_le_bytes());
        out[8..16].copy_from_slice(&self.table_len().to_le_bytes());
        out[16..48].copy_from_slice(&self.table_sum.0);
        out[48..52].copy_from_slice(&VERSION.to_le_bytes());
        out[52..].copy_from_slice(MAGIC);
        out
    }

    /// Reads the trailer of a pack from its last [`Trailer::LEN`] bytes.
    pub fn decode(bytes: &[u8; Trailer::LEN]) -> Result<Trailer, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes);
        let (entries, table_len, table_sum) = (reader.u64()?, reader.u64()?, reader.digest()?);
        let (version, magic) = (reader.u32()?, reader.array::<8>()?);
        if magic != *MAGIC {
            return Err(DecodeError::Magic { what: WHAT });
        }
        if version != VERSION {
            return Err(DecodeError::Version { what: WHAT, found: version, known: VERSION });
        }
        if entries > ENTRIES_MAX {
            return Err(DecodeError::TooMany { what: WHAT, count: entries, limit: ENTRIES_MAX });
        }
        let trailer = Trailer { entries, table_sum };
        match trailer.table_len() == table_len {
            true => Ok(trailer),
            false => Err(reader.invalid("its table has another length than its entries need")),
        }
    }

    /// Bytes of the table, which ends where the trailer starts.
    pub fn table_len(&self) -> u64 {
        self.entries.saturating_mul(ENTRY_LEN as u64)
    }

    /// Where the table starts in a pack of `pack_len` bytes.
    pub fn table_offset(&self, pack_len: u64) -> Result<u64, DecodeError> {
        pack_len
            .checked_sub(self.table_len() + Trailer::LEN as u64)
            .filter(|offset| *offset >= FIRST_OFFSET && pack_len <= BYTES_MAX)
            .ok_or(DecodeError::Truncated { what: WHAT })
    }
}

/// Reads the table of a pack: frames without gaps from the header to
/// `table_offset`, where the table starts.
pub fn decode_table(
    trailer: &Trailer,
    table: &[u8],
    table_offset: u64,
) -> Result<Vec<Entry>, DecodeError> {
    if table.len() as u64 != trailer.table_len() {
        return Err(DecodeError::Truncated { what: WHAT });
    }
    if crate::digest_of(table) != trailer.table_sum {
        return Err(DecodeError::Checksum { what: WHAT });
    }
    let mut reader = Reader::new(WHAT, table);
    let mut end = FIRST_OFFSET;
    let mut entries = Vec::with_capacity(table.len() / ENTRY_LEN);
    for _ in 0..trailer.entries {
        let entry = Entry::decode(&mut reader)?;
        if entry.offset != end {
            return Err(reader.invalid("its frames do not follow each other"));
        }
        end += u64::from(entry.frame_len);
        entries.push(entry);
    }
    match end == table_offset {
        true => Ok(entries),
        false => Err(reader.invalid("its frames do not end where its table starts")),
    }
}

/// Reads the table of a pack of which all bytes are at hand. The frames
/// themselves are not looked at.
pub fn entries(pack: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    check_header(pack)?;
    let truncated = DecodeError::Truncated { what: WHAT };
    let (body, trailer) = pack.split_last_chunk().ok_or(truncated.clone())?;
    let trailer = Trailer::decode(trailer)?;
    let offset = trailer.table_offset(pack.len() as u64)?;
    let at = usize::try_from(offset).map_err(|_| truncated)?;
    decode_table(&trailer, &body[at..], offset)
}
