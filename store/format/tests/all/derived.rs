//! Tables that are told by others.
use crate::samples::table;
use proptest::prelude::*;
use store_format::table::{DerivedTable, KeptTable};
use store_format::{ChunkTable, DecodeError, Extent, digest_of};
use wire::Digest;

/// Tables of which two are likely to have much in common.
pub fn tables() -> impl Strategy<Value = ChunkTable> {
    let extent = prop_oneof![
        6 => (0..40_u8).prop_map(|n| Extent::Chunk { id: digest_of(&[n]), bytes: u32::from(n) + 1 }),
        1 => (1..4_u64).prop_map(|bytes| Extent::Hole { bytes }),
    ];
    let region = prop::collection::vec(extent, 0..30).prop_map(|mut extents| {
        extents.dedup_by(|one, two| [one, two].iter().all(|e| matches!(e, Extent::Hole { .. })));
        extents
    });
    prop::collection::vec(region, 0..4)
        .prop_map(|regions| ChunkTable { image: digest_of(b"image"), regions })
}

fn name() -> Digest {
    digest_of(b"base")
}

fn decoded(bytes: &[u8]) -> Result<DerivedTable, DecodeError> {
    match KeptTable::decode(bytes)? {
        KeptTable::Derived(derived) => Ok(derived),
        KeptTable::Whole(_) => panic!("it is whole"),
    }
}

/// Where extents begin in the base, how many, and others.
type Run<'a> = (u32, u32, &'a [(u64, Digest)]);

/// A derived table of these numbers: extents of each region, and runs.
fn written(regions: &[u64], runs: &[Run<'_>]) -> Vec<u8> {
    let mut out = b"INGOTTBD\x01\0\0\0".to_vec();
    out.extend(digest_of(b"image").0);
    out.extend(name().0);
    out.extend((regions.len() as u64).to_le_bytes());
    regions.iter().for_each(|len| out.extend(len.to_le_bytes()));
    out.extend((runs.len() as u64).to_le_bytes());
    for (from, count, own) in runs {
        [*from, *count, own.len() as u32].iter().for_each(|n| out.extend(n.to_le_bytes()));
        for (bytes, id) in *own {
            out.extend(bytes.to_le_bytes());
            out.extend(id.0);
        }
    }
    let sum = digest_of(&out);
    [out, sum.0.to_vec()].concat()
}

proptest! {
    #[test]
    fn a_derived_table_is_the_table_it_was_made_of(table in tables(), base in tables()) {
        let derived = DerivedTable::of(&table, name(), &base);
        let read = decoded(&derived.encode()).unwrap();
        prop_assert_eq!(&read, &derived);
        prop_assert_eq!((read.image, read.base), (table.image, name()));
        prop_assert_eq!(read.resolve(&base).unwrap(), table);
    }

    #[test]
    fn changed_bytes_and_other_bases_are_refused_or_a_table(
        table in tables(), base in tables(), other in tables(),
        at in any::<prop::sample::Index>(), with in any::<[u8; 4]>(), sum in any::<bool>(),
    ) {
        let mut bytes = DerivedTable::of(&table, name(), &base).encode();
        let at = at.index(bytes.len());
        for (byte, new) in bytes[at..].iter_mut().zip(with) {
            *byte = new;
        }
        if sum {
            let (body, last) = bytes.split_last_chunk_mut::<32>().unwrap();
            *last = digest_of(body).0;
        }
        for base in [&base, &other] {
            let resolved = KeptTable::decode(&bytes).and_then(|kept| match kept {
                KeptTable::Derived(derived) => derived.resolve(base),
                KeptTable::Whole(table) => Ok(table),
            });
            if let Ok(table) = resolved {
                prop_assert_eq!(ChunkTable::decode(&table.encode()).unwrap(), table);
            }
        }
    }
}

#[test]
fn what_both_have_is_said_once() {
    let chunk = |n: u32| Extent::Chunk { id: digest_of(&n.to_le_bytes()), bytes: 100 };
    let base = ChunkTable { image: name(), regions: vec![(0..5000).map(chunk).collect()] };
    let mut table = base.clone();
    table.regions[0].splice(1000..1010, [chunk(9000), Extent::Hole { bytes: 7 }, chunk(9001)]);
    table.regions[0].rotate_left(2500);
    table.regions.push(vec![chunk(17)]);
    let bytes = DerivedTable::of(&table, name(), &base).encode();
    assert!(bytes.len() < 500, "{} of {}", bytes.len(), table.encode().len());
    assert_eq!(decoded(&bytes).unwrap().resolve(&base).unwrap(), table);
}

#[test]
fn either_kind_is_known_by_its_first_bytes() {
    let whole = KeptTable::decode(&table().encode()).unwrap();
    assert_eq!(whole, KeptTable::Whole(table()));
    let mut newer = written(&[], &[]);
    newer[8] = 2;
    let error = KeptTable::decode(&newer).unwrap_err();
    assert!(matches!(error, DecodeError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn impossible_derived_tables_are_refused() {
    let base = table();
    let hole = Digest([0; 32]);
    let own = (5, digest_of(b"own"));
    // chunk, hole; chunk, hole, chunk; hole
    let good = written(&[3, 2], &[(2, 2, &[own]), (0, 2, &[])]);
    assert_eq!(decoded(&good).unwrap().resolve(&base).unwrap().regions[0].len(), 3);
    let wrong = [
        (written(&[3], &[(4, 3, &[])]), "fewer extents"),
        (written(&[1], &[(u32::MAX, 1, &[])]), "fewer extents"),
        (written(&[4], &[(2, 2, &[own])]), "longer"),
        (written(&[u64::MAX, 3], &[(2, 2, &[own])]), "longer"),
        (written(&[2], &[(2, 2, &[own])]), "shorter"),
        (written(&[3], &[(0, 2, &[(7, hole)])]), "continues a hole"),
        (written(&[3], &[(1, 1, &[]), (3, 2, &[])]), "continues a hole"),
        (written(&[1], &[(0, 0, &[(0, own.1)])]), "empty"),
    ];
    for (bytes, why) in wrong {
        let error = decoded(&bytes).unwrap().resolve(&base).unwrap_err().to_string();
        assert!(error.contains(why), "{error}, not {why}");
    }
    let long = written(&[1], &[(0, 0, &[(1 << 21, own.1)])]);
    assert!(decoded(&long).unwrap_err().to_string().contains("longer than chunks"));
    let many = written(&[1 << 24], &[(0, 1 << 24, &[]), (0, 1, &[])]);
    assert!(decoded(&many).unwrap_err().to_string().contains("more extents"));
}
