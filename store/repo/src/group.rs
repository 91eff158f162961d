//! Chunks that become a frame together.

use store_format::frame::{CHUNKS_MAX, FILL_BYTES, Header, LEVEL, SealError, Sealer};
use wire::Digest;

/// Chunks, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Group {
    ids: Vec<Digest>,
    lens: Vec<u32>,
    plain: Vec<u8>,
}

/// A frame, and the names of its chunks.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub header: Header,
    pub ids: Vec<Digest>,
    /// Header and payload.
    pub bytes: Vec<u8>,
}

/// A compressor as the store writes with.
pub(crate) fn sealer() -> Result<Sealer, SealError> {
    Sealer::new(LEVEL)
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether a chunk of so many bytes goes into the same frame.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.is_empty()
            || (self.plain.len() + bytes <= FILL_BYTES && self.ids.len() < CHUNKS_MAX as usize)
    }

    pub(crate) fn push(&mut self, id: Digest, plain: &[u8]) {
        if self.is_empty() {
            self.plain.reserve(FILL_BYTES);
        }
        self.ids.push(id);
        // A chunk that is too long for its length is refused when it is sealed.
        self.lens.push(u32::try_from(plain.len()).unwrap_or(u32::MAX));
        self.plain.extend_from_slice(plain);
    }

    pub(crate) fn seal(self, sealer: &mut Sealer) -> Result<Sealed, SealError> {
        let mut bytes = Vec::new();
        let header = sealer.seal(&self.lens, &self.plain, &mut bytes)?;
        Ok(Sealed { header, ids: self.ids, bytes })
    }
}
