//! Chunks that are sent together, as stores keep them.

use std::sync::mpsc::SyncSender;

use store_format::frame::{Filling, LEVEL, SealError, Sealer};

/// Some chunks, compressed.
pub(super) struct Frame {
    pub chunks: usize,
    pub bytes: Vec<u8>,
}

/// Makes frames and hands them on.
pub(super) struct Frames {
    sealer: Sealer,
    filling: Filling,
    out: SyncSender<Frame>,
}

impl Frames {
    pub(super) fn new(out: SyncSender<Frame>) -> Result<Frames, SealError> {
        Ok(Frames { sealer: Sealer::new(LEVEL)?, filling: Filling::default(), out })
    }

    /// Adds a chunk; false where nobody takes frames any more.
    pub(super) fn push(&mut self, plain: &[u8]) -> Result<bool, SealError> {
        let taken = self.filling.has_room(plain.len()) || self.seal()?;
        self.filling.push(plain);
        Ok(taken)
    }

    /// All frames are handed on then.
    pub(super) fn finish(mut self) -> Result<(), SealError> {
        if !self.filling.is_empty() {
            self.seal()?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<bool, SealError> {
        let mut bytes = Vec::new();
        let chunks = self.filling.chunks();
        self.filling.seal(&mut self.sealer, &mut bytes)?;
        Ok(self.out.send(Frame { chunks, bytes }).is_ok())
    }
}
