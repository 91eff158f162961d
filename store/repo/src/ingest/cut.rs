//! Where content is cut. Another rule gives other chunks, and content would no
//! longer share them with what existing stores have.

use fastcdc::v2020::{FastCDC, Normalization};

/// Smallest chunk, unless a region or the data before a hole is shorter.
const CHUNK_MIN: usize = 16 << 10;
const CHUNK_AVERAGE: usize = 64 << 10;
/// Largest chunk. A cut depends on no more bytes than that.
pub(super) const CHUNK_MAX: usize = 256 << 10;
const NORMALIZATION: Normalization = Normalization::Level2;

/// Length of the first chunk of some bytes. If these are fewer than
/// [`CHUNK_MAX`], nothing may follow them.
pub(super) fn cut(bytes: &[u8]) -> usize {
    let (min, average, max) = (CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX);
    FastCDC::with_level(bytes, min, average, max, NORMALIZATION).cut(0, bytes.len()).1
}
