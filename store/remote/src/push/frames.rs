//! Chunks that are sent together, as stores keep them.

use std::mem;
use std::sync::mpsc::SyncSender;

use store_format::frame::{CHUNKS_MAX, FILL_BYTES, LEVEL, SealError, Sealer};

/// Some chunks, compressed.
pub(super) struct Frame {
    pub chunks: usize,
    pub bytes: Vec<u8>,
}

/// Makes frames and hands them on.
pub(super) struct Frames {
    sealer: Sealer,
    lens: Vec<u32>,
    plain: Vec<u8>,
    out: SyncSender<Frame>,
}

impl Frames {
    pub(super) fn new(out: SyncSender<Frame>) -> Result<Frames, SealError> {
        let plain = Vec::with_capacity(FILL_BYTES);
        Ok(Frames { sealer: Sealer::new(LEVEL)?, lens: Vec::new(), plain, out })
    }

    /// Adds a chunk; false where nobody takes frames any more.
    pub(super) fn push(&mut self, plain: &[u8]) -> Result<bool, SealError> {
        let has_room =
            self.plain.len() + plain.len() <= FILL_BYTES && self.lens.len() < CHUNKS_MAX as usize;
        let taken = has_room || self.lens.is_empty() || self.seal()?;
        // What is too long for its length is refused when it is sealed.
        self.lens.push(u32::try_from(plain.len()).unwrap_or(u32::MAX));
        self.plain.extend_from_slice(plain);
        Ok(taken)
    }

    /// All frames are handed on then.
    pub(super) fn finish(mut self) -> Result<(), SealError> {
        if !self.lens.is_empty() {
            self.seal()?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<bool, SealError> {
        let mut bytes = Vec::new();
        let lens = mem::take(&mut self.lens);
        self.sealer.seal(&lens, &self.plain, &mut bytes)?;
        self.plain.clear();
        Ok(self.out.send(Frame { chunks: lens.len(), bytes }).is_ok())
    }
}
