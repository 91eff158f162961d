//! Every format: what is written is read back, any bytes are refused without a
//! panic, every changed byte is noticed, and the bytes never change by accident.
use std::collections::BTreeSet;

use crate::samples::{chunks, envelope, locations, pack, table};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use store_format::frame::{self, FrameError, Header, Opened, Opener, Sealer};
use store_format::pack::{Builder, Entry, Trailer};
use store_format::segment::{self, Place, Segment};
use store_format::table::DerivedTable;
use store_format::{
    ChunkTable, DecodeError, Envelope, EnvelopeError, Locations, LocationsWriter, PackName,
    digest_of,
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
    let raw = Header { encoding: frame::Encoding::Raw, stored_len: 5, chunks: vec![2, 3] };
    golden(
        &raw.encode(),
        expect![[r#"
            60 bytes, blake3:e5ec1f2edd2b746bd1878309772d9ef6cd8ac5b872fe9dc8b1a5241b87c6a7b2
            49 46 52 4d 00 00 00 00 05 00 00 00 05 00 00 00 02 00 00 00 02 00 00 00
        "#]],
    );
    golden(
        &pack(&raw_chunks()),
        expect![[r#"
            386 bytes, blake3:6efb1617a6b0073f1f983e58d6c2456601b56da153b2fc82e0fe0017d286fd59
            49 4e 47 4f 54 50 43 4b 02 00 00 00 00 00 00 00 49 46 52 4d 00 00 00 00
        "#]],
    );
    golden(
        &segment_bytes(),
        expect![[r#"
            268 bytes, blake3:c896dbca397d5cf1b6e86e74812428c915fcb73c4885e25dadd5c875289ce9fb
            49 4e 47 4f 54 49 44 58 04 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
        "#]],
    );
    golden(
        &table().encode(),
        expect![[r#"
        348 bytes, blake3:d01cfe78956e97077dea7d6b441a0fdbd649c2e96e885143f833184f96b1f3fd
        49 4e 47 4f 54 54 42 4c 01 00 00 00 49 f6 be d3 10 15 5b 8a 8e 26 cf 4a
    "#]],
    );
    let base = ChunkTable { image: digest_of(b""), ..table() };
    golden(
        &DerivedTable::of(&table(), digest_of(b"base"), &base).encode(),
        expect![[r#"
            160 bytes, blake3:84d6a368d10af5e7af382313e7e51135135a65020fb1ad0abde42a6d48617b3e
            49 4e 47 4f 54 54 42 44 01 00 00 00 49 f6 be d3 10 15 5b 8a 8e 26 cf 4a
        "#]],
    );
    golden(
        &locations().encode(),
        expect![[r#"
            156 bytes, blake3:212589df422f2b8a24f20f5f02e91be751b60cd5761f84c625d0012fc2a6b1b6
            49 4e 47 4f 54 4c 4f 43 02 00 00 00 02 00 00 00 00 00 00 00 01 01 01 01
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

#[test]
fn locations_written_bit_by_bit_are_the_list_as_it_is_encoded() {
    let list = locations();
    let begin = || LocationsWriter::new(Vec::new(), &list.packs, list.chunks.len()).unwrap();
    let mut writer = begin();
    list.chunks.iter().for_each(|chunk| writer.push(chunk).unwrap());
    assert!(writer.push(&list.chunks[0]).is_err(), "one too many");
    let (bytes, name) = writer.finish().unwrap();
    assert_eq!((name, &bytes), (digest_of(&bytes), &list.encode()));
    assert!(begin().finish().is_err(), "too few");
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
        frame_len: len + 56,
        plain_offset: len % 7,
        plain_len: len,
        stored_len: len,
    });
    let packs = prop::collection::vec(prop::collection::vec(entry, 0..60), 0..8);
    packs.prop_map(|packs| (0..).map(|n| PackName([n; 32])).zip(packs).collect())
}

/// Whatever reads some bytes, without a panic.
fn read_everything(bytes: &[u8]) {
    let _ = frame::open(bytes).map(|opened| opened.chunks().count());
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
            envelope().to_bytes(), sealed(&[4000, 1000], &[9; 5000]).1,
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
            let all = places.iter().copied().enumerate();
            let all: Vec<_> = all.filter(|(_, place)| place.entry.id == id).collect();
            prop_assert_eq!(segment.all(&id).collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(all.first().map(|(_, place)| *place), segment.get(&id));
            prop_assert!(all.iter().all(|(number, place)| segment.nth(*number) == Some(*place)));
        }
        // Each once for each pack that has it.
        let of_pack = |(pack, entries): &(PackName, Vec<Entry>)| {
            entries.iter().map(|entry| (entry.id, *pack)).collect::<Vec<_>>()
        };
        let expected: BTreeSet<_> = tables.iter().flat_map(of_pack).collect();
        prop_assert!(places.iter().map(|place| (place.entry.id, place.pack)).eq(expected));
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
        prop_assert_eq!(merged, segment::encode(&kept));
    }

    #[test]
    fn chunks_come_back_from_frames(
        seed in any::<u8>(), lens in prop::collection::vec(1..100_000_u32, 1..8),
        repeat in 1..400_usize,
    ) {
        let unit = blake3::hash(&[seed]);
        let len = lens.iter().sum::<u32>() as usize;
        let plain: Vec<u8> =
            (0..len).map(|n| unit.as_bytes()[n / repeat % 32] ^ (n / repeat) as u8).collect();
        let (header, frame) = sealed(&lens, &plain);
        prop_assert_eq!(frame.len(), usize::try_from(header.frame_len()).unwrap());
        prop_assert_eq!(Header::decode(&frame).unwrap(), header);
        let opened = frame::open(&frame).unwrap();
        prop_assert_eq!(opened.chunks().map(|(_, plain)| plain).collect::<Vec<_>>().concat(), plain);
        let mut offset = 0;
        for ((id, plain), len) in opened.chunks().zip(&lens) {
            prop_assert_eq!((id, plain.len()), (digest_of(plain), *len as usize));
            prop_assert_eq!(opened.chunk(&id, offset, *len).unwrap(), plain);
            let others = [(offset + 1, *len), (offset, len - 1), (offset, u32::MAX), (u32::MAX, 1)];
            for (offset, len) in others {
                match opened.chunk(&id, offset, len) {
                    Ok(found) => prop_assert_eq!(digest_of(found), id),
                    Err(error) => prop_assert_eq!(error, FrameError::Digest { id }),
                }
            }
            offset += len;
        }
    }

    /// The shares of chunks of any lengths are the frame.
    #[test]
    fn the_table_of_a_pack_is_read_back(
        frames in prop::collection::vec(prop::collection::vec(1..3000_u32, 1..9), 0..9),
    ) {
        let (mut builder, mut bytes) = (Builder::default(), Builder::header().to_vec());
        for (number, lens) in frames.iter().enumerate() {
            let plain = vec![number as u8; lens.iter().sum::<u32>() as usize];
            let (header, frame) = sealed(lens, &plain);
            bytes.extend(frame);
            let ids: Vec<_> = (0..lens.len()).map(|n| digest_of(&[n as u8])).collect();
            builder.push(&header, &ids);
        }
        bytes.extend(builder.finish());
        let entries = store_format::pack::entries(&bytes).unwrap();
        prop_assert_eq!(&entries, builder.entries());
        let read: Vec<&[Entry]> = store_format::pack::frames(&entries).collect();
        prop_assert_eq!(read.len(), frames.len());
        for (chunks, lens) in read.into_iter().zip(&frames) {
            prop_assert!(chunks.iter().map(|chunk| chunk.plain_len).eq(lens.iter().copied()));
            let shares: u32 = chunks.iter().map(|chunk| chunk.stored_len).sum();
            prop_assert_eq!(shares, chunks[0].frame_len);
        }
    }

    #[test]
    fn a_damaged_frame_gives_no_other_chunk(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        for plain in [b"some text that is not long".to_vec(), vec![9; 5000]] {
            let lens = [7, plain.len() as u32 - 7];
            let (_, mut frame) = sealed(&lens, &plain);
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            let (mut opened, id) = (Opened::default(), digest_of(&plain[..7]));
            match Opener::default().open(&frame, &mut opened) {
                // What is wrong is not called by the name of what is right.
                Ok(()) => match opened.chunk(&id, 0, 7) {
                    Ok(found) => prop_assert_eq!(found, &plain[..7]),
                    Err(error) => prop_assert_eq!(error, FrameError::Digest { id }),
                },
                Err(_) => prop_assert_eq!((opened.plain_len(), opened.chunks().count()), (0, 0)),
            }
        }
    }
}

/// A frame of some chunks.
fn sealed(lens: &[u32], plain: &[u8]) -> (Header, Vec<u8>) {
    let mut frame = Vec::new();
    let header = Sealer::new(3).unwrap().seal(lens, plain, &mut frame).unwrap();
    (header, frame)
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
    bytes[at] += 1;
    assert!(version(store_format::pack::entries(&bytes).unwrap_err()));
    let text = String::from_utf8(envelope().to_bytes()).unwrap();
    let text = text.replace("ingot.image/1", "ingot.image/2").replace("regions", "parts");
    let error = Envelope::from_bytes(text.as_bytes()).unwrap_err();
    assert!(matches!(error, EnvelopeError::Newer { .. }), "{error:?}");
}

#[test]
fn older_versions_are_said_to_be_older() {
    let mut older = locations().encode();
    older[8] -= 1;
    let said = Locations::decode(&older).unwrap_err().to_string();
    assert!(said.contains("version 1") && said.contains("with the older ingot"), "{said}");
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
    use frame::{CHUNK_MAX, CHUNKS_MAX, Encoding, PLAIN_MAX};
    let good = Header { encoding: Encoding::Zstd, stored_len: 10, chunks: vec![15, 5] };
    assert_eq!(Header::decode(&good.encode()).unwrap(), good);
    let zstd = |stored_len, chunks: &[u32]| Header {
        encoding: Encoding::Zstd,
        stored_len,
        chunks: chunks.to_vec(),
    };
    let raw = |stored_len, chunks| Header { encoding: Encoding::Raw, ..zstd(stored_len, chunks) };
    let wrong = [
        zstd(20, &[15, 5]),
        zstd(0, &[15, 5]),
        zstd(10, &[]),
        zstd(10, &[20, 0]),
        zstd(10, &[u32::MAX, u32::MAX]),
        zstd(10, &[CHUNK_MAX + 1]),
        zstd(10, &[CHUNK_MAX, CHUNK_MAX, CHUNK_MAX, CHUNK_MAX, 1]),
        zstd(10, &vec![1; CHUNKS_MAX as usize + 1]),
        raw(10, &[15, 5]),
        raw(0, &[]),
    ];
    for header in wrong {
        let bytes = header.encode();
        assert!(Header::decode(&bytes).is_err(), "{:?}", &bytes[..24]);
        assert!(frame::open(&[&bytes[..], &[0; 20]].concat()).is_err());
    }
    assert!(Header::decode(&raw(PLAIN_MAX, &[CHUNK_MAX; 4]).encode()).is_ok());
    let mut other = good.encode();
    other[20] += 1;
    other[24] -= 1;
    let error = Header::decode(&other).unwrap_err();
    assert!(matches!(error, FrameError::Header(DecodeError::Checksum { .. })));
    let mut later = good.encode();
    later[4] = 2;
    assert_eq!(Header::decode(&later).unwrap_err(), FrameError::Encoding { code: 2 });
}

#[test]
fn what_is_no_frame_is_not_sealed() {
    let mut sealer = Sealer::new(3).unwrap();
    let wrong: [(&[u32], usize); 5] =
        [(&[], 0), (&[5], 4), (&[5], 6), (&[0, 5], 5), (&[1 << 21], 1 << 21)];
    for (lens, bytes) in wrong {
        let mut out = vec![1];
        let error = sealer.seal(lens, &vec![7; bytes], &mut out).unwrap_err();
        assert!(matches!(error, frame::SealError::Length { .. }), "{error}");
        assert_eq!(out, [1]);
    }
}

#[test]
fn a_payload_that_decompresses_to_more_than_announced_is_refused() {
    let (header, frame) = sealed(&[1 << 20], &vec![0; 1 << 20]);
    let payload = &frame[header.header_len() as usize..];
    for plain_len in [header.stored_len + 1, 1000, (1 << 20) - 1] {
        let liar = Header { chunks: vec![plain_len], ..header.clone() };
        let frame = [&liar.encode()[..], payload].concat();
        assert_eq!(frame::open(&frame).unwrap_err(), FrameError::Decompress);
    }
}

/// Tables that no writer writes, with a right checksum.
#[test]
fn tables_whose_frames_are_not_filled_are_refused() {
    let whole = pack(&chunks());
    let entries = store_format::pack::entries(&whole).unwrap();
    let read = |entries: &[Entry]| {
        let mut builder = Vec::new();
        for entry in entries {
            builder.extend_from_slice(&entry.id.0);
            let offset = entry.offset as u32;
            let Entry { frame_len, plain_offset, plain_len, stored_len, .. } = *entry;
            for number in [offset, frame_len, plain_offset, plain_len, stored_len] {
                builder.extend_from_slice(&number.to_le_bytes());
            }
        }
        let trailer = Trailer { entries: entries.len() as u64, table_sum: digest_of(&builder) };
        let end = entries.last().map_or(16, |last| last.offset + u64::from(last.frame_len));
        store_format::pack::decode_table(&trailer, &builder, end)
    };
    assert_eq!(read(&entries).unwrap(), entries);
    let wrong: [fn(&mut Vec<Entry>); 7] = [
        |list| list[1].plain_offset += 1,
        |list| list[0].plain_offset += 1,
        |list| list[1].stored_len += 1,
        |list| list[1].frame_len += 1,
        |list| list[3].offset += 1,
        |list| {
            list.remove(1);
        },
        |list| {
            list.remove(0);
        },
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let mut list = entries.clone();
        change(&mut list);
        assert!(read(&list).is_err(), "change {number}");
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
    assert_eq!((segment.len(), segment.packs().len()), (700, 3));
    for (number, entry) in entries.iter().enumerate() {
        let packs: &[u8] = if number < 200 { &[1, 3] } else { &[2] };
        let expected = packs.iter().map(|n| Place { pack: PackName([*n; 32]), entry: *entry });
        assert!(segment.all(&entry.id).map(|(_, place)| place).eq(expected));
    }
    assert_eq!(segment.get(&digest_of(b"absent")), None);
    assert!(Segment::open(&segment::encode(&[])).unwrap().is_empty());
}
