//! Plans: few ranges, every wanted chunk once, limits kept; and region digests.
use proptest::prelude::*;
use store_format::plan::{
    GAP_BYTES, Joiner, RANGE_BYTES_MAX, Stretch, UNWANTED_PART, Weigher, ranges,
};
use store_format::region::{BLOCK, Hasher, digest};
use store_format::{
    ChunkTable, Extent, Location, Locations, PackName, Plan, PlanError, PlanLimits, digest_of,
};

/// Frames that follow each other in packs, as writers put them.
fn locations(frames: &[(u32, u32)]) -> Locations {
    let mut ends = [16_u64; 3];
    let chunks = frames.iter().map(|(pack, frame_len)| {
        let end = &mut ends[*pack as usize];
        let offset = *end;
        *end += u64::from(*frame_len);
        Location { pack: *pack, offset, frame_len: *frame_len, plain_offset: 0 }
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
fn chunks_of_one_frame_are_fetched_once() {
    let at =
        |offset, frame_len, plain_offset| Location { pack: 0, offset, frame_len, plain_offset };
    let chunks = vec![at(16, 900, 4096), at(916, 100, 0), at(16, 900, 0), at(16, 900, 9000)];
    let list = Locations { packs: vec![PackName([1; 32])], chunks };
    let plan = Plan::of([3, 0, 2].into_iter(), &list).unwrap();
    assert_eq!((plan.wanted_chunks, plan.wanted_bytes, plan.wire_bytes), (3, 900, 900));
    let chunks: Vec<_> = plan.ranges.iter().map(|range| range.chunks.clone()).collect();
    assert_eq!(chunks, [[0, 2, 3]]);
}

const MIB: u64 = 1 << 20;

/// An image over several packs: chunk `n` is `frame_len` bytes, packs are full at 64 MiB.
fn image(chunks: u32, frame_len: impl Fn(u32) -> u32) -> Locations {
    let (mut pack, mut offset) = (0, 16);
    let mut list = Locations::default();
    for chunk in 0..chunks {
        let frame_len = frame_len(chunk);
        if offset + u64::from(frame_len) > 64 * MIB {
            (pack, offset) = (pack + 1, 16);
        }
        list.chunks.push(Location { pack, offset, frame_len, plain_offset: 0 });
        offset += u64::from(frame_len);
    }
    list.packs = (0..=pack).map(|n| PackName([u8::try_from(n).unwrap(); 32])).collect();
    list
}

/// Frames of 15 to 60 KB, in no order.
fn uneven(chunk: u32) -> u32 {
    15_000 + chunk.wrapping_mul(2_654_435_761) % 45_000
}

#[test]
fn a_full_install_needs_at_most_a_request_for_each_eight_mebibytes() {
    for chunks in [100, 1000, 3600, 20_000] {
        let list = image(chunks, uneven);
        let plan = Plan::of(0..chunks as usize, &list).unwrap();
        let requests = plan.ranges.len() as u64;
        assert!(requests <= plan.wire_bytes.div_ceil(8 * MIB), "{requests} for {chunks} chunks");
        assert_eq!((plan.unwanted_bytes(), plan.wanted_chunks), (0, u64::from(chunks)));
    }
}

#[test]
fn an_update_needs_at_most_a_request_for_each_four_mebibytes() {
    let list = image(20_000, uneven);
    // What is new lies in stretches: of it the reader has every so-manyeth chunk, and between
    // them lies what other images need.
    for (stretch, between, had) in [(60, 4, 1000), (200, 12, 9), (400, 25, 3), (2000, 60, 40)] {
        let is_wanted = |chunk: &usize| {
            let at = chunk % (stretch + between);
            at < stretch && at % had != 1
        };
        let plan = Plan::of((0..20_000).filter(is_wanted), &list).unwrap();
        let requests = plan.ranges.len() as u64;
        assert!(requests <= plan.wire_bytes.div_ceil(4 * MIB), "{requests}: {stretch} {had}");
        assert!(plan.wire_bytes <= plan.wanted_bytes * 3 / 2, "{stretch} {between} {had}");
    }
}

#[test]
fn few_bytes_scattered_far_are_not_paid_for_with_many() {
    let list = image(20_000, |_| 40_000);
    let plan = Plan::of((0..20_000).step_by(100), &list).unwrap();
    assert_eq!(plan.unwanted_bytes(), 0);
    assert_eq!(plan.ranges.len(), 200);
}

#[test]
fn who_holds_an_image_asks_for_what_another_has_besides() {
    let chunk = |n: u8| Extent::Chunk { id: digest_of(&[n]), bytes: 1000 };
    let table = |chunks: &[u8]| ChunkTable {
        image: digest_of(chunks),
        regions: vec![chunks.iter().map(|n| chunk(*n)).collect()],
    };
    let (old, new) = (table(&[1, 2, 3]), table(&[2, 9, 3, 9, 8]));
    let list = locations(&[(0, 500), (1, 600), (0, 500), (1, 700)]);
    let plan = Plan::missing(&new, &old.ids(), &list).unwrap();
    let shape: Vec<_> = plan.ranges.iter().map(|r| (r.start, r.end, r.chunks.clone())).collect();
    assert_eq!(shape, [(16, 1316, vec![1, 3])]);
    assert_eq!((plan.wanted_chunks, plan.wanted_bytes, plan.wire_bytes), (2, 1300, 1300));
    assert_eq!(Plan::missing(&new, &new.ids(), &list).unwrap(), Plan::default());
    let all = Plan::missing(&new, &Default::default(), &list).unwrap();
    assert_eq!((all.wanted_chunks, all.ranges.len()), (4, 2));
    let text = serde_json::to_value(&plan).unwrap();
    assert_eq!(text["ranges"][0]["pack"], "01".repeat(32));
    assert_eq!(text["wire_bytes"], 1300);
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
    fn a_plan_has_every_wanted_chunk_once_and_reads_little_in_vain(
        frames in prop::collection::vec((0..3_u32, 49..900_000_u32), 1..120),
        wanted in prop::collection::vec(any::<prop::sample::Index>(), 0..90),
    ) {
        let list = locations(&frames);
        let mut wanted: Vec<usize> = wanted.iter().map(|at| at.index(frames.len())).collect();
        let plan = Plan::of(wanted.iter().copied(), &list).unwrap();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found: Vec<usize> = plan.ranges.iter().flat_map(|r| r.chunks.clone()).collect();
        found.sort_unstable();
        prop_assert_eq!(&found, &wanted);
        for pair in plan.ranges.windows(2) {
            let next_pack = pair[0].pack < pair[1].pack;
            prop_assert!(next_pack || pair[0].pack == pair[1].pack && pair[0].end <= pair[1].start);
        }
        for range in &plan.ranges {
            prop_assert!(range.bytes() <= RANGE_BYTES_MAX || range.chunks.len() == 1);
            for chunk in &range.chunks {
                let at = list.chunks[*chunk];
                prop_assert_eq!(list.pack(&at), Some(range.pack));
                let frame = at.offset..at.offset + u64::from(at.frame_len);
                prop_assert!(range.start <= frame.start && frame.end <= range.end);
            }
        }
        let frames: u64 = wanted.iter().map(|chunk| u64::from(list.chunks[*chunk].frame_len)).sum();
        prop_assert_eq!((plan.wanted_chunks, plan.wanted_bytes), (wanted.len() as u64, frames));
        let cheap = plan.wanted_chunks * GAP_BYTES;
        prop_assert!(plan.unwanted_bytes() <= cheap.max(frames / UNWANTED_PART));
    }

    /// Who keeps no frames asks for the same ranges.
    #[test]
    fn frames_that_are_weighed_one_at_a_time_lead_to_the_same_ranges(
        frames in prop::collection::vec((0..3_u32, 49..900_000_u32), 1..120),
        every in 1..20_usize,
    ) {
        let list = locations(&frames);
        let wanted: Vec<usize> = (0..frames.len()).step_by(every).collect();
        let plan = Plan::of(wanted.iter().copied(), &list).unwrap();
        let place = |at: &Location| Stretch {
            pack: at.pack,
            start: at.offset,
            end: at.offset + u64::from(at.frame_len),
        };
        let mut wanted: Vec<_> = wanted.iter().map(|chunk| place(&list.chunks[*chunk])).collect();
        wanted.sort_unstable_by_key(|frame| (frame.pack, frame.start));
        // Each twice, as where two of its chunks are wanted.
        let wanted = || wanted.iter().flat_map(|frame| [*frame; 2]);
        let mut weigher = Weigher::default();
        wanted().for_each(|frame| weigher.push(frame));
        let (limits, cost) = weigher.choose();
        let sums = (cost.requests, cost.wanted_bytes, cost.wire_bytes);
        prop_assert_eq!(sums, (plan.ranges.len() as u64, plan.wanted_bytes, plan.wire_bytes));
        let mut joiner = Joiner::new(limits);
        let mut ranges: Vec<_> = wanted().filter_map(|frame| joiner.push(frame)).collect();
        ranges.extend(joiner.finish());
        let ours = ranges.iter().map(|r| (list.packs[r.pack as usize], r.start, r.end));
        prop_assert!(ours.eq(plan.ranges.iter().map(|r| (r.pack, r.start, r.end))));
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
