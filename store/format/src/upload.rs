//! What is sent to a store that takes an image, beside frames (`docs/upload.md`).

use wire::Digest;

use crate::bytes::{self, DecodeError, Reader};
use crate::envelope::{self, Envelope, EnvelopeError};
use crate::table::ChunkTable;

const WHAT: &str = "a commit";
const MAGIC: &[u8; 8] = b"INGOTCMT";
const VERSION: u32 = 1;
const HEAD: usize = 16;

/// Most ids in one question.
pub const IDS_MAX: usize = 1 << 14;
/// Most bytes of a question.
pub const IDS_BYTES_MAX: usize = IDS_MAX * 32;
/// Most bytes of a chunk table that is sent: 100 GiB in chunks of the usual
/// 64 KiB, which the taker has in memory.
pub const TABLE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of a commit.
pub const COMMIT_BYTES_MAX: usize = HEAD + envelope::BYTES_MAX + TABLE_BYTES_MAX;
/// Most bytes of the disk of an image that is sent: its holes are hashed, too.
pub const DISK_BYTES_MAX: u64 = 64 << 40;

/// Why bytes are not a commit that can be taken.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The frame around it, or the chunk table.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// More than one request may bring.
    #[error(
        "an image of {disk_bytes} bytes cannot be sent, {DISK_BYTES_MAX} is the limit: import it \
         where the store is"
    )]
    TooLarge {
        /// Bytes of its disk.
        disk_bytes: u64,
    },
}

/// Ids one after the other.
pub fn encode_ids<'a>(ids: impl IntoIterator<Item = &'a Digest>) -> Vec<u8> {
    ids.into_iter().flat_map(|id| id.0).collect()
}

/// Reads ids: at most [`IDS_MAX`].
pub fn decode_ids(bytes: &[u8]) -> Result<Vec<Digest>, DecodeError> {
    const WHAT: &str = "a list of ids";
    if bytes.len() > IDS_BYTES_MAX {
        let (count, limit) = (bytes.len().div_ceil(32) as u64, IDS_MAX as u64);
        return Err(DecodeError::TooMany { what: WHAT, count, limit });
    }
    let (ids, rest) = bytes.as_chunks::<32>();
    match rest {
        [] => Ok(ids.iter().map(|id| Digest(*id)).collect()),
        _ => Err(DecodeError::Truncated { what: WHAT }),
    }
}

/// Puts an image's envelope and chunk table together.
pub fn encode_commit(envelope: &[u8], table: &[u8]) -> Vec<u8> {
    let mut out = bytes::start(MAGIC, VERSION, HEAD + envelope.len() + table.len());
    // An envelope has at most a mebibyte; of more, no reader takes it.
    out.extend_from_slice(&u32::try_from(envelope.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(envelope);
    out.extend_from_slice(table);
    out
}

/// Reads a commit: an envelope, and a table that fits it. No checksum of its
/// own: the table has one, and names the envelope by its digest.
pub fn decode_commit(bytes: &[u8]) -> Result<(Envelope, ChunkTable), CommitError> {
    let mut reader = Reader::new(WHAT, bytes);
    reader.start(MAGIC, VERSION)?;
    let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    let rest = bytes.get(HEAD..).unwrap_or_default();
    let parts = rest.split_at_checked(len).ok_or(DecodeError::Truncated { what: WHAT })?;
    let envelope = Envelope::from_bytes(parts.0)?;
    if envelope.disk_bytes > DISK_BYTES_MAX {
        return Err(CommitError::TooLarge { disk_bytes: envelope.disk_bytes });
    }
    if parts.1.len() > TABLE_BYTES_MAX {
        let (count, limit) = (parts.1.len() as u64, TABLE_BYTES_MAX as u64);
        return Err(DecodeError::TooMany { what: "the table of a commit", count, limit }.into());
    }
    let table = ChunkTable::decode(parts.1)?;
    table.check(&envelope)?;
    Ok((envelope, table))
}
