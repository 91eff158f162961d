//! What an upload sends beside frames.

use proptest::prelude::*;
use store_format::upload::{
    CommitError, DISK_BYTES_MAX, IDS_MAX, decode_commit, decode_ids, encode_commit, encode_ids,
};
use store_format::{ChunkTable, DecodeError, Extent, digest_of};
use wire::Digest;

use crate::samples::{envelope, table};

fn commit() -> Vec<u8> {
    encode_commit(&envelope().to_bytes(), &table().encode())
}

#[test]
fn a_commit_is_read_back() {
    let bytes = commit();
    assert_eq!(&bytes[..12], b"INGOTCMT\x01\0\0\0");
    assert_eq!(decode_commit(&bytes).unwrap(), (envelope(), table()));
}

#[test]
fn a_table_of_another_image_and_a_newer_version_are_refused() {
    let other = ChunkTable { image: digest_of(b"other"), ..table() };
    let bytes = encode_commit(&envelope().to_bytes(), &other.encode());
    let error = decode_commit(&bytes).unwrap_err().to_string();
    assert!(error.contains("another image"), "{error}");
    let mut newer = commit();
    newer[8] = 2;
    let error = decode_commit(&newer).unwrap_err();
    assert!(matches!(error, CommitError::Decode(DecodeError::Version { found: 2, .. })));
}

#[test]
fn a_disk_whose_holes_take_too_long_is_refused() {
    let mut image = envelope();
    (image.table, image.grow, image.boot) = (None, None, None);
    image.disk_bytes = DISK_BYTES_MAX + 512;
    image.regions.truncate(1);
    image.regions[0].bytes = image.disk_bytes;
    let hole = Extent::Hole { bytes: image.disk_bytes };
    let table = ChunkTable { image: image.digest(), regions: vec![vec![hole]] };
    let error = decode_commit(&encode_commit(&image.to_bytes(), &table.encode())).unwrap_err();
    assert!(matches!(error, CommitError::TooLarge { .. }), "{error}");
}

#[test]
fn ids_are_read_back_and_counted() {
    let ids: Vec<Digest> = (0..=IDS_MAX as u32).map(|n| digest_of(&n.to_le_bytes())).collect();
    let (most, all) = (encode_ids(&ids[..IDS_MAX]), encode_ids(&ids));
    assert_eq!(decode_ids(&most).unwrap(), &ids[..IDS_MAX]);
    assert!(matches!(decode_ids(&all), Err(DecodeError::TooMany { .. })));
    assert!(matches!(decode_ids(&most[1..]), Err(DecodeError::Truncated { .. })));
    assert_eq!(decode_ids(&[]).unwrap(), []);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600), headed in any::<bool>(),
    ) {
        let bytes = match headed {
            true => [&commit()[..12], &bytes].concat(),
            false => bytes,
        };
        let _ = decode_commit(&bytes);
        if let Ok(ids) = decode_ids(&bytes) {
            prop_assert_eq!(encode_ids(&ids), bytes);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed(
        at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let mut bytes = commit();
        let at = at.index(bytes.len());
        prop_assert!(decode_commit(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_commit(&bytes).is_err());
    }
}
