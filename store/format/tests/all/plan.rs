//! Plans: few ranges, every wanted chunk once, limits kept; and region digests.
use proptest::prelude::*;
use store_format::plan::ranges;
use store_format::region::{BLOCK, Hasher, digest};
use store_format::{Location, Locations, PackName, PlanError, PlanLimits, digest_of};

/// Frames that follow each other in packs, as writers put them.
fn locations(frames: &[(u32, u32)]) -> Locations {
    let mut ends = [16_u64; 3];
    let chunks = frames.iter().map(|(pack, frame_len)| {
        let end = &mut ends[*pack as usize];
        let offset = *end;
        *end += u64::from(*frame_len);
        Location { pack: *pack, offset, frame_len: *frame_len }
    });
    let packs = (0..3).map(|n| PackName([n; 32])).collect();
    Locations { chunks: chunks.collect(), packs }
}

#[test]
fn neighbours_are_one_range_and_far_ones_are_not() {
    let list = locations(&[(0, 1000), (0, 1000), (0, 5000), (0, 1000), (1, 1000)]);
    let limits = PlanLimits { gap_bytes_max: 4999, range_bytes_max: 1 << 20 };
    let plan = ranges([4, 3, 0, 1, 1].into_iter(), &list, limits).unwrap();
    let shape: Vec<_> = plan.iter().map(|r| (r.start, r.end, r.chunks.clone())).collect();
    assert_eq!(shape, [(16, 2016, vec![0, 1]), (7016, 8016, vec![3]), (16, 1016, vec![4])]);
    let limits = PlanLimits { gap_bytes_max: 5000, ..limits };
    let plan = ranges([0, 1, 3].into_iter(), &list, limits).unwrap();
    assert_eq!(plan.len(), 1);
    assert_eq!(ranges(std::iter::empty(), &list, limits).unwrap(), []);
    let error = ranges([5].into_iter(), &list, limits).unwrap_err();
    assert_eq!(error, PlanError::NoLocation { index: 5, len: 5 });
}

#[test]
fn a_whole_image_is_read_with_a_request_for_each_eight_mebibytes() {
    let list = locations(&vec![(0, 40_000); 1600]);
    let plan = ranges(0..1600, &list, PlanLimits::default()).unwrap();
    assert_eq!(plan.len(), 8);
}

proptest! {
    #[test]
    fn every_wanted_chunk_is_in_one_range_within_the_limits(
        frames in prop::collection::vec((0..3_u32, 49..200_000_u32), 1..60),
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        gap_bytes_max in 0..300_000_u64,
        range_bytes_max in 1..2_000_000_u64,
    ) {
        let list = locations(&frames);
        let wanted: Vec<usize> = wanted.iter().map(|index| index.index(frames.len())).collect();
        let limits = PlanLimits { gap_bytes_max, range_bytes_max };
        let plan = ranges(wanted.iter().copied(), &list, limits).unwrap();
        let mut found = Vec::new();
        for request in &plan {
            prop_assert!(request.end - request.start <= range_bytes_max || request.chunks.len() == 1);
            let mut end = request.start;
            for chunk in &request.chunks {
                let at = list.chunks[*chunk];
                prop_assert_eq!(list.pack(&at), Some(request.pack));
                prop_assert!(at.offset - end <= gap_bytes_max);
                end = at.offset + u64::from(at.frame_len);
                found.push(*chunk);
            }
            prop_assert_eq!(request.end, end);
        }
        found.sort_unstable();
        let mut wanted = wanted;
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn a_region_has_one_digest_however_it_is_given(
        cuts in prop::collection::vec((0..400_000_usize, any::<bool>()), 0..12),
    ) {
        let mut bytes = Vec::new();
        let mut hasher = Hasher::default();
        for (len, zeros) in cuts {
            match zeros {
                true => hasher.zeros(len as u64),
                false => {
                    let part: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
                    hasher.update(&part);
                    bytes.extend(part);
                    continue;
                }
            }
            bytes.resize(bytes.len() + len, 0);
        }
        prop_assert_eq!(hasher.finish(), digest(&bytes));
    }
}

#[test]
fn a_regions_digest_is_that_of_its_blocks_digests() {
    let bytes: Vec<u8> = (0..2 * BLOCK + 77).map(|n| (n % 253) as u8).collect();
    let blocks: Vec<u8> = bytes.chunks(BLOCK).flat_map(|block| digest_of(block).0).collect();
    assert_eq!(digest(&bytes), digest_of(&blocks));
    assert_eq!(digest(b""), digest_of(b""));
    let mut hasher = Hasher::default();
    assert!(hasher.whole_block(&digest_of(&bytes[..BLOCK])));
    hasher.update(&bytes[BLOCK..BLOCK + 5]);
    assert!(!hasher.whole_block(&digest_of(b"x")));
    hasher.update(&bytes[BLOCK + 5..]);
    assert_eq!(hasher.finish(), digest(&bytes));
    let mut zeros = Hasher::default();
    zeros.zeros(5 << 20);
    assert_eq!(zeros.finish(), digest(&vec![0; 5 << 20]));
}
