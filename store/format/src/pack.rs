//! Many frames of chunks in one immutable object (`docs/pack.md`).
//!
//! Header, frames, table of their chunks, trailer. A pack is written front to
//! back with [`Builder`] and read back to front: [`Trailer`], [`decode_table`].

use std::fmt;
use std::str::FromStr;

use wire::Digest;

use crate::bytes::{DecodeError, Reader};
use crate::frame;

const WHAT: &str = "a pack";
const MAGIC: &[u8; 8] = b"INGOTPCK";

/// The version this code writes and reads.
pub const VERSION: u32 = 2;
/// Bytes of the header.
pub const HEADER_LEN: usize = 16;
/// Bytes of one entry of the table.
pub const ENTRY_LEN: usize = 52;
/// Most chunks in a pack.
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
    /// Offset of the header of the frame that it is in.
    pub offset: u64,
    /// Bytes of that frame, header included.
    pub frame_len: u32,
    /// Where the chunk starts in the plain bytes of the frame.
    pub plain_offset: u32,
    /// Plain bytes of the chunk.
    pub plain_len: u32,
    /// Its share of the frame's bytes: the shares of all its chunks are the frame.
    pub stored_len: u32,
}

impl Entry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&encoded_offset(self.offset));
        out.extend_from_slice(&self.frame_len.to_le_bytes());
        out.extend_from_slice(&self.plain_offset.to_le_bytes());
        out.extend_from_slice(&self.plain_len.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        let entry = Entry {
            id: reader.digest()?,
            offset: reader.u32()?.into(),
            frame_len: reader.u32()?,
            plain_offset: reader.u32()?,
            plain_len: reader.u32()?,
            stored_len: reader.u32()?,
        };
        let Entry { offset, frame_len, plain_offset, plain_len, stored_len, .. } = entry;
        let is_chunk = (1..=frame::CHUNK_MAX).contains(&plain_len) && stored_len <= frame_len;
        match is_chunk && fits(offset, frame_len, plain_offset, plain_len) {
            true => Ok(entry),
            false => Err(reader.invalid("the place or length of an entry is impossible")),
        }
    }
}

/// Offsets fit, as packs are small.
pub(crate) fn encoded_offset(offset: u64) -> [u8; 4] {
    u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes()
}

/// Whether a chunk may stand there: the frame in a pack, the chunk in the frame.
pub(crate) fn fits(offset: u64, frame_len: u32, plain_offset: u32, plain_len: u32) -> bool {
    (frame::FRAME_MIN..=frame::FRAME_MAX).contains(&frame_len)
        && offset >= FIRST_OFFSET
        && offset.checked_add(u64::from(frame_len)).is_some_and(|end| end <= BYTES_MAX)
        && plain_offset.checked_add(plain_len).is_some_and(|end| end <= frame::PLAIN_MAX)
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

    /// The chunks so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether another frame has its place in a pack that a reader accepts.
    pub fn has_room(&self) -> bool {
        // ENTRIES_MAX entries and the trailer are below 4 MiB.
        const TAIL: u64 = 4 << 20;
        self.entries.len() as u64 + u64::from(frame::CHUNKS_MAX) <= ENTRIES_MAX
            && self.end + u64::from(frame::FRAME_MAX) + TAIL <= BYTES_MAX
    }

    /// Notes the frame that is written next, and the names of its chunks.
    pub fn push(&mut self, header: &frame::Header, ids: &[Digest]) {
        self.entries.extend(entries_of(header, self.end, ids.iter().copied()));
        self.end += u64::from(header.frame_len());
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

/// The entries of a frame that stands at `offset`, and has these chunks.
pub fn entries_of(
    header: &frame::Header,
    offset: u64,
    ids: impl Iterator<Item = Digest>,
) -> impl Iterator<Item = Entry> {
    let (frame_len, all) = (header.frame_len(), header.plain_len());
    // Rounded so that the shares of all chunks are the frame.
    let stored_before = move |plain: u32| -> u32 {
        let stored = u64::from(frame_len) * u64::from(plain) / u64::from(all.max(1));
        u32::try_from(stored).unwrap_or(frame_len)
    };
    let mut plain_offset = 0;
    ids.zip(header.chunks.iter().copied()).map(move |(id, plain_len)| {
        let end = plain_offset + plain_len;
        let stored_len = stored_before(end) - stored_before(plain_offset);
        let entry = Entry { id, offset, frame_len, plain_offset, plain_len, stored_len };
        plain_offset = end;
        entry
    })
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
/// `table_offset`, where the table starts, and chunks without gaps in each.
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
    let decoded = (0..trailer.entries).map(|_| Entry::decode(&mut reader));
    let entries = decoded.collect::<Result<Vec<_>, _>>()?;
    let mut end = FIRST_OFFSET;
    for chunks in frames(&entries) {
        let first = chunks[0];
        if first.offset != end {
            return Err(reader.invalid("its frames do not follow each other"));
        }
        if !fill_a_frame(chunks) {
            return Err(reader.invalid("the chunks of a frame do not follow each other"));
        }
        end += u64::from(first.frame_len);
    }
    match end == table_offset {
        true => Ok(entries),
        false => Err(reader.invalid("its frames do not end where its table starts")),
    }
}

/// The entries of a table, frame by frame.
pub fn frames(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    entries.chunk_by(|one, next| one.offset == next.offset)
}

fn fill_a_frame(chunks: &[Entry]) -> bool {
    let (mut plain_end, mut stored) = (0, 0_u64);
    let follow = chunks.iter().all(|chunk| {
        let follows = chunk.plain_offset == plain_end && chunk.frame_len == chunks[0].frame_len;
        plain_end = chunk.plain_offset.saturating_add(chunk.plain_len);
        stored += u64::from(chunk.stored_len);
        follows
    });
    follow && stored == u64::from(chunks[0].frame_len)
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
