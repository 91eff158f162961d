//! Every format: what is written is read back, any bytes are refused without a
//! panic, every changed byte is noticed, and the bytes never change by accident.
use std::collections::BTreeSet;

use crate::samples::{chunks, envelope, locations, pack, table};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use store_format::frame::{self, FrameError, Header, Opener, Sealer};
use store_format::pack::{Entry, Trailer};
use store_format::segment::{self, Place, Segment};
use store_format::{
    ChunkTable, DecodeError, Envelope, EnvelopeError, Locations, PackName, digest_of,
};
use wire::Digest;

/// The bytes of a format by their digest, and their first ones to look at.
fn golden(bytes: &[u8], expected: Expect) {
    let head: Vec<String> = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{} bytes, {}\n{}\n", bytes.len(), digest_of(bytes), head.join(" "));
    expected.assert_eq(&text);
}

/// Chunks that stay raw: what zstd makes of others is for zstd to change.
fn raw_chunks() -> Vec<Vec<u8>> {
    vec![b"hello".to_vec(), digest_of(b"noise").0.to_vec(), vec![7]]
}

/// [`segment::merge`], in one piece.
fn merged(segments: &[Segment<'_>], keep: impl Fn(&PackName) -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let take = |piece: Vec<u8>| {
        bytes.extend(piece);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = segment::merge(segments, keep, || (), take);
    bytes
}

fn segment_bytes() -> Vec<u8> {
    let entries = store_format::pack::entries(&pack(&raw_chunks())).unwrap();
    segment::encode(&[(PackName([1; 32]), entries)])
}

#[test]
fn the_bytes_of_each_format_are_what_they_were() {
    let raw = Header {
        encoding: frame::Encoding::Raw,
        stored_len: 5,
        plain_len: 5,
        id: digest_of(b"hello"),
    };
    golden(
        &raw.encode(),
        expect![[r#"
        48 bytes, blake3:4507737b5175158617ed98b79ed23aa6f20f18c2933f2bff66ac9be3b57dae71
        49 43 48 4b 00 00 00 00 05 00 00 00 05 00 00 00 ea 8f 16 3d b3 86 82 92
    "#]],
    );
    golden(
        &pack(&raw_chunks()),
        expect![[r#"
            414 bytes, blake3:cb2a047d3fdff00254ed05b746bb347c4a0fcaa20c2a88a8b931e5af785998b3
            49 4e 47 4f 54 50 43 4b 01 00 00 00 00 00 00 00 49 43 48 4b 00 00 00 00
        "#]],
    );
    golden(
        &segment_bytes(),
        expect![[r#"
            268 bytes, blake3:6ab60dbcb566c3416b2128a96df186640da91472a8d868b0279a1ae95af39ec3
            49 4e 47 4f 54 49 44 58 02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
        "#]],
    );
    golden(
        &table().encode(),
        expect![[r#"
        348 bytes, blake3:d01cfe78956e97077dea7d6b441a0fdbd649c2e96e885143f833184f96b1f3fd
        49 4e 47 4f 54 54 42 4c 01 00 00 00 49 f6 be d3 10 15 5b 8a 8e 26 cf 4a
    "#]],
    );
    golden(
        &locations().encode(),
        expect![[r#"
        156 bytes, blake3:6cef5d504ccdc869afd4ec15ef61ceb84894bf00622fa7809974174e9a4f4580
        49 4e 47 4f 54 4c 4f 43 01 00 00 00 02 00 00 00 00 00 00 00 01 01 01 01
    "#]],
    );
    golden(
        &envelope().to_bytes(),
        expect![[r#"
        977 bytes, blake3:49f6bed310155b8a8e26cf4a4bb3a9d69f84f49644d2d7797930d6a4f8f6a9ee
        7b 22 66 6f 72 6d 61 74 22 3a 22 69 6e 67 6f 74 2e 69 6d 61 67 65 2f 31
    "#]],
    );
}

#[test]
fn each_sample_is_read_back() {
    assert_eq!(ChunkTable::decode(&table().encode()).unwrap(), table());
    assert_eq!(Locations::decode(&locations().encode()).unwrap(), locations());
    assert_eq!(Envelope::from_bytes(&envelope().to_bytes()).unwrap(), envelope());
    assert!(segment::verify(&segment_bytes()).is_ok());
    assert!(table().check(&envelope()).is_ok());
}

/// Ids of which some have many bits in common, and some are the same.
fn id() -> impl Strategy<Value = Digest> {
    (any::<[u8; 2]>(), 0..3_u8).prop_map(|(bytes, kind)| match kind {
        0 => digest_of(&bytes),
        1 => digest_of(&[bytes[0] % 16]),
        _ => Digest([&[7; 30], &bytes[..]].concat().try_into().unwrap()),
    })
}

/// Packs and their tables.
fn tables() -> impl Strategy<Value = Vec<(PackName, Vec<Entry>)>> {
    let entry = (id(), 1..1000_u32).prop_map(|(id, len)| Entry {
        id,
        offset: 16 + u64::from(len),
        frame_len: len + 48,
        plain_len: len,
        encoding: frame::Encoding::Raw,
    });
    let packs = prop::collection::vec(prop::collection::vec(entry, 0..60), 0..8);
    packs.prop_map(|packs| (0..).map(|n| PackName([n; 32])).zip(packs).collect())
}

/// Whatever reads some bytes, without a panic.
fn read_everything(bytes: &[u8]) {
    let _ = Header::decode(bytes);
    let _ = store_format::pack::entries(bytes);
    let _ = store_format::pack::check_header(bytes);
    let _ = bytes.last_chunk().map(Trailer::decode);
    let _ = ChunkTable::decode(bytes);
    let _ = Locations::decode(bytes);
    let _ = Envelope::from_bytes(bytes);
    let _ = segment::verify(bytes);
    if let Ok(segment) = Segment::open(bytes) {
        let _ = segment.get(&digest_of(b"x"));
        let _ = segment.iter().count();
        let _ = segment.nth(0);
        let _ = merged(&[segment, segment], |_| true);
    }
}

/// Puts the right checksum at the end, so that what is behind it is reached.
fn resum(bytes: &mut [u8]) {
    if let Some((body, sum)) = bytes.split_last_chunk_mut::<32>() {
        *sum = digest_of(body).0;
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn changed_bytes_are_read_without_a_panic(
        which in 0..6_usize, at in any::<prop::sample::Index>(), with in any::<[u8; 8]>(),
        cut in any::<prop::sample::Index>(), sum in any::<bool>(),
    ) {
        let samples = [
            pack(&chunks()), segment_bytes(), table().encode(), locations().encode(),
            envelope().to_bytes(), Header {
                encoding: frame::Encoding::Zstd, stored_len: 5, plain_len: 9, id: digest_of(b""),
            }.encode().to_vec(),
        ];
        let mut bytes = samples[which].clone();
        let at = at.index(bytes.len());
        for (byte, new) in bytes[at..].iter_mut().zip(with) {
            *byte = new;
        }
        if sum {
            resum(&mut bytes);
        }
        read_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_everything(&bytes);
    }

    #[test]
    fn every_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let flip = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        prop_assert!(ChunkTable::decode(&flip(table().encode())).is_err());
        prop_assert!(Locations::decode(&flip(locations().encode())).is_err());
        prop_assert!(segment::verify(&flip(segment_bytes())).is_err());
        let changed = flip(envelope().to_bytes());
        if let Ok(read) = Envelope::from_bytes(&changed) {
            prop_assert_ne!(read.digest(), envelope().digest());
        }
    }

    #[test]
    fn every_truncation_is_noticed(cut in any::<prop::sample::Index>()) {
        let cut = |mut bytes: Vec<u8>| { bytes.truncate(cut.index(bytes.len())); bytes };
        prop_assert!(ChunkTable::decode(&cut(table().encode())).is_err());
        prop_assert!(Locations::decode(&cut(locations().encode())).is_err());
        prop_assert!(Segment::open(&cut(segment_bytes())).is_err());
        prop_assert!(Envelope::from_bytes(&cut(envelope().to_bytes())).is_err());
        prop_assert!(store_format::pack::entries(&cut(pack(&chunks()))).is_err());
    }

    /// Also where ids have their first bits in common.
    #[test]
    fn a_look_up_finds_what_a_walk_finds(tables in tables(), others in prop::collection::vec(id(), 20)) {
        let bytes = segment::encode(&tables);
        prop_assert!(segment::verify(&bytes).is_ok());
        let segment = Segment::open(&bytes).unwrap();
        let places: Vec<Place> = segment.iter().map(Result::unwrap).collect();
        let given = tables.iter().flat_map(|(_, entries)| entries.iter().map(|entry| entry.id));
        for id in given.clone().chain(others) {
            let number = places.iter().position(|place| place.entry.id == id);
            let expected = number.map(|number| (number, places[number]));
            prop_assert_eq!(segment.find(&id), expected);
            prop_assert_eq!(number.and_then(|number| segment.nth(number)), segment.get(&id));
        }
        let ids: BTreeSet<Digest> = given.collect();
        prop_assert!(places.iter().map(|place| place.entry.id).eq(ids));
        prop_assert_eq!(segment.nth(places.len()), None);
    }

    #[test]
    fn merged_segments_are_the_segment_of_all_packs(
        tables in tables(), parts in 1..5_usize, dropped in 0..8_u8,
    ) {
        let part = tables.len().div_ceil(parts).max(1);
        let encoded: Vec<Vec<u8>> = tables.chunks(part).map(segment::encode).collect();
        let opened: Vec<Segment> =
            encoded.iter().map(|bytes| Segment::open(bytes).unwrap()).collect();
        let keep = |pack: &PackName| pack.0[0] != dropped;
        let merged = merged(&opened, keep);
        prop_assert!(segment::verify(&merged).is_ok());
        let kept: Vec<_> = tables.into_iter().filter(|(pack, _)| keep(pack)).collect();
        // Where a part had a chunk twice, what it kept may be what is dropped.
        let expected = segment::encode(&kept);
        let (merged, expected) =
            (Segment::open(&merged).unwrap(), Segment::open(&expected).unwrap());
        prop_assert!(merged.packs().eq(expected.packs()));
        let all: Vec<Place> = opened.iter().flat_map(Segment::iter).map(Result::unwrap).collect();
        for place in expected.iter().map(Result::unwrap) {
            let id = place.entry.id;
            let found = all.iter().find(|place| place.entry.id == id && keep(&place.pack));
            prop_assert_eq!(merged.get(&id), found.copied());
        }
        prop_assert!(merged.iter().all(|place| all.contains(&place.unwrap())));
    }

    #[test]
    fn chunks_come_back_from_frames(
        seed in any::<u8>(), len in 1..300_000_usize, repeat in 1..400_usize,
    ) {
        let unit = blake3::hash(&[seed]);
        let plain: Vec<u8> =
            (0..len).map(|n| unit.as_bytes()[n / repeat % 32] ^ (n / repeat) as u8).collect();
        let (mut frame, id) = (Vec::new(), digest_of(&plain));
        let header = Sealer::new(3).unwrap().seal(id, &plain, &mut frame).unwrap();
        prop_assert_eq!(frame.len(), usize::try_from(header.frame_len()).unwrap());
        prop_assert_eq!(Header::decode(&frame).unwrap(), header);
        let mut opened = vec![1, 2, 3];
        frame::open(&header, &frame[Header::LEN..], &mut opened).unwrap();
        prop_assert!(opened == plain);
    }

    #[test]
    fn a_damaged_payload_gives_no_bytes(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        for plain in [b"some text that is not long".to_vec(), vec![9; 5000]] {
            let mut frame = Vec::new();
            let header =
                Sealer::new(3).unwrap().seal(digest_of(&plain), &plain, &mut frame).unwrap();
            let payload = &mut frame[Header::LEN..];
            let at = at.index(payload.len());
            payload[at] ^= 1 << bit;
            let mut opened = Vec::new();
            match Opener::default().open(&header, payload, &mut opened) {
                // zstd has bits that mean nothing.
                Ok(()) => prop_assert!(opened == plain),
                Err(_) => prop_assert!(opened.is_empty()),
            }
        }
    }
}

#[test]
fn newer_versions_are_named_as_such() {
    let newer = |mut bytes: Vec<u8>| {
        bytes[8] += 1;
        bytes
    };
    let version =
        |error| matches!(error, DecodeError::Version { found, known, .. } if found == known + 1);
    assert!(version(ChunkTable::decode(&newer(table().encode())).unwrap_err()));
    assert!(version(Locations::decode(&newer(locations().encode())).unwrap_err()));
    assert!(version(Segment::open(&newer(segment_bytes())).unwrap_err()));
    assert!(version(segment::verify(&newer(segment_bytes())).unwrap_err()));
    assert!(version(store_format::pack::entries(&newer(pack(&chunks()))).unwrap_err()));
    let mut bytes = pack(&chunks());
    let at = bytes.len() - 12;
    bytes[at] = 2;
    assert!(version(store_format::pack::entries(&bytes).unwrap_err()));
    let text = String::from_utf8(envelope().to_bytes()).unwrap();
    let text = text.replace("ingot.image/1", "ingot.image/2").replace("regions", "parts");
    let error = Envelope::from_bytes(text.as_bytes()).unwrap_err();
    assert!(matches!(error, EnvelopeError::Newer { .. }), "{error:?}");
}

#[test]
fn other_formats_are_named_as_such() {
    let magic = |error| matches!(error, DecodeError::Magic { .. });
    assert!(magic(ChunkTable::decode(&locations().encode()).unwrap_err()));
    assert!(magic(Locations::decode(b"").unwrap_err()));
    assert!(magic(segment::verify(&table().encode()).unwrap_err()));
    let error = Header::decode(&pack(&chunks())).unwrap_err();
    assert!(matches!(error, FrameError::Header(DecodeError::Magic { .. })));
    let error = Envelope::from_bytes(br#"{"format":"ingot.store/1"}"#).unwrap_err();
    assert!(matches!(error, EnvelopeError::Format { .. }));
}

#[test]
fn headers_with_impossible_values_are_refused() {
    let good = Header {
        encoding: frame::Encoding::Zstd,
        stored_len: 10,
        plain_len: 20,
        id: digest_of(b"x"),
    };
    assert_eq!(Header::decode(&good.encode()).unwrap(), good);
    let wrong = [
        Header { stored_len: 20, ..good },
        Header { stored_len: 0, ..good },
        Header { stored_len: u32::MAX, plain_len: u32::MAX, ..good },
        Header { plain_len: frame::PLAIN_MAX + 1, ..good },
        Header { encoding: frame::Encoding::Raw, ..good },
        Header { encoding: frame::Encoding::Raw, stored_len: 0, plain_len: 0, ..good },
    ];
    for header in wrong {
        assert!(Header::decode(&header.encode()).is_err(), "{header:?}");
        assert!(frame::open(&header, &[0; 20], &mut Vec::new()).is_err());
    }
    let mut later = good.encode();
    later[4] = 2;
    assert_eq!(Header::decode(&later).unwrap_err(), FrameError::Encoding { code: 2 });
}

#[test]
fn a_payload_that_decompresses_to_more_than_announced_is_refused() {
    let plain = vec![0; 1 << 20];
    let mut frame = Vec::new();
    let header = Sealer::new(3).unwrap().seal(digest_of(&plain), &plain, &mut frame).unwrap();
    for plain_len in [header.stored_len + 1, 1000, (1 << 20) - 1] {
        let liar = Header { plain_len, ..header };
        let mut opened = Vec::new();
        let error = frame::open(&liar, &frame[Header::LEN..], &mut opened).unwrap_err();
        assert!(matches!(error, FrameError::Decompress { .. }));
        assert!(opened.is_empty());
    }
}

#[test]
fn segments_find_what_is_in_them_and_nothing_else() {
    let many: Vec<Vec<u8>> = (0..500_u32).map(|n| n.to_le_bytes().to_vec()).collect();
    let entries = store_format::pack::entries(&pack(&many)).unwrap();
    let (first, second) = entries.split_at(200);
    let packs = [
        (PackName([1; 32]), first.to_vec()),
        (PackName([2; 32]), second.to_vec()),
        (PackName([3; 32]), first.to_vec()),
    ];
    let bytes = segment::encode(&packs);
    segment::verify(&bytes).unwrap();
    let segment = Segment::open(&bytes).unwrap();
    assert_eq!((segment.len(), segment.packs().len()), (500, 3));
    for (number, entry) in entries.iter().enumerate() {
        let place = segment.get(&entry.id).unwrap();
        let pack = if number < 200 { 1 } else { 2 };
        assert_eq!((place.pack, place.entry), (PackName([pack; 32]), *entry));
    }
    assert_eq!(segment.get(&digest_of(b"absent")), None);
    assert!(Segment::open(&segment::encode(&[])).unwrap().is_empty());
}
