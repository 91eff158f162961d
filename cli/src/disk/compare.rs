//! What a disk lacks of an image, place for place.

use std::ops::Range;

use store_format::{Envelope, Extent, digest_of};
use wire::Digest;

use super::medium::{Medium, not_zero};
use super::write::Ends;

/// Chunks, spread over the image, by which a disk that has something of it is
/// told from one that is empty or another's. Only the former is read whole:
/// comparing reads as much as reading back does, and is in vain on the latter.
/// Of a disk that has a twentieth of the image, one in half a million is missed;
/// it is written whole.
const SAMPLES: usize = 256;
/// Bytes of a hole that are looked at together: what of them is not zero is in
/// memory.
const HOLE_BYTES: usize = 64 << 20;

/// How a disk stands to an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Bytes of the image, zeros included, that are right and stay.
    pub present_bytes: u64,
    /// Whether the disk has anything of the image, so that what is lacking may
    /// be there in part.
    pub related: bool,
    /// Whether the disk is the image, its ends included.
    pub nothing: bool,
}

/// An extent, and its place on the disk.
pub type Placed = (u64, Extent);

/// Compares a disk of `disk_bytes` with an image of these `extents`, which come
/// by rising place. `lacks` is told the chunks that the disk lacks, in each place,
/// and what must become zero; where nothing is lacking, what it was told is of no
/// use. `progress` is told the bytes dealt with. What cannot be read is lacking.
pub fn compare<I: Iterator<Item = anyhow::Result<Placed>>>(
    medium: &impl Medium,
    disk_bytes: u64,
    envelope: &Envelope,
    extents: impl Fn() -> I,
    mut lacks: impl FnMut(Placed) -> anyhow::Result<()>,
    progress: impl Fn(u64),
) -> anyhow::Result<Lack> {
    let ends = Ends::of(disk_bytes, envelope);
    let mut buffer = Vec::new();
    let related = has_a_sample(medium, &extents, &mut buffer)?;
    let mut lack = Lack { related, nothing: true, ..Lack::default() };
    for placed in extents() {
        let (at, extent) = placed?;
        let end = at + extent.bytes();
        match extent {
            Extent::Chunk { id, .. } => {
                let is_right = related && holds(medium, at, extent.bytes(), &id, &mut buffer);
                lack.nothing &= is_right;
                match is_right && !ends.touch(&(at..end)) {
                    true => lack.present_bytes += extent.bytes(),
                    // The ends are cleared before anything is written, so that what
                    // they had is lacking.
                    false => lacks((at, extent))?,
                }
            }
            Extent::Hole { .. } => {
                for part in (at..end).step_by(HOLE_BYTES) {
                    let part = part..end.min(part + HOLE_BYTES as u64);
                    lack.present_bytes += part.end - part.start;
                    for wrong in not_zero(medium, part) {
                        let bytes = wrong.end - wrong.start;
                        lack.present_bytes -= bytes;
                        lack.nothing = false;
                        lacks((wrong.start, Extent::Hole { bytes }))?;
                    }
                }
            }
        }
        progress(end);
    }
    lack.nothing &= is_zero(medium, ends.cleared);
    if lack.nothing {
        lack.present_bytes = envelope.disk_bytes;
    }
    Ok(lack)
}

/// Whether a disk has one of some chunks in its place.
fn has_a_sample<I: Iterator<Item = anyhow::Result<Placed>>>(
    medium: &impl Medium,
    extents: impl Fn() -> I,
    buffer: &mut Vec<u8>,
) -> anyhow::Result<bool> {
    let chunks = || {
        extents().filter_map(|placed| match placed {
            Ok((_, Extent::Hole { .. })) => None,
            Ok((at, Extent::Chunk { id, bytes })) => Some(Ok((at, id, bytes))),
            Err(error) => Some(Err(error)),
        })
    };
    let step = chunks().count().div_ceil(SAMPLES).max(1);
    for chunk in chunks().step_by(step) {
        let (at, id, bytes) = chunk?;
        if holds(medium, at, bytes.into(), &id, buffer) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds(medium: &impl Medium, at: u64, bytes: u64, id: &Digest, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(usize::try_from(bytes).unwrap_or(0), 0);
    let readable = medium.read(buffer, at).is_ok();
    // Hashing is the dear part, and most of an empty disk is zeros.
    readable && buffer.iter().any(|byte| *byte != 0) && digest_of(buffer) == *id
}

/// Whether a range, which is short, reads as zeros.
fn is_zero(medium: &impl Medium, range: Range<u64>) -> bool {
    not_zero(medium, range).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{MIB, Platter, Sample, noise};

    #[test]
    fn a_disk_lacks_what_differs_and_its_ends() {
        let mut content = noise(1, 4 * MIB);
        content[2 * MIB + 100_000..3 * MIB - 100_000].fill(0);
        let image = Sample::new(content.clone());
        let (lack, parts) = image.compare(&Platter::new(content.clone()));
        assert!(lack.nothing && lack.related);
        assert_eq!(lack.present_bytes, 4 << 20);
        assert!(parts.iter().all(|(at, _)| *at < MIB as u64 || *at >= 2_900_000), "the ends");

        content[1_200_000] ^= 1;
        content[2 * MIB + 500_000] = 1;
        let (lack, parts) = image.compare(&Platter::new(content));
        assert!(!lack.nothing && lack.related);
        let block = (2 * MIB as u64 + 500_000) / 4096 * 4096;
        let is_hole = |(_, extent): &&Placed| matches!(extent, Extent::Hole { .. });
        let holes: Vec<_> = parts.iter().filter(is_hole).copied().collect();
        assert_eq!(holes, [(block, Extent::Hole { bytes: 4096 })]);
        let inside = |at: &u64| (MIB as u64..3 * MIB as u64 - 60_001).contains(at);
        let chunks = parts.iter().filter(|part| !is_hole(part)).map(|(at, _)| *at);
        let [inner] = chunks.filter(inside).collect::<Vec<_>>()[..] else { panic!("{parts:?}") };
        assert!((inner..inner + 60_001).contains(&1_200_000));
        assert!(lack.present_bytes < 2 << 20 && lack.present_bytes > (2 << 20) - 250_000);
    }

    #[test]
    fn a_hole_is_looked_at_in_parts_and_all_of_it_counts() {
        let len = 2 * HOLE_BYTES + 4 * MIB;
        let image = Sample::new(vec![0; len]);
        let mut content = vec![0; len];
        let wrong = [HOLE_BYTES - 4096, HOLE_BYTES, 2 * HOLE_BYTES + MIB];
        wrong.iter().for_each(|at| content[at + 2 * MIB] = 1);
        let (lack, parts) = image.compare(&Platter::new(content));
        let blocks = wrong.map(|at| ((at + 2 * MIB) as u64, Extent::Hole { bytes: 4096 }));
        let total: u64 = parts.iter().map(|(_, extent)| extent.bytes()).sum();
        assert!(
            parts.iter().all(|(at, _)| blocks.iter().any(|(block, _)| at == block)),
            "{parts:?}"
        );
        assert_eq!((total, lack.present_bytes), (3 * 4096, len as u64 - 3 * 4096));
        assert!(!lack.nothing);
    }

    #[test]
    fn a_foreign_disk_is_told_by_samples_and_its_zeros_count() {
        let mut content = noise(1, 4 * MIB);
        content[2 * MIB..3 * MIB].fill(0);
        let image = Sample::new(content);
        let (lack, _) = image.compare(&Platter::new(noise(2, 4 * MIB)));
        assert!(!lack.related);
        assert!(lack.present_bytes < 8192, "{}", lack.present_bytes);
        let (lack, parts) = image.compare(&Platter::new(vec![0; 4 * MIB]));
        assert!(!lack.related && lack.present_bytes >= 900_000);
        assert!(parts.iter().all(|(_, extent)| matches!(extent, Extent::Chunk { .. })));
    }
}
