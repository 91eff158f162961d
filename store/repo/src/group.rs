//! Chunks that become a frame together.

use store_format::frame::{Filling, Header, LEVEL, SealError, Sealer};
use wire::Digest;

/// Chunks, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Group {
    ids: Vec<Digest>,
    filling: Filling,
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
        self.filling.is_empty()
    }

    /// Whether a chunk of so many bytes goes into the same frame.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.filling.has_room(bytes)
    }

    pub(crate) fn push(&mut self, id: Digest, plain: &[u8]) {
        self.ids.push(id);
        self.filling.push(plain);
    }

    pub(crate) fn seal(mut self, sealer: &mut Sealer) -> Result<Sealed, SealError> {
        let mut bytes = Vec::new();
        let header = self.filling.seal(sealer, &mut bytes)?;
        Ok(Sealed { header, ids: self.ids, bytes })
    }
}
