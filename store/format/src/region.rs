//! The digest of a region's plain bytes (`docs/envelope.md`).

use wire::Digest;

/// Bytes of a block; the last block of a region may be shorter.
pub const BLOCK: usize = 1 << 20;

/// Hashes a region front to back.
///
/// The digest is the BLAKE3 of the BLAKE3s of the region's 1 MiB blocks. Two
/// levels, so that a hole of a terabyte costs next to nothing and that blocks
/// can be hashed in any order by several threads.
#[derive(Debug)]
pub struct Hasher {
    blocks: blake3::Hasher,
    block: blake3::Hasher,
    /// Bytes of the current block.
    filled: usize,
    /// The digest of a whole block of zeros.
    zero: blake3::Hash,
}

static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

impl Default for Hasher {
    fn default() -> Hasher {
        let mut zero = blake3::Hasher::new();
        for _ in 0..BLOCK / ZEROS.len() {
            zero.update(&ZEROS);
        }
        let zero = zero.finalize();
        Hasher { blocks: blake3::Hasher::new(), block: blake3::Hasher::new(), filled: 0, zero }
    }
}

impl Hasher {
    /// Goes on with some bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block.update(now);
            self.advance(now.len());
            bytes = rest;
        }
    }

    /// Goes on with as many zero bytes.
    pub fn zeros(&mut self, mut bytes: u64) {
        const BLOCK_BYTES: u64 = BLOCK as u64;
        while bytes > 0 {
            if self.filled == 0 && bytes >= BLOCK_BYTES {
                self.blocks.update(self.zero.as_bytes());
                bytes -= BLOCK_BYTES;
                continue;
            }
            let room = ZEROS.len().min(BLOCK - self.filled);
            let now = usize::try_from(bytes).map_or(room, |bytes| bytes.min(room));
            self.block.update(&ZEROS[..now]);
            self.advance(now);
            bytes -= now as u64;
        }
    }

    /// Goes on with one whole block whose BLAKE3 is known. `false`, and nothing
    /// done, inside a block.
    pub fn whole_block(&mut self, digest: &Digest) -> bool {
        if self.filled == 0 {
            self.blocks.update(&digest.0);
        }
        self.filled == 0
    }

    fn advance(&mut self, bytes: usize) {
        self.filled += bytes;
        if self.filled == BLOCK {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        self.blocks.update(self.block.finalize().as_bytes());
        self.block.reset();
        self.filled = 0;
    }

    /// The digest of everything given.
    pub fn finish(mut self) -> Digest {
        if self.filled > 0 {
            self.end_block();
        }
        Digest(*self.blocks.finalize().as_bytes())
    }
}

/// The digest of a region whose bytes are all at hand.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}
