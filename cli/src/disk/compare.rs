//! What a disk lacks of an image, place for place.

use std::collections::HashMap;
use std::ops::Range;

use store_format::{ChunkTable, Envelope, Extent, digest_of};
use wire::Digest;

use super::medium::{Medium, not_zero};
use super::write::Ends;

/// Chunks, spread over the image, by which a disk that has something of it is
/// told from one that is empty or another's. Only the former is read whole:
/// comparing reads as much as reading back does, and is in vain on the latter.
/// Of a disk that has a twentieth of the image, one in half a million is missed;
/// it is written whole.
const SAMPLES: usize = 256;

/// What a disk lacks of an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Chunks, as indexes into the image's distinct ones, and a place for each.
    places: Vec<(usize, u64)>,
    /// Ranges that must become zero.
    pub holes: Vec<Range<u64>>,
    /// Bytes of the image, zeros included, that are right and stay.
    pub present_bytes: u64,
    /// Whether the disk has anything of the image, so that what is lacking may
    /// be there in part.
    pub related: bool,
    /// Whether the disk is the image, its ends included.
    pub nothing: bool,
}

impl Lack {
    /// The chunks that are lacking somewhere; some repeatedly.
    pub fn chunks(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.iter().map(|(chunk, _)| *chunk)
    }

    /// Where a chunk is lacking.
    pub fn places(&self, chunk: usize) -> impl Iterator<Item = u64> + '_ {
        let first = self.places.partition_point(|(other, _)| *other < chunk);
        let same = self.places[first..].iter().take_while(move |(other, _)| *other == chunk);
        same.map(|(_, at)| *at)
    }
}

/// A chunk in its place.
#[derive(Debug, Clone, Copy)]
struct Place {
    chunk: usize,
    id: Digest,
    bytes: u32,
    at: u64,
}

/// Compares a disk of `disk_bytes` with an image. `progress` is told the bytes
/// dealt with. What cannot be read is lacking.
pub fn compare(
    medium: &impl Medium,
    disk_bytes: u64,
    envelope: &Envelope,
    table: &ChunkTable,
    progress: &dyn Fn(u64),
) -> Lack {
    let ends = Ends::of(disk_bytes, envelope);
    let (chunks, holes) = places(envelope, table);
    let mut buffer = Vec::new();
    let step = chunks.len().div_ceil(SAMPLES).max(1);
    let mut samples = chunks.iter().step_by(step);
    let mut lack =
        Lack { related: samples.any(|place| holds(medium, place, &mut buffer)), ..Lack::default() };
    let (mut at_ends, mut ends_right) = (Vec::new(), true);
    for place in &chunks {
        let is_right = lack.related && holds(medium, place, &mut buffer);
        if !is_right {
            lack.places.push((place.chunk, place.at));
        } else if ends.touch(&(place.at..place.at + u64::from(place.bytes))) {
            at_ends.push((place.chunk, place.at));
        } else {
            lack.present_bytes += u64::from(place.bytes);
        }
        progress(place.at);
    }
    for hole in holes {
        let wrong = not_zero(medium, hole.clone());
        let wrong_bytes: u64 = wrong.iter().map(|part| part.end - part.start).sum();
        lack.present_bytes += hole.end - hole.start - wrong_bytes;
        ends_right &= !wrong.iter().any(|part| ends.touch(part));
        lack.holes.extend(wrong);
        progress(hole.end);
    }
    ends_right &= not_zero(medium, ends.cleared.clone()).is_empty();
    lack.nothing = ends_right && lack.places.is_empty() && lack.holes.is_empty();
    match lack.nothing {
        true => lack.present_bytes = envelope.disk_bytes,
        // The ends are cleared before anything is written, so what they had is lacking.
        false => lack.places.extend(at_ends),
    }
    lack.places.sort_unstable();
    lack
}

/// Every chunk in every place, and every hole, by rising offset.
fn places(envelope: &Envelope, table: &ChunkTable) -> (Vec<Place>, Vec<Range<u64>>) {
    let numbers: HashMap<Digest, usize> = table.distinct().map(|(id, _)| id).zip(0..).collect();
    let (mut chunks, mut holes) = (Vec::new(), Vec::new());
    for (region, extents) in envelope.regions.iter().zip(&table.regions) {
        let mut at = region.start;
        for extent in extents {
            match *extent {
                Extent::Hole { bytes } => holes.push(at..at + bytes),
                Extent::Chunk { id, bytes } => {
                    // Every id of the table has a number.
                    let chunk = numbers.get(&id).copied().unwrap_or(usize::MAX);
                    chunks.push(Place { chunk, id, bytes, at });
                }
            }
            at += extent.bytes();
        }
    }
    (chunks, holes)
}

fn holds(medium: &impl Medium, place: &Place, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(usize::try_from(place.bytes).unwrap_or(0), 0);
    let readable = medium.read(buffer, place.at).is_ok();
    // Hashing is the dear part, and most of an empty disk is zeros.
    readable && buffer.iter().any(|byte| *byte != 0) && digest_of(buffer) == place.id
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]
mod tests {
    use crate::disk::testing::{MIB, Platter, Sample, noise};

    #[test]
    fn a_disk_lacks_what_differs_and_its_ends() {
        let mut content = noise(1, 4 * MIB);
        content[2 * MIB + 100_000..3 * MIB - 100_000].fill(0);
        let image = Sample::new(content.clone());
        let lack = image.compare(&Platter::new(content.clone()));
        assert!(lack.nothing && lack.related);
        assert_eq!((lack.chunks().count(), lack.present_bytes), (0, 4 << 20));

        content[1_200_000] ^= 1;
        content[2 * MIB + 500_000] = 1;
        let lack = image.compare(&Platter::new(content));
        assert!(!lack.nothing && lack.related);
        let block = (2 * MIB as u64 + 500_000) / 4096 * 4096;
        assert_eq!(lack.holes, [block..block + 4096]);
        let places: Vec<u64> = lack.chunks().flat_map(|chunk| lack.places(chunk)).collect();
        let inside = |at: &&u64| (MIB as u64..3 * MIB as u64 - 60_001).contains(*at);
        let [inner] = places.iter().filter(inside).collect::<Vec<_>>()[..] else { panic!() };
        assert!((*inner..inner + 60_001).contains(&1_200_000));
        assert!(lack.present_bytes < 2 << 20 && lack.present_bytes > (2 << 20) - 250_000);
    }

    #[test]
    fn a_foreign_disk_is_told_by_samples_and_its_zeros_count() {
        let mut content = noise(1, 4 * MIB);
        content[2 * MIB..3 * MIB].fill(0);
        let image = Sample::new(content);
        let lack = image.compare(&Platter::new(noise(2, 4 * MIB)));
        assert!(!lack.related);
        assert!(lack.present_bytes < 8192, "{}", lack.present_bytes);
        let lack = image.compare(&Platter::new(vec![0; 4 * MIB]));
        assert!(!lack.related && lack.holes.is_empty() && lack.present_bytes >= 900_000);
    }
}
